//! What every set of runners does to keep its owners at the wanted number: a RunnerReplicaSet with Runners, a RunnerSet with StatefulSets (spec 02 §7).
//! gather → plan (`core::pods::plan`); the set itself makes new owners, applies and reports.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Resource, ResourceExt, api::ListParams};
use muster_core::{
    pods::{self, OwnerView, Plan, PodClass, PodOwner, PodSelection, PodView, Step, Want, plan},
    scope::Scope,
    target::{TargetId, TargetKind},
};
use muster_crds::{keys, legacy::RunnerConfig};
use muster_runtime::drive::Cache;
use serde::{Serialize, de::DeserializeOwned};

use super::{is_autoscaled, soonest};
use crate::{
    conditions::{self, Conditioned},
    context::{Caches, Context},
    error::Error,
    owner::ControllerOwner,
    pod_owner,
};

/// How long a new set without `replicas` waits for an autoscaler that refers to it.
const UNDECIDED: SignedDuration = SignedDuration::from_secs(2);
/// A surplus runner that was too young to be retired is looked at again after this time.
const MATURE: SignedDuration = SignedDuration::from_secs(31);

/// A set of runners.
pub(super) trait OwnerSet: Conditioned {
    /// What stands between the set and its pods.
    type Owner: PodOwner + Serialize + DeserializeOwned + Debug + Send + Sync + 'static;

    /// Name of its controller.
    const COMPONENT: &'static str;

    /// The scale target that its runners belong to; `None` for a set made by hand.
    fn target(&self) -> Option<TargetId>;
    /// `spec.replicas`.
    fn replicas(&self) -> Option<i64>;
    /// `spec.effectiveTime`.
    fn effective_time(&self) -> Option<Timestamp>;
    /// What the runners are to GitHub.
    fn config(&self) -> &RunnerConfig;
    /// The cache of its owners.
    fn owners(caches: &Caches) -> &Cache<Self::Owner>;
    /// A runner of a former template makes room for its successor, which takes over its volumes.
    fn replaces_in_place(&self) -> bool {
        false
    }
}

/// The facts about a set's owners and what is to be done.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) owners: Vec<OwnerView>,
    pub(super) plan: Plan,
}

impl Decided {
    /// How many owners are to be made.
    pub(super) fn creates(&self) -> usize {
        self.plan
            .steps
            .iter()
            .map(|step| match step {
                Step::Create { count } => *count,
                _ => 0,
            })
            .sum()
    }

    /// When time alone changes the decision.
    pub(super) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        soonest([
            self.plan.hold.and_then(|hold| hold.ends_at()),
            next_deadline(&self.owners, now),
            (self.plan.hold == Some(muster_core::pods::Hold::SurplusStarting)).then(|| now + MATURE),
        ])
    }
}

/// Until when a set without `replicas` waits: its autoscaler may come from the same manifest.
pub(super) fn undecided<S: OwnerSet>(context: &Context, set: &S) -> Option<Timestamp> {
    let autoscaled = is_autoscaled(context, &set.target()?);
    let created = set.creation_timestamp()?;
    (set.replicas().is_none() && !autoscaled)
        .then(|| created.0.checked_add(UNDECIDED).ok())
        .flatten()
}

