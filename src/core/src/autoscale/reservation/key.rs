//! Names of ledger entries: the key of a job and, once it runs, the runner that has it (spec 20 "Record").

use std::fmt;

/// Identity of one job on one GitHub server: ids, because names change and a re-run has a new job id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    host: Option<Box<str>>,
    repository_id: u64,
    job_id: u64,
}

impl JobKey {
    /// The key of a job. `host` is the GitHub server's; none, an empty one and `github.com` are the same, and
    /// so is everything that cannot stand in a name (it is signed by the sender, but not necessarily well
    /// formed).
    pub fn new(host: Option<&str>, repository_id: u64, job_id: u64) -> Self {
        let host = host
            .map(|host| host.trim().to_ascii_lowercase())
            .filter(|host| is_host(host) && host != "github.com")
            .map(String::into_boxed_str);
        Self {
            host,
            repository_id,
            job_id,
        }
    }

    /// Reads exactly what [`fmt::Display`] writes; anything else is not a key.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, job_id) = text.rsplit_once('/')?;
        let job_id = id(job_id)?;
        let (host, repository_id) = match rest.rsplit_once('/') {
            None => (None, rest),
            Some((host, repository_id)) => (Some(host), repository_id),
        };
        let repository_id = id(repository_id)?;
        let host = match host {
            None => None,
            Some(host)
                if is_host(host) && host != "github.com" && !host.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                Some(host.into())
            }
            Some(_) => return None,
        };
        Some(Self {
            host,
            repository_id,
            job_id,
        })
    }

    /// Host of the server where it is not github.com.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Id of the repository.
    pub fn repository_id(&self) -> u64 {
        self.repository_id
    }

    /// Id of the `workflow_job`.
    pub fn job_id(&self) -> u64 {
        self.job_id
    }

    /// Name of this job's entry, with the runner that has the job where that is known.
    pub fn entry_name(&self, runner: Option<&str>) -> String {
        match runner.filter(|runner| !runner.is_empty()) {
            None => self.to_string(),
            Some(runner) => format!("{self}@{runner}"),
        }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        write!(f, "{}/{}", self.repository_id, self.job_id)
    }
}

/// Name of a job's entry, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName<'a> {
    /// The job.
    pub key: JobKey,
    /// The runner that has or had it.
    pub runner: Option<&'a str>,
}

impl<'a> EntryName<'a> {
    /// `None` when the name is not of the form that Muster writes: such an entry is the user's.
    pub fn parse(name: &'a str) -> Option<Self> {
        let (key, runner) = match name.split_once('@') {
            None => (name, None),
            Some((key, runner)) => (key, Some(runner)),
        };
        Some(Self {
            key: JobKey::parse(key)?,
            runner: runner.filter(|runner| !runner.is_empty()),
        })
    }
}

/// Decimal without sign or leading zeros, so that a name has one spelling.
fn id(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let canonical = bytes.iter().all(u8::is_ascii_digit) && (bytes == b"0" || bytes.first() != Some(&b'0'));
    if canonical { text.parse().ok() } else { None }
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 260
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for (name, host, repository, job, runner) in [
            ("1/2", None, 1, 2, None),
            ("1/2@linux-abcde-xyz", None, 1, 2, Some("linux-abcde-xyz")),
            ("ghes.example.com/10/20", Some("ghes.example.com"), 10, 20, None),
            (
                "localhost:3000/10/20@a@b",
                Some("localhost:3000"),
                10,
                20,
                Some("a@b"),
            ),
        ] {
            let parsed = EntryName::parse(name).unwrap();
            assert_eq!(
                parsed,
                EntryName {
                    key: JobKey::new(host, repository, job),
                    runner
                }
            );
            assert_eq!(parsed.key.entry_name(parsed.runner), name);
        }
    }

    #[test]
    fn other_names_are_the_users() {
        for name in [
            "",
            "1",
            "1/",
            "/2",
            "01/2",
            "1/+2",
            "a/b/c",
            "x/1/2/3",
            "github.com/1/2",
            "GHES/1/2",
            "night shift",
            "push/1a",
        ] {
            assert_eq!(EntryName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn github_com_and_nonsense_hosts_are_left_out() {
        for host in [
            None,
            Some(""),
            Some("GitHub.com"),
            Some("a/b"),
            Some("a b"),
            Some("x@y"),
        ] {
            assert_eq!(JobKey::new(host, 1, 2).to_string(), "1/2");
        }
        assert_eq!(
            JobKey::new(Some("GHES.Example.com"), 1, 2).to_string(),
            "ghes.example.com/1/2"
        );
    }
}
