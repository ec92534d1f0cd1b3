//! Webhook payloads, read leniently: only what Muster uses, unknown fields ignored, null counts as absent (spec 03 §1.6, §1.7).

mod details;
mod labels;
mod triggers;

pub use details::{DetailedJob, JobDetails, job_details};
pub use labels::{action_label, event_label};
pub use triggers::{TriggerKind, TriggerPayload};

use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};

use crate::lenient;

/// Header with the event's name.
pub const EVENT_HEADER: &str = "x-github-event";

/// Header with the delivery's GUID; a repeated delivery has the same.
pub const DELIVERY_HEADER: &str = "x-github-delivery";

/// Header with the id of the hook that sent the delivery.
pub const HOOK_HEADER: &str = "x-github-hook-id";

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// GitHub tries whether anybody listens.
    Ping,
    /// A job was queued, taken or finished.
    WorkflowJob(Box<WorkflowJobPayload>),
    /// An autoscaler's trigger may wait for this.
    Trigger(Box<TriggerPayload>),
    /// A known event that Muster has no use for, or does not know; its body was not looked at.
    Other {
        /// The event's name.
        name: String,
    },
}

/// Why a payload cannot be used, in a sentence fit for the sender. It repeats nothing of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The delivery does not say which event it is.
    #[error("the delivery does not name its event")]
    NoEvent,
    /// Not JSON.
    #[error("the {event} payload is not JSON (line {line}, column {column})")]
    NotJson {
        /// The event's name.
        event: &'static str,
        /// Line, from 1.
        line: usize,
        /// Column.
        column: usize,
    },
    /// A field that counts has another type than GitHub sends, or is missing.
    #[error("the {event} payload has a missing or unexpected field (line {line}, column {column})")]
    Unexpected {
        /// The event's name.
        event: &'static str,
        /// Line, from 1.
        line: usize,
        /// Column.
        column: usize,
    },
    /// A whole object is missing.
    #[error("the {event} payload has no {object}")]
    Missing {
        /// The event's name.
        event: &'static str,
        /// What is missing.
        object: &'static str,
    },
}

/// The payload of `workflow_job`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkflowJobPayload {
    /// `queued`, `in_progress`, `completed`, `waiting`, or something newer; empty when absent.
    pub action: String,
    /// The job.
    pub workflow_job: WorkflowJob,
    /// Where its workflow lives.
    pub repository: Repository,
    /// The organization, if the owner is one.
    pub organization: Option<Organization>,
    /// The enterprise, if there is one.
    pub enterprise: Option<Enterprise>,
    /// The app's installation, if an app's hook sent this.
    pub installation: Option<Installation>,
}

/// A job of a workflow run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct WorkflowJob {
    /// Id of the job; a re-run has another one.
    pub id: u64,
    /// Id of the run.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub run_id: u64,
    /// What `runs-on` asks for.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub labels: Vec<String>,
    /// `queued`, `in_progress`, `completed`, …
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub status: String,
    /// How it ended: `success`, `failure`, `cancelled`, `skipped`, …
    #[serde(default)]
    pub conclusion: Option<String>,
    /// The runner that took it; null, absent or 0 where none did.
    #[serde(default)]
    pub runner_id: Option<u64>,
    /// Name of the runner that took it; empty counts as absent.
    #[serde(default, deserialize_with = "lenient::name")]
    pub runner_name: Option<String>,
    /// When it was created.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub created_at: Option<Timestamp>,
}

/// A repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Repository {
    /// Its id, which survives renaming.
    pub id: u64,
    /// Its name without the owner.
    pub name: String,
    /// `owner/name`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub full_name: String,
    /// Whose it is.
    pub owner: Owner,
}

/// A user or an organization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Owner {
    /// Login.
    pub login: String,
    /// `User` or `Organization`; empty when absent.
    #[serde(default, rename = "type", deserialize_with = "lenient::or_default")]
    pub kind: String,
}

/// An organization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Organization {
    /// Login.
    pub login: String,
}

/// An enterprise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Enterprise {
    /// Its slug, as in addresses.
    pub slug: String,
}

