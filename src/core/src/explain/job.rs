//! A job → where it stands in a ledger, and why it has no runner.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use muster_crds::legacy::{CapacityReservation, HorizontalRunnerAutoscaler};

use super::{
    Code, Explanation, Observed, Reason, Subject, facts::Pool, limits::Bounds, notice::JobNotice, pod, pool,
    text::span,
};
use crate::{
    autoscale::reservation::{self, JobKey, Kind},
    pods::PodView,
};

/// GitHub gives a job to an idle runner within seconds.
const DISPATCH_PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// Which job is meant: its key, or its id alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobQuery {
    key: Option<JobKey>,
    job_id: u64,
}

impl JobQuery {
    /// Reads a ledger key (`<repository id>/<job id>`), a job id, or the address of a job on GitHub.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches('/');
        if let Some((_, rest)) = text.split_once("/job/") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return digits.parse().ok().map(|job_id| Self { key: None, job_id });
        }
        let text = text.split('@').next().unwrap_or_default();
        if let Some(key) = JobKey::parse(text) {
            return Some(Self {
                job_id: key.job_id(),
                key: Some(key),
            });
        }
        text.parse().ok().map(|job_id| Self { key: None, job_id })
    }

    fn is(&self, key: &JobKey) -> bool {
        match &self.key {
            // Who asks leaves the server out where there is only one.
            Some(wanted) => {
                (wanted.repository_id(), wanted.job_id()) == (key.repository_id(), key.job_id())
                    && (wanted.host().is_none() || wanted.host() == key.host())
            }
            None => self.job_id == key.job_id(),
        }
    }

    fn text(&self) -> String {
        self.key
            .as_ref()
            .map_or_else(|| self.job_id.to_string(), JobKey::to_string)
    }
}

/// An entry of the job.
struct Held<'a> {
    autoscaler: &'a HorizontalRunnerAutoscaler,
    entry: &'a CapacityReservation,
    key: JobKey,
    runner: Option<&'a str>,
}

pub(super) fn explain(
    observed: &Observed,
    namespace: Option<&str>,
    query: &JobQuery,
    now: Timestamp,
) -> Explanation {
    let notice = newest_notice(observed, namespace, query);
    let Some(found) = find(observed, namespace, query, now) else {
        let key = notice
            .as_ref()
            .map_or_else(|| query.text(), |notice| notice.key.to_string());
        let subject = Subject::new("Job", "", &key);
        let reason = notice.map_or_else(
            || unheard(observed, namespace, &subject),
            |notice| of_notice(&notice, namespace),
        );
        return Explanation::bare(subject, now, vec![reason]);
    };
    let of_pool = Pool::of_autoscaler(observed, found.autoscaler);
    let subject = Subject::new("Job", &of_pool.namespace, &found.key.to_string());
    let mut reasons = if reservation::is_tombstone(found.entry) {
        vec![finished(&found)]
    } else if reservation::is_expired(found.entry, now) {
        vec![expired(&found, now)]
    } else if let Some(runner) = found.runner {
        running(&of_pool, &found, runner, now)
    } else {
        queued(&of_pool, &found, now)
    };
    if let Some(missed) = notice.filter(|notice| notice.code == Code::WebhookMissed) {
        let reason = of_notice(&missed, namespace);
        let place = reasons
            .iter()
            .position(|other| other.code > reason.code)
            .unwrap_or(reasons.len());
        reasons.insert(place, reason);
    }
    Explanation {
        autoscaler: Some(found.autoscaler.name_any()),
        wanted: Some(pool::wanted(&of_pool, now)),
        existing: Some(pool::existing(&of_pool, now)),
        ..Explanation::bare(subject, now, reasons)
    }
}

