//! HorizontalRunnerAutoscaler: jobs and bounds → replicas and EffectiveTime of its target (spec 02 §5, 20).
//! gather → check → plan (`core::autoscale::{schedule, desired}`) → apply → report

mod ask;
pub(crate) mod gauges;
pub(crate) mod pull;
mod said;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use muster_core::{
    autoscale::{
        desired::{End, Fate, Input, TargetPatch, TargetView, decide},
        reservation, schedule,
    },
    go,
    pods::PodView,
    target::{TargetId, TargetKind},
};
use muster_crds::{
    keys,
    legacy::{CapacityReservation, HorizontalRunnerAutoscaler},
    time::MicroTime,
};
use serde_json::{Map, json};

use self::said::{Said, complain, limited, report, verdicts};
use super::target::Target;
use crate::{
    conditions::Verdict,
    context::Context,
    ends::{Pool, pool_of},
    error::{Error, is_not_found},
    owner::ControllerOwner,
};

const COMPONENT: &str = "horizontalrunnerautoscaler-controller";
/// Names of runners that were looked for in vain; beyond this many the memory starts anew.
const GONE_LIMIT: usize = 10_000;
/// The StatefulSets of RunnerSets are listed anew: the next look is this soon.
const NOT_SYNCED: Duration = Duration::from_millis(500);

/// What this process wrote or found out, where the caches may lag behind.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    targets: Mutex<HashMap<String, Written>>,
    gone: Mutex<HashSet<(String, String)>>,
    busy: Mutex<HashMap<String, BTreeSet<String>>>,
    pods_created: Mutex<HashSet<String>>,
}

#[derive(Clone, Debug)]
struct Written {
    generation: i64,
    target: Target,
}

impl Memory {
    /// The target as this process wrote it last, when the cache does not show that yet.
    fn freshest(&self, cached: Target) -> Target {
        let uid = cached.meta().uid.clone().unwrap_or_default();
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        match targets.get(&uid) {
            Some(written) if written.generation > cached.meta().generation.unwrap_or(0) => {
                written.target.clone()
            }
            Some(_) => {
                targets.remove(&uid);
                cached
            }
            None => cached,
        }
    }

    fn wrote(&self, target: Target) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let (uid, generation) = (target.meta().uid.clone(), target.meta().generation.unwrap_or(0));
        targets.insert(uid.unwrap_or_default(), Written { generation, target });
    }

    pub(super) fn pod_was_created(&self, runner_uid: &str) -> bool {
        self.pods_created
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(runner_uid)
    }

    pub(super) fn note_pod_created(&self, runner_uid: &str) {
        self.pods_created
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(runner_uid.to_owned());
    }

    pub(super) fn forget_runner(&self, runner_uid: &str) {
        self.pods_created
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(runner_uid);
    }
}

