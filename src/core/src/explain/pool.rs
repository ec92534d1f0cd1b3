//! A pool → what is wanted, what there is, and why nothing more happens.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use muster_crds::{
    keys,
    legacy::{HorizontalRunnerAutoscaler, RunnerReplicaSet},
};

use super::{
    Code, Existing, Explanation, Observed, Reason, Subject, Wanted,
    condition::{self, STARTUP_FAILING},
    facts::{Pool, Target, conditions_of, created_at, subject_of},
    limits::{self, Bounds},
    notice::seen_at,
    pod,
    text::{read_until, span},
};
use crate::{
    autoscale::reservation,
    pods::{Hold, OwnerView, PodView, Served, Want, phase::PodPhase, plan},
    routing::{AutoscalerInput, AutoscalerView, NotConsidered, TargetKeys},
};

/// The manager looks at a changed object within milliseconds; after so long something is wrong.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// An Event of a controller that tries again and again is of this age at most.
const RECENT: SignedDuration = SignedDuration::from_mins(20);

pub(super) fn explain(
    observed: &Observed,
    namespace: Option<&str>,
    name: &str,
    now: Timestamp,
) -> Explanation {
    let pools = Pool::named(observed, namespace, name);
    let [pool] = pools.as_slice() else {
        let subject = Subject::new("Pool", namespace.unwrap_or_default(), name);
        let sentence = if pools.is_empty() {
            format!("there is no RunnerDeployment, RunnerSet or HorizontalRunnerAutoscaler {name} here")
        } else {
            let namespaces: Vec<String> = pools.iter().map(|pool| pool.subject().namespace).collect();
            format!("{name} exists more than once, in {}", namespaces.join(", "))
        };
        let reasons = vec![Reason::new(Code::NotFound, subject.clone(), sentence)];
        return Explanation::bare(subject, now, reasons);
    };
    Explanation {
        subject: pool.subject(),
        autoscaler: pool.autoscaler().map(ResourceExt::name_any),
        at: now,
        wanted: Some(wanted(pool, now)),
        existing: Some(existing(pool, now)),
        reasons: reasons(pool, now),
    }
}

/// Why a pool is as it is, the most pressing first; never empty.
pub(super) fn reasons(pool: &Pool<'_>, now: Timestamp) -> Vec<Reason> {
    let mut all = configuration(pool);
    all.extend(said(pool));
    let is_broken = all.iter().any(|reason| reason.code < Code::MissingLabel);
    if !is_broken {
        all.extend(unreconciled(pool, now));
    }
    all.extend(members(pool, now));
    all.extend(refused(pool, now));
    all.extend(held(pool, now));
    all.extend(limits::reasons(pool, now));
    if all.iter().all(|reason| reason.code.is_good()) {
        all.retain(|reason| !matches!(reason.code, Code::RunnerIdle | Code::RunnerBusy));
        all.insert(0, settled(pool, now));
    }
    order(all)
}

/// Sorted by precedence, with equal reasons of several runners as one.
fn order(all: Vec<Reason>) -> Vec<Reason> {
    let mut merged: BTreeMap<(Code, String), Reason> = BTreeMap::new();
    for reason in all {
        let kind = match reason.object.kind.as_str() {
            "Runner" | "Pod" => "Runner".to_owned(),
            kind => format!("{kind}/{}", reason.object.name),
        };
        match merged.get_mut(&(reason.code, kind.clone())) {
            None => {
                merged.insert((reason.code, kind), reason);
            }
            Some(first) => {
                let others = first.others.saturating_add(1);
                // The one that lasts longest speaks for all.
                if reason.since.is_some() && (first.since.is_none() || reason.since < first.since) {
                    *first = reason;
                }
                first.others = others;
            }
        }
    }
    merged.into_values().collect()
}

pub(super) fn wanted(pool: &Pool<'_>, now: Timestamp) -> Wanted {
    let queued = pool.jobs(now).iter().filter(|job| job.runner.is_none()).count();
    let bounds = pool.autoscaler().map(|autoscaler| Bounds::of(autoscaler, now));
    Wanted {
        replicas: pool.replicas(),
        min: bounds.as_ref().map(|bounds| bounds.min),
        max: bounds.as_ref().map(|bounds| bounds.max),
        demand: reservation::demand(pool.ledger(), now),
        queued: i64::try_from(queued).unwrap_or(i64::MAX),
    }
}

