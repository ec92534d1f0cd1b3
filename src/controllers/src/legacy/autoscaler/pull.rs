//! Pull metrics of autoscalers: GitHub is asked beside the reconcile, once per sync period, so that a slow answer never delays a webhook's job.
//! reconcile → [`read`] (what is known; starts asking when due) … [`ask`] … → remembered, and the autoscaler is looked at again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use muster_core::{
    autoscale::{
        demand::Pull,
        metrics::{self, Metrics},
    },
    scope::Scope,
    target::TargetId,
};
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use muster_runtime::{
    drive::{Class, Failure},
    telemetry::chain,
};

use super::{
    COMPONENT,
    ask::{Answer, Confirmed, Unanswered, ask},
    gauges::Place,
};
use crate::{context::Context, error::Error, legacy::target::Target};

/// First wait after GitHub did not answer; it doubles up to [`LONGEST`].
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(5);
const LONGEST: SignedDuration = SignedDuration::from_mins(1);
/// No wait is longer, however GitHub wishes it.
const LONGEST_THROTTLE: SignedDuration = SignedDuration::from_mins(15);

/// What is asked, and on whose behalf. Another question voids the answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) uid: String,
    pub(super) metrics: Metrics,
    pub(super) scope: Scope,
    /// Labels of the runners in lower case.
    pub(super) labels: HashSet<String>,
    pub(super) target: TargetId,
    /// Secret of the login; the process-wide one without.
    pub(super) secret: Option<String>,
}

/// What the reconcile learns.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) pull: Pull,
    /// Why the number is unknown: reason and message.
    pub(super) trouble: Option<(&'static str, String)>,
    /// GitHub has been asked at least once, so that the condition can say how it went.
    pub(super) is_settled: bool,
    /// When GitHub is asked next.
    pub(super) due: Option<Timestamp>,
}

/// No metrics.
const OFF: Reading = Reading {
    pull: Pull::Off,
    trouble: None,
    is_settled: true,
    due: None,
};

#[derive(Debug)]
struct Sample {
    question: Question,
    pull: Pull,
    trouble: Option<(&'static str, String)>,
    is_asking: bool,
    is_settled: bool,
    due: Timestamp,
    failures: u32,
}

/// What GitHub answered last, by autoscaler (namespace and name).
#[derive(Debug, Default)]
pub(crate) struct Samples {
    by_name: Mutex<HashMap<(String, String), Sample>>,
    pub(super) confirmed: Confirmed,
}

impl Samples {
    /// Forgets an autoscaler that is gone or has no metrics any more.
    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        self.by_name
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// What is known, and whether somebody must ask now.
    fn look(&self, key: &(String, String), question: &Question, now: Timestamp) -> (Reading, bool) {
        let mut all = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(key).is_none_or(|sample| sample.question != *question) {
            all.insert(
                key.clone(),
                Sample {
                    question: question.clone(),
                    pull: Pull::Unknown { at_least: 0 },
                    trouble: None,
                    is_asking: false,
                    is_settled: false,
                    due: now,
                    failures: 0,
                },
            );
        }
        let Some(sample) = all.get_mut(key) else {
            return (OFF, false);
        };
        let must_ask = !sample.is_asking && sample.due <= now;
        sample.is_asking |= must_ask;
        let reading = Reading {
            pull: sample.pull,
            trouble: sample.trouble.clone(),
            is_settled: sample.is_settled,
            due: (!sample.is_asking).then_some(sample.due),
        };
        (reading, must_ask)
    }

