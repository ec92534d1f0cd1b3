//! RunnerSet: a StatefulSet per runner, with volumes that outlive it (spec 02 §9). What it shares with a RunnerReplicaSet is in `owner_set`.
//! gather → check → plan → apply → report

mod claims;
mod kept;
mod offer;
pub(crate) mod storage;
pub(super) mod watches;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use muster_core::{
    pods::{
        OwnerView,
        stateful_set::{self, Blueprint},
    },
    scope::Scope,
    target::{TargetId, TargetKind},
};
use muster_crds::legacy::{RunnerConfig, RunnerSet, RunnerSetStatus};
use muster_runtime::drive::Cache;
use serde_json::json;

use super::{
    leftovers,
    owner_set::{self, OwnerSet},
    soonest, until,
};
use crate::{
    conditions::{self, Verdict},
    context::{Caches, Context},
    error::Error,
    pod_owner::{self, served, served_none},
};

/// A StatefulSet gets its pod within this time, or the API server takes none from it.
const POD_EXPECTED: SignedDuration = SignedDuration::from_secs(30);

impl OwnerSet for RunnerSet {
    type Owner = StatefulSet;

    const COMPONENT: &'static str = "runnerset-controller";

    fn target(&self) -> Option<TargetId> {
        Some(target(self))
    }

    fn replicas(&self) -> Option<i64> {
        self.spec.replicas.map(i64::from)
    }

    fn effective_time(&self) -> Option<Timestamp> {
        self.spec.effective_time.map(|time| time.0)
    }

    fn config(&self) -> &RunnerConfig {
        &self.spec.config
    }

    fn owners(caches: &Caches) -> &Cache<StatefulSet> {
        &caches.stateful_sets
    }

    fn replaces_in_place(&self) -> bool {
        stateful_set::claim_templates(self).next().is_some()
    }
}

