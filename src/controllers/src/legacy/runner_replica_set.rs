//! RunnerReplicaSet: keeps the number of Runners at the wanted count (spec 02 §8, 20 "demand decides").
//! gather → check → plan → apply → report

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::controller::Action,
};
use muster_core::{
    hash,
    pods::{OwnerView, Plan, PodClass, Step, Want, plan},
    scope::Scope,
};
use muster_crds::{
    keys,
    legacy::{Runner, RunnerReplicaSet, RunnerReplicaSetStatus, RunnerSpec},
};
use serde_json::json;

use super::{is_autoscaled, soonest, until};
use crate::{conditions, context::Context, error::Error, owner::ControllerOwner, pod_owner};

/// How long a new set without `replicas` waits for an autoscaler that refers to it.
const UNDECIDED: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);

pub(super) async fn reconcile(set: Arc<RunnerReplicaSet>, context: Arc<Context>) -> Result<Action, Error> {
    let uid = set.uid().unwrap_or_default();
    if set.metadata.deletion_timestamp.is_some() {
        context.expectations.forget(&uid);
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    if let Some(until) = undecided(&context, &set).filter(|until| *until > now) {
        return Ok(Action::requeue(
            super::until(Some(until), now).unwrap_or_default(),
        ));
    }
    let hash = template_hash(&set)?;

    let mut owners = gather(&context, &set, context.caches.runners.owned_by(&uid));
    expect(&context, &uid, &hash, &mut owners, now);
    let wanted = want(&context, &set, hash.clone(), now);
    let mut decision = plan(&owners, &wanted, now);
    if decision
        .steps
        .iter()
        .any(|step| matches!(step, Step::Create { .. }))
        && context.expectations.must_list(&uid)
    {
        // A process before this one may have created Runners that the cache does not show yet.
        owners = gather(&context, &set, list(&context, &set).await?);
        context.expectations.listed(&uid);
        decision = plan(&owners, &wanted, now);
    }
    if chooses_among_running(&decision, &owners, now) && mark_busy(&context, &set, &mut owners, now).await {
        decision = plan(&owners, &wanted, now);
    }
    note_overdue(&context, &set, &owners, now);
    tracing::debug!(controller = "runnerreplicaset-controller", object = %super::key(&*set), desired = wanted.replicas, replicas = decision.alive, unaccounted = wanted.unaccounted.len(), plan = ?decision.steps, hold = ?decision.hold, "Planned.");

    let template = new_runner(&set, &hash, now);
    pod_owner::apply(&context, &*set, &template, &decision, now).await?;

    let status_wait = report(&context, &set, &decision, now).await?;
    conditions::report(&context.client, &*set, &conditions::Verdict::HEALTHY, now).await;
    report_startup(&context, &set, now).await;
    let due = soonest([
        decision.hold.and_then(|hold| hold.ends_at()),
        next_deadline(&owners, now),
        // A surplus runner that was too young to be retired.
        (decision.hold == Some(muster_core::pods::Hold::SurplusStarting))
            .then(|| now + jiff::SignedDuration::from_secs(31)),
    ]);
    let wait = until(due, now).into_iter().chain(status_wait).min();
    Ok(Action::requeue(wait.unwrap_or_else(|| context.resync(&uid))))
}

/// A deployment without `replicas` may be about to get its autoscaler, from the same manifest: the first runner waits that long.
fn undecided(context: &Context, set: &RunnerReplicaSet) -> Option<Timestamp> {
    let deployment = set.labels().get(keys::LABEL_RUNNER_DEPLOYMENT_NAME)?;
    let autoscaled = is_autoscaled(context, &set.namespace().unwrap_or_default(), deployment);
    let created = set
        .metadata
        .creation_timestamp
        .as_ref()
        .filter(|_| set.spec.replicas.is_none() && !autoscaled)?;
    created.0.checked_add(UNDECIDED).ok()
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

fn gather(context: &Context, set: &RunnerReplicaSet, runners: Vec<Arc<Runner>>) -> Vec<OwnerView> {
    let namespace = set.namespace().unwrap_or_default();
    runners
        .into_iter()
        .map(|runner| {
            let pod = context
                .caches
                .pods
                .get(&namespace, &runner.name_any())
                .filter(|pod| is_pod_of(pod, &runner));
            OwnerView::of(&*runner, pod.iter().map(|pod| context.view(pod)).collect())
        })
        .collect()
}

/// A pod of the Runner's name that another object controls is not the Runner's.
pub(super) fn is_pod_of(pod: &Pod, runner: &Runner) -> bool {
    pod.controller_owner()
        .is_none_or(|owner| Some(owner.uid) == runner.uid())
}

/// Adds Runners that this process created and the cache lacks.
fn expect(context: &Context, uid: &str, hash: &str, owners: &mut Vec<OwnerView>, now: Timestamp) {
    let cached: BTreeSet<String> = owners.iter().map(|owner| owner.name.clone()).collect();
    for name in context.expectations.missing(uid, &cached, now) {
        owners.push(OwnerView {
            name,
            hash: Some(hash.to_owned()),
            created_at: Some(now),
            ..OwnerView::default()
        });
    }
}

async fn list(context: &Context, set: &RunnerReplicaSet) -> Result<Vec<Arc<Runner>>, Error> {
    let api: Api<Runner> = Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    let all = api
        .list(&ListParams::default())
        .await
        .map_err(Error::gather("the Runners of the set"))?;
    let uid = set.uid();
    Ok(all
        .items
        .into_iter()
        .filter(|runner| {
            runner
                .controller_owner()
                .is_some_and(|owner| Some(owner.uid) == uid)
        })
        .map(Arc::new)
        .collect())
}

fn want(context: &Context, set: &RunnerReplicaSet, hash: String, now: Timestamp) -> Want {
    let spec = &set.spec;
    let annotation = |key: &str| set.annotations().get(key).map(String::as_str);
    let pool = pool(set);
    let (unaccounted, failing) = pool.as_ref().map_or_else(Default::default, |pool| {
        let mut ends = context
            .ends
            .unaccounted(pool, annotation(keys::ANNOTATION_ENDS_ACCOUNTED), now);
        // Ends of another set of the same deployment leave no gap here.
        let prefix = format!("{}-", set.name_any());
        ends.retain(|runner| runner.starts_with(&prefix));
        (ends, context.ends.failing(pool))
    });
    let autoscaled =
        pool.is_some_and(|(namespace, deployment)| is_autoscaled(context, &namespace, &deployment));
    // Absent means 1, but not while an autoscaler that refers to it is about to decide.
    let replicas = spec.replicas.unwrap_or_else(|| i64::from(!autoscaled));
    Want {
        replicas: usize::try_from(replicas).unwrap_or(0),
        ephemeral: spec.template.spec.config.ephemeral.unwrap_or(true),
        hash,
        autoscaled,
        effective_time: spec.effective_time.map(|time| time.0),
        served: pod_owner::served(set),
        unaccounted,
        retain_idle_until: annotation(keys::ANNOTATION_RETAIN_IDLE_UNTIL).and_then(|text| text.parse().ok()),
        backoff_until: failing.as_ref().map(|failing| failing.until),
        probing: failing.is_some(),
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

/// The pool that the set's runners belong to.
fn pool(set: &RunnerReplicaSet) -> Option<crate::ends::Pool> {
    let deployment = set.labels().get(keys::LABEL_RUNNER_DEPLOYMENT_NAME)?;
    Some((set.namespace().unwrap_or_default(), deployment.clone()))
}

/// Whether the plan retires some of several running runners, so that it matters who is busy.
fn chooses_among_running(plan: &Plan, owners: &[OwnerView], now: Timestamp) -> bool {
    let retired = |owner: &OwnerView| {
        plan.steps.iter().any(
            |step| matches!(step, Step::RequestUnregistration { owner: name, .. } if *name == owner.name),
        )
    };
    let running = || {
        owners
            .iter()
            .filter(|owner| !owner.unregistration_requested && owner.count(PodClass::Running, now) > 0)
    };
    running().any(retired) && !running().all(retired)
}

/// Marks the owners whose runner has a job, by the ledger's names on pods and by GitHub's listing (cached for a minute). Only a preference: a busy
/// runner is protected by GitHub's answer to the removal. Answers whether anything was learned.
async fn mark_busy(
    context: &Context,
    set: &RunnerReplicaSet,
    owners: &mut [OwnerView],
    now: Timestamp,
) -> bool {
    let config = &set.spec.template.spec.config;
    let Ok(scope) = Scope::from_fields(
        config.repository.as_deref(),
        config.organization.as_deref(),
        config.enterprise.as_deref(),
    ) else {
        return false;
    };
    let namespace = set.namespace().unwrap_or_default();
    let Ok(github) = context
        .clients
        .for_spec(&namespace, config.github_api_credentials_from.as_ref(), now)
        .await
    else {
        return false;
    };
    let Ok(runners) = github.list_runners(&scope).await else {
        return false;
    };
    let busy: BTreeSet<&str> = runners
        .iter()
        .filter(|runner| runner.busy)
        .map(|runner| runner.name.as_str())
        .collect();
    let mut learned = false;
    for pod in owners.iter_mut().flat_map(|owner| &mut owner.pods) {
        if busy.contains(pod.runner_name.as_str()) && !pod.busy {
            pod.busy = true;
            learned = true;
        }
    }
    learned
}

/// Runners that did not make it in time count as failures of their pool.
fn note_overdue(context: &Context, set: &RunnerReplicaSet, owners: &[OwnerView], now: Timestamp) {
    let Some(pool) = pool(set) else { return };
    for owner in owners
        .iter()
        .filter(|owner| !owner.unregistration_requested && !owner.deleting)
    {
        let Some(pod) = owner.pods.first() else { continue };
        let reason = match pod.class(now) {
            PodClass::StartTimeout if pod.scheduled => "the containers did not start in time",
            PodClass::StartTimeout => "no node was found in time",
            PodClass::RegistrationTimeout => "the runner did not register with GitHub in time",
            _ => continue,
        };
        context
            .ends
            .note_failure(&pool, &format!("pod {}: {reason}", pod.name), now);
    }
}

/// Says on the RunnerDeployment that its runners fail, and why the last one did.
async fn report_startup(context: &Context, set: &RunnerReplicaSet, now: Timestamp) {
    let Some(pool) = pool(set) else { return };
    let Some(deployment) = context.caches.deployments.get(&pool.0, &pool.1) else {
        return;
    };
    let failing = context.ends.failing(&pool);
    let message = failing.as_ref().map(|failing| {
        format!(
            "{} runners in a row failed when they started, the last one because: {}. One at a time is tried until one registers.",
            failing.in_a_row, failing.reason
        )
    });
    let verdict = match &message {
        Some(message) => conditions::Verdict::startup(true, "RunnersFail", message),
        None => conditions::Verdict::startup(false, "RunnersStart", ""),
    };
    conditions::report(&context.client, &*deployment, &verdict, now).await;
}

/// When the first pod will be given up.
fn next_deadline(owners: &[OwnerView], now: Timestamp) -> Option<Timestamp> {
    let deadlines = owners
        .iter()
        .flat_map(|owner| &owner.pods)
        .filter_map(muster_core::pods::PodView::deadline);
    deadlines
        .filter(|at| *at >= now)
        .min()
        .and_then(|at| at.checked_add(jiff::SignedDuration::from_millis(10)).ok())
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
    if let Some(wait) = context.gate.admit(&set.uid().unwrap_or_default(), now) {
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
