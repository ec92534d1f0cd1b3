//! What the processes tell about a single job in an Event: written by the webhook server and by queue reconciliation, read by explanations.
//!
//! A job that concerns no autoscaler is in no ledger; the Event is the only trace of it in the API server.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use super::Code;
use crate::{autoscale::reservation::JobKey, routing::Obstacle};

/// Annotation of an Event: the key of the job that it is about.
pub const ANNOTATION_JOB: &str = "muster.dev/job";
/// Annotation of an Event: `owner/name` of the job's repository.
pub const ANNOTATION_REPOSITORY: &str = "muster.dev/repository";
/// Annotation of an Event: the labels that the job asks for, joined with commas.
pub const ANNOTATION_LABELS: &str = "muster.dev/labels";

/// Labels that only GitHub's own runners have: jobs for them concern nobody here.
const HOSTED: [&str; 3] = ["ubuntu-", "windows-", "macos-"];

/// The code of what kept the nearest autoscaler from a job; none came near where there is no obstacle.
pub fn code_of(obstacle: Option<&Obstacle>) -> Code {
    match obstacle {
        None => Code::NoPoolInScope,
        Some(Obstacle::MissingLabel(_)) => Code::MissingLabel,
        Some(Obstacle::GroupNotVisible) => Code::GroupNotVisible,
        Some(Obstacle::NotConsidered(_)) => Code::TriggerMissing,
    }
}

/// Whether a job that concerns nobody is worth telling: an organization's hook tells of all jobs on GitHub's own runners, too.
pub fn is_for_self_hosted(labels: &[String]) -> bool {
    labels
        .iter()
        .any(|label| label.eq_ignore_ascii_case("self-hosted"))
        || !labels.iter().any(|label| {
            let label = label.to_ascii_lowercase();
            HOSTED.iter().any(|hosted| label.starts_with(hosted))
        })
}

/// The annotations of an Event about a job.
pub fn annotations(key: &JobKey, repository: &str, labels: &[String]) -> BTreeMap<String, String> {
    BTreeMap::from([
        (ANNOTATION_JOB.to_owned(), key.to_string()),
        (ANNOTATION_REPOSITORY.to_owned(), repository.to_owned()),
        (ANNOTATION_LABELS.to_owned(), labels.join(",")),
    ])
}

/// An Event about a job, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobNotice {
    /// The job.
    pub key: JobKey,
    /// What is said.
    pub code: Code,
    /// The sentence.
    pub sentence: String,
    /// Kind and name of the object that it is said of.
    pub object: (String, String),
    /// When.
    pub at: Option<Timestamp>,
}

impl JobNotice {
    /// `None` for Events that are about no job.
    pub fn of(event: &Event) -> Option<Self> {
        let annotation = event.metadata.annotations.as_ref()?.get(ANNOTATION_JOB)?;
        let involved = &event.involved_object;
        Some(Self {
            key: JobKey::parse(annotation)?,
            code: Code::parse(event.reason.as_deref()?)?,
            sentence: event.message.clone().unwrap_or_default(),
            object: (
                involved.kind.clone().unwrap_or_default(),
                involved.name.clone().unwrap_or_default(),
            ),
            at: seen_at(event),
        })
    }
}

/// When an Event was last seen.
pub(super) fn seen_at(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    last.or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_for_githubs_own_runners_are_not_told() {
        let told = |labels: &[&str]| {
            is_for_self_hosted(&labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>())
        };
        assert!(told(&["self-hosted", "linux"]) && told(&["gpu"]) && told(&["Self-Hosted", "ubuntu-24.04"]));
        assert!(!told(&["ubuntu-latest"]) && !told(&["macOS-15"]));
    }

    #[test]
    fn a_notice_is_read_as_it_was_written() {
        let key = JobKey::new(None, 1, 2);
        let mut event = Event {
            reason: Some(Code::MissingLabel.as_str().to_owned()),
            message: Some("no label".to_owned()),
            ..Event::default()
        };
        assert_eq!(JobNotice::of(&event), None);
        event.metadata.annotations = Some(annotations(&key, "acme/api", &["gpu".to_owned()]));
        let notice = JobNotice::of(&event).unwrap();
        assert_eq!((notice.key, notice.code), (key, Code::MissingLabel));
        event.reason = Some("Whatever".to_owned());
        assert_eq!(JobNotice::of(&event), None);
    }
}
