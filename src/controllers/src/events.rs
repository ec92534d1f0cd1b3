//! Kubernetes Events: core/v1 without `eventTime`, which existing RBAC covers (spec 02 §15, Q2).
//!
//! Events are for people and must not cost what runners need: a bounded queue and a token bucket drop what is too much, warnings are made
//! once per generation and reason.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};
use muster_core::explain::Code;
use muster_runtime::clock::Clock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const QUEUE: usize = 256;
/// Events per second in the long run; the burst is ten times that.
const PER_SECOND: u32 = 5;
const SEEN_LIMIT: usize = 10_000;
const NOTE_LIMIT: usize = 1_000;

/// Severity of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Something was done.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Makes Events without waiting for them.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    clock: Clock,
    sender: mpsc::Sender<Event>,
    seen: Arc<Mutex<HashSet<String>>>,
}

impl Recorder {
    /// A recorder, and the task that writes what it records until `shutdown`.
    pub(crate) fn new(
        client: Client,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (
            Self {
                clock,
                sender,
                seen: Arc::default(),
            },
            write(client, receiver, shutdown),
        )
    }

    /// Records something about a job of `object`'s ledger; `annotations` say which job, for those who explain it.
    pub(crate) fn record_job<K>(
        &self,
        object: &K,
        component: &str,
        (code, note): (Code, &str),
        annotations: BTreeMap<String, String>,
    ) where
        K: Resource<DynamicType = ()>,
    {
        let now = self.clock.now();
        let mut event = event(object, component, Severity::Normal, code.as_str(), note, now);
        event.metadata.annotations = Some(annotations);
        // As in `record`: a full queue drops it.
        drop(self.sender.try_send(event));
    }

    /// Records that something happened to `object`. A warning is recorded once per generation of the object, reason and note.
    pub(crate) fn record<K>(&self, object: &K, component: &str, severity: Severity, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        if severity == Severity::Warning {
            let uid = object.uid().unwrap_or_default();
            let key = format!(
                "{uid}/{}/{reason}/{note}",
                object.meta().generation.unwrap_or_default()
            );
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() > SEEN_LIMIT {
                seen.clear();
            }
            if !seen.insert(key) {
                return;
            }
        }
        // A full queue drops the Event: the condition, the log and the metric say the same.
        drop(
            self.sender
                .try_send(event(object, component, severity, reason, note, self.clock.now())),
        );
    }
}

fn event<K>(
    object: &K,
    component: &str,
    severity: Severity,
    reason: &str,
    note: &str,
    now: Timestamp,
) -> Event
where
    K: Resource<DynamicType = ()>,
{
    let meta = object.meta();
    let mut message = note.to_owned();
    if message.len() > NOTE_LIMIT {
        let mut end = NOTE_LIMIT;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", object.name_any())),
            namespace: meta.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        },
        reason: Some(reason.to_owned()),
        message: Some(message),
        type_: Some(
            if severity == Severity::Warning {
                "Warning"
            } else {
                "Normal"
            }
            .to_owned(),
        ),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            host: None,
        }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

async fn write(client: Client, mut receiver: mpsc::Receiver<Event>, shutdown: CancellationToken) {
    let mut tokens = PER_SECOND * 10;
    let mut refill = tokio::time::interval(Duration::from_secs(1));
    refill.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = receiver.recv() => event,
            _ = refill.tick() => {
                tokens = (tokens + PER_SECOND).min(PER_SECOND * 10);
                continue;
            }
            () = shutdown.cancelled() => return,
        };
        let Some(event) = event else { return };
        let warning = event.type_.as_deref() == Some("Warning");
        if tokens == 0 && !warning {
            continue;
        }
        tokens = tokens.saturating_sub(1);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let posted = tokio::time::timeout(
            Duration::from_secs(10),
            api.create(&PostParams::default(), &event),
        )
        .await;
        if let Ok(Err(error)) = posted {
            tracing::debug!(error = %muster_runtime::telemetry::chain(&error), "An Event could not be written.");
        }
    }
}
