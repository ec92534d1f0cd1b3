//! Who wrote what, by the API server's own book. A proxy would count as well, but stand in the way of what is measured.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

use super::{ADMIN, MANAGER, WEBHOOK_SERVER};

/// Writes only, without bodies. The Lease costs the same whether there is work or not.
const POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
    {"level": "None", "resources": [{"group": "authorization.k8s.io"}, {"group": "authentication.k8s.io"}]},
    {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
    {"level": "None"}
  ]
}
"#;
/// The API server writes its book in batches, and waits no longer for one to fill.
const BATCH: Duration = Duration::from_secs(1);

/// The arguments that make the API server keep its book.
pub(super) fn args(dir: &Path) -> Result<Vec<String>> {
    let policy = dir.join("audit-policy.json");
    fs::write(&policy, POLICY).with_context(|| format!("could not write {}", policy.display()))?;
    Ok(vec![
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", path(dir).display()),
        "--audit-log-mode=batch".to_owned(),
        format!("--audit-log-batch-max-wait={}s", BATCH.as_secs()),
        "--audit-log-batch-buffer-size=100000".to_owned(),
    ])
}

fn path(dir: &Path) -> PathBuf {
    dir.join("audit.jsonl")
}

/// Who wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writer {
    /// The manager.
    Manager,
    /// The webhook server.
    WebhookServer,
    /// The administrator: the simulated kubelet, and whoever measures.
    Admin,
    /// Kubernetes: garbage collection, for example.
    Kubernetes,
}

impl Writer {
    fn of(user: &str) -> Self {
        match user {
            MANAGER => Self::Manager,
            WEBHOOK_SERVER => Self::WebhookServer,
            ADMIN => Self::Admin,
            _ => Self::Kubernetes,
        }
    }
}

/// A write that the API server carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// When it was asked for.
    pub at: Timestamp,
    /// Who.
    pub writer: Writer,
    /// `create`, `patch`, …
    pub verb: String,
    /// `pods`, `runners/status`, …
    pub resource: String,
    /// The object; empty for a create under a generated name.
    pub object: String,
    /// Its namespace.
    pub namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Status,
    request_received_timestamp: Timestamp,
    #[serde(default, rename = "requestURI")]
    uri: String,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    resource: String,
    subresource: String,
    name: String,
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

/// Reads the book from where it was opened.
#[derive(Clone, Debug)]
pub struct Audit {
    path: PathBuf,
    from: u64,
}

impl Audit {
    pub(super) fn in_dir(dir: &Path) -> Self {
        Self {
            path: path(dir),
            from: 0,
        }
    }

    /// Leaves out what was written until now.
    pub async fn forget(&mut self) -> Result<()> {
        tokio::time::sleep(BATCH + BATCH / 2).await;
        self.from = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        Ok(())
    }

    /// The writes that were carried out, in the order of the book. Waits until the last batch is in it.
    pub async fn writes(&self) -> Result<Vec<Write>> {
        tokio::time::sleep(BATCH + BATCH / 2).await;
        let failed = || format!("could not read {}", self.path.display());
        let mut file = File::open(&self.path).with_context(failed)?;
        file.seek(SeekFrom::Start(self.from)).with_context(failed)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(failed)?;
        text.lines().filter_map(|line| parse(line).transpose()).collect()
    }
}

/// `None` for what was refused or only tried.
fn parse(line: &str) -> Result<Option<Write>> {
    let line: Line = serde_json::from_str(line).context("a line of the API server's book cannot be read")?;
    let is_done = (200..300).contains(&line.response_status.code) && !line.uri.contains("dryRun=All");
    let Object {
        resource,
        subresource,
        name,
        namespace,
    } = line.object_ref;
    let resource = if subresource.is_empty() {
        resource
    } else {
        format!("{resource}/{subresource}")
    };
    Ok(is_done.then(|| Write {
        at: line.request_received_timestamp,
        writer: Writer::of(&line.user.username),
        verb: line.verb,
        resource,
        object: name,
        namespace,
    }))
}

/// How many writes there are of each kind: `patch runners/status`.
pub fn count<'w>(writes: impl IntoIterator<Item = &'w Write>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for write in writes {
        *sums
            .entry(format!("{} {}", write.verb, write.resource))
            .or_default() += 1;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_book_are_read() {
        let line = |code: u16, uri: &str| {
            format!(
                r#"{{"kind":"Event","level":"Metadata","stage":"ResponseComplete","requestURI":"{uri}","verb":"patch",
                "user":{{"username":"{MANAGER}","groups":["x"]}},"userAgent":"muster/0.1.0",
                "objectRef":{{"resource":"runners","namespace":"ci","name":"a","apiGroup":"g","subresource":"status"}},
                "responseStatus":{{"metadata":{{}},"code":{code}}},"requestReceivedTimestamp":"2026-11-21T12:00:00.123456Z"}}"#
            )
        };
        let write = parse(&line(200, "/x")).unwrap().unwrap();
        assert_eq!(
            (write.writer, write.resource.as_str(), write.object.as_str()),
            (Writer::Manager, "runners/status", "a")
        );
        assert_eq!(
            count([&write, &write]),
            [("patch runners/status".to_owned(), 2)].into()
        );
        assert_eq!(parse(&line(409, "/x")).unwrap(), None);
        assert_eq!(parse(&line(200, "/x?dryRun=All&y=1")).unwrap(), None);
        assert!(parse("{}").is_err());
    }
}
