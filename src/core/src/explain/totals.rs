//! One line per pool, for `top`.

use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;

use super::{Code, Existing, Observed, Reason, Subject, Wanted, facts::Pool, pool, text::Secrets};

/// A pool in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The target.
    pub subject: Subject,
    /// Its autoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaler: Option<String>,
    /// What is wanted.
    pub wanted: Wanted,
    /// What there is.
    pub existing: Existing,
    /// How long the oldest job without a runner waits, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_queued_seconds: Option<i64>,
    /// The first reason.
    pub reason: Reason,
}

impl Line {
    /// Something is wrong that a person should look at.
    pub fn is_bad(&self) -> bool {
        self.reason.code < Code::WaitingForPod
    }
}

/// A line for each pool, by namespace and name.
pub fn totals(observed: &Observed, namespace: Option<&str>, now: Timestamp) -> Vec<Line> {
    let secrets = Secrets::of(&observed.pods);
    let mut lines: Vec<Line> = Pool::all(observed, namespace)
        .iter()
        .filter_map(|found| line(found, &secrets, now))
        .collect();
    lines.sort_by(|a, b| {
        let key = |line: &Line| (line.subject.namespace.clone(), line.subject.name.clone());
        key(a).cmp(&key(b))
    });
    lines
}

fn line(found: &Pool<'_>, secrets: &Secrets, now: Timestamp) -> Option<Line> {
    let mut reason = pool::reasons(found, now).into_iter().next()?;
    reason.sentence = secrets.clean(&reason.sentence);
    let oldest = found
        .jobs(now)
        .iter()
        .filter(|job| job.runner.is_none())
        .filter_map(|job| job.since)
        .min();
    Some(Line {
        subject: found.subject(),
        autoscaler: found.autoscaler().map(ResourceExt::name_any),
        wanted: pool::wanted(found, now),
        existing: pool::existing(found, now),
        oldest_queued_seconds: oldest.map(|at| now.duration_since(at).as_secs().max(0)),
        reason,
    })
}
