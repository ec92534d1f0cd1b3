//! Pools and autoscalers: what the API server takes, and nobody can work with.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use muster_crds::legacy::{HorizontalRunnerAutoscaler, RunnerConfig};
use serde::Serialize;

use super::{Fault, Finding, Objects, Observed, subject};
use crate::{
    admission::{self, Kind, judge},
    autoscale::schedule,
    explain::{RECONCILED, Subject},
    scope::Scope,
    target::{TargetId, TargetKind},
};

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    let objects = &observed.objects;
    targets(objects, findings);
    for autoscaler in &objects.autoscalers {
        bounds(autoscaler, findings);
        schedules(autoscaler, findings);
        judged(
            Kind::HorizontalRunnerAutoscaler,
            autoscaler,
            &subject(autoscaler),
            findings,
        );
    }
    for one in &objects.deployments {
        judged(Kind::RunnerDeployment, one, &subject(one), findings);
    }
    for one in &objects.runner_sets {
        judged(Kind::RunnerSet, one, &subject(one), findings);
    }
    clashes(objects, findings);
    reconciled(objects, findings);
}

fn target(autoscaler: &HorizontalRunnerAutoscaler) -> Option<TargetId> {
    let namespace = autoscaler.namespace().unwrap_or_default();
    TargetId::of(&namespace, autoscaler.spec.scale_target_ref.as_ref())
}

fn exists(target: &TargetId, objects: &Objects) -> bool {
    let is_it = |namespace: Option<String>, name: String| {
        namespace.as_ref() == Some(&target.namespace) && name == target.name
    };
    match target.kind {
        TargetKind::Deployment => objects
            .deployments
            .iter()
            .any(|one| is_it(one.namespace(), one.name_any())),
        TargetKind::Set => objects
            .runner_sets
            .iter()
            .any(|one| is_it(one.namespace(), one.name_any())),
    }
}

fn targets(objects: &Objects, findings: &mut Vec<Finding>) {
    let mut scaled: BTreeMap<TargetId, Vec<&HorizontalRunnerAutoscaler>> = BTreeMap::new();
    for autoscaler in &objects.autoscalers {
        match target(autoscaler) {
            None => findings.push(Finding::new(
                Fault::TargetMissing,
                subject(autoscaler),
                "spec.scaleTargetRef names nothing that can be scaled",
                "Set scaleTargetRef.kind to RunnerDeployment or RunnerSet, and scaleTargetRef.name.",
            )),
            Some(target) if !exists(&target, objects) => findings.push(Finding::new(
                Fault::TargetMissing,
                subject(autoscaler),
                format!("spec.scaleTargetRef names {target}, which is not there"),
                "Correct the name or the kind (RunnerDeployment when absent), or create the target in the same namespace.",
            )),
            Some(target) => scaled.entry(target).or_default().push(autoscaler),
        }
    }
    for (target, autoscalers) in scaled {
        if let [first, second, ..] = autoscalers.as_slice() {
            let names: Vec<String> = autoscalers.iter().map(|one| one.name_any()).collect();
            findings.push(Finding::new(
                Fault::TwoAutoscalers,
                subject(*second),
                format!(
                    "{} all scale {target}: each overwrites the other's number",
                    names.join(" and ")
                ),
                format!(
                    "Keep one of them, for example {}, and give it all triggers, metrics and overrides.",
                    first.name_any()
                ),
            ));
        }
    }
}

fn bounds(autoscaler: &HorizontalRunnerAutoscaler, findings: &mut Vec<Finding>) {
    let (min, max) = (autoscaler.spec.min_replicas, autoscaler.spec.max_replicas);
    let sentence = match (min, max) {
        (Some(min), Some(max)) if min > max => {
            format!("spec.minReplicas is {min} and spec.maxReplicas is {max}")
        }
        (Some(min), _) if min < 0 => format!("spec.minReplicas is {min}"),
        (_, Some(max)) if max < 0 => format!("spec.maxReplicas is {max}"),
        (Some(_), Some(_)) => return,
        (None, _) => "spec.minReplicas is missing: the autoscaler does nothing without it".to_owned(),
        (_, None) => "spec.maxReplicas is missing: the autoscaler does nothing without it".to_owned(),
    };
    findings.push(Finding::new(
        Fault::BoundsInvalid,
        subject(autoscaler),
        sentence,
        "Set both, 0 ≤ minReplicas ≤ maxReplicas.",
    ));
}

