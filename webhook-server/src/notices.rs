//! Kubernetes Events about jobs that are in no ledger: what keeps them from a runner, for people and for `kubectl muster explain job`.
//!
//! They are for people and must not cost what jobs need: a bounded queue and a token bucket drop what is too much, and a role without the
//! right to make Events switches them off for a while.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use muster_core::autoscale::reservation::JobKey;
use muster_core::explain::{Code, notice};
use muster_core::routing::{AutoscalerView, Nearest};
use muster_runtime::clock::Clock;
use muster_runtime::telemetry::chain;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Component that the Events name.
const COMPONENT: &str = "github-webhook-server";
/// Notices that wait to be written.
const QUEUE: usize = 128;
/// Events at once; one a second comes back.
const BURST: u32 = 60;
/// Between two Events: many of them come when the ledgers are written most.
const PACE: Duration = Duration::from_millis(200);
/// For so long nothing is told after the API server refused an Event.
const REFUSED: Duration = Duration::from_mins(10);
/// Time for one write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest text of an Event.
const NOTE_LIMIT: usize = 1_000;

/// The object that a notice is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    /// An autoscaler: namespace, name and UID.
    Autoscaler(String, String, String),
    /// Nobody's autoscaler: told on the server's own namespace.
    Nobody,
}

/// A job that is in no ledger.
#[derive(Clone, Debug)]
struct Notice {
    about: About,
    code: Code,
    note: String,
    key: JobKey,
    repository: String,
    labels: Vec<String>,
}

/// Makes Events without waiting for them; clones share one queue. The default tells nobody.
#[derive(Clone, Debug, Default)]
pub struct Notices(Option<mpsc::Sender<Notice>>);

impl Notices {
    /// Notices, and the task that writes them until `shutdown`. What concerns no autoscaler is told on the namespace `home`.
    pub fn new(
        client: Client,
        clock: Clock,
        home: String,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(Some(sender)), write(client, clock, home, receiver, shutdown))
    }

    /// Tells of a queued job that no autoscaler takes, and what kept the nearest one.
    pub fn unmatched(&self, key: JobKey, repository: &str, labels: &[String], nearest: Option<&Nearest>) {
        if !notice::is_for_self_hosted(labels) {
            return;
        }
        let code = notice::code_of(nearest.map(|nearest| &nearest.obstacle));
        let asked = format!("Job {key} of {repository} asks for [{}]", labels.join(", "));
        let (about, note) = match nearest {
            Some(nearest) => (
                about(&nearest.autoscaler),
                format!(
                    "{asked}; the nearest autoscaler is {}, but {}",
                    nearest.autoscaler.id, nearest.obstacle
                ),
            ),
            None => (
                About::Nobody,
                format!("{asked}; no autoscaler is for this repository, its organization or its enterprise"),
            ),
        };
        self.send(Notice {
            about,
            code,
            note,
            key,
            repository: repository.to_owned(),
            labels: labels.to_vec(),
        });
    }

    /// Tells of a job that GitHub holds back until somebody approves it.
    pub fn waiting(&self, key: JobKey, repository: &str, labels: &[String], autoscaler: &AutoscalerView) {
        let note = format!("Job {key} of {repository} waits for an approval on GitHub: it is no demand yet");
        self.send(Notice {
            about: about(autoscaler),
            code: Code::JobWaitsForApproval,
            note,
            key,
            repository: repository.to_owned(),
            labels: labels.to_vec(),
        });
    }

    fn send(&self, notice: Notice) {
        if let Some(sender) = &self.0 {
            // A full queue drops it: /debug/unmatched and the log say the same.
            drop(sender.try_send(notice));
        }
    }
}

fn about(autoscaler: &AutoscalerView) -> About {
    About::Autoscaler(
        autoscaler.id.namespace.clone(),
        autoscaler.id.name.clone(),
        autoscaler.uid.clone(),
    )
}

