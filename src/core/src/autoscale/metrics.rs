//! Pull metrics: what GitHub lists → how many runners that suggests (spec 02 §5.2).
//!
//! `parse` checks `spec.metrics` once; the counts of runners or jobs then give a value; [`Metrics::after_first`] says whether that is the suggestion or the
//! second metric must be asked. What could not be read never gets here: unknown is not zero (90 PAIN-12).

use std::collections::{BTreeSet, HashSet};

use muster_crds::{keys::autoscaler as names, legacy::MetricSpec};

use crate::scope::Scope;

/// Label that every self-hosted runner has.
const SELF_HOSTED: &str = "self-hosted";

/// `spec.metrics`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// The metric that is always asked.
    pub first: Metric,
    /// Asked when the first says nothing: repositories whose jobs are counted.
    pub second: Option<Vec<Repository>>,
}

/// One metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// `TotalNumberOfQueuedAndInProgressWorkflowRuns`, in these repositories.
    Jobs(Vec<Repository>),
    /// `PercentageRunnersBusy`.
    Busy(Busy),
}

/// A repository whose jobs are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    /// Login of the owner.
    pub owner: String,
    /// Name without the owner.
    pub name: String,
}

/// Parameters of `PercentageRunnersBusy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busy {
    /// Share of busy runners from which on there shall be more.
    pub up_threshold: f64,
    /// Share below which there shall be fewer.
    pub down_threshold: f64,
    /// How many more.
    pub up: Change,
    /// How many fewer.
    pub down: Change,
}

/// How a number of runners changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Multiplied.
    Factor(f64),
    /// By so many, 1 or more.
    Adjustment(i64),
}

/// Which metric a value is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Jobs that want or have a runner: a job that ends counts one less.
    Jobs,
    /// A number of runners, whoever of them works.
    Busy,
}

/// A metric's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Runners that it suggests; 0 or less may mean that it suggests nothing.
    pub replicas: i64,
    /// Which metric.
    pub source: Source,
    /// It is the second of two metrics: its 0 is a suggestion, where an only metric's is none (spec 02 Q22).
    pub is_second: bool,
}

impl Value {
    /// The suggestion after so many of the counted jobs have ended; `None` where the metric has nothing to say and the minimum counts.
    pub fn suggestion(self, ended: i64) -> Option<i64> {
        let replicas = match self.source {
            Source::Jobs => self.replicas.saturating_sub(ended).max(0),
            Source::Busy => self.replicas,
        };
        (replicas > 0 || self.is_second).then_some(replicas)
    }
}

impl Metrics {
    /// The value of the first metric, or `None` when the second must be asked instead.
    pub fn after_first(&self, replicas: i64) -> Option<Value> {
        let source = match self.first {
            Metric::Jobs(_) => Source::Jobs,
            Metric::Busy(_) => Source::Busy,
        };
        (replicas > 0 || self.second.is_none()).then_some(Value {
            replicas,
            source,
            is_second: false,
        })
    }
}

/// Checks `spec.metrics` for runners of this scope; `None` where there are none.
///
/// # Errors
/// A sentence with field, value and remedy. Upstream finds a wrong pair only when the first metric says nothing (spec 02 Q22); here it is found at once.
pub fn parse(specs: &[MetricSpec], scope: &Scope) -> Result<Option<Metrics>, String> {
    let (first, second) = match specs {
        [] => return Ok(None),
        [first] => (metric(0, first, scope)?, None),
        [first, second] => {
            let (first, second) = (metric(0, first, scope)?, metric(1, second, scope)?);
            match (first, second) {
                (first @ Metric::Busy(_), Metric::Jobs(repositories)) => (first, Some(repositories)),
                _ => {
                    return Err(format!(
                        "spec.metrics: two metrics must be {} and {}, in this order: correct the types or remove one",
                        names::METRIC_PERCENTAGE_BUSY,
                        names::METRIC_QUEUED_AND_IN_PROGRESS
                    ));
                }
            }
        }
        _ => {
            return Err(format!(
                "spec.metrics: {} metrics are too many: two can be combined, {} and {}",
                specs.len(),
                names::METRIC_PERCENTAGE_BUSY,
                names::METRIC_QUEUED_AND_IN_PROGRESS
            ));
        }
    };
    Ok(Some(Metrics { first, second }))
}

