//! What is to be changed so that upstream's controller finds only what it understands (spec 20 "Record"; 02 §13 for volumes).
//!
//! ```text
//! observed (our kinds, pods, StatefulSets, claims, volumes, budgets, Leases, Secrets) -> plan: a step for each object, and notes
//! ```
//!
//! A step says what it does in words and carries the write. Every write may be made twice: what has been handed back is no step any more. Names,
//! finalizers, sync times, runner ids and template hashes are upstream's own and stay.

mod ledger;
mod marks;
#[cfg(test)]
mod tests;
mod volumes;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{PersistentVolumeClaim, Secret},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Resource, ResourceExt};
use muster_crds::{keys, legacy::HorizontalRunnerAutoscaler};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{explain::Subject, installation::Objects};

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Our kinds and what belongs to them.
    pub objects: Objects,
    /// Claims.
    pub claims: Vec<PersistentVolumeClaim>,
    /// `PodDisruptionBudget`s.
    pub budgets: Vec<PodDisruptionBudget>,
    /// `Lease`s.
    pub leases: Vec<Lease>,
    /// Secrets with certificates, as far as they can be read.
    pub secrets: Vec<Secret>,
}

/// How far handing back goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Settings for us that people wrote go, too.
    pub drop_settings: bool,
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A merge patch. One with a resource version is refused when the object has changed since.
    Merge(Value),
    /// A merge patch of the status.
    MergeStatus(Value),
    /// A strategic merge patch of the status.
    StrategicStatus(Value),
    /// The object is deleted, if it is still this one.
    Delete {
        /// Its UID.
        uid: String,
    },
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The object.
    pub object: Subject,
    /// What is done, in words that follow "to".
    pub what: Vec<String>,
    /// The write.
    pub action: Action,
}

/// What stays, and what upstream makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The object.
    pub object: Subject,
    /// A sentence.
    pub sentence: String,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The changes: ledgers first, they are what upstream acts on.
    pub steps: Vec<Step>,
    /// What people should know.
    pub notes: Vec<Note>,
}

/// Decides what has to change.
pub fn plan(observed: &Observed, options: Options, now: Timestamp) -> Plan {
    let (mut plan, objects) = (Plan::default(), &observed.objects);
    for autoscaler in &objects.autoscalers {
        plan.steps.extend(autoscaler_step(autoscaler, options, now));
        plan.notes.extend(autoscaler_notes(autoscaler, options));
    }
    for set in &objects.runner_sets {
        if !options.drop_settings {
            plan.notes
                .extend(marks::settings(set).into_iter().map(|key| Note {
                    object: subject(set),
                    sentence: format!("annotation {key} stays; ARC does not read it"),
                }));
        }
    }
    let steps = &mut plan.steps;
    let all = options.drop_settings;
    marked(&objects.deployments, all, steps);
    marked(&objects.replica_sets, all, steps);
    marked(&objects.runner_sets, all, steps);
    marked(&objects.runners, all, steps);
    marked(&objects.stateful_sets, all, steps);
    marked(&observed.claims, all, steps);
    marked(&objects.pods, all, steps);
    conditions(objects, steps);
    let volumes = objects.volumes.iter();
    steps.extend(volumes.filter_map(|volume| volumes::step(volume, &observed.claims)));
    deletions(observed, steps);
    plan
}

