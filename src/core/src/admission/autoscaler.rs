//! HorizontalRunnerAutoscaler, which upstream does not validate (spec 01 §7, §13.13). What upstream's manifests have always got away with
//! is a warning; refused are metrics that no reconcile can evaluate.

use muster_crds::{keys::autoscaler as names, time::MicroTime};
use serde_json::Value;

use super::{Verdict, get, items, text};
use crate::go;

pub(super) fn check(spec: &Value, verdict: &mut Verdict) {
    if text(get(spec, "scaleTargetRef"), "name").is_empty() {
        verdict.warn("spec.scaleTargetRef.name is missing: the autoscaler has nothing to scale");
    }
    bounds(spec, verdict);
    metrics(items(spec, "metrics"), verdict);
    for (index, trigger) in items(spec, "scaleUpTriggers").iter().enumerate() {
        let path = format!("spec.scaleUpTriggers[{index}]");
        let duration = text(trigger, "duration");
        if !duration.is_empty()
            && let Err(error) = go::parse_duration(duration)
        {
            verdict.warn(format!("{path}.duration: {error}"));
        }
        let event = get(trigger, "githubEvent").as_object();
        if event.is_none_or(|event| event.values().all(Value::is_null)) {
            verdict.warn(format!(
                "{path}.githubEvent names no event, so nothing triggers it: write workflowJob: {{}}"
            ));
        }
    }
    for (index, change) in items(spec, "scheduledOverrides").iter().enumerate() {
        let time = |member| serde_json::from_value::<MicroTime>(get(change, member).clone()).ok();
        if let (Some(start), Some(end)) = (time("startTime"), time("endTime"))
            && end <= start
        {
            verdict.warn(format!(
                "spec.scheduledOverrides[{index}].endTime is not after startTime: the override is never active"
            ));
        }
    }
}

fn bounds(spec: &Value, verdict: &mut Verdict) {
    let bound = |field: &str| get(spec, field).as_i64();
    let (min, max) = (bound("minReplicas"), bound("maxReplicas"));
    for (field, value) in [("minReplicas", min), ("maxReplicas", max)] {
        match value {
            None => verdict.warn(format!(
                "spec.{field} is missing: the autoscaler does nothing without it"
            )),
            Some(value) if value < 0 => verdict.warn(format!("spec.{field}: {value} is negative")),
            Some(_) => {}
        }
    }
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        verdict.warn(format!("spec.minReplicas: {min} is more than maxReplicas: {max}"));
    }
}

/// Only the first metric is evaluated at every reconcile: a second one counts when the first says nothing (spec 02 §5.2).
fn metrics(metrics: &[Value], verdict: &mut Verdict) {
    let Some(first) = metrics.first() else { return };
    if metrics.len() > 2 {
        return verdict
            .warn("spec.metrics: more than two metrics cannot be combined; the autoscaler does not scale");
    }
    match text(first, "type") {
        names::METRIC_PERCENTAGE_BUSY => percentage(first, verdict),
        names::METRIC_QUEUED_AND_IN_PROGRESS => {}
        _ => verdict.refuse(
            "spec.metrics[0].type",
            get(first, "type"),
            format!(
                "the metrics are {} and {}",
                names::METRIC_PERCENTAGE_BUSY,
                names::METRIC_QUEUED_AND_IN_PROGRESS
            ),
        ),
    }
    let is_pair = |types: [&str; 2]| {
        types
            == [
                names::METRIC_PERCENTAGE_BUSY,
                names::METRIC_QUEUED_AND_IN_PROGRESS,
            ]
    };
    if let [first, second] = metrics
        && !is_pair([text(first, "type"), text(second, "type")])
    {
        verdict.warn(format!(
            "spec.metrics: two metrics must be {} and {}, in this order",
            names::METRIC_PERCENTAGE_BUSY,
            names::METRIC_QUEUED_AND_IN_PROGRESS
        ));
    }
}

fn percentage(metric: &Value, verdict: &mut Verdict) {
    let path = |field: &str| format!("spec.metrics[0].{field}");
    for field in [
        "scaleUpThreshold",
        "scaleDownThreshold",
        "scaleUpFactor",
        "scaleDownFactor",
    ] {
        if !is_number(text(metric, field)) {
            verdict.refuse(
                path(field),
                get(metric, field),
                "this is no number: write one, quoted, such as \"0.75\"",
            );
        }
    }
    for (adjustment, factor) in [
        ("scaleUpAdjustment", "scaleUpFactor"),
        ("scaleDownAdjustment", "scaleDownFactor"),
    ] {
        let value = get(metric, adjustment).as_i64().unwrap_or(0);
        if value < 0 {
            verdict.refuse(
                path(adjustment),
                get(metric, adjustment),
                "it must not be negative",
            );
        } else if value != 0 && !text(metric, factor).is_empty() {
            verdict.refuse(
                path(adjustment),
                get(metric, adjustment),
                format!("it cannot be combined with {factor}: set one of the two"),
            );
        }
    }
}

/// Whether Go reads it as a number; what is empty counts as absent. Go's hexadecimal notation is taken on trust.
fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    text.is_empty() || digits.starts_with("0x") || digits.starts_with("0X") || text.parse::<f64>().is_ok()
}
