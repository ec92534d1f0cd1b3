//! The pod of a runner gets what it registers with (spec 01 §11.5, 02 §14.1): a name, a token, and a restart policy that a StatefulSet
//! cannot give it. The patch touches nothing else.

use jiff::Timestamp;
use muster_crds::keys;
use serde_json::{Value, json};

use super::{get, items, text};
use crate::scope::{Scope, ScopeError};

const NEVER: &str = "Never";

/// What the API server sent is no object at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request carries no pod")]
pub struct NotAPod;

/// An environment variable of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// It has a value, or says where it comes from (spec 01 quirk 19).
    Set,
    /// It is there, at this index, without a value.
    Empty(usize),
    Missing,
}

/// A runner's pod as it is about to be created, and what it lacks.
#[derive(Clone, Debug)]
pub struct RunnerPod {
    container: usize,
    name: Slot,
    token: Slot,
    never_restarts: bool,
    has_metadata: bool,
    has_annotations: bool,
    own_name: Option<String>,
    credentials: Option<String>,
    scope: Result<Scope, ScopeError>,
}

impl RunnerPod {
    /// Reads a pod. `None` for one that is no runner's: without a container `runner`, or one that does not define the three variables of
    /// the scope. Where a variable is there twice the last counts, since the container sees that one (spec 02 Q31).
    ///
    /// # Errors
    /// [`NotAPod`].
    pub fn read(pod: &Value) -> Result<Option<Self>, NotAPod> {
        if !pod.is_object() {
            return Err(NotAPod);
        }
        let (metadata, spec) = (get(pod, "metadata"), get(pod, "spec"));
        let Some((container, runner)) = items(spec, "containers")
            .iter()
            .enumerate()
            .rfind(|(_, container)| text(container, "name") == keys::CONTAINER_RUNNER)
        else {
            return Ok(None);
        };
        let env = items(runner, "env");
        let last = |name: &str| env.iter().rfind(|variable| text(variable, "name") == name);
        let (Some(enterprise), Some(repository), Some(organization)) = (
            last(keys::ENV_RUNNER_ENTERPRISE),
            last(keys::ENV_RUNNER_REPO),
            last(keys::ENV_RUNNER_ORG),
        ) else {
            return Ok(None);
        };
        let annotations = get(metadata, "annotations");
        let non_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(Some(Self {
            container,
            name: slot(env, keys::ENV_RUNNER_NAME),
            token: slot(env, keys::ENV_RUNNER_TOKEN),
            never_restarts: text(spec, "restartPolicy") == NEVER,
            has_metadata: metadata.is_object(),
            has_annotations: annotations.is_object(),
            own_name: non_empty(text(metadata, "name")),
            credentials: non_empty(text(annotations, keys::ANNOTATION_GITHUB_API_CREDS_SECRET)),
            scope: Scope::from_fields(
                Some(text(repository, "value")),
                Some(text(organization, "value")),
                Some(text(enterprise, "value")),
            ),
        }))
    }

    /// Whether a registration token is to be had. The pods of Runner objects come with one, and need nothing of GitHub or of a Secret
    /// (spec 02 Q50).
    pub fn needs_token(&self) -> bool {
        self.token != Slot::Set
    }

    /// Where the runner registers.
    ///
    /// # Errors
    /// [`ScopeError`] when the variables do not say.
    pub fn scope(&self) -> Result<&Scope, &ScopeError> {
        self.scope.as_ref()
    }

    /// The Secret of the pod's namespace to log in with; the process-wide login where there is none.
    pub fn credentials(&self) -> Option<&str> {
        self.credentials.as_deref()
    }

    /// The JSON patch (RFC 6902) that makes the pod complete; no operation when it is.
    ///
    /// `request_name` stands in for a pod without a name of its own. Where neither is known, because the API server will draw it, the
    /// variable refers to the name (spec 01 quirk 20). `token` and when it expires are written where the pod lacks one.
    pub fn patch(&self, request_name: &str, token: Option<(&str, Timestamp)>) -> Vec<Value> {
        let mut patch = Vec::new();
        let request_name = (!request_name.is_empty()).then_some(request_name);
        let name = match self.own_name.as_deref().or(request_name) {
            Some(name) => ("value", json!(name)),
            None => ("valueFrom", json!({"fieldRef": {"fieldPath": "metadata.name"}})),
        };
        patch.extend(self.fill(self.name, keys::ENV_RUNNER_NAME, name));
        if let Some((token, expires_at)) = token.filter(|_| self.needs_token()) {
            patch.extend(self.fill(self.token, keys::ENV_RUNNER_TOKEN, ("value", json!(token))));
            self.annotate(expires_at, &mut patch);
        }
        if !self.never_restarts {
            // `add` puts a member in the place of one that is there.
            patch.push(add("/spec/restartPolicy", &json!(NEVER)));
        }
        patch
    }

    fn fill(&self, slot: Slot, variable: &str, (member, value): (&str, Value)) -> Option<Value> {
        let env = format!("/spec/containers/{}/env", self.container);
        match slot {
            Slot::Set => None,
            Slot::Empty(index) => Some(add(&format!("{env}/{index}/{member}"), &value)),
            Slot::Missing => Some(add(
                &format!("{env}/-"),
                &json!({"name": variable, member: value}),
            )),
        }
    }

    fn annotate(&self, expires_at: Timestamp, patch: &mut Vec<Value>) {
        if !self.has_metadata {
            patch.push(add("/metadata", &json!({})));
        }
        if !self.has_annotations {
            patch.push(add("/metadata/annotations", &json!({})));
        }
        let key = keys::ANNOTATION_TOKEN_EXPIRES_AT
            .replace('~', "~0")
            .replace('/', "~1");
        let expires_at = expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        patch.push(add(&format!("/metadata/annotations/{key}"), &json!(expires_at)));
    }
}

fn slot(env: &[Value], name: &str) -> Slot {
    let found = env
        .iter()
        .enumerate()
        .rfind(|(_, variable)| text(variable, "name") == name);
    match found {
        Some((_, variable))
            if !text(variable, "value").is_empty() || !get(variable, "valueFrom").is_null() =>
        {
            Slot::Set
        }
        Some((index, _)) => Slot::Empty(index),
        None => Slot::Missing,
    }
}

fn add(path: &str, value: &Value) -> Value {
    json!({"op": "add", "path": path, "value": value})
}