pub(super) async fn reconcile(
    autoscaler: Arc<HorizontalRunnerAutoscaler>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let namespace = autoscaler.namespace().unwrap_or_default();
    let name = autoscaler.name_any();
    if autoscaler.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    let spec = &autoscaler.spec;
    context
        .metrics
        .bounds(&namespace, &name, spec.min_replicas, spec.max_replicas);

    let checked = check(&autoscaler, context.settings.scale_down_delay)?;
    let pool = checked.target;
    let target = Target::find(&context, &pool).ok_or_else(|| Error::Invalid {
        message: format!("spec.scaleTargetRef.name: there is no {pool}: create it or correct the name"),
    })?;
    if target.meta().deletion_timestamp.is_some() {
        return Ok(Action::requeue(context.resync(&name)));
    }
    if pool.kind == TargetKind::Set && !context.caches.stateful_sets.is_synced() {
        return Ok(Action::requeue(NOT_SYNCED));
    }
    let target = context.memory.freshest(target);
    let ledger = spec.capacity_reservations.clone().unwrap_or_default();
    let ends = context.ends.of(&pool, &ledger, now);
    let fates = fates(&context, &pool, &ledger, &ends, now).await?;
    wake_busy(&context, &autoscaler, &ledger);
    let status = autoscaler.status.clone().unwrap_or_default();
    let reading = pull::read(&context, &autoscaler, &target, now)?;
    let overrides = spec.scheduled_overrides.as_deref().unwrap_or_default();
    let schedule = schedule::evaluate(overrides, &context.settings.schedule_clock, now);

    let decision = decide(&Input {
        ledger: &ledger,
        fates: &fates,
        ends: &ends,
        min: schedule.min.unwrap_or(checked.min),
        max: schedule.max.unwrap_or(checked.max),
        pull: reading.pull,
        merge: context.settings.demand_merge,
        target: view(&context, &target, now)?,
        last_desired: status.desired_replicas,
        last_scale_out: status.last_successful_scale_out_time.as_ref().map(|time| time.0),
        delay: checked.delay,
        duration: checked.duration,
        now,
    });
    context
        .metrics
        .desired(&namespace, &name, Some(decision.desired), Some(decision.live));
    tracing::debug!(controller = COMPONENT, object = %super::key(&*autoscaler), desired = decision.desired, live = decision.live, ending = decision.ending, uncharged = decision.uncharged, plan = ?decision.target, "Planned.");

    let mut put_off = None;
    if let Some(patch) = &decision.target {
        // One write for many changes that nobody waits for.
        let gate = format!("{}/target", autoscaler.uid().unwrap_or_default());
        match decision.target_may_wait {
            Some(interval) => put_off = context.gate.admit_after(&gate, interval, now),
            None => context.gate.note(&gate, now),
        }
        if put_off.is_none() {
            write_target(&context, &target, patch).await?;
        }
    }
    if let Some(ledger) = &decision.ledger {
        write_ledger(&context, &autoscaler, ledger).await?;
    }
    let summary = schedule.summary(checked.min, checked.max, &context.settings.schedule_clock);
    let verdicts = verdicts(&reading, &schedule);
    complain(&context, &autoscaler, &verdicts);
    let mut verdicts: Vec<Verdict<'_>> = verdicts.iter().map(Said::verdict).collect();
    verdicts.push(limited(&decision, &schedule, checked.max));
    let status_wait = report(&context, &autoscaler, &decision, (&verdicts, summary), now).await?;
    let due = super::soonest([decision.next_due, schedule.next_edge, reading.due]);
    let waits = [super::until(due, now), status_wait, put_off];
    let wait = waits.into_iter().flatten().min();
    let resync = context.resync(&name);
    Ok(Action::requeue(wait.map_or(resync, |wait| wait.min(resync))))
}

/// The checked spec.
struct Checked {
    target: TargetId,
    min: i64,
    max: i64,
    delay: SignedDuration,
    duration: SignedDuration,
}

fn check(autoscaler: &HorizontalRunnerAutoscaler, default_delay: SignedDuration) -> Result<Checked, Error> {
    let spec = &autoscaler.spec;
    let invalid = |message: &str| Error::Invalid {
        message: message.to_owned(),
    };
    let reference = spec.scale_target_ref.as_ref();
    let name = reference
        .and_then(|reference| reference.name.clone())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| {
            invalid("spec.scaleTargetRef.name is missing: name the RunnerDeployment or RunnerSet to scale")
        })?;
    let kind = reference.and_then(|reference| reference.kind.as_deref());
    let kind = TargetKind::of(kind).ok_or_else(|| {
        invalid(&format!(
            "spec.scaleTargetRef.kind: {} cannot be scaled: use RunnerDeployment or RunnerSet",
            kind.unwrap_or_default()
        ))
    })?;
    let target = TargetId::new(kind, autoscaler.namespace().unwrap_or_default(), name);
    let missing = |field: &str| {
        invalid(&format!(
            "spec.{field} is missing: set it to a whole number, 0 or more"
        ))
    };
    let min = spec.min_replicas.ok_or_else(|| missing("minReplicas"))?;
    let max = spec.max_replicas.ok_or_else(|| missing("maxReplicas"))?;
    if max < 0 {
        return Err(invalid(&format!(
            "spec.maxReplicas: {max} is negative: set it to a whole number, 0 or more"
        )));
    }
    let duration = match spec.scale_up_triggers.as_deref().unwrap_or_default() {
        [trigger] => match trigger.duration.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => go::parse_duration(text).map_err(|error| {
                invalid(&format!("spec.scaleUpTriggers[0].duration: {text:?} is no duration ({error}): write for example 30m"))
            })?,
            None => SignedDuration::ZERO,
        },
        _ => SignedDuration::ZERO,
    };
    Ok(Checked {
        target,
        // Absent is an error above; upstream reads a negative minimum as 1 (spec 02 §5.4).
        min: if min < 0 { 1 } else { min },
        max,
        delay: spec
            .scale_down_delay_seconds_after_scale_out
            .map_or(default_delay, |seconds| SignedDuration::from_secs(seconds.max(0))),
        duration: if duration > SignedDuration::ZERO {
            duration
        } else {
            reservation::DEFAULT_DURATION
        },
    })
}

