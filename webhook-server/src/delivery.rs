//! What a delivery says, once it is proven to be GitHub's: signature over the raw body first, then content
//! type, form and JSON (spec 03 §1.4-1.7).

use http::HeaderMap;
use jiff::Timestamp;
use muster_core::autoscale::reservation::JobKey;
use muster_core::routing::{EventFacts, EventKind, JobFacts, Place, WorkflowAction};
use muster_github::events::{self, Event, TriggerKind, TriggerPayload, WorkflowJobPayload};
use muster_intake::{Opened, Refusal, open};
use secrecy::SecretString;

use crate::answer::Answer;

/// Host of the sending server, where it is a GitHub Enterprise Server.
pub const ENTERPRISE_HOST_HEADER: &str = "x-github-enterprise-host";

/// A delivery that is in order.
#[derive(Debug)]
pub enum Delivery<'h> {
    /// GitHub tries whether anybody listens.
    Ping,
    /// Something happened to a job.
    Job(Job<'h>),
    /// Something happened that triggers may wait for.
    Trigger(Box<TriggerPayload>),
    /// An event that this server does not act on.
    Unsupported,
}

/// A `workflow_job` event.
#[derive(Debug)]
pub struct Job<'h> {
    payload: Box<WorkflowJobPayload>,
    host: Option<&'h str>,
}

impl Job<'_> {
    /// What happened.
    pub fn action(&self) -> WorkflowAction {
        WorkflowAction::parse(&self.payload.action)
    }

    /// The payload's word for it.
    pub fn action_text(&self) -> &str {
        &self.payload.action
    }

    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.payload.repository.full_name
    }

    /// Id of the job.
    pub fn id(&self) -> u64 {
        self.payload.workflow_job.id
    }

    /// Labels that the job asks for.
    pub fn labels(&self) -> &[String] {
        &self.payload.workflow_job.labels
    }

    /// When GitHub created the job.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.payload.workflow_job.created_at
    }

    /// What decides where the event goes.
    pub fn facts(&self) -> JobFacts<'_> {
        let WorkflowJobPayload {
            workflow_job: job,
            repository,
            enterprise,
            ..
        } = &*self.payload;
        JobFacts {
            key: JobKey::new(self.host, repository.id, job.id),
            action: self.action(),
            owner: &repository.owner.login,
            owner_is_user: repository.owner.kind == "User",
            repository: &repository.name,
            enterprise: enterprise.as_ref().map(|enterprise| enterprise.slug.as_str()),
            labels: job.labels.iter().map(String::as_str).collect(),
            runner: job.runner_name.as_deref(),
            has_runner_id: job.runner_id.is_some(),
            conclusion: job.conclusion.as_deref(),
        }
    }
}

/// What decides where an event goes that triggers may wait for.
pub fn trigger_facts(payload: &TriggerPayload) -> EventFacts<'_> {
    let TriggerPayload {
        kind,
        repository,
        enterprise,
        ..
    } = payload;
    EventFacts {
        place: Place {
            owner: &repository.owner.login,
            owner_is_user: repository.owner.kind == "User",
            repository: &repository.name,
            enterprise: enterprise.as_ref().map(|enterprise| enterprise.slug.as_str()),
        },
        kind: match kind {
            TriggerKind::Push => EventKind::Push,
            TriggerKind::PullRequest { action, base } => EventKind::PullRequest { action, base },
            TriggerKind::CheckRun { action, name, status } => EventKind::CheckRun { action, name, status },
        },
    }
}

/// Verifies and reads a delivery. Any of the secrets will do; without one nothing is verified, and a body
/// that is no form is JSON whatever its content type.
///
/// # Errors
/// The answer to a delivery that is not in order.
pub fn examine<'h>(
    secrets: &[SecretString],
    headers: &'h HeaderMap,
    body: &[u8],
) -> Result<Delivery<'h>, Answer> {
    examine_signed(secrets, headers, body).map(|(delivery, _)| delivery)
}

/// As [`examine`], with the position of the secret that the delivery is signed with.
///
/// # Errors
/// The answer to a delivery that is not in order.
pub fn examine_signed<'h>(
    secrets: &[SecretString],
    headers: &'h HeaderMap,
    body: &[u8],
) -> Result<(Delivery<'h>, Option<usize>), Answer> {
    let Opened {
        event,
        json,
        signed_with,
    } = open(secrets, headers, body)?;
    let host = headers
        .get(ENTERPRISE_HOST_HEADER)
        .and_then(|host| host.to_str().ok());
    read(event, host, &json).map(|delivery| (delivery, signed_with))
}

/// Reads a delivery that is known to be GitHub's: the event's name, the sending server's host where it is not
/// github.com, and the payload.
///
/// # Errors
/// The answer to a delivery that is not in order.
pub fn read<'h>(event: &str, host: Option<&'h str>, json: &[u8]) -> Result<Delivery<'h>, Answer> {
    match events::parse(event, json) {
        Ok(Event::Ping) => Ok(Delivery::Ping),
        Ok(Event::WorkflowJob(payload)) => Ok(Delivery::Job(Job { payload, host })),
        Ok(Event::Trigger(payload)) => Ok(Delivery::Trigger(payload)),
        Ok(Event::Other { .. }) => Ok(Delivery::Unsupported),
        Err(error) => Err(Refusal::malformed(error.to_string()).into()),
    }
}
