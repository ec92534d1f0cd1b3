//! A runner → why it is as it is, or what became of it.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use muster_crds::legacy::Runner;

use super::{
    Code, Explanation, Observed, Reason, Subject, condition,
    facts::{Pool, conditions_of, created_at, pool_of_runner, subject_of},
    notice::seen_at,
    pod, pool,
    text::{self, span},
};
use crate::{
    autoscale::reservation::{self, Kind},
    pods::PodView,
};

/// A Runner gets its pod within a second; after so long something is in the way.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);

pub(super) fn explain(
    observed: &Observed,
    namespace: Option<&str>,
    name: &str,
    now: Timestamp,
) -> Explanation {
    let runner = observed.runners.iter().find(|runner| {
        runner.name_any() == name
            && namespace.is_none_or(|namespace| runner.metadata.namespace.as_deref() == Some(namespace))
    });
    let of_pool = pool_of_runner(observed, namespace, name);
    let mut reasons = Vec::new();
    if let Some(found) = &of_pool {
        let jobs = found.jobs(now);
        for (found_pod, view) in found.views() {
            if found_pod.name_any() == name || view.runner_name == name {
                let job = jobs
                    .iter()
                    .find(|job| job.runner == Some(view.runner_name.as_str()))
                    .map(|job| job.key.to_string());
                reasons.push(pod::reason(found_pod, job.as_deref(), &observed.events, now));
            }
        }
    } else if let Some(alone) = observed.pods.iter().find(|pod| {
        let is_there = namespace.is_none_or(|namespace| pod.metadata.namespace.as_deref() == Some(namespace));
        is_there && (pod.name_any() == name || PodView::of(pod).runner_name == name)
    }) {
        // A Runner that somebody made by hand is in no pool.
        reasons.push(pod::reason(alone, None, &observed.events, now));
    }
    if reasons.is_empty()
        && let Some(runner) = runner
    {
        reasons.extend(without_pod(runner, now));
    }
    reasons.extend(told(observed, namespace, name));
    let subject = runner.map_or_else(
        || Subject::new("Runner", namespace.unwrap_or_default(), name),
        subject_of,
    );
    if reasons.is_empty() {
        reasons.push(gone(observed, namespace, name, &subject));
    }
    reasons.sort_by_key(|reason| reason.code);
    Explanation {
        autoscaler: of_pool
            .as_ref()
            .and_then(Pool::autoscaler)
            .map(ResourceExt::name_any),
        wanted: of_pool.as_ref().map(|found| pool::wanted(found, now)),
        existing: of_pool.as_ref().map(|found| pool::existing(found, now)),
        ..Explanation::bare(subject, now, reasons)
    }
}

/// Why a Runner has no pod.
pub(super) fn without_pod(runner: &Runner, now: Timestamp) -> Vec<Reason> {
    let subject = subject_of(runner);
    if runner.metadata.deletion_timestamp.is_some() {
        let sentence = format!("runner {} is being deleted", subject.name);
        return vec![Reason::new(Code::Unregistering, subject, sentence)];
    }
    let said = condition::reasons(&subject, conditions_of!(runner));
    if !said.is_empty() {
        return said;
    }
    let created = created_at(runner);
    let age = created.map_or(SignedDuration::ZERO, |created| now.duration_since(created));
    let sentence = format!("runner {} has no pod for {}", subject.name, span(age));
    let code = if age > PATIENCE {
        Code::NotReconciled
    } else {
        Code::WaitingForPod
    };
    vec![Reason::new(code, subject, sentence).since(created)]
}

/// What Events say that happened to the runner.
fn told(observed: &Observed, namespace: Option<&str>, name: &str) -> Vec<Reason> {
    observed
        .events
        .iter()
        .filter(|event| {
            let involved = &event.involved_object;
            involved.name.as_deref() == Some(name)
                && matches!(involved.kind.as_deref(), Some("Pod" | "Runner"))
                && namespace.is_none_or(|namespace| involved.namespace.as_deref() == Some(namespace))
                && event.reason.as_deref() == Some(Code::RunnerLost.as_str())
        })
        .max_by_key(|event| seen_at(event))
        .map(|event| {
            let involved = &event.involved_object;
            let subject = Subject::new(
                involved.kind.as_deref().unwrap_or_default(),
                involved.namespace.as_deref().unwrap_or_default(),
                name,
            );
            let said = text::without_tail(
                event.message.as_deref().unwrap_or_default(),
                Code::RunnerLost.remedy(),
            );
            Reason::new(Code::RunnerLost, subject, said).since(seen_at(event))
        })
        .into_iter()
        .collect()
}

/// A runner that is no more: the ledger may know its job.
fn gone(observed: &Observed, namespace: Option<&str>, name: &str, subject: &Subject) -> Reason {
    let entries = observed
        .autoscalers
        .iter()
        .filter(|autoscaler| {
            namespace.is_none_or(|namespace| autoscaler.metadata.namespace.as_deref() == Some(namespace))
        })
        .flat_map(|autoscaler| autoscaler.spec.capacity_reservations.iter().flatten());
    for entry in entries {
        if let Kind::Job {
            key,
            runner: Some(runner),
        } = reservation::classify(entry)
            && runner == name
        {
            let sentence = format!("runner {name} is gone; it had job {key}");
            return Reason::new(Code::RunnerFinished, subject.clone(), sentence);
        }
    }
    let sentence = format!("there is no Runner and no runner pod {name} here");
    Reason::new(Code::NotFound, subject.clone(), sentence)
}