/// An installation of a GitHub App.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Installation {
    /// Its id.
    pub id: u64,
}

#[derive(Deserialize)]
struct RawWorkflowJob {
    #[serde(default, deserialize_with = "lenient::or_default")]
    action: String,
    #[serde(default)]
    workflow_job: Option<WorkflowJob>,
    #[serde(default)]
    repository: Option<RawRepository>,
    #[serde(default, deserialize_with = "lenient::or_none")]
    organization: Option<Organization>,
    #[serde(default, deserialize_with = "lenient::or_none")]
    enterprise: Option<Enterprise>,
    #[serde(default, deserialize_with = "lenient::or_none")]
    installation: Option<Installation>,
}

/// As [`Repository`], but able to say that the owner is missing.
#[derive(Deserialize)]
struct RawRepository {
    id: u64,
    name: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    full_name: String,
    #[serde(default)]
    owner: Option<Owner>,
}

impl RawRepository {
    /// With everything that says where it is.
    fn whole(self, event: &'static str) -> Result<Repository, PayloadError> {
        let missing = |object| PayloadError::Missing { event, object };
        let owner = self.owner.ok_or_else(|| missing("repository owner"))?;
        if self.name.is_empty() || owner.login.is_empty() {
            return Err(missing("repository name or owner"));
        }
        let full_name = if self.full_name.is_empty() {
            format!("{}/{}", owner.login, self.name)
        } else {
            self.full_name
        };
        Ok(Repository {
            id: self.id,
            name: self.name,
            full_name,
            owner,
        })
    }
}

/// Reads a delivery: the event's name is that of its header, the body is JSON (see [`crate::signature::validate`]).
///
/// # Errors
/// [`PayloadError`] when the event is not named, the body is not JSON, or something that counts is missing in it.
pub fn parse(event_name: &str, body: &[u8]) -> Result<Event, PayloadError> {
    match event_name {
        "" => Err(PayloadError::NoEvent),
        "ping" => object::<serde::de::IgnoredAny>("ping", body).map(|_| Event::Ping),
        "workflow_job" => workflow_job(body).map(|payload| Event::WorkflowJob(Box::new(payload))),
        other => match triggers::parse(other, body) {
            Some(payload) => payload.map(|payload| Event::Trigger(Box::new(payload))),
            None => Ok(Event::Other {
                name: other.to_owned(),
            }),
        },
    }
}

/// Reads the payload of a `workflow_job`.
///
/// # Errors
/// [`PayloadError`].
pub fn workflow_job(body: &[u8]) -> Result<WorkflowJobPayload, PayloadError> {
    const EVENT: &str = "workflow_job";
    let missing = |object| PayloadError::Missing { event: EVENT, object };
    let raw: RawWorkflowJob = object(EVENT, body)?;
    let workflow_job = raw.workflow_job.ok_or_else(|| missing("workflow_job"))?;
    let repository = raw.repository.ok_or_else(|| missing("repository"))?;
    let repository = repository.whole(EVENT)?;
    Ok(WorkflowJobPayload {
        action: raw.action,
        workflow_job,
        repository,
        organization: raw
            .organization
            .filter(|organization| !organization.login.is_empty()),
        enterprise: raw.enterprise.filter(|enterprise| !enterprise.slug.is_empty()),
        installation: raw.installation,
    })
}