fn view(context: &Context, target: &Target, now: Timestamp) -> Result<TargetView, Error> {
    let annotation = |key: &str| target.annotations().get(key).map(String::as_str);
    let (alive, served) = target.supply(context, now)?;
    Ok(TargetView {
        replicas: target.replicas(),
        effective_time: target.effective_time(),
        ephemeral: target.is_ephemeral(),
        retain_idle_until: annotation(keys::ANNOTATION_RETAIN_IDLE_UNTIL).and_then(|text| text.parse().ok()),
        accounted: context.ends.parse(annotation(keys::ANNOTATION_ENDS_ACCOUNTED)),
        alive: i64::try_from(alive).unwrap_or(i64::MAX),
        served: served.and_then(|served| served.effective_time),
    })
}

/// What became of the runners that the ledger names. A name that is in no cache is asked for once: absence of evidence is not evidence.
async fn fates(
    context: &Context,
    pool: &Pool,
    ledger: &[CapacityReservation],
    ends: &[End],
    now: Timestamp,
) -> Result<BTreeMap<String, Fate>, Error> {
    let mut fates = BTreeMap::new();
    let namespace = &pool.namespace;
    let ended: HashMap<&str, Timestamp> = ends.iter().map(|end| (end.runner.as_str(), end.at)).collect();
    for entry in ledger {
        let Some(runner) = reservation::runner_of(entry) else {
            continue;
        };
        if fates.contains_key(runner) {
            continue;
        }
        let ended_at = ended.get(runner).copied();
        let of_pod = |pod: &Pod| {
            if pool_of(pod).as_ref() != Some(pool) {
                Fate::Gone
            } else if PodView::of(pod).is_stopped() {
                Fate::Ended {
                    at: ended_at.unwrap_or(now),
                }
            } else {
                Fate::Alive
            }
        };
        let fate = if let Some(pod) = context.caches.pods.get(namespace, runner) {
            Some(of_pod(&pod))
        } else if let Some(at) = ended_at {
            Some(Fate::Ended { at })
        } else if reservation::is_tombstone(entry) {
            None
        } else if has_owner(context, pool, runner) {
            Some(Fate::Alive)
        } else {
            Some(look_for(context, namespace, runner, of_pod).await?)
        };
        if let Some(fate) = fate {
            fates.insert(runner.to_owned(), fate);
        }
    }
    Ok(fates)
}

/// Whether the owner of this runner is up although its pod is not cached.
fn has_owner(context: &Context, pool: &Pool, runner: &str) -> bool {
    let (caches, namespace) = (&context.caches, &pool.namespace);
    match pool.kind {
        TargetKind::Deployment => caches.runners.get(namespace, runner).is_some_and(|runner| {
            runner.labels().get(pool.kind.label()) == Some(&pool.name)
                && runner.metadata.deletion_timestamp.is_none()
        }),
        TargetKind::Set => runner
            .rsplit_once('-')
            .and_then(|(name, _)| caches.stateful_sets.get(namespace, name))
            .is_some_and(|set| {
                set.metadata.deletion_timestamp.is_none()
                    && set
                        .controller_owner()
                        .is_some_and(|owner| owner.name == pool.name)
            }),
    }
}