pub(super) fn existing(pool: &Pool<'_>, now: Timestamp) -> Existing {
    let busy: Vec<&str> = pool.jobs(now).iter().filter_map(|job| job.runner).collect();
    let mut found = Existing::default();
    for (_, view) in pool.views() {
        if view.is_stopped() || view.deletion_at.is_some() || view.unregistration_requested {
            found.stopping += 1;
            continue;
        }
        found.runners += 1;
        if view.phase != PodPhase::Running {
            found.starting += 1;
        } else if view.busy || busy.contains(&view.runner_name.as_str()) {
            found.busy += 1;
        } else if view.runner_id.is_some() {
            found.idle += 1;
        } else {
            found.registering += 1;
        }
    }
    let without_pod = pool
        .runners
        .iter()
        .filter(|runner| runner.metadata.deletion_timestamp.is_none() && pool.pod_of(runner).is_none())
        .count();
    found.runners += without_pod;
    found.starting += without_pod;
    found
}

/// What the objects themselves say wrongly.
fn configuration(pool: &Pool<'_>) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let Some(autoscaler) = pool.autoscaler() else {
        return reasons;
    };
    if let Target::Missing = pool.target {
        let reference = autoscaler.spec.scale_target_ref.clone().unwrap_or_default();
        let kind = reference.kind.filter(|kind| !kind.is_empty());
        let sentence = format!(
            "spec.scaleTargetRef: there is no {} {} in namespace {}",
            kind.as_deref()
                .unwrap_or(keys::autoscaler::TARGET_RUNNER_DEPLOYMENT),
            reference.name.as_deref().unwrap_or("(no name)"),
            pool.namespace
        );
        reasons.push(Reason::new(
            Code::TargetNotFound,
            subject_of(autoscaler),
            sentence,
        ));
    }
    if let [_, others @ ..] = pool.autoscalers.as_slice()
        && !others.is_empty()
    {
        let names: Vec<String> = pool.autoscalers.iter().map(|one| one.name_any()).collect();
        let sentence = format!("{} all scale {}", names.join(", "), pool.name);
        reasons.push(Reason::new(Code::SeveralAutoscalers, pool.subject(), sentence));
    }
    let triggers = autoscaler.spec.scale_up_triggers.as_deref().unwrap_or_default();
    if let Some(why @ (NotConsidered::SeveralTriggers(_) | NotConsidered::NotWorkflowJob)) =
        not_considered(autoscaler)
    {
        let takes_others =
            AutoscalerView::new(&input(autoscaler), &[]).event_triggers.len() == triggers.len();
        let has_metrics = autoscaler
            .spec
            .metrics
            .as_ref()
            .is_some_and(|metrics| !metrics.is_empty());
        if !takes_others && !has_metrics {
            let sentence = format!("jobs do not count: {why}");
            reasons.push(Reason::new(
                Code::TriggerMissing,
                subject_of(autoscaler),
                sentence,
            ));
        }
    }
    reasons
}

fn input(autoscaler: &HorizontalRunnerAutoscaler) -> AutoscalerInput<'_> {
    static NO_KEYS: TargetKeys = TargetKeys {
        repository: None,
        organization: None,
        enterprise: None,
        group: None,
    };
    AutoscalerInput {
        namespace: "",
        name: "",
        uid: "",
        created_at: None,
        is_deleting: false,
        target_ref: autoscaler.spec.scale_target_ref.as_ref(),
        triggers: autoscaler.spec.scale_up_triggers.as_deref().unwrap_or_default(),
        target: Some((&NO_KEYS, &[])),
    }
}

/// Why the webhook server leads no job to this autoscaler, by its own rule.
pub(super) fn not_considered(autoscaler: &HorizontalRunnerAutoscaler) -> Option<NotConsidered> {
    AutoscalerView::new(&input(autoscaler), &[]).not_considered
}

/// What the conditions of all objects say.
fn said(pool: &Pool<'_>) -> Vec<Reason> {
    let mut reasons = condition::reasons(&pool.subject(), pool.conditions());
    if let Some(autoscaler) = pool.autoscaler() {
        let mut said = condition::reasons(&subject_of(autoscaler), conditions_of!(autoscaler));
        if matches!(pool.target, Target::Missing) {
            // The condition says the same as the reference.
            said.retain(|reason| reason.code != Code::InvalidSpec);
        }
        reasons.extend(said);
    }
    for set in &pool.sets {
        reasons.extend(condition::reasons(&subject_of(*set), conditions_of!(set)));
    }
    reasons
}

