//! From unsigned bytes to the ledger: an event reaches at most one autoscaler that does not hold its job, a second copy of it changes
//! nothing, and a finished job never counts again.

#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use libfuzzer_sys::fuzz_target;
use muster_core::{
    autoscale::reservation::{JobAction, JobEvent, apply, demand},
    routing::{AutoscalerInput, AutoscalerView, Index, Reason, Routing, TargetKeys, WorkflowAction, route},
};
use muster_crds::legacy::{GitHubEventScaleUpTriggerSpec, ScaleTargetRef, ScaleUpTrigger, WorkflowJobSpec};
use muster_webhook_server::delivery::{Delivery, examine};

const DURATION: SignedDuration = SignedDuration::from_mins(10);

/// One autoscaler for each kind of scope.
static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let scopes = [
        TargetKeys { repository: Some("o/r".to_owned()), ..TargetKeys::default() },
        TargetKeys { organization: Some("o".to_owned()), ..TargetKeys::default() },
        TargetKeys { organization: Some("o".to_owned()), group: Some("g".to_owned()), ..TargetKeys::default() },
        TargetKeys { enterprise: Some("e".to_owned()), ..TargetKeys::default() },
    ];
    let mut index = Index::default();
    for (keys, name) in scopes.iter().zip(["a", "b", "c", "d"]) {
        let labels = vec!["linux".to_owned(), name.to_owned()];
        let trigger = ScaleUpTrigger {
            github_event: Some(GitHubEventScaleUpTriggerSpec {
                workflow_job: Some(WorkflowJobSpec::default()),
                ..GitHubEventScaleUpTriggerSpec::default()
            }),
            ..ScaleUpTrigger::default()
        };
        let target = ScaleTargetRef { kind: None, name: Some(name.to_owned()) };
        let input = AutoscalerInput {
            namespace: "ns",
            name,
            uid: name,
            created_at: None,
            is_deleting: false,
            target_ref: Some(&target),
            triggers: &[trigger],
            target: Some((keys, &labels)),
        };
        index.upsert(AutoscalerView::new(&input, &[]));
    }
    index
});

fuzz_target!(|body: &[u8]| {
    let mut headers = HeaderMap::new();
    headers.insert("x-github-event", HeaderValue::from_static("workflow_job"));
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let Ok(Delivery::Job(job)) = examine(&[], &headers, body) else { return };
    let facts = job.facts();
    if let Routing::To(chosen) = route(&facts, &INDEX) {
        let by_labels = chosen.iter().filter(|chosen| chosen.reason == Reason::Labels).count();
        assert!(by_labels <= 1, "a job is demand of one autoscaler");
    }

    let action = match facts.action {
        WorkflowAction::Queued => JobAction::Queued,
        WorkflowAction::InProgress => JobAction::InProgress,
        WorkflowAction::Completed => JobAction::Completed,
        WorkflowAction::Waiting | WorkflowAction::Other => return,
    };
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    let event = JobEvent {
        key: facts.key.clone(),
        action,
        runner: facts.runner.map(str::to_owned),
        created_at: job.created_at(),
    };
    let once = apply(&[], &event, DURATION, now);
    let twice = apply(&once, &event, DURATION, now);
    assert_eq!(once, twice);
    let completed = JobEvent { action: JobAction::Completed, ..event.clone() };
    let finished = apply(&once, &completed, DURATION, now);
    let queued = JobEvent { action: JobAction::Queued, runner: None, ..event };
    let late = apply(&finished, &queued, DURATION, now);
    assert_eq!(demand(&late, now), 0);
});