async fn look_for(
    context: &Context,
    namespace: &str,
    runner: &str,
    of_pod: impl Fn(&Pod) -> Fate,
) -> Result<Fate, Error> {
    let key = (namespace.to_owned(), runner.to_owned());
    if context
        .memory
        .gone
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(&key)
    {
        return Ok(Fate::Gone);
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let fate = match api.get(runner).await {
        Ok(pod) => of_pod(&pod),
        Err(error) if is_not_found(&error) => Fate::Gone,
        Err(error) => return Err(Error::gather(format!("pod {runner}"))(error)),
    };
    if fate == Fate::Gone {
        let mut gone = context.memory.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.len() >= GONE_LIMIT {
            gone.clear();
        }
        gone.insert(key);
    }
    Ok(fate)
}

/// Wakes the pods whose runner got a job or finished one: their protection from evictions follows.
fn wake_busy(context: &Context, autoscaler: &HorizontalRunnerAutoscaler, ledger: &[CapacityReservation]) {
    let busy: BTreeSet<String> = ledger
        .iter()
        .filter(|entry| !reservation::is_tombstone(entry))
        .filter_map(reservation::runner_of)
        .map(str::to_owned)
        .collect();
    let namespace = autoscaler.namespace().unwrap_or_default();
    let mut all = context.memory.busy.lock().unwrap_or_else(PoisonError::into_inner);
    let known = all.entry(autoscaler.uid().unwrap_or_default()).or_default();
    for name in known.symmetric_difference(&busy) {
        context.pods.add(&namespace, name);
    }
    *known = busy;
}

async fn write_target(context: &Context, target: &Target, patch: &TargetPatch) -> Result<(), Error> {
    let mut spec = Map::new();
    spec.insert("replicas".to_owned(), json!(patch.replicas));
    if let Some(at) = patch.effective_time {
        spec.insert("effectiveTime".to_owned(), json!(MicroTime::from(at)));
    }
    let mut body = json!({ "spec": spec });
    if target.is_ephemeral() {
        let metadata = json!({"annotations": {
            keys::ANNOTATION_RETAIN_IDLE_UNTIL: patch.retain_idle_until.map(|at| at.to_string()),
            keys::ANNOTATION_ENDS_ACCOUNTED: context.ends.format(patch.accounted),
        }});
        if let Some(fields) = body.as_object_mut() {
            fields.insert("metadata".to_owned(), metadata);
        }
    }
    let id = target.id();
    let written = target
        .patch(context, body)
        .await
        .map_err(Error::apply(format!("scale {id} to {}", patch.replicas)))?;
    if target.replicas() != Some(patch.replicas) {
        tracing::info!(controller = COMPONENT, object = %format_args!("{}/{}", id.namespace, id.name), kind = id.kind.name(), replicas = target.replicas().unwrap_or(1), desired = patch.replicas, "Scaled.");
    }
    context.memory.wrote(written);
    Ok(())
}

/// Replaces the ledger that this decision was made from, and no other: the intake writes too.
async fn write_ledger(
    context: &Context,
    autoscaler: &HorizontalRunnerAutoscaler,
    ledger: &[CapacityReservation],
) -> Result<(), Error> {
    let operations = json!([
        {"op": "test", "path": "/metadata/generation", "value": autoscaler.metadata.generation},
        {"op": "add", "path": "/spec/capacityReservations", "value": ledger},
    ]);
    let patch: kube::core::params::Patch<()> = Patch::Json(
        serde_json::from_value(operations)
            .map_err(|error| Error::Bug(format!("the ledger's patch is malformed: {error}")))?,
    );
    let api: Api<HorizontalRunnerAutoscaler> = Api::namespaced(
        context.client.clone(),
        &autoscaler.namespace().unwrap_or_default(),
    );
    api.patch_metadata(&autoscaler.name_any(), &PatchParams::default(), &patch)
        .await
        .map_err(Error::apply("tidy spec.capacityReservations"))?;
    Ok(())
}
