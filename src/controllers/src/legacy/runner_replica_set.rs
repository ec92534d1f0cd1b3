//! RunnerReplicaSet: keeps the number of Runners at the wanted count (spec 02 §8, 20 "demand decides").
//! gather → check → plan → apply → report

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use muster_core::{
    hash,
    pods::Plan,
    target::{TargetId, TargetKind},
};
use muster_crds::{
    keys,
    legacy::{Runner, RunnerConfig, RunnerReplicaSet, RunnerReplicaSetStatus, RunnerSpec},
};
use muster_runtime::drive::Cache;
use serde_json::json;

use super::{
    owner_set::{self, OwnerSet},
    until,
};
use crate::{
    conditions,
    context::{Caches, Context},
    error::Error,
    pod_owner,
};

impl OwnerSet for RunnerReplicaSet {
    type Owner = Runner;

    const COMPONENT: &'static str = "runnerreplicaset-controller";

    fn target(&self) -> Option<TargetId> {
        let deployment = self.labels().get(keys::LABEL_RUNNER_DEPLOYMENT_NAME)?;
        Some(TargetId::new(
            TargetKind::Deployment,
            self.namespace().unwrap_or_default(),
            deployment,
        ))
    }

    fn replicas(&self) -> Option<i64> {
        self.spec.replicas
    }

    fn effective_time(&self) -> Option<Timestamp> {
        self.spec.effective_time.map(|time| time.0)
    }

    fn config(&self) -> &RunnerConfig {
        &self.spec.template.spec.config
    }

    fn owners(caches: &Caches) -> &Cache<Runner> {
        &caches.runners
    }
}

pub(super) async fn reconcile(set: Arc<RunnerReplicaSet>, context: Arc<Context>) -> Result<Action, Error> {
    let uid = set.uid().unwrap_or_default();
    if set.metadata.deletion_timestamp.is_some() {
        context.expectations.forget(&uid);
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    if let Some(at) = owner_set::undecided(&context, &*set).filter(|at| *at > now) {
        return Ok(Action::requeue(until(Some(at), now).unwrap_or_default()));
    }
    let hash = template_hash(&set)?;
    let decided = owner_set::decide(&context, &*set, &hash, |_| false, now).await?;
    let new = vec![new_runner(&set, &hash, now); decided.creates()];
    pod_owner::apply(&context, &*set, new, &decided.plan, now).await?;

    let status_wait = report(&context, &set, &decided.plan, now).await?;
    conditions::report(&context.client, &*set, &conditions::Verdict::HEALTHY, now).await;
    if let Some(pool) = set.target() {
        owner_set::report_startup(&context, &pool, now).await;
    }
    let wait = until(decided.due(now), now).into_iter().chain(status_wait).min();
    Ok(Action::requeue(wait.unwrap_or_else(|| context.resync(&uid))))
}

/// Pods of this set and how many of them run, before its status says so.
pub(super) fn counts(
    context: &Context,
    set: &RunnerReplicaSet,
    now: Timestamp,
) -> Result<(usize, usize), Error> {
    Ok(owner_set::counts(context, set, &template_hash(set)?, now))
}

/// The label, or for a set made by hand the hash of its own template (spec 02 §8 step 2).
fn template_hash(set: &RunnerReplicaSet) -> Result<String, Error> {
    match set
        .labels()
        .get(keys::LABEL_RUNNER_TEMPLATE_HASH)
        .filter(|hash| !hash.is_empty())
    {
        Some(hash) => Ok(hash.clone()),
        None => hash::template_hash(&set.spec.template)
            .map_err(|error| Error::Bug(format!("the template could not be hashed: {error}"))),
    }
}

/// A new Runner of this set, complete: no write is needed before its pod can be made (spec 20, "cost of a runner's life").
fn new_runner(set: &RunnerReplicaSet, hash: &str, now: Timestamp) -> Runner {
    let meta = set.spec.template.metadata.clone().unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.insert(keys::LABEL_RUNNER_TEMPLATE_HASH.to_owned(), hash.to_owned());
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(
        keys::ANNOTATION_SYNC_TIME.to_owned(),
        muster_crds::time::MicroTime::from(now).to_string(),
    );
    let mut finalizers = meta.finalizers.unwrap_or_default();
    finalizers.push(keys::FINALIZER_RUNNER.to_owned());
    let spec: RunnerSpec = set.spec.template.spec.clone();
    let mut runner = Runner::new("", spec);
    runner.metadata = ObjectMeta {
        name: None,
        generate_name: Some(format!("{}-", set.name_any())),
        namespace: set.namespace(),
        labels: Some(labels),
        annotations: Some(annotations),
        finalizers: Some(finalizers),
        owner_references: set.controller_owner_ref(&()).map(|mut owner| {
            owner.block_owner_deletion = Some(true);
            vec![owner]
        }),
        ..ObjectMeta::default()
    };
    runner
}

/// Writes the status when it changed; answers how long to wait when it was written a moment ago.
async fn report(
    context: &Context,
    set: &RunnerReplicaSet,
    plan: &Plan,
    now: Timestamp,
) -> Result<Option<std::time::Duration>, Error> {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let old = set.status.clone().unwrap_or_default();
    let new = RunnerReplicaSetStatus {
        replicas: Some(count(plan.total)),
        ready_replicas: count(plan.running),
        available_replicas: count(plan.running),
        conditions: old.conditions.clone(),
    };
    if set.status.is_some() && new == old {
        return Ok(None);
    }
    if let Some(wait) = context.gate.admit_counts(&set.uid().unwrap_or_default(), now) {
        return Ok(Some(wait));
    }
    let patch = json!({"status": {"replicas": new.replicas, "readyReplicas": new.ready_replicas, "availableReplicas": new.available_replicas}});
    let api: Api<RunnerReplicaSet> =
        Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(Error::apply("write the status"))?;
    Ok(None)
}
