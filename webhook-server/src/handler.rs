//! From a delivery's bytes to its answer: verify, parse, route, commit.

mod jobs;
mod triggers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use moka::future::Cache;
use muster_core::autoscale::reservation::JobKey;
use muster_core::routing::{AutoscalerView, Nearest, Routing, Visibility, WorkflowAction};
use muster_github::events::{TriggerPayload, action_label, event_label};
use muster_intake::{BodyBudget, Reason, guid};
use muster_runtime::clock::Clock;
use muster_runtime::serve::Readiness;
use secrecy::SecretString;
use tokio::time::Instant;

use crate::answer::{Answer, Outcome};
use crate::batch::{NotWritten, Writers};
use crate::delivery::{self, Delivery, Job};
use crate::groups::Groups;
use crate::index::Index;
use crate::metrics::{DeliveryLabels, Metrics, SignatureLabels};
use crate::notices::Notices;
use crate::replay::Heard;
use crate::unmatched::{Unmatched, UnmatchedLog, short_labels};

/// Deliveries whose answers are remembered, and for how long. The ledger makes a repetition harmless; the
/// memory saves its write.
const REMEMBERED: u64 = 4_096;
const REMEMBERED_FOR: Duration = Duration::from_hours(1);

/// What the handlers are told.
#[derive(Debug)]
pub struct AppSettings {
    /// Secrets that a signature may be made with, the current one first; none accepts unsigned deliveries.
    pub secrets: Vec<SecretString>,
    /// Time for the answer, from the request's arrival on.
    pub commit_deadline: Duration,
    /// The present.
    pub clock: Clock,
    /// Whom to ask about runner groups; without anybody all are visible to every repository.
    pub groups: Option<Groups>,
    /// Remembers what concerned nobody.
    pub unmatched: UnmatchedLog,
    /// Tells of jobs that are in no ledger.
    pub notices: Notices,
    /// Tells delivery replay what arrives by itself.
    pub heard: Heard,
}

/// A delivery as the memory knows it. What it is about stands beside the GUID so that a sender who uses one GUID
/// for everything harms only itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Remembered {
    delivery: Box<str>,
    subject: Subject,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Job(JobKey, WorkflowAction),
    Event(&'static str),
}

/// State of the handlers.
#[derive(Debug)]
pub struct App {
    index: Arc<Index>,
    writers: Arc<Writers>,
    metrics: Metrics,
    readiness: Readiness,
    was_ready: AtomicBool,
    settings: AppSettings,
    memory: Cache<Remembered, Answer>,
    bodies: BodyBudget,
}

impl App {
    /// State of one server's handlers.
    pub fn new(
        index: Arc<Index>,
        writers: Arc<Writers>,
        metrics: Metrics,
        readiness: Readiness,
        settings: AppSettings,
    ) -> Self {
        Self {
            index,
            writers,
            metrics,
            readiness,
            was_ready: AtomicBool::new(false),
            settings,
            memory: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            bodies: BodyBudget::default(),
        }
    }

    /// The autoscalers that are known.
    pub(crate) fn autoscalers(&self) -> Vec<Arc<AutoscalerView>> {
        self.index.views()
    }

    /// Whether any autoscaler waits for other events than jobs'.
    pub(crate) fn waits_for_events(&self) -> bool {
        self.index.has_event_triggers()
    }

    /// Room for large bodies.
    pub(crate) fn bodies(&self) -> &BodyBudget {
        &self.bodies
    }

    /// The answer while not everything has been read; none once it has.
    fn not_ready(&self) -> Option<Answer> {
        let is_ready = self.was_ready.load(Ordering::Relaxed) || {
            let ready = self.readiness.is_ready();
            self.was_ready.store(ready, Ordering::Relaxed);
            ready
        };
        (!is_ready).then(|| {
            let waiting = self.readiness.waiting_for().join(", ");
            let text = format!("not ready: the server has not read all of {waiting} yet");
            Answer::new(Outcome::NotReady, text)
        })
    }
}

/// Answers one delivery, `received` when its head arrived.
pub async fn handle(app: &App, headers: &HeaderMap, body: Bytes, received: Instant) -> Answer {
    let (delivery, signed_with) = match delivery::examine_signed(&app.settings.secrets, headers, &body) {
        Ok(examined) => examined,
        Err(answer) => {
            observe_refused(app, headers, &answer);
            return answer;
        }
    };
    // What is left to do takes as long as the API server does, and needs nothing of it.
    drop(body);
    if let Some(position) = signed_with {
        let secret = if position == 0 { "current" } else { "previous" };
        app.metrics
            .signatures
            .get_or_create(&SignatureLabels { secret })
            .inc();
    }
    let answer = match delivery {
        Delivery::Ping => Answer::new(Outcome::Pong, "pong"),
        Delivery::Unsupported => Answer::new(
            Outcome::Unsupported,
            "ignored: this server has no use for events of this type",
        ),
        Delivery::Job(job) => {
            let answer = take_job(app, &job, guid(headers), received).await;
            heard(app, headers, &answer, job.repository());
            return answer;
        }
        Delivery::Trigger(payload) => {
            let answer = take_event(app, &payload, guid(headers), received).await;
            heard(app, headers, &answer, &payload.repository.full_name);
            return answer;
        }
    };
    observe_refused(app, headers, &answer);
    answer
}

/// Tells delivery replay of what arrived by itself.
fn heard(app: &App, headers: &HeaderMap, answer: &Answer, repository: &str) {
    let accepted = guid(headers).filter(|_| answer.status().is_success());
    app.settings.heard.note(headers, accepted, repository);
}