/// The entry of the job: a live one before a tombstone before an expired one.
fn find<'a>(
    observed: &'a Observed,
    namespace: Option<&str>,
    query: &JobQuery,
    now: Timestamp,
) -> Option<Held<'a>> {
    let entries = observed
        .autoscalers
        .iter()
        .filter(|autoscaler| {
            namespace.is_none_or(|namespace| autoscaler.metadata.namespace.as_deref() == Some(namespace))
        })
        .flat_map(|autoscaler| {
            let ledger = autoscaler
                .spec
                .capacity_reservations
                .as_deref()
                .unwrap_or_default();
            let is_over = ledger.iter().any(|entry| {
                reservation::is_tombstone(entry)
                    && !reservation::is_expired(entry, now)
                    && matches!(reservation::classify(entry), Kind::Job { key, .. } if query.is(&key))
            });
            // Within one ledger a tombstone speaks for all entries of its job.
            ledger
                .iter()
                .filter(move |entry| !is_over || reservation::is_tombstone(entry))
                .map(move |entry| (autoscaler, entry))
        });
    entries
        .filter_map(|(autoscaler, entry)| match reservation::classify(entry) {
            Kind::Job { key, runner } if query.is(&key) => Some(Held {
                autoscaler,
                entry,
                key,
                runner,
            }),
            _ => None,
        })
        .min_by_key(|found| {
            (
                !reservation::is_live(found.entry, now),
                !reservation::is_tombstone(found.entry),
            )
        })
}

fn newest_notice(observed: &Observed, namespace: Option<&str>, query: &JobQuery) -> Option<JobNotice> {
    observed
        .events
        .iter()
        .filter(|event| {
            namespace.is_none_or(|namespace| event.metadata.namespace.as_deref() == Some(namespace))
        })
        .filter_map(JobNotice::of)
        .filter(|notice| query.is(&notice.key))
        .max_by_key(|notice| notice.at)
}

fn of_notice(notice: &JobNotice, namespace: Option<&str>) -> Reason {
    let (kind, name) = &notice.object;
    let subject = Subject::new(kind, namespace.unwrap_or_default(), name);
    let said = super::text::without_tail(&notice.sentence, notice.code.remedy());
    Reason::new(notice.code, subject, said).since(notice.at)
}

/// Nothing was ever heard of the job.
fn unheard(observed: &Observed, namespace: Option<&str>, subject: &Subject) -> Reason {
    let here = observed.autoscalers.iter().filter(|autoscaler| {
        namespace.is_none_or(|namespace| autoscaler.metadata.namespace.as_deref() == Some(namespace))
    });
    let (all, deaf) = here.fold((0_usize, 0_usize), |(all, deaf), autoscaler| {
        (
            all + 1,
            deaf + usize::from(pool::not_considered(autoscaler).is_some()),
        )
    });
    let sentence = format!(
        "no autoscaler here has the job in its ledger, and no Event of the last hour tells of it: its webhook did not arrive, or it ended over an hour ago ({all} autoscalers, {deaf} of them take no job events)"
    );
    Reason::new(Code::WebhookNotReceived, subject.clone(), sentence)
}

fn of_job(code: Code, found: &Held<'_>, sentence: String) -> Reason {
    let namespace = found.autoscaler.namespace().unwrap_or_default();
    Reason::new(
        code,
        Subject::new("Job", &namespace, &found.key.to_string()),
        sentence,
    )
}

fn finished(found: &Held<'_>) -> Reason {
    let by = found
        .runner
        .map_or_else(String::new, |runner| format!(" on runner {runner}"));
    let sentence = format!("job {} is over{by}", found.key);
    of_job(Code::JobFinished, found, sentence)
}

fn expired(found: &Held<'_>, now: Timestamp) -> Reason {
    let at = found.entry.expiration_time.map(|time| time.0);
    let ago = at.map_or_else(String::new, |at| format!(" {} ago", span(now.duration_since(at))));
    let sentence = format!(
        "the demand of job {} expired{ago} without a sign of life",
        found.key
    );
    of_job(Code::JobExpired, found, sentence).since(at)
}