    fn keep(
        &self,
        key: &(String, String),
        question: &Question,
        outcome: Result<&Answer, &Unanswered>,
        (now, period): (Timestamp, Duration),
    ) {
        let mut all = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sample) = all.get_mut(key).filter(|sample| sample.question == *question) else {
            return;
        };
        (sample.is_asking, sample.is_settled) = (false, true);
        let wait = match outcome {
            Ok(answer) => {
                sample.pull = Pull::Known {
                    value: answer.value,
                    as_of: answer.as_of,
                };
                (sample.trouble, sample.failures) = (None, 0);
                SignedDuration::try_from(period).unwrap_or(SignedDuration::MAX)
            }
            Err(unanswered) => {
                sample.pull = Pull::Unknown {
                    at_least: unanswered.at_least,
                };
                let wait = patience(&unanswered.error, sample.failures);
                sample.failures = sample.failures.saturating_add(1);
                sample.trouble = Some((unanswered.error.reason(), sentence(&unanswered.error)));
                wait
            }
        };
        sample.due = now.checked_add(wait).unwrap_or(Timestamp::MAX);
    }
}

/// When to ask again after a failure (91 B5).
fn patience(error: &Error, failures: u32) -> SignedDuration {
    match error.class() {
        Class::Throttled(wait) => SignedDuration::try_from(wait)
            .unwrap_or(LONGEST_THROTTLE)
            .clamp(SignedDuration::from_secs(1), LONGEST_THROTTLE),
        _ => FIRST_WAIT
            .checked_mul(1 << failures.min(10))
            .unwrap_or(LONGEST)
            .min(LONGEST),
    }
}

fn sentence(error: &Error) -> String {
    let why = format!(
        "{}: the target keeps its runners until GitHub answers",
        chain(error)
    );
    match error.remedy() {
        "" => why,
        remedy => format!("{why}. {remedy}"),
    }
}

/// What the metrics say; GitHub is asked in the background when that is due.
///
/// # Errors
/// [`Error::Invalid`] when the metrics cannot be evaluated.
pub(super) fn read(
    context: &Arc<Context>,
    autoscaler: &HorizontalRunnerAutoscaler,
    target: &Target,
    now: Timestamp,
) -> Result<Reading, Error> {
    let (namespace, name) = (autoscaler.namespace().unwrap_or_default(), autoscaler.name_any());
    let Some(question) = question(context, autoscaler, target)? else {
        context.samples.forget(&namespace, &name);
        context.metrics.pull.forget(&namespace, &name);
        return Ok(OFF);
    };
    let key = (namespace, name);
    let (reading, must_ask) = context.samples.look(&key, &question, now);
    if must_ask {
        let (context, before) = (Arc::clone(context), target.replicas());
        let place = Place::new(&key, target);
        context.tasks.clone().spawn(async move {
            let stop = context.stop.clone();
            let asked = ask(&context, &question, before);
            let Some(outcome) = stop.run_until_cancelled(asked).await else {
                return;
            };
            match &outcome {
                Ok(answer) => context.metrics.pull.show(&place, answer),
                Err(unanswered) => {
                    let error = chain(&unanswered.error);
                    tracing::debug!(controller = COMPONENT, object = %format_args!("{}/{}", key.0, key.1), error = %error, at_least = unanswered.at_least, "The pull metrics could not be read.");
                }
            }
            let times = (context.clock.now(), context.resync(&key.1));
            context.samples.keep(&key, &question, outcome.as_ref(), times);
            context.autoscalers.add(&key.0, &key.1);
        });
    }
    Ok(reading)
}