pub(super) async fn reconcile(set: Arc<RunnerSet>, context: Arc<Context>) -> Result<Action, Error> {
    let id = target(&set);
    let uid = set.uid().unwrap_or_default();
    if set.metadata.deletion_timestamp.is_some() {
        context.metrics.target(&id, None);
        context.expectations.forget(&uid);
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    context.metrics.target(&id, set.replicas());
    if let Some(at) = owner_set::undecided(&context, &*set).filter(|at| *at > now) {
        return Ok(Action::requeue(until(Some(at), now).unwrap_or_default()));
    }
    let blueprint = blueprint(&context, &set, now).await?;
    let hash = blueprint.hash();
    let decided = owner_set::decide(&context, &*set, hash, |owner| blueprint.is_current(owner), now).await?;

    let (mut new, mut retry_at) = (Vec::new(), None);
    if decided.creates() > 0 {
        begin_record(&context, &set).await?;
        let reserved = offer::reserve(&context, &set, &decided.owners, decided.creates(), now).await?;
        new.extend(reserved.names.iter().map(|name| blueprint.named(name, now)));
        retry_at = reserved.retry_at;
    }
    pod_owner::apply(&context, &*set, new, &decided.plan, now).await?;

    let status_wait = report(&context, &set, hash, &decided.owners, now).await?;
    let pods_due = report_pods(&context, &set, &decided.owners, now).await;
    owner_set::report_startup(&context, &id, now).await;
    leftovers::report(&context, &*set, &id, now).await;
    let due = soonest([decided.due(now), retry_at, pods_due]);
    let wait = until(due, now).into_iter().chain(status_wait).min();
    Ok(Action::requeue(wait.unwrap_or_else(|| context.resync(&uid))))
}

fn target(set: &RunnerSet) -> TargetId {
    TargetId::new(
        TargetKind::Set,
        set.namespace().unwrap_or_default(),
        set.name_any(),
    )
}

/// What all StatefulSets of the set have in common, or why there can be none.
async fn blueprint(context: &Context, set: &RunnerSet, now: Timestamp) -> Result<Blueprint, Error> {
    let config = set.config();
    let invalid = |message: String| Error::Invalid { message };
    Scope::from_fields(
        config.repository.as_deref(),
        config.organization.as_deref(),
        config.enterprise.as_deref(),
    )
    .map_err(|error| invalid(format!("spec: {error}")))?;
    let namespace = set.namespace().unwrap_or_default();
    let credentials = config.github_api_credentials_from.as_ref();
    let github = context.clients.for_spec(&namespace, credentials, now).await?;
    let settings = &context.settings;
    Blueprint::of(
        set,
        &settings.common_runner_labels,
        &settings.pods,
        github.runner_base_url(),
    )
    .map_err(|error| invalid(error.to_string()))
}

/// Notes on a new set that it is ours and has served nothing, before its first owners: without a record it would be taken for upstream's.
async fn begin_record(context: &Context, set: &RunnerSet) -> Result<(), Error> {
    let is_new = served(set).is_none()
        && context
            .caches
            .stateful_sets
            .owned_by(&set.uid().unwrap_or_default())
            .is_empty();
    if !is_new {
        return Ok(());
    }
    let api: Api<RunnerSet> = Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    let (key, value) = served_none();
    pod_owner::annotate(&api, &set.name_any(), &key, &value).await
}

/// Writes the status when it changed: sums over the StatefulSets of the current template (spec 01 §6).
async fn report(
    context: &Context,
    set: &RunnerSet,
    hash: &str,
    owners: &[OwnerView],
    now: Timestamp,
) -> Result<Option<std::time::Duration>, Error> {
    let namespace = set.namespace().unwrap_or_default();
    let current: Vec<_> = owners
        .iter()
        .filter(|owner| owner.hash.as_deref() == Some(hash) && !owner.deleting)
        .filter_map(|owner| context.caches.stateful_sets.get(&namespace, &owner.name))
        .filter_map(|owner| owner.status.clone())
        .collect();
    let sum = |of: fn(&k8s_openapi::api::apps::v1::StatefulSetStatus) -> i32| -> i64 {
        current.iter().map(|status| i64::from(of(status))).sum()
    };
    let old = set.status.clone().unwrap_or_default();
    let new = RunnerSetStatus {
        available_replicas: Some(sum(|status| status.current_replicas.unwrap_or(0))),
        ready_replicas: Some(sum(|status| status.ready_replicas.unwrap_or(0))),
        updated_replicas: Some(sum(|status| status.updated_replicas.unwrap_or(0))),
        desired_replicas: Some(set.replicas().unwrap_or(1)),
        replicas: Some(sum(|status| status.replicas)),
        conditions: None,
    };
    if (RunnerSetStatus {
        conditions: None,
        ..old
    }) == new
    {
        return Ok(None);
    }
    if let Some(wait) = context.gate.admit_counts(&set.uid().unwrap_or_default(), now) {
        return Ok(Some(wait));
    }
    let api: Api<RunnerSet> = Api::namespaced(context.client.clone(), &namespace);
    let patch = Patch::Merge(json!({ "status": new }));
    api.patch_status(&set.name_any(), &PatchParams::default(), &patch)
        .await
        .map_err(Error::apply("write the status"))?;
    Ok(None)
}

/// Says whether the pods come, and come complete: without the mutating webhook they do not (docs/admission.md). Answers when to look again.
async fn report_pods(
    context: &Context,
    set: &RunnerSet,
    owners: &[OwnerView],
    now: Timestamp,
) -> Option<Timestamp> {
    let namespace = set.namespace().unwrap_or_default();
    let incomplete = owners.iter().flat_map(|owner| &owner.pods).find(|pod| {
        let cached = context.caches.pods.get(&namespace, &pod.name);
        cached
            .and_then(|pod| pod.spec.as_ref()?.restart_policy.clone())
            .is_some_and(|policy| policy != "Never")
    });
    let expected = |owner: &&OwnerView| owner.pods.is_empty() && !owner.deleting;
    let due = |owner: &OwnerView| owner.created_at?.checked_add(POD_EXPECTED).ok();
    let podless = owners.iter().filter(expected);
    let overdue = podless
        .clone()
        .find(|owner| due(owner).is_some_and(|at| at <= now));
    let message = match (incomplete, overdue) {
        (Some(pod), _) => Some(format!(
            "pod {} came up without what the webhook mutate-runner-pod adds (name, token, restartPolicy: Never): apply config/webhook, with failurePolicy: Fail",
            pod.name
        )),
        (None, Some(owner)) => Some(format!(
            "StatefulSet {} has got no pod for {POD_EXPECTED:#}: kubectl describe it for the reason; when a webhook could not be called, see docs/admission.md",
            owner.name
        )),
        (None, None) => None,
    };
    let verdict = match &message {
        Some(message) => Verdict::wrong("PodsNotReady", message),
        None => Verdict::HEALTHY,
    };
    conditions::report(&context.client, set, &verdict, now).await;
    podless.filter_map(due).filter(|at| *at > now).min()
}