fn running(of_pool: &Pool<'_>, found: &Held<'_>, runner: &str, now: Timestamp) -> Vec<Reason> {
    let mine = of_pool
        .views()
        .find(|(pod, view)| view.runner_name == runner || pod.name_any() == runner);
    let sentence = format!("job {} runs on runner {runner}", found.key);
    let mut reasons = vec![of_job(Code::JobRunning, found, sentence)];
    if let Some((found_pod, _)) = mine {
        let key = found.key.to_string();
        let reason = pod::reason(found_pod, Some(&key), of_pool.events, now);
        if reason.code == Code::NodeLost
            || reason.code == Code::PodEvicted
            || reason.code == Code::RunnerCrashed
        {
            reasons.insert(0, reason);
        }
    }
    reasons
}

fn queued(of_pool: &Pool<'_>, found: &Held<'_>, now: Timestamp) -> Vec<Reason> {
    let jobs = of_pool.jobs(now);
    let running = jobs.iter().filter(|job| job.runner.is_some()).count();
    let before = jobs
        .iter()
        .filter(|job| job.runner.is_none())
        .take_while(|job| job.key != found.key)
        .count();
    let since = found.entry.effective_time.map(|time| time.0);
    let age = since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
    let bounds = Bounds::of(found.autoscaler, now);
    let admitted = usize::try_from(bounds.max)
        .unwrap_or(usize::MAX)
        .saturating_sub(running);

    let mut reasons: Vec<Reason> = pool::reasons(of_pool, now)
        .into_iter()
        .filter(|reason| matters_to_a_job(reason.code))
        .collect();
    let idle: Vec<PodView> = of_pool
        .views()
        .map(|(_, view)| view)
        .filter(|view| is_idle(view, &jobs))
        .collect();
    if idle.len() > before && age >= DISPATCH_PATIENCE {
        reasons.insert(0, undispatched(found, &idle, age).since(since));
    } else if before >= admitted {
        let asked = format!(
            "job {} is number {} of those that wait",
            found.key,
            before.saturating_add(1)
        );
        if let Some(limit) = bounds.limit(of_pool, &asked, now) {
            let place = reasons.iter().position(|other| other.code > limit.code);
            reasons.insert(place.unwrap_or(reasons.len()), limit.since(since));
        }
    }
    if reasons.is_empty() {
        let sentence = format!(
            "job {} is queued for {}; its runner is about to be made",
            found.key,
            span(age)
        );
        reasons.push(of_job(Code::WaitingForPod, found, sentence).since(since));
    }
    reasons
}

/// Reasons of the pool that keep a queued job from its runner. Whether the maximum does is told from the job's place.
fn matters_to_a_job(code: Code) -> bool {
    !code.is_good()
        && !matches!(
            code,
            Code::MaxReplicasReached
                | Code::Paused
                | Code::ScheduledOverride
                | Code::ScheduleInvalid
                | Code::RunnersLeftOnGitHub
                | Code::LedgerReplaced
                | Code::IdleRetained
                | Code::ScaleDownDelayed
                | Code::RetiringBusy
                | Code::Unregistering
                | Code::UnregistrationDelayed
                | Code::SurplusStarting
                | Code::RollingOut
                | Code::QueueNotReadable
        )
}

fn is_idle(view: &PodView, jobs: &[super::facts::LiveJob<'_>]) -> bool {
    view.runner_id.is_some()
        && !view.busy
        && !view.is_stopped()
        && view.deletion_at.is_none()
        && !view.unregistration_requested
        && !jobs
            .iter()
            .any(|job| job.runner == Some(view.runner_name.as_str()))
}

fn undispatched(found: &Held<'_>, idle: &[PodView], age: SignedDuration) -> Reason {
    let ids: Vec<String> = idle
        .iter()
        .take(5)
        .map(|view| {
            let id = view.runner_id.map_or_else(String::new, |id| id.to_string());
            format!("{} (id {id})", view.runner_name)
        })
        .collect();
    let sentence = format!(
        "job {} is queued for {} although {} idle runners of its pool are registered: {}",
        found.key,
        span(age),
        idle.len(),
        ids.join(", ")
    );
    of_job(Code::NotDispatched, found, sentence)
}