/// Decides about the owners of a set. `hash` is that of up-to-date owners; `is_current` tells such an owner by other means than its label.
pub(super) async fn decide<S: OwnerSet>(
    context: &Context,
    set: &S,
    hash: &str,
    is_current: impl Fn(&S::Owner) -> bool + Sync,
    now: Timestamp,
) -> Result<Decided, Error> {
    let uid = set.uid().unwrap_or_default();
    let mut owners = gather(
        context,
        hash,
        &is_current,
        S::owners(&context.caches).owned_by(&uid),
    );
    expect(context, &uid, hash, &mut owners, now);
    let wanted = want(context, set, hash.to_owned(), &owners, now);
    let mut decided = plan(&owners, &wanted, now);
    if decided
        .steps
        .iter()
        .any(|step| matches!(step, Step::Create { .. }))
        && context.expectations.must_list(&uid)
    {
        // A process before this one may have created owners that the cache does not show yet.
        owners = gather(context, hash, &is_current, list(context, set).await?);
        context.expectations.listed(&uid);
        decided = plan(&owners, &wanted, now);
    }
    if chooses_among_running(&decided, &owners, now) && mark_busy(context, set, &mut owners, now).await {
        decided = plan(&owners, &wanted, now);
    }
    note_overdue(context, set, &owners, now);
    tracing::debug!(controller = S::COMPONENT, object = %super::key(set), desired = wanted.replicas, replicas = decided.alive, unaccounted = wanted.unaccounted.len(), plan = ?decided.steps, hold = ?decided.hold, "Planned.");
    Ok(Decided {
        owners,
        plan: decided,
    })
}

/// The pods of an owner, as cached.
pub(super) fn pods_of<O: PodOwner>(context: &Context, owner: &O) -> Vec<Arc<Pod>> {
    let uid = owner.uid().unwrap_or_default();
    let pods = &context.caches.pods;
    match owner.pods() {
        PodSelection::Named(name) => pods
            .get(&owner.namespace().unwrap_or_default(), &name)
            .filter(|pod| is_pod_of(pod, &uid))
            .into_iter()
            .collect(),
        PodSelection::Controlled => pods.owned_by(&uid),
    }
}

/// A pod of the owner's name that another object controls is not the owner's.
pub(super) fn is_pod_of(pod: &Pod, uid: &str) -> bool {
    pod.controller_owner().is_none_or(|owner| owner.uid == uid)
}

/// Runners of a set that are up or starting and were not asked to go.
pub(super) fn alive<S: OwnerSet>(context: &Context, set: &S, now: Timestamp) -> usize {
    let uid = set.uid().unwrap_or_default();
    let owners = S::owners(&context.caches).owned_by(&uid);
    let names = owners.iter().map(|owner| owner.name_any()).collect();
    let expected = context.expectations.missing(&uid, &names, now).len();
    let is_up = |owner: &S::Owner| {
        let pods = pods_of(context, owner);
        owner.meta().deletion_timestamp.is_none()
            && !owner
                .annotations()
                .contains_key(keys::ANNOTATION_UNREGISTRATION_REQUEST)
            && (pods.is_empty() || pods.iter().any(|pod| !PodView::of(pod).is_stopped()))
    };
    owners.iter().filter(|owner| is_up(owner)).count() + expected
}

/// Pods of a set and how many of them run, as the caches show it.
pub(super) fn counts<S: OwnerSet>(context: &Context, set: &S, hash: &str, now: Timestamp) -> (usize, usize) {
    let owners = S::owners(&context.caches).owned_by(&set.uid().unwrap_or_default());
    pods::counts(&gather(context, hash, &|_| false, owners), hash, now)
}

fn gather<O: PodOwner>(
    context: &Context,
    hash: &str,
    is_current: &impl Fn(&O) -> bool,
    owners: Vec<Arc<O>>,
) -> Vec<OwnerView> {
    owners
        .into_iter()
        .map(|owner| {
            let pods = pods_of(context, &*owner);
            let mut view = OwnerView::of(&*owner, pods.iter().map(|pod| context.view(pod)).collect());
            if is_current(&owner) {
                view.hash = Some(hash.to_owned());
            }
            view
        })
        .collect()
}

/// Adds owners that this process created and the cache lacks.
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

async fn list<S: OwnerSet>(context: &Context, set: &S) -> Result<Vec<Arc<S::Owner>>, Error> {
    let api: Api<S::Owner> = Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    let what = format!("the {}s of the set", S::Owner::kind(&()));
    let all = api
        .list(&ListParams::default())
        .await
        .map_err(Error::gather(what))?;
    let uid = set.uid();
    Ok(all
        .items
        .into_iter()
        .filter(|owner| {
            owner
                .controller_owner()
                .is_some_and(|owner| Some(owner.uid) == uid)
        })
        .map(Arc::new)
        .collect())
}