fn question(
    context: &Context,
    autoscaler: &HorizontalRunnerAutoscaler,
    target: &Target,
) -> Result<Option<Question>, Error> {
    let specs = autoscaler.spec.metrics.as_deref().unwrap_or_default();
    if specs.is_empty() {
        return Ok(None);
    }
    let invalid = |message: String| Error::Invalid { message };
    let config = target.config();
    let scope = Scope::from_fields(
        config.repository.as_deref(),
        config.organization.as_deref(),
        config.enterprise.as_deref(),
    )
    .map_err(|error| invalid(format!("{}: {error}", target.id())))?;
    let Some(metrics) = metrics::parse(specs, &scope).map_err(invalid)? else {
        return Ok(None);
    };
    // As for its webhooks (`reconciliation::pools`): the autoscaler's own login, else its target's.
    let secret = [
        autoscaler.spec.github_api_credentials_from.as_ref(),
        config.github_api_credentials_from.as_ref(),
    ]
    .into_iter()
    .flatten()
    .filter_map(|from| from.secret_ref.as_ref())
    .map(|secret| secret.name.clone())
    .find(|name| !name.is_empty());
    let labels = config.labels.iter().flatten();
    Ok(Some(Question {
        uid: autoscaler.uid().unwrap_or_default(),
        metrics,
        scope,
        labels: metrics::labels(labels.chain(&context.settings.common_runner_labels)),
        target: target.id(),
        secret,
    }))
}

#[cfg(test)]
mod tests {
    use muster_core::autoscale::metrics::{Metric, Repository, Source, Value};

    use super::*;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn asked(label: &str) -> Question {
        Question {
            uid: "1".to_owned(),
            metrics: Metrics {
                first: Metric::Jobs(vec![Repository {
                    owner: "acme".to_owned(),
                    name: "api".to_owned(),
                }]),
                second: None,
            },
            scope: Scope::Organization("acme".to_owned()),
            labels: HashSet::from([label.to_owned()]),
            target: TargetId::new(muster_core::target::TargetKind::Deployment, "ns", "rd"),
            secret: None,
        }
    }

    fn answer(replicas: i64) -> Answer {
        Answer {
            value: Value {
                replicas,
                source: Source::Jobs,
                is_second: false,
            },
            as_of: t(0),
            runners: None,
            jobs: None,
        }
    }

    #[test]
    fn one_asks_at_a_time_and_again_when_due() {
        let (samples, key) = (Samples::default(), ("ns".to_owned(), "hra".to_owned()));
        let period = Duration::from_mins(1);
        let look = |at: i64| samples.look(&key, &asked("x"), t(at));
        let (reading, must_ask) = look(0);
        assert!(must_ask && !reading.is_settled);
        assert_eq!(reading.pull, Pull::Unknown { at_least: 0 });
        assert!(!look(1).1, "somebody is asking");
        samples.keep(&key, &asked("x"), Ok(&answer(4)), (t(2), period));
        let (reading, must_ask) = look(3);
        assert!(matches!(reading.pull, Pull::Known { value, .. } if value.replicas == 4));
        assert_eq!((reading.due, must_ask), (Some(t(62)), false));
        assert!(look(62).1);
        // An answer to an old question is nobody's.
        let (reading, must_ask) = samples.look(&key, &asked("y"), t(63));
        assert!(must_ask && !reading.is_settled);
        samples.keep(&key, &asked("x"), Ok(&answer(9)), (t(64), period));
        assert_eq!(
            samples.look(&key, &asked("y"), t(65)).0.pull,
            Pull::Unknown { at_least: 0 }
        );
        samples.forget("ns", "hra");
        assert!(look(66).1);
    }

    #[test]
    fn a_failure_is_unknown_and_asked_about_again_soon() {
        let (samples, key) = (Samples::default(), ("ns".to_owned(), "hra".to_owned()));
        let mut now = t(0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            assert!(samples.look(&key, &asked("x"), now).1);
            let unanswered = Unanswered {
                error: Error::Bug("no answer".to_owned()),
                at_least: 2,
            };
            samples.keep(&key, &asked("x"), Err(&unanswered), (now, Duration::from_mins(1)));
            let (reading, _) = samples.look(&key, &asked("x"), now);
            assert_eq!(reading.pull, Pull::Unknown { at_least: 2 });
            let (reason, message) = reading.trouble.unwrap();
            assert!(
                reason == "InternalError" && message.contains("keeps its runners"),
                "{message}"
            );
            let due = reading.due.unwrap();
            waits.push(due.duration_since(now).as_secs());
            now = due;
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    }
}