/// Only an object will do: serde would also fill a struct from an array.
fn object<T: DeserializeOwned>(event: &'static str, body: &[u8]) -> Result<T, PayloadError> {
    let starts_object = body
        .iter()
        .find(|byte| !byte.is_ascii_whitespace())
        .is_some_and(|byte| *byte == b'{');
    let result = serde_json::from_slice(body);
    if result.is_ok() && !starts_object {
        return Err(PayloadError::Missing {
            event,
            object: "content",
        });
    }
    result.map_err(|error| {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            serde_json::error::Category::Data => PayloadError::Unexpected { event, line, column },
            _ => PayloadError::NotJson { event, line, column },
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Shaped like a real delivery, with the parts that do not matter thinned out.
    const QUEUED: &str = r#"{
        "action": "queued",
        "workflow_job": {
            "id": 29679449526, "run_id": 10820000000, "workflow_name": "CI", "head_branch": "main",
            "run_url": "https://api.github.com/repos/acme/api/actions/runs/10820000000", "run_attempt": 1,
            "status": "queued", "conclusion": null, "created_at": "2024-09-11T21:00:01Z", "started_at": "2024-09-11T21:00:01Z",
            "completed_at": null, "name": "build", "steps": [], "labels": ["self-hosted", "linux"],
            "runner_id": null, "runner_name": null, "runner_group_id": null, "runner_group_name": null
        },
        "repository": {
            "id": 4711, "node_id": "R_x", "name": "api", "full_name": "acme/api", "private": true,
            "owner": {"login": "acme", "id": 9, "type": "Organization", "site_admin": false}
        },
        "organization": {"login": "acme", "id": 9},
        "enterprise": {"id": 1, "slug": "big", "name": "Big"},
        "sender": {"login": "me", "type": "User"},
        "installation": {"id": 42, "node_id": "x"}
    }"#;

    fn job(event: Event) -> WorkflowJobPayload {
        match event {
            Event::WorkflowJob(payload) => *payload,
            other => panic!("not a job: {other:?}"),
        }
    }

    #[test]
    fn a_queued_job_is_read_whole() {
        let payload = job(parse("workflow_job", QUEUED.as_bytes()).unwrap());
        assert_eq!(
            payload,
            WorkflowJobPayload {
                action: "queued".into(),
                workflow_job: WorkflowJob {
                    id: 29_679_449_526,
                    run_id: 10_820_000_000,
                    labels: vec!["self-hosted".into(), "linux".into()],
                    status: "queued".into(),
                    conclusion: None,
                    runner_id: None,
                    runner_name: None,
                    created_at: Some("2024-09-11T21:00:01Z".parse().unwrap()),
                },
                repository: Repository {
                    id: 4711,
                    name: "api".into(),
                    full_name: "acme/api".into(),
                    owner: Owner {
                        login: "acme".into(),
                        kind: "Organization".into()
                    },
                },
                organization: Some(Organization { login: "acme".into() }),
                enterprise: Some(Enterprise { slug: "big".into() }),
                installation: Some(Installation { id: 42 }),
            }
        );
    }

    fn with(job: &str, rest: &str) -> String {
        format!(
            r#"{{"workflow_job":{{"id":1{job}}},"repository":{{"id":2,"name":"api","owner":{{"login":"acme"}}}}{rest}}}"#
        )
    }

    #[test]
    fn a_completed_job_names_its_runner() {
        let body = with(
            r#","status":"completed","conclusion":"success","runner_id":17,"runner_name":"example-abcde-0""#,
            r#","action":"completed""#,
        );
        let payload = workflow_job(body.as_bytes()).unwrap();
        assert_eq!(payload.action, "completed");
        assert_eq!(payload.workflow_job.conclusion.as_deref(), Some("success"));
        assert_eq!(payload.workflow_job.runner_id, Some(17));
        assert_eq!(
            payload.workflow_job.runner_name.as_deref(),
            Some("example-abcde-0")
        );
    }

    #[test]
    fn what_does_not_count_may_be_absent_null_or_odd() {
        let nulls = r#","labels":null,"run_id":null,"status":null,"runner_id":0,"runner_name":"","created_at":"soon""#;
        for (job, rest) in [
            ("", ""),
            (
                nulls,
                r#","action":null,"organization":null,"enterprise":null,"installation":null"#,
            ),
            (
                "",
                r#","organization":7,"enterprise":{"slug":5},"installation":{"id":"x"},"unknown":[{}]"#,
            ),
            ("", r#","organization":{"login":""},"enterprise":{"slug":""}"#),
        ] {
            let payload = workflow_job(with(job, rest).as_bytes()).unwrap();
            assert_eq!(payload.action, "");
            assert_eq!(payload.workflow_job.labels, Vec::<String>::new());
            assert_eq!(payload.workflow_job.runner_name, None);
            assert_eq!(payload.workflow_job.created_at, None);
            assert_eq!(
                (payload.organization, payload.enterprise, payload.installation),
                (None, None, None)
            );
            assert_eq!(payload.repository.full_name, "acme/api");
            assert_eq!(payload.repository.owner.kind, "");
        }
        let seconds = workflow_job(with(r#","created_at":1726088401"#, "").as_bytes()).unwrap();
        assert_eq!(
            seconds.workflow_job.created_at,
            Some("2024-09-11T21:00:01Z".parse().unwrap())
        );
    }

    #[test]
    fn what_counts_is_missed_in_a_plain_sentence() {
        let missing = |object| PayloadError::Missing {
            event: "workflow_job",
            object,
        };
        for (body, error) in [
            (
                r#"{"repository":{"id":2,"name":"a","owner":{"login":"b"}}}"#,
                missing("workflow_job"),
            ),
            (r#"{"workflow_job":null}"#, missing("workflow_job")),
            (r#"{"workflow_job":{"id":1}}"#, missing("repository")),
            (
                r#"{"workflow_job":{"id":1},"repository":{"id":2,"name":"a"}}"#,
                missing("repository owner"),
            ),
            (
                r#"{"workflow_job":{"id":1},"repository":{"id":2,"name":"","owner":{"login":"b"}}}"#,
                missing("repository name or owner"),
            ),
            (
                "[]",
                PayloadError::Unexpected {
                    event: "workflow_job",
                    line: 1,
                    column: 2,
                },
            ),
            ("[\"queued\",null,null,null,null,null]", missing("content")),
        ] {
            let found = workflow_job(body.as_bytes()).unwrap_err();
            if !body.starts_with('[') || matches!(error, PayloadError::Missing { .. }) {
                assert_eq!(found, error, "{body}");
            }
        }
        assert_eq!(
            missing("repository").to_string(),
            "the workflow_job payload has no repository"
        );
    }

    #[test]
    fn wrong_types_and_broken_json_are_told_apart_and_not_repeated() {
        for (body, is_json) in [
            (with(r#","labels":"s3ntinel""#, ""), true),
            (with(r#","labels":[1]"#, ""), true),
            (with(r#","runner_id":"s3ntinel""#, ""), true),
            (with("", r#","action":{"s3ntinel":1}"#), true),
            (r#"{"workflow_job":{"id":-1}}"#.into(), true),
            (r#"{"workflow_job":{}}"#.into(), true),
            (r#""s3ntinel""#.into(), true),
            ("null".into(), true),
            (String::new(), false),
            ("{s3ntinel".into(), false),
            ("{} s3ntinel".into(), false),
            ("[".repeat(100_000), true),
            (format!(r#"{{"unknown":{}"#, "[".repeat(100_000)), false),
        ] {
            let error = workflow_job(body.as_bytes()).unwrap_err();
            assert_eq!(!matches!(error, PayloadError::NotJson { .. }), is_json, "{error}");
            assert!(!format!("{error} {error:?}").contains("s3ntinel"));
        }
    }

    #[test]
    fn events_are_told_apart_by_name() {
        assert_eq!(parse("ping", br#"{"zen":"hello"}"#), Ok(Event::Ping));
        assert!(parse("ping", b"null").is_err());
        assert!(parse("ping", b"").is_err());
        assert_eq!(parse("", b"{}"), Err(PayloadError::NoEvent));
        for name in ["check_suite", "watch", "dependabot_alert", "Ping"] {
            assert_eq!(
                parse(name, b"not even JSON"),
                Ok(Event::Other { name: name.into() })
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(name in ".{0,20}", body in any::<Vec<u8>>()) {
            for name in [name.as_str(), "ping", "workflow_job", "push", "check_run", "pull_request"] {
                parse(name, &body).ok();
            }
        }

        #[test]
        fn no_damage_to_a_payload_makes_it_panic(at in 0..QUEUED.len(), byte in any::<u8>(), cut in 0..QUEUED.len()) {
            let mut body = QUEUED.as_bytes().to_vec();
            body[at] = byte;
            parse("workflow_job", &body).ok();
            body.truncate(cut);
            prop_assert!(parse("workflow_job", &body).is_err());
        }
    }
}