fn want<S: OwnerSet>(context: &Context, set: &S, hash: String, owners: &[OwnerView], now: Timestamp) -> Want {
    let annotation = |key: &str| set.annotations().get(key).map(String::as_str);
    let target = set.target();
    let (unaccounted, failing) = target.as_ref().map_or_else(Default::default, |pool| {
        let mut ends = context
            .ends
            .unaccounted(pool, annotation(keys::ANNOTATION_ENDS_ACCOUNTED), now);
        // Ends of another set of the same target leave no gap here.
        let prefix = format!("{}-", set.name_any());
        ends.retain(|runner| runner.starts_with(&prefix));
        (ends, context.ends.failing(pool))
    });
    let autoscaled = target.is_some_and(|target| is_autoscaled(context, &target));
    // Absent means 1, but not while an autoscaler that refers to it is about to decide.
    let asked = set.replicas().unwrap_or_else(|| i64::from(!autoscaled));
    let draining = context.settings.draining;
    let replicas = if draining { 0 } else { asked };
    Want {
        replicas: usize::try_from(replicas).unwrap_or(0),
        ephemeral: set.config().ephemeral.unwrap_or(true),
        hash,
        autoscaled,
        effective_time: set.effective_time(),
        // A set without a record and without owners is a new one, and not upstream's.
        served: pod_owner::served(set).or_else(|| owners.is_empty().then(pod_owner::never_served)),
        unaccounted,
        retain_idle_until: annotation(keys::ANNOTATION_RETAIN_IDLE_UNTIL)
            .filter(|_| !draining)
            .and_then(|text| text.parse().ok()),
        backoff_until: failing.as_ref().map(|failing| failing.until),
        probing: failing.is_some(),
        in_place: set.replaces_in_place(),
    }
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
async fn mark_busy<S: OwnerSet>(
    context: &Context,
    set: &S,
    owners: &mut [OwnerView],
    now: Timestamp,
) -> bool {
    let config = set.config();
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
    // Without it another runner is chosen, and GitHub's answer to the removal protects the busy one.
    let github = github.in_lane(muster_github::Lane::Cosmetic);
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
fn note_overdue<S: OwnerSet>(context: &Context, set: &S, owners: &[OwnerView], now: Timestamp) {
    let Some(pool) = set.target() else { return };
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

/// Says on the scale target that its runners fail, and why the last one did.
pub(super) async fn report_startup(context: &Context, pool: &TargetId, now: Timestamp) {
    let failing = context.ends.failing(pool);
    let message = failing.as_ref().map(|failing| {
        format!(
            "{} runners in a row failed when they started, the last one because: {}. One at a time is tried until one registers. {}",
            failing.in_a_row,
            failing.reason,
            muster_core::explain::text::until(failing.until)
        )
    });
    let verdict = match &message {
        Some(message) => conditions::Verdict::startup(true, "RunnersFail", message),
        None => conditions::Verdict::startup(false, "RunnersStart", ""),
    };
    let (caches, client) = (&context.caches, &context.client);
    match pool.kind {
        TargetKind::Deployment => {
            if let Some(target) = caches.deployments.get(&pool.namespace, &pool.name) {
                conditions::report(client, &*target, &verdict, now).await;
            }
        }
        TargetKind::Set => {
            if let Some(target) = caches.runner_sets.get(&pool.namespace, &pool.name) {
                conditions::report(client, &*target, &verdict, now).await;
            }
        }
    }
}

/// When the first pod will be given up.
fn next_deadline(owners: &[OwnerView], now: Timestamp) -> Option<Timestamp> {
    let deadlines = owners
        .iter()
        .flat_map(|owner| &owner.pods)
        .filter_map(PodView::deadline);
    deadlines
        .filter(|at| *at >= now)
        .min()
        .and_then(|at| at.checked_add(SignedDuration::from_millis(10)).ok())
}
