//! The webhooks one by one (spec 01 §11.2).

use muster_core::admission::{Kind, RunnerPod, judge};
use muster_github::RegistrationToken;
use muster_runtime::telemetry::chain;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use super::{
    Admission,
    review::{Answer, Patch, Request},
};
use crate::error::Error;

const CREATE: &str = "CREATE";
const DELETE: &str = "DELETE";

/// A webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Defaults of a kind: there are none, but existing configurations point here with failurePolicy Fail (spec 01 §11.3).
    Mutate(Kind),
    /// Validation of a kind.
    Validate(Kind),
    /// What a runner's pod registers with.
    MutatePod,
}

impl Hook {
    pub(super) fn all() -> Vec<Self> {
        let defaulted = [Kind::Runner, Kind::RunnerReplicaSet, Kind::RunnerDeployment];
        defaulted
            .map(Self::Mutate)
            .into_iter()
            .chain(Kind::ALL.map(Self::Validate))
            .chain([Self::MutatePod])
            .collect()
    }

    /// Part of the contract with existing configurations.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Mutate(Kind::Runner) => "/mutate-actions-summerwind-dev-v1alpha1-runner",
            Self::Mutate(Kind::RunnerReplicaSet) => {
                "/mutate-actions-summerwind-dev-v1alpha1-runnerreplicaset"
            }
            Self::Mutate(Kind::RunnerDeployment) => {
                "/mutate-actions-summerwind-dev-v1alpha1-runnerdeployment"
            }
            Self::Mutate(Kind::RunnerSet) => "/mutate-actions-summerwind-dev-v1alpha1-runnerset",
            Self::Mutate(Kind::HorizontalRunnerAutoscaler) => {
                "/mutate-actions-summerwind-dev-v1alpha1-horizontalrunnerautoscaler"
            }
            Self::Validate(Kind::Runner) => "/validate-actions-summerwind-dev-v1alpha1-runner",
            Self::Validate(Kind::RunnerReplicaSet) => {
                "/validate-actions-summerwind-dev-v1alpha1-runnerreplicaset"
            }
            Self::Validate(Kind::RunnerDeployment) => {
                "/validate-actions-summerwind-dev-v1alpha1-runnerdeployment"
            }
            Self::Validate(Kind::RunnerSet) => "/validate-actions-summerwind-dev-v1alpha1-runnerset",
            Self::Validate(Kind::HorizontalRunnerAutoscaler) => {
                "/validate-actions-summerwind-dev-v1alpha1-horizontalrunnerautoscaler"
            }
            Self::MutatePod => "/mutate-runner-set-pod",
        }
    }
}

/// Answers a request before `deadline`.
pub(super) async fn handle(
    admission: &Admission,
    hook: Hook,
    request: &Request,
    deadline: Instant,
) -> Answer {
    let is_subresource = request.sub_resource.as_ref().is_some_and(|name| !name.is_empty());
    if is_subresource || request.operation == DELETE {
        return Answer::ALLOWED;
    }
    match hook {
        Hook::Mutate(_) => Answer::ALLOWED,
        Hook::Validate(kind) => validate(kind, request),
        Hook::MutatePod if request.operation != CREATE => Answer::ALLOWED,
        Hook::MutatePod => inject(admission, request, deadline).await,
    }
}

fn validate(kind: Kind, request: &Request) -> Answer {
    if !request.object.is_object() {
        return Answer::failed(400, format!("the request carries no {}", kind.name()));
    }
    let old = Some(&request.old_object).filter(|old| old.is_object());
    let verdict = judge(kind, &request.object, old);
    if verdict.violations.is_empty() {
        return Answer::Allowed {
            warnings: verdict.warnings,
        };
    }
    tracing::debug!(object = %request.key(), kind = kind.name(), violations = ?verdict.violations, "Refused an object.");
    Answer::Refused {
        kind,
        name: request.object_name().to_owned(),
        violations: verdict.violations,
        warnings: verdict.warnings,
    }
}

async fn inject(admission: &Admission, request: &Request, deadline: Instant) -> Answer {
    let pod = match RunnerPod::read(&request.object) {
        Ok(Some(pod)) => pod,
        Ok(None) => return Answer::ALLOWED,
        Err(error) => return Answer::failed(400, error.to_string()),
    };
    // A dry run has no effects, and a token is one.
    let token = if pod.needs_token() && !request.dry_run.unwrap_or(false) {
        let fetched = tokio::time::timeout_at(deadline, token(admission, request, &pod)).await;
        match fetched {
            Ok(Ok(token)) => Some(token),
            Ok(Err(error)) => return no_token(request, &error),
            Err(_) => {
                tracing::warn!(object = %request.key(), "GitHub did not give a registration token in time.");
                return Answer::failed(
                    500,
                    "GitHub did not give a registration token in time; the pod's owner tries again",
                );
            }
        }
    } else {
        None
    };
    let token = token
        .as_ref()
        .map(|token| (token.token.expose_secret(), token.expires_at));
    let patch = pod.patch(request.name.as_deref().unwrap_or_default(), token);
    if patch.is_empty() {
        return Answer::ALLOWED;
    }
    tracing::debug!(object = %request.key(), with_token = token.is_some(), "Completed a runner pod.");
    Answer::Patched(Patch(patch))
}

async fn token(
    admission: &Admission,
    request: &Request,
    pod: &RunnerPod,
) -> Result<RegistrationToken, Error> {
    let scope = pod.scope().map_err(|error| Error::Invalid {
        message: format!("the container runner does not say where the runner registers: {error}"),
    })?;
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let now = admission.clock.now();
    let github = admission
        .clients
        .for_secret(namespace, pod.credentials(), now)
        .await?;
    github.registration_token(scope).await.map_err(Error::github(
        format!("get a registration token for {scope}"),
        now,
    ))
}

/// The pod is not created, whatever the failurePolicy; its StatefulSet tries again and shows the sentence in an Event.
fn no_token(request: &Request, error: &Error) -> Answer {
    let cause = chain(error);
    tracing::warn!(object = %request.key(), error = %cause, "Could not complete a runner pod.");
    let message = match error.remedy() {
        "" => cause,
        remedy => format!("{cause}. {remedy}"),
    };
    Answer::failed(500, message)
}