fn schedules(autoscaler: &HorizontalRunnerAutoscaler, findings: &mut Vec<Finding>) {
    let overrides = autoscaler.spec.scheduled_overrides.iter().flatten();
    for (index, one) in overrides.enumerate() {
        if let Err(sentence) = schedule::check(index, one) {
            findings.push(Finding::new(
                Fault::ScheduleInvalid,
                subject(autoscaler),
                sentence,
                "Correct the field: docs/autoscaling.md.",
            ));
        }
    }
}

/// What the admission webhook says of objects that were made before it was there.
fn judged<K: Serialize>(kind: Kind, object: &K, named: &Subject, findings: &mut Vec<Finding>) {
    let Ok(value) = serde_json::to_value(object) else {
        return;
    };
    let verdict: admission::Verdict = judge(kind, &value, None);
    for violation in &verdict.violations {
        findings.push(Finding::new(
            Fault::PoolInvalid,
            named.clone(),
            format!("{}: {}", violation.field, violation.value),
            violation.detail.clone(),
        ));
    }
    // Bounds and schedules have words of their own.
    let is_told = |warning: &&String| {
        [
            "spec.minReplicas",
            "spec.maxReplicas",
            "spec.scheduledOverrides",
            "spec.scaleTargetRef",
        ]
        .iter()
        .any(|field| warning.starts_with(field))
    };
    for warning in verdict.warnings.iter().filter(|warning| !is_told(warning)) {
        findings.push(Finding::new(
            Fault::AutoscalerDoubtful,
            named.clone(),
            warning.clone(),
            "Correct the field, or take it out.",
        ));
    }
}

/// What decides which jobs a pool takes.
type Market = (Scope, String, BTreeSet<String>);

fn market(config: &RunnerConfig) -> Option<Market> {
    let scope = Scope::from_fields(
        config.repository.as_deref(),
        config.organization.as_deref(),
        config.enterprise.as_deref(),
    );
    let group = config.group.clone().unwrap_or_default();
    let labels = config.labels.iter().flatten();
    Some((
        scope.ok()?,
        group,
        labels.map(|label| label.to_ascii_lowercase()).collect(),
    ))
}

/// Pools that are scaled by jobs and take the same ones: GitHub gives a job to either, and one of them is scaled for it.
fn clashes(objects: &Objects, findings: &mut Vec<Finding>) {
    let by_jobs: BTreeSet<TargetId> = objects
        .autoscalers
        .iter()
        .filter(|autoscaler| {
            let triggers = autoscaler.spec.scale_up_triggers.iter().flatten();
            triggers
                .filter_map(|trigger| trigger.github_event.as_ref())
                .any(|event| event.workflow_job.is_some())
        })
        .filter_map(target)
        .collect();
    let mut pools: BTreeMap<Market, Vec<(Subject, TargetId)>> = BTreeMap::new();
    let mut note = |kind: TargetKind, object: Subject, config: &RunnerConfig| {
        let target = TargetId::new(kind, object.namespace.clone(), object.name.clone());
        if let Some(market) = market(config).filter(|_| by_jobs.contains(&target)) {
            pools.entry(market).or_default().push((object, target));
        }
    };
    for one in &objects.deployments {
        note(
            TargetKind::Deployment,
            subject(one),
            &one.spec.template.spec.config,
        );
    }
    for one in &objects.runner_sets {
        note(TargetKind::Set, subject(one), &one.spec.config);
    }
    for ((scope, group, labels), pools) in pools {
        if let [_, (second, _), ..] = pools.as_slice() {
            let names: Vec<String> = pools.iter().map(|(_, target)| target.to_string()).collect();
            let labels: Vec<String> = labels.into_iter().collect();
            let group = if group.is_empty() {
                String::new()
            } else {
                format!(" in group {group}")
            };
            findings.push(Finding::new(
                Fault::LabelsClash,
                second.clone(),
                format!(
                    "{} take the same jobs: {scope}{group}, labels [{}]",
                    names.join(" and "),
                    labels.join(", ")
                ),
                "Give each a label of its own and name it in runs-on, or merge the pools.",
            ));
        }
    }
}

/// What the manager itself says about objects.
fn reconciled(objects: &Objects, findings: &mut Vec<Finding>) {
    macro_rules! each {
        ($($objects:expr),*) => {$(
            for object in $objects {
                let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref());
                if let Some(condition) = failing(conditions.unwrap_or_default()) {
                    findings.push(Finding::new(
                        Fault::NotReconciled,
                        subject(object),
                        format!("{}: {}", condition.reason, condition.message),
                        format!("kubectl muster explain says more; {} is in docs/troubleshooting.md.", condition.reason),
                    ));
                }
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
}

fn failing(conditions: &[Condition]) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == RECONCILED && condition.status == "False")
}
