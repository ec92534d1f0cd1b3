//! What the admission webhooks decide (spec 01 §11, 02 §14): which objects are refused or remarked upon, and what is filled into a
//! runner's pod. Everything works on the JSON that the API server sent, so that fields of another version neither stop a decision nor
//! get lost.

mod autoscaler;
mod inject;
mod runner;
mod runner_set;
mod selector;
#[cfg(test)]
mod tests;

pub use inject::{NotAPod, RunnerPod};
use muster_crds::keys;
use serde_json::Value;

/// The kinds that have a validating webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One runner.
    Runner,
    /// Runners of one template.
    RunnerReplicaSet,
    /// Runners of a template that may change.
    RunnerDeployment,
    /// Runners with volumes that outlive them.
    RunnerSet,
    /// What decides how many.
    HorizontalRunnerAutoscaler,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Runner,
        Self::RunnerReplicaSet,
        Self::RunnerDeployment,
        Self::RunnerSet,
        Self::HorizontalRunnerAutoscaler,
    ];

    /// As in `kind:`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runner => "Runner",
            Self::RunnerReplicaSet => "RunnerReplicaSet",
            Self::RunnerDeployment => "RunnerDeployment",
            Self::RunnerSet => "RunnerSet",
            Self::HorizontalRunnerAutoscaler => "HorizontalRunnerAutoscaler",
        }
    }
}

/// A field whose value cannot be.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Path of the field: `spec.template.spec.repository`.
    pub field: String,
    /// What it holds.
    pub value: Value,
    /// What is wrong, and the remedy.
    pub detail: String,
}

impl Violation {
    /// `Invalid value: …: …`: the message of a cause in a Status.
    pub fn message(&self) -> String {
        format!("Invalid value: {}: {}", self.value, self.detail)
    }
}

/// What is to be said about an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Reasons to refuse it.
    pub violations: Vec<Violation>,
    /// Remarks for its author; the object is taken.
    pub warnings: Vec<String>,
}

impl Verdict {
    fn refuse(&mut self, field: impl Into<String>, value: &Value, detail: impl Into<String>) {
        self.violations.push(Violation {
            field: field.into(),
            value: value.clone(),
            detail: detail.into(),
        });
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }
}

/// Judges an object that is created, or changed from `old`.
///
/// Silent where a refusal would only stand in the way: an object that is being deleted, and one whose spec does not change, may lose its
/// finalizers and get labels whatever its spec says (spec 01 quirk 5). The kinds that upstream does not validate at all are refused only
/// for a fault that upstream could never live with *and* that the object did not have before; an old fault is a warning.
pub fn judge(kind: Kind, object: &Value, old: Option<&Value>) -> Verdict {
    let is_unchanged = old.is_some_and(|old| get(old, "spec") == get(object, "spec"));
    if is_unchanged || !get(get(object, "metadata"), "deletionTimestamp").is_null() {
        return Verdict::default();
    }
    let verdict = check(kind, object);
    let Some(old) = old.filter(|_| matches!(kind, Kind::RunnerSet | Kind::HorizontalRunnerAutoscaler)) else {
        return verdict;
    };
    let before = check(kind, old);
    let (known, new): (Vec<_>, Vec<_>) = verdict
        .violations
        .into_iter()
        .partition(|violation| before.violations.contains(violation));
    let mut warnings: Vec<String> = known
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.detail))
        .collect();
    warnings.extend(verdict.warnings);
    Verdict {
        violations: new,
        warnings,
    }
}

fn check(kind: Kind, object: &Value) -> Verdict {
    let mut verdict = Verdict::default();
    let spec = get(object, "spec");
    match kind {
        Kind::Runner => runner::check(spec, "spec", &mut verdict),
        Kind::RunnerReplicaSet | Kind::RunnerDeployment => {
            let template = get(spec, "template");
            runner::check(get(template, "spec"), "spec.template.spec", &mut verdict);
            runner::check_selector(kind, spec, &mut verdict);
        }
        Kind::RunnerSet => runner_set::check(spec, &mut verdict),
        Kind::HorizontalRunnerAutoscaler => autoscaler::check(spec, &mut verdict),
    }
    verdict
}

/// The message of a refusal, in the form that Kubernetes gives its own: `<Kind>.<group> "<name>" is invalid: …`.
pub fn refusal(kind: Kind, name: &str, violations: &[Violation]) -> String {
    let all: Vec<String> = violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.message()))
        .collect();
    let all = match all.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    format!("{}.{} {name:?} is invalid: {all}", kind.name(), keys::GROUP)
}

/// A member of an object; null where there is none.
fn get<'a>(object: &'a Value, member: &str) -> &'a Value {
    object.get(member).unwrap_or(&Value::Null)
}

/// A text member; empty where there is none.
fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    get(object, member).as_str().unwrap_or_default()
}

/// The items of a list member; none where there is none.
fn items<'a>(object: &'a Value, member: &str) -> &'a [Value] {
    get(object, member).as_array().map_or(&[], Vec::as_slice)
}