/// Signs that nobody works on the objects.
fn unreconciled(pool: &Pool<'_>, now: Timestamp) -> Option<Reason> {
    let is_old = |at: Option<Timestamp>| at.is_some_and(|at| now.duration_since(at) > PATIENCE);
    let reason = |subject: Subject, sentence: String, since| {
        Some(Reason::new(Code::NotReconciled, subject, sentence).since(since))
    };
    if let Some(autoscaler) = pool.autoscaler() {
        let created = created_at(autoscaler);
        let status = autoscaler.status.as_ref();
        if is_old(created) && status.is_none_or(|status| status.desired_replicas.is_none()) {
            let sentence = "the manager has not decided about this autoscaler yet".to_owned();
            return reason(subject_of(autoscaler), sentence, created);
        }
        let newest = reservation::live(pool.ledger(), now)
            .into_iter()
            .filter_map(|entry| entry.effective_time)
            .max()
            .map(|time| time.0);
        if pool.is_ephemeral() && is_old(newest) && pool.effective_time() < newest {
            let sentence = format!(
                "the manager has not looked at jobs that were queued {} ago",
                newest.map_or_else(String::new, |at| span(now.duration_since(at)))
            );
            return reason(subject_of(autoscaler), sentence, newest);
        }
    }
    let Target::Deployment(deployment) = pool.target else {
        return None;
    };
    let created = created_at(deployment);
    match pool.sets.first() {
        None if is_old(created) => {
            let sentence = "the manager has not made a RunnerReplicaSet of it yet".to_owned();
            reason(pool.subject(), sentence, created)
        }
        Some(set)
            if set.spec.effective_time < deployment.spec.effective_time
                && is_old(deployment.spec.effective_time.map(|time| time.0)) =>
        {
            let since = deployment.spec.effective_time.map(|time| time.0);
            reason(
                subject_of(*set),
                "the set does not have the number of its RunnerDeployment".to_owned(),
                since,
            )
        }
        _ => None,
    }
}

/// What each runner waits for or does.
fn members(pool: &Pool<'_>, now: Timestamp) -> Vec<Reason> {
    let jobs = pool.jobs(now);
    let mut reasons: Vec<Reason> = pool
        .views()
        .map(|(pod, view)| {
            let job = jobs
                .iter()
                .find(|job| job.runner == Some(view.runner_name.as_str()))
                .map(|job| job.key.to_string());
            pod::reason(pod, job.as_deref(), pool.events, now)
        })
        .collect();
    for runner in &pool.runners {
        if runner.metadata.deletion_timestamp.is_none() && pool.pod_of(runner).is_none() {
            reasons.extend(super::runner::without_pod(runner, now));
        }
    }
    reasons
}

/// Pods that Kubernetes' own controller may not make, for targets that leave that to a StatefulSet.
fn refused(pool: &Pool<'_>, now: Timestamp) -> Vec<Reason> {
    let Target::Set(_) = pool.target else {
        return Vec::new();
    };
    let prefix = format!("{}-", pool.name);
    let is_recent = |at: Option<Timestamp>| at.is_some_and(|at| now.duration_since(at) < RECENT);
    let told = pool.events.iter().filter(|event| {
        let involved = &event.involved_object;
        event.reason.as_deref() == Some("FailedCreate")
            && involved.kind.as_deref() == Some("StatefulSet")
            && involved.namespace.as_deref() == Some(pool.namespace.as_str())
            && involved
                .name
                .as_deref()
                .is_some_and(|name| name.starts_with(&prefix))
            && is_recent(seen_at(event))
    });
    told.max_by_key(|event| seen_at(event))
        .map(|event| {
            let said = event.message.clone().unwrap_or_default();
            Reason::new(Code::of_refusal(&said), pool.subject(), said).since(seen_at(event))
        })
        .into_iter()
        .collect()
}

