//! Observed objects + now → why a pool, a runner or a job is as it is (90 FEATURE 5, PAIN-26).
//!
//! ```text
//! observed (our kinds, pods, Events) -> facts (pools and what belongs to them)
//!     -> condition.rs, pod.rs, pool.rs: reasons, each with a code, a sentence, an end and a remedy
//!     -> job.rs, runner.rs: those that matter to one job or runner
//!     -> text.rs: nothing secret, nothing that steers a terminal
//! ```
//!
//! Everything comes from what a reader of our kinds, pods and Events sees: what only a process knows (a rate limit, a refused permission) stands in a
//! condition or an Event. The words are those of conditions and holds, see [`Code`].

mod code;
mod condition;
mod facts;
mod job;
mod limits;
pub mod notice;
mod pod;
mod pool;
mod runner;
pub mod text;
mod totals;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use muster_crds::legacy::{
    HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet, RunnerSet,
};
use serde::Serialize;

pub use code::Code;
pub use condition::{LIMITED, QUEUE_RECONCILED, RECONCILED, STARTUP_FAILING};
pub use job::JobQuery;
pub use totals::{Line, totals};

/// Everything that was read, of one namespace or of all.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// `HorizontalRunnerAutoscaler`s.
    pub autoscalers: Vec<HorizontalRunnerAutoscaler>,
    /// `RunnerDeployment`s.
    pub deployments: Vec<RunnerDeployment>,
    /// `RunnerReplicaSet`s.
    pub replica_sets: Vec<RunnerReplicaSet>,
    /// `RunnerSet`s.
    pub runner_sets: Vec<RunnerSet>,
    /// `Runner`s.
    pub runners: Vec<Runner>,
    /// Runner pods.
    pub pods: Vec<Pod>,
    /// Events, of whatever object.
    pub events: Vec<Event>,
}

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A pool, by the name of its RunnerDeployment, RunnerSet or autoscaler.
    Pool(String),
    /// A runner, by the name of its Runner or pod.
    Runner(String),
    /// A job.
    Job(JobQuery),
}

/// Kind, namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Subject {
    /// Kind; `Job` for a job of GitHub's.
    pub kind: String,
    /// Namespace; empty where there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name; a job's is its key.
    pub name: String,
}

impl Subject {
    pub(crate) fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// One answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The machine-readable word.
    pub code: Code,
    /// The object that it is about.
    pub object: Subject,
    /// A sentence for people.
    pub sentence: String,
    /// Since when it is so, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it ends by itself, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What to do; empty where nothing needs doing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// So many other objects of the kind have the same reason.
    #[serde(skip_serializing_if = "is_zero")]
    pub others: usize,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Reason {
    fn new(code: Code, object: Subject, sentence: impl Into<String>) -> Self {
        Self {
            code,
            object,
            sentence: sentence.into(),
            since: None,
            until: None,
            remedy: code.remedy().to_owned(),
            others: 0,
        }
    }

    fn since(mut self, at: Option<Timestamp>) -> Self {
        self.since = at;
        self
    }

    fn until(mut self, at: Option<Timestamp>) -> Self {
        self.until = at;
        self
    }
}

/// What is asked of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// Runners that the target shall have now; absent while nobody has decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Fewest runners, by the autoscaler and its schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// Most runners, by the autoscaler and its schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// Jobs and other capacity that count in the ledger.
    pub demand: i64,
    /// Jobs that no runner has yet.
    pub queued: i64,
}

/// What there is of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Existing {
    /// Runners that are up or on their way.
    pub runners: usize,
    /// Pods that wait for a node or for their containers.
    pub starting: usize,
    /// Containers that are up and not known to GitHub yet.
    pub registering: usize,
    /// Runners that have a job.
    pub busy: usize,
    /// Runners that wait for one.
    pub idle: usize,
    /// Runners that are asked to go, or have ended.
    pub stopping: usize,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What it is about.
    pub subject: Subject,
    /// The autoscaler of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaler: Option<String>,
    /// When the objects were read.
    pub at: Timestamp,
    /// What is wanted of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Wanted>,
    /// What there is of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing: Option<Existing>,
    /// Why, the most pressing first; never empty.
    pub reasons: Vec<Reason>,
}

impl Explanation {
    fn bare(subject: Subject, at: Timestamp, reasons: Vec<Reason>) -> Self {
        Self {
            subject,
            autoscaler: None,
            at,
            wanted: None,
            existing: None,
            reasons,
        }
    }
}

/// Answers a question. `namespace` narrows it where several have something of that name.
///
/// There is always a reason; [`Code::NotFound`] where nothing of that name was read.
pub fn explain(
    question: &Question,
    namespace: Option<&str>,
    observed: &Observed,
    now: Timestamp,
) -> Explanation {
    let mut explanation = match question {
        Question::Pool(name) => pool::explain(observed, namespace, name, now),
        Question::Runner(name) => runner::explain(observed, namespace, name, now),
        Question::Job(query) => job::explain(observed, namespace, query, now),
    };
    let secrets = text::Secrets::of(&observed.pods);
    for reason in &mut explanation.reasons {
        reason.sentence = secrets.clean(&reason.sentence);
        reason.remedy = secrets.clean(&reason.remedy);
    }
    explanation
}
