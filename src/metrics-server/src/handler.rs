//! From a delivery's bytes to counters. Everything is counted before the answer; only what a log must tell comes later.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::HeaderMap;
use moka::future::Cache;
use muster_core::job_metrics::{JobView, observe};
use muster_github::events::{JobDetails, event_label, job_details};
use muster_intake::{BodyBudget, Received, Refusal, Request, guid, open, receive, running};
use secrecy::SecretString;

use crate::{
    logs::{Logs, Question},
    metrics::Metrics,
};

/// Deliveries that are remembered, and for how long, so that one that is sent again counts once.
const REMEMBERED: u64 = 16_384;
const REMEMBERED_FOR: Duration = Duration::from_hours(1);

/// A delivery as the memory knows it. What it is about stands beside the GUID so that a sender who uses one GUID for everything harms only
/// itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Remembered {
    delivery: Box<str>,
    action: Box<str>,
    job: Option<u64>,
}

/// State of the handlers.
#[derive(Debug)]
pub(crate) struct App {
    secrets: Vec<SecretString>,
    metrics: Metrics,
    logs: Option<Logs>,
    bodies: BodyBudget,
    memory: Cache<Remembered, ()>,
}

impl App {
    pub(crate) fn new(secrets: Vec<SecretString>, metrics: Metrics, logs: Option<Logs>) -> Self {
        Self {
            secrets,
            metrics,
            logs,
            bodies: BodyBudget::default(),
            memory: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
        }
    }
}

/// The server's routes: one handler for every path.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new().fallback(take).with_state(app)
}

async fn take(State(app): State<Arc<App>>, request: Request) -> Response {
    let (headers, answer) = match receive(request, &app.bodies).await {
        Received::Look => return running("actions-metrics-server is running\n"),
        Received::Refused { headers, refusal } => (headers, Err(refusal)),
        Received::Delivery {
            headers,
            body,
            room: _room,
            ..
        } => {
            let answer = handle(&app, &headers, &body).await;
            (headers, answer)
        }
    };
    let outcome = match &answer {
        Ok(taken) => taken.as_str(),
        Err(refusal) => refusal.reason.as_str(),
    };
    let event = event_label(&headers);
    app.metrics.delivery(event, outcome);
    tracing::debug!(
        delivery = guid(&headers).unwrap_or_default(),
        event,
        outcome,
        reason = answer
            .as_ref()
            .err()
            .map(|refusal| &*refusal.text)
            .unwrap_or_default(),
        "Delivery"
    );
    match answer {
        Ok(Taken::Pong) => "pong".into_response(),
        Ok(_) => "ok".into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// What became of a delivery that is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Pong,
    Counted,
    Repeated,
    /// An event that there is nothing to count of.
    Ignored,
}

impl Taken {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pong => "pong",
            Self::Counted => "counted",
            Self::Repeated => "repeated",
            Self::Ignored => "ignored",
        }
    }
}

async fn handle(app: &App, headers: &HeaderMap, body: &[u8]) -> Result<Taken, Refusal> {
    let delivery = open(&app.secrets, headers, body)?;
    match delivery.event {
        "" => Err(Refusal::malformed("the delivery does not name its event")),
        "ping" => Ok(Taken::Pong),
        "workflow_job" => {
            let details =
                job_details(&delivery.json).map_err(|error| Refusal::malformed(error.to_string()))?;
            Ok(count(app, guid(headers), &details).await)
        }
        _ => Ok(Taken::Ignored),
    }
}

async fn count(app: &App, delivery: Option<&str>, details: &JobDetails) -> Taken {
    let job = view(details);
    let (seen, pending) = observe(&job);
    if seen.is_empty() && pending.is_none() {
        return Taken::Ignored;
    }
    if let Some(delivery) = delivery {
        let key = Remembered {
            delivery: delivery.into(),
            action: job.action.into(),
            job: details.workflow_job.id,
        };
        if !app.memory.entry(key).or_insert(()).await.is_fresh() {
            return Taken::Repeated;
        }
    }
    let labels = app.metrics.labels(&job);
    app.metrics.note(&labels, &seen);
    if let Some(pending) = pending {
        let question = Question {
            owner: job.owner.to_owned(),
            repository: job.repository.to_owned(),
            job: details.workflow_job.id,
            labels,
            pending,
        };
        match &app.logs {
            Some(logs) => logs.ask(question, &app.metrics),
            None => question.conclude(None, &app.metrics),
        }
    }
    Taken::Counted
}

/// The facts of an event.
fn view(details: &JobDetails) -> JobView<'_> {
    let JobDetails {
        action,
        workflow_job: job,
        repository,
        organization,
    } = details;
    JobView {
        action,
        runs_on: job.labels.iter().map(String::as_str).collect(),
        job_name: &job.name,
        // compat: upstream knows the name only, which GitHub does not send.
        organization: if organization.name.is_empty() {
            &organization.login
        } else {
            &organization.name
        },
        repository: &repository.name,
        repository_full_name: &repository.full_name,
        owner: &repository.owner.login,
        workflow_name: &job.workflow_name,
        head_branch: &job.head_branch,
        conclusion: &job.conclusion,
        steps: job.steps.iter().map(|step| step.conclusion.as_str()).collect(),
        has_runner: job.runner_id.is_some(),
        created_at: job.created_at,
        started_at: job.started_at,
        completed_at: job.completed_at,
    }
}