fn metric(index: usize, spec: &MetricSpec, scope: &Scope) -> Result<Metric, String> {
    let path = |field: &str| format!("spec.metrics[{index}].{field}");
    match spec.type_.as_deref().unwrap_or_default() {
        names::METRIC_QUEUED_AND_IN_PROGRESS => repositories(spec, scope, &path).map(Metric::Jobs),
        names::METRIC_PERCENTAGE_BUSY => busy(spec, &path).map(Metric::Busy),
        other => Err(format!(
            "{}: {other:?} is unknown: write {} or {}",
            path("type"),
            names::METRIC_PERCENTAGE_BUSY,
            names::METRIC_QUEUED_AND_IN_PROGRESS
        )),
    }
}

fn repositories(
    spec: &MetricSpec,
    scope: &Scope,
    path: &impl Fn(&str) -> String,
) -> Result<Vec<Repository>, String> {
    let organization = match scope {
        Scope::Repository { owner, name } => {
            return Ok(vec![Repository {
                owner: owner.clone(),
                name: name.clone(),
            }]);
        }
        Scope::Organization(organization) => organization,
        Scope::Enterprise(enterprise) => {
            return Err(format!(
                "{}: {} cannot count the jobs of enterprise {enterprise}: use {} or scale by webhook (spec.scaleUpTriggers)",
                path("type"),
                names::METRIC_QUEUED_AND_IN_PROGRESS,
                names::METRIC_PERCENTAGE_BUSY
            ));
        }
    };
    let mut repositories = BTreeSet::new();
    for entry in spec.repository_names.iter().flatten() {
        // Upstream's notes show owner/name, its code wants the name alone (spec 02 Q23): both work.
        let (owner, name) = entry.split_once('/').unwrap_or((organization, entry));
        if owner.is_empty() || name.is_empty() || name.contains('/') {
            return Err(format!(
                "{}: {entry:?} is no name of a repository: write it without the owner, or as OWNER/NAME",
                path("repositoryNames")
            ));
        }
        repositories.insert(Repository {
            owner: owner.to_owned(),
            name: name.to_owned(),
        });
    }
    if repositories.is_empty() {
        return Err(format!(
            "{} is empty: runners of organization {organization} need the names of the repositories whose jobs are counted",
            path("repositoryNames")
        ));
    }
    Ok(repositories.into_iter().collect())
}

fn busy(spec: &MetricSpec, path: &impl Fn(&str) -> String) -> Result<Busy, String> {
    let number = |field: &str, text: &Option<String>, default: f64| match text.as_deref().unwrap_or_default()
    {
        "" => Ok(default),
        text => text.parse().map_err(|_| {
            format!(
                "{}: {text:?} is no number: write one, quoted, such as \"0.75\"",
                path(field)
            )
        }),
    };
    let change = |adjustment: (&str, Option<i64>), factor: (&str, &Option<String>), default: f64| {
        let by = adjustment.1.unwrap_or(0);
        if by < 0 {
            return Err(format!(
                "{}: {by} is negative: write a whole number, 0 or more",
                path(adjustment.0)
            ));
        }
        let given = factor.1.as_deref().is_some_and(|text| !text.is_empty());
        match (by, given) {
            (0, _) => number(factor.0, factor.1, default).map(Change::Factor),
            (_, true) => Err(format!(
                "{}: {by} cannot be combined with {}: set one of the two",
                path(adjustment.0),
                factor.0
            )),
            (by, false) => Ok(Change::Adjustment(by)),
        }
    };
    Ok(Busy {
        up_threshold: number("scaleUpThreshold", &spec.scale_up_threshold, 0.8)?,
        down_threshold: number("scaleDownThreshold", &spec.scale_down_threshold, 0.3)?,
        up: change(
            ("scaleUpAdjustment", spec.scale_up_adjustment),
            ("scaleUpFactor", &spec.scale_up_factor),
            1.3,
        )?,
        down: change(
            ("scaleDownAdjustment", spec.scale_down_adjustment),
            ("scaleDownFactor", &spec.scale_down_factor),
            0.7,
        )?,
    })
}

/// Runners of the target, as GitHub sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusyCounts {
    /// Runners of the target.
    pub runners: i64,
    /// Those that GitHub lists.
    pub registered: i64,
    /// Those that have a job.
    pub busy: i64,
    /// Those that could not be unregistered because they had a job, and that GitHub does not call busy.
    pub terminating_busy: i64,
}

