//! Draining: before the manager goes for good, every runner is taken off GitHub and removed, and nothing is left that holds an object.
//!
//! The controllers run with `Settings::draining`: sets want no runners, nobody is made, and what is there ends as on any scale-down: the idle ones
//! unregister first, the busy ones finish their job. What users wrote (`RunnerDeployment`s, `RunnerSet`s, autoscalers, Runners of their own) stays as it is.

use std::{fmt::Debug, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        coordination::v1::Lease,
        core::v1::{Pod, Secret},
        policy::v1::PodDisruptionBudget,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::PartialObjectMeta,
};
use muster_core::pods::phase::is_runner_pod;
use muster_crds::{keys, legacy::Runner};
use muster_runtime::clock::Clock;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Start;
use crate::{error::is_not_found, owner::ControllerOwner};

/// Time between two looks at what is left.
const LOOK: Duration = Duration::from_millis(500);
/// How long the controllers may take to finish what is under way.
const FINISH: Duration = Duration::from_secs(20);
/// Where a drain writes down how many managers there were, for the one after it when it fails.
const ANNOTATION_REPLICAS: &str = "muster.dev/replicas-before-drain";
/// So many names are told; the rest is a number.
const TOLD: usize = 10;

/// Why a drain did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// Kubernetes did not do it.
    #[error("could not {what}")]
    Kubernetes {
        /// What was to be done.
        what: String,
        /// Cause.
        #[source]
        source: kube::Error,
    },
    /// The time was over.
    #[error(
        "after {after_s} s these are still there: {names}. A runner with a job is never ended: wait and run the drain again, or give it more time \
         (--drain-timeout; in the chart uninstall.drain.timeout); what the conditions of the runners' pods say is wrong with GitHub must be mended"
    )]
    Held {
        /// How long it was tried.
        after_s: u64,
        /// Who is left.
        names: String,
    },
    /// The process was told to end.
    #[error("told to stop before the drain was over; run it again")]
    Stopped,
    /// The controllers gave up.
    #[error("the controllers ended by themselves")]
    Ended,
}

fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> DrainError {
    let what = what.into();
    move |source| DrainError::Kubernetes { what, source }
}

/// Drains everything that `start` watches. Gives up after `patience`.
///
/// # Errors
/// [`DrainError`]; what was done until then stays done, and a drain may be repeated.
pub async fn run(mut start: Start, patience: Duration, stop: &CancellationToken) -> Result<(), DrainError> {
    start.settings.draining = true;
    let (client, clock) = (start.client.clone(), start.clock.clone());
    let namespace = start.settings.watch_namespace.clone();
    let namespace = namespace.as_deref();
    let run = CancellationToken::new();
    let mut controllers = Box::pin(super::start(start, run.clone()));
    let drained = tokio::select! {
        () = &mut controllers => return Err(DrainError::Ended),
        () = stop.cancelled() => Err(DrainError::Stopped),
        drained = until_empty(&client, namespace, &clock, patience) => drained,
    };
    run.cancel();
    if tokio::time::timeout(FINISH, controllers).await.is_err() {
        tracing::warn!("The controllers did not finish in time.");
    }
    drained?;
    free_runners(&client, namespace).await?;
    remove_budgets(&client, namespace).await
}

