//! What must hold for any bytes: one piece of code for the fuzz targets, which search with coverage, and for the tests of
//! `webhook-server/tests/fuzz.rs`, which need neither nightly nor cargo-fuzz.

use std::sync::LazyLock;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use muster_core::{
    autoscale::reservation::{
        Book, EntryName, EventRef, JobAction, JobEvent, JobKey, TriggerEvent, apply, demand,
    },
    routing::{
        AutoscalerInput, AutoscalerView, Index, Reason, Routing, TargetKeys, Triggered, Visibility,
        WorkflowAction, route, route_event,
    },
};
use muster_crds::legacy::{
    CapacityReservation, CheckRunSpec, GitHubEventScaleUpTriggerSpec, PullRequestSpec, PushSpec,
    ScaleTargetRef, ScaleUpTrigger, WorkflowJobSpec,
};
use muster_github::{
    events::{Event, parse},
    signature::{SignatureHeaders, payload as json_of, verify},
};
use muster_webhook_server::delivery::{Delivery, Job, examine, trigger_facts};
use sha2::Sha256;

const SECRET: &[u8] = b"a webhook secret";
const DURATION: SignedDuration = SignedDuration::from_mins(10);
/// The events that are acted on, and one that is not.
const EVENTS: [&str; 6] = [
    "workflow_job",
    "check_run",
    "push",
    "pull_request",
    "ping",
    "watch",
];

/// Whoever can reach the webhook server chooses these bytes: headers and body of a delivery before anything is known of its
/// sender. What was signed with the secret is accepted, and nothing else is.
pub(crate) fn signature(
    body: &[u8],
    sha256: Option<&[u8]>,
    sha1: Option<&[u8]>,
    content_type: Option<&[u8]>,
) {
    let headers = SignatureHeaders { sha256, sha1 };
    // Nobody finds a valid signature by trying.
    assert!(verify(SECRET, headers, body).is_err());

    let mut mac = <Hmac<Sha256>>::new_from_slice(SECRET).expect("any length is a key");
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    let signature = digest
        .iter()
        .fold("sha256=".to_owned(), |text, byte| text + &format!("{byte:02x}"));
    let signed = SignatureHeaders {
        sha256: Some(signature.as_bytes()),
        sha1,
    };
    assert_eq!(verify(SECRET, signed, body), Ok(()));

    // A form's field is never longer than the form.
    if let Ok(json) = json_of(content_type, body) {
        assert!(json.len() <= body.len());
    }
}

/// Payloads of any shape: reading them never panics, an error repeats nothing of them, and a job's key survives being
/// written down.
pub(crate) fn payload(body: &[u8]) {
    for name in EVENTS {
        match parse(name, body) {
            Ok(Event::WorkflowJob(payload)) => {
                assert_eq!(name, "workflow_job");
                assert!(!payload.repository.name.is_empty() && !payload.repository.owner.login.is_empty());
                let key = JobKey::new(None, payload.repository.id, payload.workflow_job.id);
                assert_eq!(JobKey::parse(&key.to_string()), Some(key.clone()));
                let runner = payload.workflow_job.runner_name.as_deref();
                let name = key.entry_name(runner);
                let entry = EntryName::parse(&name).expect("an entry's name can be read");
                let runner = runner.filter(|runner| !runner.is_empty());
                assert_eq!((entry.key, entry.runner), (key, runner));
            }
            Ok(Event::Trigger(payload)) => {
                assert!(["check_run", "push", "pull_request"].contains(&name));
                assert!(!payload.repository.name.is_empty() && !payload.repository.owner.login.is_empty());
            }
            Ok(Event::Ping) => assert_eq!(name, "ping"),
            Ok(Event::Other { .. }) => assert_eq!(name, "watch"),
            Err(error) => assert!(error.to_string().len() < 200),
        }
    }
    if let Ok(name) = std::str::from_utf8(body) {
        parse(name, b"{}").ok();
        EntryName::parse(name);
        muster_core::go::parse_duration(name).ok();
    }
}

/// From bytes to the ledger: an event reaches at most one autoscaler that does not hold its job, a second copy of it changes
/// nothing, and a finished job never counts again.
pub(crate) fn routing(body: &[u8]) {
    for name in EVENTS {
        let mut headers = HeaderMap::new();
        headers.insert("x-github-event", HeaderValue::from_static(name));
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        match examine(&[], &headers, body) {
            Ok(Delivery::Job(job)) => job_to_ledger(&job),
            Ok(Delivery::Trigger(payload)) => {
                let facts = trigger_facts(&payload);
                let routed = route_event(&facts, &INDEX, Visibility::Unchecked);
                assert_ne!(
                    routed,
                    Triggered::NeedsGroups,
                    "without groups to ask for, nothing needs them"
                );
                trigger_to_ledger(facts.kind.name());
            }
            Ok(Delivery::Ping | Delivery::Unsupported) | Err(_) => {}
        }
    }
}

