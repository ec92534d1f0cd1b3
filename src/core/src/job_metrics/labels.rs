//! Which labels a job's metrics carry, and how many series that may make.
//!
//! Branches, job names and even `runs-on` are written by whoever writes workflows, so their number has no bound of its own: upstream's metrics grow
//! with every branch until something breaks. Here a label has a limited number of values, and all labels together a limited number of
//! combinations; what comes after is counted under `other`.

use std::collections::{HashMap, HashSet};

use super::JobView;

/// What stands for values that found no room.
const OTHER: &str = "other";

/// The most characters of a value that are kept.
const VALUE_LIMIT: usize = 256;

/// GitHub's conclusions.
const CONCLUSIONS: [&str; 9] = [
    "action_required",
    "cancelled",
    "failure",
    "neutral",
    "skipped",
    "stale",
    "startup_failure",
    "success",
    "timed_out",
];

/// A label that tells jobs apart, by upstream's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "fields of JobView of the same name")]
pub enum JobLabel {
    RunsOn,
    JobName,
    Organization,
    Repository,
    RepositoryFullName,
    Owner,
    WorkflowName,
    HeadBranch,
}

impl JobLabel {
    /// Upstream's labels, in its order.
    pub const ALL: [Self; 8] = [
        Self::RunsOn,
        Self::JobName,
        Self::Organization,
        Self::Repository,
        Self::RepositoryFullName,
        Self::Owner,
        Self::WorkflowName,
        Self::HeadBranch,
    ];

    /// Those whose values follow from how runners are set up, and not from what is run on them.
    pub const BOUNDED: [Self; 3] = [Self::RunsOn, Self::Organization, Self::Owner];

    /// The label's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunsOn => "runs_on",
            Self::JobName => "job_name",
            Self::Organization => "organization",
            Self::Repository => "repository",
            Self::RepositoryFullName => "repository_full_name",
            Self::Owner => "owner",
            Self::WorkflowName => "workflow_name",
            Self::HeadBranch => "head_branch",
        }
    }

    fn value(self, job: &JobView<'_>) -> String {
        let text: &str = match self {
            Self::RunsOn => &job.runs_on.join(","),
            Self::JobName => job.job_name,
            Self::Organization => job.organization,
            Self::Repository => job.repository,
            Self::RepositoryFullName => job.repository_full_name,
            Self::Owner => job.owner,
            Self::WorkflowName => job.workflow_name,
            Self::HeadBranch => job.head_branch,
        };
        text.chars().take(VALUE_LIMIT).collect()
    }
}

/// A list of labels that names one which does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no label of jobs; there are {}, and \"all\"", JobLabel::ALL.map(JobLabel::as_str).join(", "))]
pub struct LabelError {
    name: String,
}

/// Reads `runs_on,owner`, or `all`. The order is upstream's whatever the text's.
///
/// # Errors
/// [`LabelError`] for a name that is none.
pub fn parse_labels(text: &str) -> Result<Vec<JobLabel>, LabelError> {
    if text.trim() == "all" {
        return Ok(JobLabel::ALL.to_vec());
    }
    let names: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let known = |name: &str| JobLabel::ALL.iter().any(|label| label.as_str() == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        return Err(LabelError {
            name: (*name).to_owned(),
        });
    }
    let chosen = JobLabel::ALL
        .into_iter()
        .filter(|label| names.contains(&label.as_str()));
    Ok(chosen.collect())
}

/// How much room there is; 0 is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Values of each label.
    pub values: usize,
    /// Combinations of all labels.
    pub sets: usize,
}

impl Bounds {
    /// No bounds: upstream's behaviour.
    pub const NONE: Self = Self { values: 0, sets: 0 };
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            values: 100,
            sets: 1_000,
        }
    }
}

/// The labels of a job, ready to be shown.
pub type LabelSet = Vec<(&'static str, String)>;

/// Gives jobs their labels and remembers which it gave.
#[derive(Clone, Debug)]
pub struct Labeller {
    chosen: Vec<JobLabel>,
    bounds: Bounds,
    values: HashMap<JobLabel, HashSet<String>>,
    sets: HashSet<LabelSet>,
}

impl Labeller {
    /// A labeller that has seen no job.
    pub fn new(chosen: Vec<JobLabel>, bounds: Bounds) -> Self {
        Self {
            chosen,
            bounds,
            values: HashMap::new(),
            sets: HashSet::new(),
        }
    }

    /// The labels of this job, and whether one of them had to become `other`.
    pub fn label(&mut self, job: &JobView<'_>) -> (LabelSet, bool) {
        let mut overflowed = false;
        let mut set: LabelSet = Vec::with_capacity(self.chosen.len());
        for label in &self.chosen {
            let value = label.value(job);
            let known = self.values.entry(*label).or_default();
            let value = if self.bounds.values == 0 || known.contains(&value) {
                value
            } else if known.len() < self.bounds.values {
                known.insert(value.clone());
                value
            } else {
                overflowed = true;
                OTHER.to_owned()
            };
            set.push((label.as_str(), value));
        }
        if self.bounds.sets == 0 || self.sets.contains(&set) {
            return (set, overflowed);
        }
        if self.sets.len() < self.bounds.sets {
            self.sets.insert(set.clone());
            return (set, overflowed);
        }
        for (_, value) in &mut set {
            OTHER.clone_into(value);
        }
        (set, true)
    }

    /// A conclusion as a label: one of GitHub's, or `other`.
    pub fn conclusion(&self, conclusion: &str) -> String {
        let known = conclusion.is_empty() || CONCLUSIONS.contains(&conclusion);
        self.bounded(known, conclusion)
    }

    /// The position of a failed step as a label; `null` where none failed.
    pub fn failed_step(&self, step: Option<usize>) -> String {
        match step {
            None => "null".to_owned(),
            Some(step) => self.bounded(step < 100, &step.to_string()),
        }
    }

    /// An exit code as a label. Those of Linux fit into a byte.
    pub fn exit_code(&self, code: super::ExitCode) -> String {
        let known = match code {
            super::ExitCode::Code(code) => (0..=255).contains(&code),
            _ => true,
        };
        self.bounded(known, &code.to_string())
    }

    fn bounded(&self, known: bool, value: &str) -> String {
        if known || self.bounds.values == 0 {
            value.chars().take(VALUE_LIMIT).collect()
        } else {
            OTHER.to_owned()
        }
    }
}