/// Kind, namespace and name.
fn subject<K: Resource<DynamicType = ()>>(object: &K) -> Subject {
    Subject {
        kind: K::kind(&()).into_owned(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn autoscaler_step(
    autoscaler: &HorizontalRunnerAutoscaler,
    options: Options,
    now: Timestamp,
) -> Option<Step> {
    let spec = &autoscaler.spec;
    let reservations = spec.capacity_reservations.as_deref().unwrap_or_default();
    let handed = ledger::hand_back(reservations, ledger::duration(spec), now);
    let mut what = Vec::new();
    let mut changes = Map::new();
    if handed.entries != reservations {
        for (verb, number, one, many) in [
            ("take the job's name from", handed.anonymous, "entry", "entries"),
            ("remove", handed.tombstones, "tombstone", "tombstones"),
            (
                "remove",
                handed.stale,
                "expired or repeated entry",
                "expired or repeated entries",
            ),
        ] {
            if number > 0 {
                what.push(format!("{verb} {}", count(number, one, many)));
            }
        }
        if what.is_empty() {
            what.push("put the ledger in ARC's order".to_owned());
        }
        let list = if handed.entries.is_empty() {
            Value::Null
        } else {
            json!(handed.entries)
        };
        changes.insert("capacityReservations".to_owned(), list);
    }
    if options.drop_settings
        && let Some(overrides) = &spec.scheduled_overrides
        && overrides.iter().any(has_own_fields)
    {
        let plain: Vec<_> = overrides
            .iter()
            .cloned()
            .map(|mut one| {
                one.max_replicas = None;
                one.time_zone = None;
                one
            })
            .collect();
        what.push("remove maxReplicas and timeZone from its scheduled overrides".to_owned());
        changes.insert("scheduledOverrides".to_owned(), json!(plain));
    }
    let mut metadata = marks::removal(autoscaler, options.drop_settings);
    what.extend(
        marks::names(&metadata)
            .iter()
            .map(|name| format!("remove {name}")),
    );
    if what.is_empty() {
        return None;
    }
    metadata.insert("resourceVersion".to_owned(), json!(autoscaler.resource_version()));
    let mut patch = Map::new();
    patch.insert("metadata".to_owned(), Value::Object(metadata));
    if !changes.is_empty() {
        patch.insert("spec".to_owned(), Value::Object(changes));
    }
    Some(Step {
        object: subject(autoscaler),
        what,
        action: Action::Merge(Value::Object(patch)),
    })
}

fn has_own_fields(one: &muster_crds::legacy::ScheduledOverride) -> bool {
    one.max_replicas.is_some() || one.time_zone.is_some()
}

/// What upstream will do otherwise.
fn autoscaler_notes(autoscaler: &HorizontalRunnerAutoscaler, options: Options) -> Vec<Note> {
    let spec = &autoscaler.spec;
    let note = |sentence: String| Note {
        object: subject(autoscaler),
        sentence,
    };
    let mut notes = Vec::new();
    for (index, one) in spec.scheduled_overrides.iter().flatten().enumerate() {
        if !options.drop_settings && has_own_fields(one) {
            notes.push(note(format!(
                "spec.scheduledOverrides[{index}] has maxReplicas or timeZone, which ARC does not read: it keeps maxReplicas, and the offset of startTime"
            )));
        }
    }
    let triggers = spec.scale_up_triggers.as_deref().unwrap_or_default();
    for (index, trigger) in triggers.iter().enumerate() {
        let event = trigger.github_event.clone().unwrap_or_default();
        let old = [
            (event.check_run.is_some(), "checkRun"),
            (event.push.is_some(), "push"),
            (event.pull_request.is_some(), "pullRequest"),
        ];
        for (_, name) in old.into_iter().filter(|(is_set, _)| *is_set) {
            notes.push(note(format!(
                "spec.scaleUpTriggers[{index}].githubEvent.{name} has no effect under ARC 0.27 and later"
            )));
        }
    }
    notes
}

/// Steps for what carries marks of ours and nothing else.
fn marked<K: Resource<DynamicType = ()>>(objects: &[K], all: bool, steps: &mut Vec<Step>) {
    for object in objects {
        let metadata = marks::removal(object, all);
        let names = marks::names(&metadata);
        if !names.is_empty() {
            steps.push(Step {
                object: subject(object),
                what: vec![format!("remove {}", names.join(", "))],
                action: Action::Merge(json!({ "metadata": metadata })),
            });
        }
    }
}

/// Steps for conditions, which upstream's kinds do not have.
fn conditions(objects: &Objects, steps: &mut Vec<Step>) {
    macro_rules! each {
        ($($objects:expr),*) => {$(
            for object in $objects {
                let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref());
                steps.extend(condition_step(object, conditions.unwrap_or_default()));
            }
        )*};
    }
    each!(
        &objects.autoscalers,
        &objects.deployments,
        &objects.replica_sets,
        &objects.runner_sets,
        &objects.runners
    );
    for pod in &objects.pods {
        steps.extend(marks::condition(pod).map(|patch| Step {
            object: subject(pod),
            what: vec!["remove our condition".to_owned()],
            action: Action::StrategicStatus(patch),
        }));
    }
}

fn condition_step<K: Resource<DynamicType = ()>>(object: &K, conditions: &[Condition]) -> Option<Step> {
    let names: Vec<&str> = conditions.iter().map(|one| one.type_.as_str()).collect();
    (!names.is_empty()).then(|| Step {
        object: subject(object),
        what: vec![format!("remove condition {}", names.join(", "))],
        action: Action::MergeStatus(json!({"status": {"conditions": null}})),
    })
}

/// Steps for objects that exist for us alone.
fn deletions(observed: &Observed, steps: &mut Vec<Step>) {
    let mut delete = |object: Subject, uid: Option<String>| {
        steps.push(Step {
            object,
            what: vec!["delete it".to_owned()],
            action: Action::Delete {
                uid: uid.unwrap_or_default(),
            },
        });
    };
    for budget in &observed.budgets {
        if budget.name_any() == keys::BUDGET_BUSY_RUNNERS {
            delete(subject(budget), budget.uid());
        }
    }
    for lease in &observed.leases {
        if lease.annotations().contains_key(keys::ANNOTATION_REPLAY) {
            delete(subject(lease), lease.uid());
        }
    }
    for secret in &observed.secrets {
        if secret.annotations().contains_key(keys::ANNOTATION_NOT_AFTER) {
            delete(subject(secret), secret.uid());
        }
    }
}