fn job_to_ledger(job: &Job<'_>) {
    let facts = job.facts();
    if let Routing::To(chosen) = route(&facts, &INDEX) {
        let by_labels = chosen
            .iter()
            .filter(|chosen| chosen.reason == Reason::Labels)
            .count();
        assert!(by_labels <= 1, "a job is demand of one autoscaler");
    }
    let action = match facts.action {
        WorkflowAction::Queued => JobAction::Queued,
        WorkflowAction::InProgress => JobAction::InProgress,
        WorkflowAction::Completed => JobAction::Completed,
        WorkflowAction::Waiting | WorkflowAction::Other => return,
    };
    let event = JobEvent {
        key: facts.key.clone(),
        action,
        runner: facts.runner.map(str::to_owned),
        created_at: job.created_at(),
    };
    let once = apply(&[], &event, DURATION, now());
    assert_eq!(once, apply(&once, &event, DURATION, now()));
    let completed = JobEvent {
        action: JobAction::Completed,
        ..event.clone()
    };
    let finished = apply(&once, &completed, DURATION, now());
    let queued = JobEvent {
        action: JobAction::Queued,
        runner: None,
        ..event
    };
    let late = apply(&finished, &queued, DURATION, now());
    assert_eq!(demand(&late, now()), 0);
}

/// The same delivery twice adds its capacity once.
fn trigger_to_ledger(event: &str) {
    let name = TriggerEvent::name_of(event, "72d3162e-cc78-11e3-81ab-4c9367dc0958").expect("an entry's name");
    let event = TriggerEvent {
        name,
        replicas: 2,
        duration: DURATION,
    };
    let add = |ledger: &[CapacityReservation]| {
        let mut book = Book::new(ledger.to_vec());
        let delta = book.fold([EventRef::Trigger(&event)], DURATION, now());
        book.commit(delta);
        book.into_entries()
    };
    let once = add(&[]);
    assert_eq!(demand(&once, now()), 2);
    assert_eq!(once, add(&once));
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

/// One autoscaler for each kind of scope, with a trigger for every event.
static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let key = |value: &str| Some(value.to_owned());
    let scopes = [
        TargetKeys {
            repository: key("o/r"),
            ..TargetKeys::default()
        },
        TargetKeys {
            organization: key("o"),
            ..TargetKeys::default()
        },
        TargetKeys {
            organization: key("o"),
            group: key("g"),
            ..TargetKeys::default()
        },
        TargetKeys {
            enterprise: key("e"),
            ..TargetKeys::default()
        },
    ];
    let events = [
        GitHubEventScaleUpTriggerSpec {
            workflow_job: Some(WorkflowJobSpec::default()),
            ..GitHubEventScaleUpTriggerSpec::default()
        },
        GitHubEventScaleUpTriggerSpec {
            check_run: Some(CheckRunSpec {
                names: Some(vec!["te*".to_owned()]),
                ..CheckRunSpec::default()
            }),
            ..GitHubEventScaleUpTriggerSpec::default()
        },
        GitHubEventScaleUpTriggerSpec {
            push: Some(PushSpec::default()),
            ..GitHubEventScaleUpTriggerSpec::default()
        },
        GitHubEventScaleUpTriggerSpec {
            pull_request: Some(PullRequestSpec {
                branches: Some(vec!["release/**".to_owned(), "main".to_owned()]),
                ..PullRequestSpec::default()
            }),
            ..GitHubEventScaleUpTriggerSpec::default()
        },
    ];
    let triggers = events.map(|event| ScaleUpTrigger {
        github_event: Some(event),
        ..ScaleUpTrigger::default()
    });
    let mut index = Index::default();
    for (keys, name) in scopes.iter().zip(["a", "b", "c", "d"]) {
        let labels = vec!["linux".to_owned(), name.to_owned()];
        let target = ScaleTargetRef {
            kind: None,
            name: Some(name.to_owned()),
        };
        let input = AutoscalerInput {
            namespace: "ns",
            name,
            uid: name,
            created_at: None,
            is_deleting: false,
            target_ref: Some(&target),
            triggers: &triggers,
            target: Some((keys, &labels)),
        };
        index.upsert(AutoscalerView::new(&input, &[]));
    }
    index
});