/// Counts the target's runners by their names: `listed` is what GitHub lists, with whether it has a job; `kept` are those whose removal GitHub refused.
pub fn count_runners<'a>(
    own: &BTreeSet<&str>,
    listed: impl IntoIterator<Item = (&'a str, bool)>,
    kept: &BTreeSet<&str>,
) -> BusyCounts {
    let mut counts = BusyCounts {
        runners: number(own.len()),
        ..BusyCounts::default()
    };
    let mut unlisted = kept.clone();
    for (name, is_busy) in listed {
        if !own.contains(name) {
            continue;
        }
        counts.registered += 1;
        if is_busy {
            counts.busy += 1;
        } else if unlisted.contains(name) {
            counts.terminating_busy += 1;
        }
        unlisted.remove(name);
    }
    counts.terminating_busy += number(unlisted.len());
    counts
}

impl Busy {
    /// How many runners there shall be. `before` is the target's `spec.replicas`; absent counts as 1.
    ///
    /// The share is of `before`, not of the runners that are there. Where that is 0, no busy runner leaves it at 0, and any is more than every
    /// threshold (spec 02 Q22).
    pub fn suggest(&self, counts: &BusyCounts, before: Option<i64>) -> i64 {
        let before = before.unwrap_or(1);
        let share = real(counts.busy.saturating_add(counts.terminating_busy)) / real(before);
        if share >= self.up_threshold {
            match self.up {
                Change::Adjustment(by) => before.saturating_add(by),
                Change::Factor(factor) => whole((real(before) * factor).ceil()),
            }
        } else if share < self.down_threshold {
            match self.down {
                Change::Adjustment(by) => before.saturating_sub(by),
                Change::Factor(factor) => whole((real(before) * factor).trunc()),
            }
        } else {
            before
        }
    }
}

/// A run as GitHub lists it, for counting.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// Id.
    pub id: u64,
    /// `queued`, `in_progress`, …
    pub status: &'a str,
    /// Status and labels of its jobs; empty where they were not asked for.
    pub jobs: Vec<(&'a str, &'a [String])>,
}

/// Whether the jobs of a run with this status matter.
pub fn has_demand(status: &str) -> bool {
    matches!(status, "queued" | "in_progress")
}

/// Jobs and runs of all repositories together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Jobs that match and wait for a runner.
    pub queued: i64,
    /// Jobs that match and have one.
    pub in_progress: i64,
    /// Runs that are over.
    pub completed: i64,
    /// Runs and matching jobs in other states, such as `waiting`: no demand (spec 02 Q48).
    pub unknown: i64,
}

impl JobCounts {
    /// The metric's value.
    pub fn demand(&self) -> i64 {
        self.queued.saturating_add(self.in_progress)
    }

    /// Adds the runs of one repository; one that is listed twice, since it began in between, counts once.
    pub fn add<'a>(&mut self, runs: impl IntoIterator<Item = Run<'a>>, labels: &HashSet<String>) {
        let mut seen = HashSet::new();
        for run in runs.into_iter().filter(|run| seen.insert(run.id)) {
            match run.status {
                "completed" => self.completed += 1,
                status if has_demand(status) => {}
                _ => self.unknown += 1,
            }
            // compat: a run without an id has no jobs to ask for (spec 02 §5.2.1).
            if run.id == 0 || !has_demand(run.status) {
                continue;
            }
            for (status, asked) in run.jobs {
                if !suits(asked, labels) {
                    continue;
                }
                match status {
                    "queued" => self.queued += 1,
                    "in_progress" => self.in_progress += 1,
                    "completed" => {}
                    _ => self.unknown += 1,
                }
            }
        }
    }
}

/// Labels of runners for [`JobCounts::add`]: those of the target and those that all runners get.
pub fn labels<'a>(labels: impl IntoIterator<Item = &'a String>) -> HashSet<String> {
    labels.into_iter().map(|label| label.to_lowercase()).collect()
}

/// Whether runners with these labels, in lower case, take a job. One without labels asks for GitHub's own runners.
fn suits(asked: &[String], labels: &HashSet<String>) -> bool {
    !asked.is_empty()
        && asked
            .iter()
            .map(|label| label.to_lowercase())
            .all(|label| label == SELF_HOSTED || labels.contains(&label))
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Numbers of runners are exact in floating point.
fn real(count: i64) -> f64 {
    let bound = i64::from(i32::MAX);
    f64::from(i32::try_from(count.clamp(-bound, bound)).unwrap_or(i32::MAX))
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "a whole number already; what is too large or no number is cut to the bounds, which is right here"
)]
fn whole(value: f64) -> i64 {
    value as i64
}

#[cfg(test)]
mod tests;
