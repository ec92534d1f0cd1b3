//! Conditions → reasons. A condition's reason is a [`Code`]; its message ends with the remedy and the instant, which are shown by themselves.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Code, Reason, Subject, text};

/// Type of the condition that every kind has: the last reconcile worked.
pub const RECONCILED: &str = "Reconciled";
/// Type of the condition of a target whose runners fail when they start.
pub const STARTUP_FAILING: &str = "StartupFailing";
/// Type of the condition of an autoscaler whose repositories cannot be asked for their queue.
pub const QUEUE_RECONCILED: &str = "QueueReconciled";
/// Type of the condition of an autoscaler that would scale further than it may.
pub const LIMITED: &str = "ScalingLimited";

/// Type of the condition of an autoscaler that ignores scheduled overrides.
pub(super) const SCHEDULE_VALID: &str = "ScheduleValid";

/// Conditions whose `True` is the bad state.
const NEGATIVE: [&str; 4] = [
    STARTUP_FAILING,
    LIMITED,
    // Their types are codes.
    Code::RunnersLeftOnGitHub.as_str(),
    Code::LedgerReplaced.as_str(),
];

/// What an object's conditions complain about.
pub(super) fn reasons(object: &Subject, conditions: &[Condition]) -> Vec<Reason> {
    conditions
        .iter()
        // Bounds and overrides are explained from the spec and the ledger, which are fresher.
        .filter(|condition| {
            ![LIMITED, SCHEDULE_VALID].contains(&condition.type_.as_str()) && is_bad(condition)
        })
        .map(|condition| reason(object, condition))
        .collect()
}

/// Whether a condition is in its bad state.
fn is_bad(condition: &Condition) -> bool {
    let bad = if NEGATIVE.contains(&condition.type_.as_str()) {
        "True"
    } else {
        "False"
    };
    condition.status == bad
}

/// The condition of this type, when it is in its bad state.
pub(super) fn bad<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == type_ && is_bad(condition))
}

fn reason(object: &Subject, condition: &Condition) -> Reason {
    let code = if condition.type_ == QUEUE_RECONCILED {
        Code::QueueNotReadable
    } else {
        Code::parse(&condition.type_)
            .or_else(|| Code::parse(&condition.reason))
            .unwrap_or(Code::ConditionNotMet)
    };
    let said = text::without_tail(&condition.message, code.remedy());
    let sentence = match (code, said.is_empty()) {
        (Code::ConditionNotMet, _) => {
            format!(
                "{} is {} ({}): {said}",
                condition.type_, condition.status, condition.reason
            )
        }
        (_, true) => format!("{} is {}", condition.type_, condition.status),
        (_, false) => said,
    };
    Reason::new(code, object.clone(), sentence)
        .since(Some(condition.last_transition_time.0))
        .until(text::read_until(&condition.message))
}