/// Takes an event of a job that is known to be GitHub's. `guid` names the delivery, `received` begins its deadline.
pub async fn take_job(app: &App, job: &Job<'_>, guid: Option<&str>, received: Instant) -> Answer {
    let action = job.action();
    let (answer, nearest) = jobs::answer(app, job, guid, received + app.settings.commit_deadline).await;
    count(app, "workflow_job", action.as_str(), answer.outcome);
    if answer.outcome == Outcome::Unmatched {
        app.metrics.unmatched.inc();
        note_unmatched(app, job, guid, nearest.as_ref());
    }
    if action == WorkflowAction::Waiting && answer.outcome == Outcome::Ignored {
        note_waiting(app, job);
    }
    tracing::debug!(
        delivery = guid.unwrap_or_default(),
        event = "workflow_job",
        action = job.action_text(),
        repository = job.repository(),
        job = job.id(),
        labels = ?job.labels(),
        outcome = answer.outcome.as_str(),
        answer = %answer.body,
        matched = %DisplayMatched(&answer),
        elapsed_ms = elapsed_ms(received),
        "Delivery"
    );
    answer
}

/// Takes an event that triggers may wait for and that is known to be GitHub's.
pub async fn take_event(
    app: &App,
    payload: &TriggerPayload,
    guid: Option<&str>,
    received: Instant,
) -> Answer {
    let answer = triggers::answer(app, payload, guid, received + app.settings.commit_deadline).await;
    let kind = delivery::trigger_facts(payload).kind;
    count(app, kind.name(), action_label(kind.action()), answer.outcome);
    tracing::debug!(
        delivery = guid.unwrap_or_default(),
        event = kind.name(),
        action = kind.action(),
        repository = %payload.repository.full_name,
        outcome = answer.outcome.as_str(),
        answer = %answer.body,
        matched = %DisplayMatched(&answer),
        elapsed_ms = elapsed_ms(received),
        "Delivery"
    );
    answer
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

struct DisplayMatched<'a>(&'a Answer);

impl std::fmt::Display for DisplayMatched<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, matched) in self.0.matched.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{} by {matched}", matched.autoscaler)?;
        }
        Ok(())
    }
}

/// Remembers a job that concerns nobody. It is worth a line only where somebody comes near: GitHub tells an
/// organization's hook of all its hosted jobs too.
fn note_unmatched(app: &App, job: &Job<'_>, guid: Option<&str>, nearest: Option<&Nearest>) {
    let unmatched = Unmatched {
        at: app.settings.clock.now(),
        delivery: guid.map(str::to_owned),
        action: job.action().as_str(),
        repository: job.repository().chars().take(200).collect(),
        job: job.id(),
        labels: short_labels(job.labels()),
        nearest: nearest.map(Into::into),
    };
    if let Some(nearest) = &unmatched.nearest {
        tracing::info!(
            delivery = guid.unwrap_or_default(),
            action = unmatched.action,
            repository = %unmatched.repository,
            job = unmatched.job,
            labels = ?unmatched.labels,
            nearest = %nearest.autoscaler,
            reason = %nearest.obstacle,
            "No autoscaler for a job"
        );
    }
    // Once per job: its other events would say the same.
    if job.action() == WorkflowAction::Queued {
        let (key, repository) = (job.facts().key, &unmatched.repository);
        app.settings
            .notices
            .unmatched(key, repository, &unmatched.labels, nearest);
    }
    app.settings.unmatched.push(unmatched);
}

/// Tells the autoscaler that will get the job once somebody approves it.
fn note_waiting(app: &App, job: &Job<'_>) {
    let mut facts = job.facts();
    facts.action = WorkflowAction::Queued;
    if let Routing::To(chosen) = app.index.route(&facts, Visibility::Unchecked)
        && let Some(first) = chosen.first()
    {
        let repository: String = job.repository().chars().take(200).collect();
        let labels = short_labels(job.labels());
        app.settings
            .notices
            .waiting(facts.key.clone(), &repository, &labels, &first.autoscaler);
    }
}

/// Counts and logs a delivery that concerns neither a job nor a trigger.
pub(crate) fn observe_refused(app: &App, headers: &HeaderMap, answer: &Answer) {
    let event = event_label(headers);
    count(app, event, "", answer.outcome);
    tracing::debug!(
        delivery = guid(headers).unwrap_or_default(),
        event,
        outcome = answer.outcome.as_str(),
        answer = %answer.body,
        "Delivery"
    );
}

fn count(app: &App, event: &'static str, action: &'static str, outcome: Outcome) {
    app.metrics
        .deliveries
        .get_or_create(&DeliveryLabels {
            event,
            action,
            outcome: outcome.as_str(),
        })
        .inc();
}

/// Upstream's words.
fn nothing() -> Answer {
    Answer::new(
        Outcome::Unmatched,
        "no horizontalrunnerautoscaler to scale for this github event",
    )
}

fn not_written(reason: NotWritten) -> Answer {
    match reason {
        NotWritten::Gone => nothing(),
        NotWritten::Busy => Answer::new(
            Outcome::Refused(Reason::Busy),
            "too many deliveries wait for their write",
        ),
        NotWritten::Unconfirmed => Answer::new(
            Outcome::Unconfirmed,
            "the write could not be confirmed in time; send the delivery again",
        ),
    }
}

fn full(view: &AutoscalerView) -> Answer {
    tracing::warn!(object = %view.id, "The ledger is as large as an object may become; refusing new jobs");
    let text = format!(
        "{} holds as many jobs as one autoscaler can: spread them over several",
        view.id.name
    );
    Answer::new(Outcome::Full, text)
}