async fn until_empty(
    client: &Client,
    namespace: Option<&str>,
    clock: &Clock,
    patience: Duration,
) -> Result<(), DrainError> {
    let begun = clock.now();
    let end = begun.checked_add(patience).unwrap_or(Timestamp::MAX);
    let mut last = usize::MAX;
    loop {
        let left = left(client, namespace).await?;
        if left.is_empty() {
            return Ok(());
        }
        if left.len() != last {
            last = left.len();
            tracing::info!(left = last, "Draining runners.");
        }
        let now = clock.now();
        if now > end {
            return Err(DrainError::Held {
                after_s: now.duration_since(begun).as_secs().unsigned_abs(),
                names: told(&left),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is there of runners that somebody else's wish has made.
async fn left(client: &Client, namespace: Option<&str>) -> Result<Vec<String>, DrainError> {
    let runner_pods = ListParams::default().labels(keys::LABEL_ACTIONS_RUNNER);
    let pods: Vec<Pod> = list(client, namespace, &runner_pods).await?;
    let runners: Vec<Runner> = list(client, namespace, &ListParams::default()).await?;
    let sets: Vec<StatefulSet> = list(client, namespace, &ListParams::default()).await?;
    let pods = pods
        .iter()
        .filter(|pod| is_runner_pod(pod))
        .map(|pod| format!("pod {}", super::key(pod)));
    let runners = runners
        .iter()
        .filter(|runner| is_owned(*runner, "RunnerReplicaSet"))
        .map(|runner| format!("Runner {}", super::key(runner)));
    let sets = sets
        .iter()
        .filter(|set| is_owned(*set, "RunnerSet"))
        .map(|set| format!("StatefulSet {}", super::key(set)));
    Ok(pods.chain(runners).chain(sets).collect())
}

fn is_owned<K: Resource>(object: &K, kind: &str) -> bool {
    object.controller_owner().is_some_and(|owner| owner.kind == kind)
}

fn told(names: &[String]) -> String {
    let shown = names.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>();
    match names.len().saturating_sub(TOLD) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Runners that users wrote stay, and nothing holds them.
async fn free_runners(client: &Client, namespace: Option<&str>) -> Result<(), DrainError> {
    let runners: Vec<Runner> = list(client, namespace, &ListParams::default()).await?;
    for runner in runners {
        let ours = |finalizer: &String| finalizer == keys::FINALIZER_RUNNER;
        if !runner.finalizers().iter().any(ours) {
            continue;
        }
        let kept: Vec<_> = runner.finalizers().iter().filter(|f| !ours(f)).collect();
        let patch = json!({"metadata": {"resourceVersion": runner.resource_version(), "finalizers": kept}});
        let api: Api<Runner> = Api::namespaced(client.clone(), &runner.namespace().unwrap_or_default());
        match api
            .patch_metadata(&runner.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(error) if !is_not_found(&error) => {
                return Err(failed(format!("free Runner {}", super::key(&runner)))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The budget of busy runners, which the manager makes in each namespace.
async fn remove_budgets(client: &Client, namespace: Option<&str>) -> Result<(), DrainError> {
    let ours = ListParams::default().fields(&format!("metadata.name={}", keys::BUDGET_BUSY_RUNNERS));
    let budgets: Vec<PodDisruptionBudget> = match list(client, namespace, &ours).await {
        // The chart's Role of the drain may; without it the budgets stay, which select pods that are gone.
        Err(DrainError::Kubernetes {
            source: kube::Error::Api(status),
            ..
        }) if status.is_forbidden() => {
            tracing::warn!(budget = keys::BUDGET_BUSY_RUNNERS, error = %status.message, "The PodDisruptionBudgets of busy runners stay: delete them by hand, or give the drain the right to list and delete them.");
            return Ok(());
        }
        listed => listed?,
    };
    for budget in budgets {
        let place = budget.namespace().unwrap_or_default();
        remove::<PodDisruptionBudget>(client, &place, &budget.name_any()).await?;
    }
    Ok(())
}

async fn list<K>(client: &Client, namespace: Option<&str>, params: &ListParams) -> Result<Vec<K>, DrainError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let listed = api.list(params).await;
    listed
        .map(|list| list.items)
        .map_err(failed(format!("list the {}", K::plural(&()))))
}

/// Deletes an object that may be gone.
async fn remove<K>(client: &Client, namespace: &str, name: &str) -> Result<(), DrainError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    match api.delete(name, &DeleteParams::default()).await {
        Err(error) if !is_not_found(&error) => Err(failed(format!(
            "delete {} {namespace}/{name}",
            K::kind(&())
        ))(error)),
        _ => Ok(()),
    }
}

/// What the manager's processes have made for themselves: their locks, and the certificate of the admission webhooks.
///
/// # Errors
/// Kubernetes refused.
pub async fn remove_own(
    client: &Client,
    namespace: &str,
    leases: &[String],
    secret: Option<&str>,
) -> Result<(), DrainError> {
    for name in leases {
        remove::<Lease>(client, namespace, name).await?;
    }
    if let Some(name) = secret {
        remove::<Secret>(client, namespace, name).await?;
    }
    Ok(())
}

/// A Deployment that makes way for a drain.
#[derive(Debug)]
pub struct Replicas {
    api: Api<Deployment>,
    name: String,
    count: i32,
}

impl Replicas {
    /// Scales the Deployment to zero and waits until its pods are gone. `None` where there is no such Deployment.
    ///
    /// # Errors
    /// Kubernetes refused, or they were not gone within `patience`.
    pub async fn stop(
        client: &Client,
        namespace: &str,
        name: &str,
        patience: Duration,
    ) -> Result<Option<Self>, DrainError> {
        let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let read = || async {
            api.get_opt(name)
                .await
                .map_err(failed(format!("read Deployment {name}")))
        };
        let Some(found) = read().await? else {
            return Ok(None);
        };
        let running = found.spec.replicas.unwrap_or(1);
        // A drain before this one may have stopped them already.
        let noted = found.annotations().get(ANNOTATION_REPLICAS);
        let count = noted.and_then(|text| text.parse().ok()).unwrap_or(running);
        let stopped = Self {
            api: api.clone(),
            name: name.to_owned(),
            count,
        };
        stopped.scale(0, Some(&count.to_string())).await?;
        let waiting = async {
            loop {
                let now = read().await?;
                let left = now.and_then(|found| found.status?.replicas).unwrap_or(0);
                if left == 0 {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let held = |_| {
            Err(DrainError::Held {
                after_s: patience.as_secs(),
                names: format!("pods of Deployment {namespace}/{name}"),
            })
        };
        let ended = tokio::time::timeout(patience, waiting).await;
        if let Err(error) = ended.unwrap_or_else(held) {
            // The caller knows only those that have stopped.
            stopped.resume().await?;
            return Err(error);
        }
        Ok(Some(stopped))
    }

    /// Starts them again: the drain did not come to its end.
    ///
    /// # Errors
    /// Kubernetes refused.
    pub async fn resume(&self) -> Result<(), DrainError> {
        self.scale(self.count, None).await
    }

    async fn scale(&self, replicas: i32, note: Option<&str>) -> Result<(), DrainError> {
        let patch = json!({
            "metadata": {"annotations": {ANNOTATION_REPLICAS: note}},
            "spec": {"replicas": replicas},
        });
        self.api
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
            .map_err(failed(format!("scale Deployment {} to {replicas}", self.name)))
    }
}

/// Writes the definitions of this version to the API server: those that are missing are made, older ones brought up to date.
///
/// # Errors
/// Kubernetes refused, or a definition is wrong, which a test rules out.
pub async fn apply_definitions(
    client: &Client,
    definitions: &[CustomResourceDefinition],
) -> Result<(), DrainError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions {
        let name = definition.name_any();
        let params = PatchParams::apply(keys::FIELD_MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(definition))
            .await
            .map_err(failed(format!("apply the definition {name}")))?;
        tracing::info!(name, "Applied a definition.");
    }
    Ok(())
}

/// Deletes the definitions with every object of their kinds, and waits until they are gone.
///
/// # Errors
/// Kubernetes refused, or they were not gone within `patience`.
pub async fn remove_definitions(
    client: &Client,
    names: &[String],
    patience: Duration,
) -> Result<(), DrainError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in names {
        match api.delete(name, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => {
                return Err(failed(format!("delete the definition {name}"))(error));
            }
            _ => {}
        }
    }
    let waiting = async {
        for name in names {
            let gone = || async {
                let found = api.get_metadata_opt(name).await;
                found
                    .map(|found: Option<PartialObjectMeta<_>>| found.is_none())
                    .map_err(failed(format!("read the definition {name}")))
            };
            while !gone().await? {
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    };
    tokio::time::timeout(patience, waiting).await.unwrap_or_else(|_| {
        Err(DrainError::Held {
            after_s: patience.as_secs(),
            names: names.join(", "),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_names_are_told_and_many_are_counted() {
        let names: Vec<String> = (0..12).map(|number| format!("pod ci/{number}")).collect();
        assert_eq!(told(names.get(..2).unwrap_or_default()), "pod ci/0, pod ci/1");
        assert!(told(&names).ends_with("pod ci/9 and 2 more"), "{}", told(&names));
    }
}