/// What the set's plan holds back, by the very function that the manager plans with.
fn held(pool: &Pool<'_>, now: Timestamp) -> Vec<Reason> {
    let Some(set) = pool.sets.first() else {
        return Vec::new();
    };
    let mut reasons = Vec::new();
    let wanted = want(pool, set);
    let owners: Vec<OwnerView> = pool
        .runners
        .iter()
        .map(|runner| {
            OwnerView::of(
                *runner,
                pool.pod_of(runner).map(PodView::of).into_iter().collect(),
            )
        })
        .collect();
    let planned = plan(&owners, &wanted, now);
    if let Some(hold) = planned.hold {
        let failing = condition::bad(pool.conditions(), STARTUP_FAILING).is_some();
        // The condition says why, too.
        if !(failing && matches!(hold, Hold::Backoff { .. })) {
            reasons.push(of_hold(hold, subject_of(*set), wanted.replicas, planned.alive));
        }
    }
    let outdated = owners
        .iter()
        .filter(|owner| !owner.deleting && owner.hash.as_deref() != Some(wanted.hash.as_str()))
        .count();
    if outdated > 0 {
        let sentence = format!("{outdated} runners of the former template are still there");
        reasons.push(Reason::new(Code::RollingOut, subject_of(*set), sentence));
    }
    reasons
}

fn want(pool: &Pool<'_>, set: &RunnerReplicaSet) -> Want {
    let annotation = |key: &str| set.annotations().get(key).map(String::as_str);
    let autoscaled = !pool.autoscalers.is_empty();
    let failing = condition::bad(pool.conditions(), STARTUP_FAILING);
    let replicas = set.spec.replicas.unwrap_or_else(|| i64::from(!autoscaled));
    Want {
        replicas: usize::try_from(replicas).unwrap_or(0),
        ephemeral: pool.is_ephemeral(),
        hash: set
            .labels()
            .get(keys::LABEL_RUNNER_TEMPLATE_HASH)
            .cloned()
            .unwrap_or_default(),
        autoscaled,
        effective_time: set.spec.effective_time.map(|time| time.0),
        served: annotation(keys::ANNOTATION_SERVED).and_then(Served::read),
        // Only the manager knows which ends its number contains; without them the plan would create, which is no hold.
        unaccounted: std::collections::BTreeSet::new(),
        retain_idle_until: annotation(keys::ANNOTATION_RETAIN_IDLE_UNTIL).and_then(|text| text.parse().ok()),
        backoff_until: failing.and_then(|condition| read_until(&condition.message)),
        probing: failing.is_some(),
        ..Want::default()
    }
}

impl Hold {
    /// The word for it in conditions, Events and explanations.
    pub const fn code(&self) -> Code {
        match self {
            Self::EffectiveTimeServed { .. } => Code::EffectiveTimeServed,
            Self::IdleRetained { .. } => Code::IdleRetained,
            Self::Backoff { .. } => Code::RunnersFail,
            Self::SurplusStarting => Code::SurplusStarting,
        }
    }
}

fn of_hold(hold: Hold, set: Subject, wanted: usize, alive: usize) -> Reason {
    let sentence = match hold {
        Hold::EffectiveTimeServed { .. } => format!(
            "{wanted} runners are wanted and {alive} are up: those that ended have served this demand, and are not replaced before the autoscaler asks again"
        ),
        Hold::IdleRetained { .. } => {
            format!("{wanted} runners are wanted and {alive} are up: the idle ones are kept for the next job")
        }
        Hold::Backoff { .. } => "runners of this set fail when they start; the next attempt waits".to_owned(),
        Hold::SurplusStarting => {
            format!("{wanted} runners are wanted and {alive} are up: the surplus ones are still starting")
        }
    };
    Reason::new(hold.code(), set, sentence).until(hold.ends_at())
}

/// Nothing is wrong: is there anything to do at all?
fn settled(pool: &Pool<'_>, now: Timestamp) -> Reason {
    let wanted = wanted(pool, now);
    let existing = existing(pool, now);
    let replicas = wanted.replicas.unwrap_or(0);
    if i64::try_from(existing.runners).unwrap_or(i64::MAX) < replicas {
        let sentence = format!(
            "{replicas} runners are wanted and {} are there: the manager is about to make more",
            existing.runners
        );
        return Reason::new(Code::WaitingForPod, pool.subject(), sentence);
    }
    if pool.autoscaler().is_some() && wanted.demand == 0 && !pool.has_metrics() && existing.busy == 0 {
        let sentence = format!(
            "no job is queued, so the minimum of {} runners is kept",
            wanted.min.unwrap_or(0).max(0)
        );
        return Reason::new(Code::NoDemand, pool.subject(), sentence);
    }
    let sentence = format!(
        "{replicas} runners are wanted; {} are there, {} of them have a job",
        existing.runners, existing.busy
    );
    Reason::new(Code::AsWanted, pool.subject(), sentence)
}
