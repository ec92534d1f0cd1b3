//! What a `workflow_job` says beyond what routing needs, for metrics. Nothing is required: what is absent is empty.

use jiff::Timestamp;
use serde::Deserialize;

use super::{PayloadError, object};
use crate::lenient;

/// The payload of `workflow_job`, as far as metrics use it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct JobDetails {
    /// `queued`, `in_progress`, `completed`, `waiting`, or something newer.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub action: String,
    /// The job.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub workflow_job: DetailedJob,
    /// Where its workflow lives.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub repository: Named,
    /// The organization, if the owner is one.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub organization: Named,
}

/// The job of a [`JobDetails`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DetailedJob {
    /// Id of the job.
    #[serde(default, deserialize_with = "lenient::id")]
    pub id: Option<u64>,
    /// Its name.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// Name of its workflow.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub workflow_name: String,
    /// The branch that it runs on.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub head_branch: String,
    /// What `runs-on` asks for.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub labels: Vec<String>,
    /// How it ended: `success`, `failure`, `cancelled`, `skipped`, …
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub conclusion: String,
    /// The runner that took it; null, absent or 0 where none did.
    #[serde(default, deserialize_with = "lenient::id")]
    pub runner_id: Option<u64>,
    /// Its steps so far.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub steps: Vec<Step>,
    /// When it was created.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub created_at: Option<Timestamp>,
    /// When it began.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub completed_at: Option<Timestamp>,
}

/// A step of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Step {
    /// How it ended; empty while it has not.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub conclusion: String,
}

/// A repository, an organization or an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Named {
    /// Its name; GitHub leaves an organization's out.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// `owner/name` of a repository.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub full_name: String,
    /// Login of an account.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub login: String,
    /// Whose a repository is.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub owner: Account,
}

/// A user or an organization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Account {
    /// Login.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub login: String,
}

/// Reads the payload of a `workflow_job` for metrics.
///
/// # Errors
/// [`PayloadError`] when it is no JSON object, or a field has another type than GitHub sends.
pub fn job_details(body: &[u8]) -> Result<JobDetails, PayloadError> {
    object("workflow_job", body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_completed_job_is_read_whole() {
        let body = br#"{"action":"completed","workflow_job":{"id":7,"name":"build","workflow_name":"CI","head_branch":"main",
            "labels":["self-hosted","linux"],"conclusion":"failure","runner_id":3,"created_at":"2024-09-11T21:00:01Z",
            "started_at":"2024-09-11T21:00:02Z","completed_at":"2024-09-11T21:00:03Z",
            "steps":[{"name":"x","conclusion":"success"},{"conclusion":"failure"},{"conclusion":null}]},
            "repository":{"id":1,"name":"api","full_name":"acme/api","owner":{"login":"acme"}},
            "organization":{"login":"acme"}}"#;
        let details = job_details(body).unwrap();
        let job = &details.workflow_job;
        assert_eq!(
            (details.action.as_str(), job.id, job.runner_id),
            ("completed", Some(7), Some(3))
        );
        assert_eq!((job.name.as_str(), job.workflow_name.as_str()), ("build", "CI"));
        assert_eq!(
            (job.head_branch.as_str(), job.labels.join(",")),
            ("main", "self-hosted,linux".to_owned())
        );
        let steps: Vec<&str> = job.steps.iter().map(|step| step.conclusion.as_str()).collect();
        assert_eq!(steps, ["success", "failure", ""]);
        assert_eq!(job.completed_at, Some("2024-09-11T21:00:03Z".parse().unwrap()));
        assert_eq!(details.repository.full_name, "acme/api");
        assert_eq!(details.repository.owner.login, "acme");
        assert_eq!(
            (
                details.organization.name.as_str(),
                details.organization.login.as_str()
            ),
            ("", "acme")
        );
    }

    #[test]
    fn nothing_is_required_and_null_is_nothing() {
        let nulls = br#"{"action":null,"workflow_job":null,"repository":null,"organization":null}"#;
        for body in [
            &b"{}"[..],
            nulls,
            br#"{"workflow_job":{"name":null,"steps":null,"conclusion":null,"runner_id":0}}"#,
        ] {
            assert_eq!(job_details(body), Ok(JobDetails::default()));
        }
        for body in [&b"[]"[..], b"null", b"", b"{", br#"{"workflow_job":{"steps":7}}"#] {
            assert!(job_details(body).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in any::<Vec<u8>>()) {
            job_details(&body).ok();
        }
    }
}