/// How many Events may be made now.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    filled_at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let whole = now.saturating_duration_since(self.filled_at).as_secs();
        if whole > 0 {
            let more = u32::try_from(whole).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(more).min(BURST);
            self.filled_at = now;
        }
        let taken = self.tokens.checked_sub(1);
        self.tokens = taken.unwrap_or(0);
        taken.is_some()
    }
}

async fn write(
    client: Client,
    clock: Clock,
    home: String,
    mut receiver: mpsc::Receiver<Notice>,
    shutdown: CancellationToken,
) {
    let mut bucket = Bucket {
        tokens: BURST,
        filled_at: Instant::now(),
    };
    let mut silent_until: Option<Instant> = None;
    while let Some(Some(notice)) = shutdown.run_until_cancelled(receiver.recv()).await {
        let now = Instant::now();
        if silent_until.is_some_and(|until| now < until) || !bucket.take(now) {
            continue;
        }
        let event = event(&notice, &home, &clock);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let params = PostParams::default();
        match tokio::time::timeout(TIMEOUT, api.create(&params, &event)).await {
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
                tracing::info!(
                    namespace,
                    "Not allowed to make Events: jobs that no autoscaler takes are told of at /debug/unmatched only"
                );
                silent_until = Some(now + REFUSED);
            }
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "An Event could not be written"),
            Ok(Ok(_)) | Err(_) => {}
        }
        let pause = shutdown.run_until_cancelled(tokio::time::sleep(PACE));
        if pause.await.is_none() {
            return;
        }
    }
}

fn event(notice: &Notice, home: &str, clock: &Clock) -> Event {
    let now = Some(Time(clock.now()));
    let (namespace, involved) = match &notice.about {
        About::Autoscaler(namespace, name, uid) => (
            namespace.clone(),
            ObjectReference {
                api_version: Some("actions.summerwind.dev/v1alpha1".to_owned()),
                kind: Some("HorizontalRunnerAutoscaler".to_owned()),
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                uid: Some(uid.clone()),
                ..ObjectReference::default()
            },
        ),
        About::Nobody => (
            home.to_owned(),
            ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Namespace".to_owned()),
                name: Some(home.to_owned()),
                namespace: Some(home.to_owned()),
                ..ObjectReference::default()
            },
        ),
    };
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", involved.name.as_deref().unwrap_or("job"))),
            namespace: Some(namespace),
            annotations: Some(notice::annotations(
                &notice.key,
                &notice.repository,
                &notice.labels,
            )),
            ..ObjectMeta::default()
        },
        involved_object: involved,
        reason: Some(notice.code.as_str().to_owned()),
        message: Some(notice.note.chars().take(NOTE_LIMIT).collect()),
        type_: Some("Warning".to_owned()),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: None,
        }),
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_to_one_a_second() {
        let mut bucket = Bucket {
            tokens: BURST,
            filled_at: Instant::now(),
        };
        let taken = (0..1_000).filter(|_| bucket.take(Instant::now())).count();
        assert_eq!(taken, 60);
        tokio::time::advance(Duration::from_millis(2_500)).await;
        let taken = (0..1_000).filter(|_| bucket.take(Instant::now())).count();
        assert_eq!(taken, 2);
    }

    #[tokio::test]
    async fn what_is_told_is_what_explanations_read() {
        let (sender, mut receiver) = mpsc::channel(4);
        let notices = Notices(Some(sender));
        let key = JobKey::new(None, 7, 8);
        notices.unmatched(key.clone(), "acme/api", &["ubuntu-latest".to_owned()], None);
        notices.unmatched(key.clone(), "acme/api", &["gpu".to_owned()], None);
        let told = receiver.try_recv().unwrap();
        assert!(
            receiver.try_recv().is_err(),
            "a job for GitHub's own runners is not told"
        );
        let event = event(
            &told,
            "muster-system",
            &Clock::manual(jiff::Timestamp::UNIX_EPOCH),
        );
        let read = notice::JobNotice::of(&event).unwrap();
        assert_eq!((read.key, read.code), (key, Code::NoPoolInScope));
        assert_eq!(event.metadata.namespace, event.involved_object.namespace);
    }
}
