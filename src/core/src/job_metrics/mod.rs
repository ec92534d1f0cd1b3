//! What the events and the log of a workflow job are worth in numbers (spec 03 part 2).
//!
//! An event gives observations at once and, rarely, a question to the job's log: which exit code a failed job had, or how long something took
//! where the event does not say when it began. [`observe`] is the first half, [`Pending::conclude`] the second.

mod labels;
mod log;
#[cfg(test)]
mod tests;

use jiff::Timestamp;

pub use self::{
    labels::{Bounds, JobLabel, LabelError, LabelSet, Labeller, parse_labels},
    log::{JobLog, LogReader},
};

/// Upper bounds of both histograms, in seconds: upstream's, so that recorded series continue.
pub const BOUNDS: [f64; 45] = [
    0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 15.0, 18.0, 20.0, 25.0,
    30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0, 110.0, 120.0, 150.0, 180.0, 210.0, 240.0, 300.0, 360.0,
    420.0, 480.0, 540.0, 600.0, 900.0, 1200.0, 1800.0, 2400.0, 3000.0, 3600.0,
];

/// What an event says about a job; what it does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobView<'a> {
    /// `queued`, `in_progress`, `completed`, or something else.
    pub action: &'a str,
    /// What `runs-on` asks for, in the payload's order.
    pub runs_on: Vec<&'a str>,
    /// Name of the job.
    pub job_name: &'a str,
    /// Name of the organization, or its login.
    pub organization: &'a str,
    /// Name of the repository without its owner.
    pub repository: &'a str,
    /// `owner/name`.
    pub repository_full_name: &'a str,
    /// Login of the repository's owner.
    pub owner: &'a str,
    /// Name of the workflow.
    pub workflow_name: &'a str,
    /// Branch that the workflow runs on.
    pub head_branch: &'a str,
    /// How the job ended.
    pub conclusion: &'a str,
    /// How its steps ended, in order; empty for one that did not.
    pub steps: Vec<&'a str>,
    /// A runner took it.
    pub has_runner: bool,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// When it began; for one that never did GitHub repeats another time.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}

/// Something to count or to note.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// The job waits for a runner.
    Queued,
    /// A runner took it.
    Started,
    /// It ended.
    Completed,
    /// It ended like this.
    Concluded(String),
    /// It failed.
    Failed {
        /// Position of the step that failed, from 0 as upstream counts.
        step: Option<usize>,
        /// What the failed process returned.
        exit_code: ExitCode,
    },
    /// It had waited so many seconds for a runner.
    QueuedFor(f64),
    /// It ran for so long.
    RanFor {
        /// How it ended.
        conclusion: String,
        /// Seconds.
        seconds: f64,
    },
}

/// What is known of a failed job's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// The log could not be read, or nobody may read it.
    NotAvailable,
    /// The log names none.
    Unnamed,
    /// The step took too long.
    TimedOut,
    /// The log's last.
    Code(i64),
}

impl std::fmt::Display for ExitCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAvailable => f.write_str("na"),
            Self::Unnamed => f.write_str("null"),
            Self::TimedOut => f.write_str("timed_out"),
            Self::Code(code) => write!(f, "{code}"),
        }
    }
}

/// What only the job's log can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    failure: Option<Failure>,
    duration: Option<Measured>,
}

/// A failure whose exit code the log can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    step: Option<usize>,
}

/// A duration that the log can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Measured {
    Queue,
    Run { conclusion: String },
}

/// What an event says by itself, and what the job's log should be asked for, if anything.
pub fn observe(job: &JobView<'_>) -> (Vec<Observation>, Option<Pending>) {
    match job.action {
        "queued" => (vec![Observation::Queued], None),
        "in_progress" => started(job),
        "completed" => completed(job),
        _ => (Vec::new(), None),
    }
}

fn started(job: &JobView<'_>) -> (Vec<Observation>, Option<Pending>) {
    let mut seen = vec![Observation::Started];
    match seconds(job.created_at, job.started_at) {
        Elapsed::Seconds(seconds) => seen.push(Observation::QueuedFor(seconds)),
        Elapsed::Absurd => {}
        Elapsed::Unknown => {
            let duration = Some(Measured::Queue);
            return (
                seen,
                Some(Pending {
                    failure: None,
                    duration,
                }),
            );
        }
    }
    (seen, None)
}

fn completed(job: &JobView<'_>) -> (Vec<Observation>, Option<Pending>) {
    let conclusion = job.conclusion.to_owned();
    let mut seen = vec![Observation::Completed, Observation::Concluded(conclusion.clone())];
    let mut pending = Pending {
        failure: None,
        duration: None,
    };
    if job.conclusion == "failure" {
        let failed = |step: &&str| matches!(*step, "failure" | "timed_out");
        let step = job.steps.iter().position(failed);
        if step.and_then(|step| job.steps.get(step)) == Some(&"timed_out") {
            let exit_code = ExitCode::TimedOut;
            seen.push(Observation::Failed { step, exit_code });
        } else {
            pending.failure = Some(Failure { step });
        }
    }
    // A job that no runner took did not run, whatever its times are.
    if job.has_runner {
        match seconds(job.started_at, job.completed_at) {
            Elapsed::Seconds(seconds) => seen.push(Observation::RanFor { conclusion, seconds }),
            Elapsed::Absurd => {}
            Elapsed::Unknown => pending.duration = Some(Measured::Run { conclusion }),
        }
    }
    let asks = pending.failure.is_some() || pending.duration.is_some();
    (seen, asks.then_some(pending))
}

impl Pending {
    /// What there is to note once the log was read, or is known to stay unread.
    pub fn conclude(self, log: Option<&JobLog>) -> Vec<Observation> {
        let mut seen = Vec::new();
        if let Some(Failure { step }) = self.failure {
            let exit_code = match log {
                None => ExitCode::NotAvailable,
                Some(log) => log.exit_code.map_or(ExitCode::Unnamed, ExitCode::Code),
            };
            seen.push(Observation::Failed { step, exit_code });
        }
        let between = |from, to| match seconds(from, to) {
            Elapsed::Seconds(seconds) => Some(seconds),
            Elapsed::Unknown | Elapsed::Absurd => None,
        };
        match (self.duration, log) {
            (Some(Measured::Queue), Some(log)) => {
                seen.extend(between(log.queued_at, log.started_at).map(Observation::QueuedFor));
            }
            (Some(Measured::Run { conclusion }), Some(log)) => {
                let seconds = between(log.started_at, log.completed_at);
                seen.extend(seconds.map(|seconds| Observation::RanFor { conclusion, seconds }));
            }
            _ => {}
        }
        seen
    }
}

enum Elapsed {
    Seconds(f64),
    /// One of the times is missing.
    Unknown,
    /// The end is before the begin: neither time can be trusted, and a negative number would ruin the sum for good.
    Absurd,
}

fn seconds(from: Option<Timestamp>, to: Option<Timestamp>) -> Elapsed {
    match (from, to) {
        (Some(from), Some(to)) if from <= to => Elapsed::Seconds(to.duration_since(from).as_secs_f64()),
        (Some(_), Some(_)) => Elapsed::Absurd,
        _ => Elapsed::Unknown,
    }
}
