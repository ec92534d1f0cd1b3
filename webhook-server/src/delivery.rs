//! What a delivery says, once it is proven to be GitHub's: signature over the raw body first, then content
//! type, form and JSON (spec 03 §1.4-1.7).

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use muster_core::autoscale::reservation::JobKey;
use muster_core::routing::{EventFacts, EventKind, JobFacts, Place, WorkflowAction};
use muster_github::events::{
    self, DELIVERY_HEADER, EVENT_HEADER, Event, TriggerKind, TriggerPayload, WorkflowJobPayload,
};
use muster_github::signature::{SignatureError, SignatureHeaders, payload, verify};
use secrecy::{ExposeSecret as _, SecretString};

use crate::answer::{Answer, Outcome};

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
    let signed_with = verify_any(secrets, headers, body).map_err(refused)?;
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let json = match payload(content_type, body) {
        Ok(json) => json,
        Err(
            SignatureError::NoContentType
            | SignatureError::InvalidContentType
            | SignatureError::UnsupportedContentType,
        ) if secrets.is_empty() => Cow::Borrowed(body),
        Err(error) => return Err(refused(error)),
    };
    let event = headers
        .get(EVENT_HEADER)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let event =
        std::str::from_utf8(event).map_err(|_| malformed("the event's name is not text".to_owned()))?;
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
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// Position of the secret that fits; none where there is no secret.
fn verify_any(
    secrets: &[SecretString],
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<usize>, SignatureError> {
    let mut result = Ok(None);
    for (position, secret) in secrets.iter().enumerate() {
        let signatures = SignatureHeaders::of(headers);
        result = verify(secret.expose_secret().as_bytes(), signatures, body).map(|()| Some(position));
        // Another secret mends only a mismatch.
        if result != Err(SignatureError::Mismatch) {
            break;
        }
    }
    result
}

fn refused(error: SignatureError) -> Answer {
    let outcome = match error {
        SignatureError::NoContentType
        | SignatureError::InvalidContentType
        | SignatureError::UnsupportedContentType => Outcome::UnsupportedMediaType,
        SignatureError::InvalidForm => Outcome::Malformed,
        SignatureError::Missing
        | SignatureError::NoAlgorithm
        | SignatureError::UnknownAlgorithm
        | SignatureError::NotHex
        | SignatureError::Mismatch => Outcome::Unauthorized,
    };
    Answer::new(outcome, error.to_string())
}

fn malformed(text: String) -> Answer {
    Answer::new(Outcome::Malformed, text)
}

/// The delivery's GUID, where it has one that can be remembered.
pub fn guid(headers: &HeaderMap) -> Option<&str> {
    let guid = headers.get(DELIVERY_HEADER)?.to_str().ok()?;
    (!guid.is_empty() && guid.len() <= 64).then_some(guid)
}

/// The event's name as a metrics label: from GitHub's documented ones, or `other`.
pub fn event_label(headers: &HeaderMap) -> &'static str {
    let Some(event) = headers.get(EVENT_HEADER).and_then(|event| event.to_str().ok()) else {
        return "";
    };
    KNOWN_EVENTS
        .binary_search(&event)
        .ok()
        .and_then(|at| KNOWN_EVENTS.get(at).copied())
        .unwrap_or("other")
}

/// An action as a metrics label: from the documented ones of the events that triggers wait for, or `other`.
pub fn action_label(action: &str) -> &'static str {
    const ACTIONS: [&str; 25] = [
        "assigned",
        "auto_merge_disabled",
        "auto_merge_enabled",
        "closed",
        "completed",
        "converted_to_draft",
        "created",
        "demilestoned",
        "dequeued",
        "edited",
        "enqueued",
        "labeled",
        "locked",
        "milestoned",
        "opened",
        "ready_for_review",
        "reopened",
        "requested_action",
        "rerequested",
        "review_request_removed",
        "review_requested",
        "synchronize",
        "unassigned",
        "unlabeled",
        "unlocked",
    ];
    if action.is_empty() {
        return "";
    }
    ACTIONS
        .binary_search(&action)
        .ok()
        .and_then(|at| ACTIONS.get(at).copied())
        .unwrap_or("other")
}

/// Events that GitHub documents, sorted.
const KNOWN_EVENTS: [&str; 72] = [
    "branch_protection_configuration",
    "branch_protection_rule",
    "check_run",
    "check_suite",
    "code_scanning_alert",
    "commit_comment",
    "content_reference",
    "create",
    "custom_property",
    "custom_property_values",
    "delete",
    "dependabot_alert",
    "deploy_key",
    "deployment",
    "deployment_protection_rule",
    "deployment_review",
    "deployment_status",
    "discussion",
    "discussion_comment",
    "fork",
    "github_app_authorization",
    "gollum",
    "installation",
    "installation_repositories",
    "installation_target",
    "issue_comment",
    "issues",
    "label",
    "marketplace_purchase",
    "member",
    "membership",
    "merge_group",
    "meta",
    "milestone",
    "org_block",
    "organization",
    "package",
    "page_build",
    "personal_access_token_request",
    "ping",
    "project",
    "project_card",
    "project_column",
    "projects_v2",
    "projects_v2_item",
    "public",
    "pull_request",
    "pull_request_review",
    "pull_request_review_comment",
    "pull_request_review_thread",
    "pull_request_target",
    "push",
    "registry_package",
    "release",
    "repository",
    "repository_advisory",
    "repository_dispatch",
    "repository_import",
    "repository_ruleset",
    "repository_vulnerability_alert",
    "secret_scanning_alert",
    "security_advisory",
    "sponsorship",
    "star",
    "status",
    "team",
    "team_add",
    "user",
    "watch",
    "workflow_dispatch",
    "workflow_job",
    "workflow_run",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_labels_from_a_closed_set() {
        assert!(KNOWN_EVENTS.is_sorted());
        let label = |event: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(EVENT_HEADER, event.parse().unwrap());
            event_label(&headers)
        };
        for event in KNOWN_EVENTS {
            assert_eq!(label(event), event);
        }
        assert_eq!(label("made_up"), "other");
        for action in [
            "assigned",
            "synchronize",
            "requested_action",
            "unlocked",
            "created",
        ] {
            assert_eq!(action_label(action), action);
        }
        assert_eq!((action_label("made_up"), action_label("")), ("other", ""));
        assert_eq!(event_label(&HeaderMap::new()), "");
    }
}
