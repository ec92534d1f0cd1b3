//! Says on the autoscalers concerned that GitHub does not show a hook's deliveries.
//!
//! Server-side apply with an owner of its own, so that the manager's conditions stay. ARC's own `ClusterRole` allows it; without that
//! right the log and the metric remain.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource as _};
use muster_core::routing::{AutoscalerId, AutoscalerView};
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use muster_runtime::telemetry::chain;
use serde_json::json;

use super::{HookName, Target};

/// Type of the condition.
const DELIVERIES_REPLAYED: &str = "DeliveriesReplayed";

/// Owner of the field.
const FIELD_OWNER: &str = "github-webhook-server";

/// What stands on the autoscalers by this process.
pub(super) struct Conditions {
    client: Client,
    /// The message and since when.
    told: BTreeMap<AutoscalerId, (String, Timestamp)>,
    is_forbidden: bool,
}

impl Conditions {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            told: BTreeMap::new(),
            is_forbidden: false,
        }
    }

    /// Takes over what an earlier process has said about these hooks.
    pub(super) fn take_over(&mut self, views: &[Arc<AutoscalerView>], refused: &[&HookName], now: Timestamp) {
        for view in views.iter().filter(|view| !named(view, refused).is_empty()) {
            self.told
                .entry(view.id.clone())
                .or_insert_with(|| (String::new(), now));
        }
    }

    /// Says which hooks are refused, and takes back what is not so any more. What could not be written is tried in the next turn.
    pub(super) async fn tell(
        &mut self,
        views: &[Arc<AutoscalerView>],
        refused: &[&HookName],
        now: Timestamp,
    ) {
        if self.is_forbidden {
            return;
        }
        let before = std::mem::take(&mut self.told);
        for view in views {
            let hooks = named(view, refused);
            let known = before.get(&view.id);
            if hooks.is_empty() {
                if let Some(known) = known
                    && !self.write(&view.id, "", now).await
                {
                    self.told.insert(view.id.clone(), known.clone());
                }
                continue;
            }
            let message = format!(
                "GitHub does not show the deliveries of {} to these credentials: those that fail are not replayed. Reading them takes admin:repo_hook or admin:org_hook (a token), or the GitHub App's own key (its hook).",
                hooks.join(", ")
            );
            match known {
                Some((text, since)) if *text == message => {
                    self.told.insert(view.id.clone(), (message, *since));
                }
                _ => {
                    if self.write(&view.id, &message, now).await {
                        self.told.insert(view.id.clone(), (message, now));
                    } else if let Some(known) = known {
                        self.told.insert(view.id.clone(), known.clone());
                    }
                }
            }
        }
    }

    /// Whether it was written, or there is nothing to write it to.
    async fn write(&mut self, id: &AutoscalerId, message: &str, now: Timestamp) -> bool {
        let is_good = message.is_empty();
        let condition = json!({
            "type": DELIVERIES_REPLAYED,
            "status": if is_good { "True" } else { "False" },
            "reason": if is_good { "DeliveriesShown" } else { "DeliveriesRefused" },
            "message": message,
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let body = json!({
            "apiVersion": HorizontalRunnerAutoscaler::api_version(&()),
            "kind": HorizontalRunnerAutoscaler::kind(&()),
            "metadata": {"name": id.name, "namespace": id.namespace},
            "status": {"conditions": [condition]},
        });
        let api: Api<HorizontalRunnerAutoscaler> = Api::namespaced(self.client.clone(), &id.namespace);
        let params = PatchParams::apply(FIELD_OWNER).force();
        let Err(error) = api.patch_status(&id.name, &params, &Patch::Apply(body)).await else {
            return true;
        };
        match &error {
            kube::Error::Api(status) if status.is_not_found() => return true,
            kube::Error::Api(status) if status.is_forbidden() => {
                self.is_forbidden = true;
                tracing::info!(object = %id, error = %chain(&error), "Conditions cannot say that deliveries are not shown: this server may not patch horizontalrunnerautoscalers/status.");
            }
            _ => tracing::debug!(object = %id, error = %chain(&error), "A condition could not be written."),
        }
        false
    }
}

/// The hooks that tell of jobs for this autoscaler's runners, for people.
fn named(view: &AutoscalerView, hooks: &[&HookName]) -> Vec<String> {
    hooks
        .iter()
        .filter(|hook| view.keys.iter().any(|key| concerns(hook, key)))
        .map(|hook| match hook.target {
            Target::Integration => "the GitHub App's hook".to_owned(),
            Target::Repository | Target::Organization => format!("hook {} of {}", hook.id, hook.name),
        })
        .collect()
}

/// Whether a hook may tell of jobs for runners with this key (`owner/name`, `organization`, `organization/group/name`, `enterprises/…`).
fn concerns(hook: &HookName, key: &str) -> bool {
    let (key, name) = (key.to_lowercase(), hook.name.to_lowercase());
    let owner = name.split('/').next().unwrap_or_default();
    let is_group = key.starts_with(&format!("{owner}/group/"));
    match hook.target {
        Target::Integration => true,
        Target::Repository => key == name || key == owner || is_group,
        Target::Organization => key == owner || key.starts_with(&format!("{owner}/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_concern_the_runners_of_their_repositories() {
        let hook = |text: &str| text.parse::<HookName>().unwrap();
        let table = [
            ("acme/api=1", "acme/api", true),
            ("Acme/Api=1", "acme/api", true),
            ("acme/api=1", "acme/web", false),
            ("acme/api=1", "acme", true),
            ("acme/api=1", "acme/group/a", true),
            ("acme/api=1", "acmes", false),
            ("acme=1", "acme/web", true),
            ("acme=1", "acme/group/a", true),
            ("acme=1", "acme", true),
            ("acme=1", "acmes/web", false),
            ("acme=1", "enterprises/big", false),
            ("app", "enterprises/big", true),
        ];
        for (name, key, expected) in table {
            assert_eq!(concerns(&hook(name), key), expected, "{name} {key}");
        }
    }
}
