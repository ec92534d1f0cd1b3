//! Deliveries about jobs.

use std::borrow::Cow;

use futures::future::join_all;
use muster_core::autoscale::reservation::{self, JobAction, JobEvent};
use muster_core::routing::{Chosen, Ignored, JobFacts, Nearest, Routing, Visibility, WorkflowAction};
use tokio::time::Instant;

use super::{App, Remembered, Subject, full, not_written, nothing};
use crate::answer::{Answer, Matched, Outcome};
use crate::batch::NotWritten;
use crate::delivery::Job;

/// The answer, and the autoscaler that came nearest where nobody is concerned.
pub(super) async fn answer(
    app: &App,
    job: &Job<'_>,
    guid: Option<&str>,
    deadline: Instant,
) -> (Answer, Option<Nearest>) {
    if let Some(answer) = app.not_ready() {
        return (answer, None);
    }
    let facts = job.facts();
    let remembered = guid.map(|guid| Remembered {
        delivery: guid.into(),
        subject: Subject::Job(facts.key.clone(), facts.action),
    });
    // Before routing: what was committed is answered alike although the autoscaler has gone since.
    if let Some(key) = &remembered
        && let Some(answer) = app.memory.get(key).await
    {
        app.metrics.duplicates.inc();
        return (answer, None);
    }
    let chosen = match route(app, &facts, deadline).await {
        Ok(Routing::To(chosen)) => chosen,
        Ok(Routing::Unmatched(nearest)) => return (nothing(), nearest),
        Ok(Routing::Ignored(reason)) => return (ignored(reason), None),
        Ok(Routing::NeedsGroups) => return (nothing(), None),
        Err(answer) => return (answer, None),
    };
    let commit = commit(app, &facts, job, chosen, deadline);
    let Some(key) = remembered else {
        return (commit.await.unwrap_or_else(|answer| answer), None);
    };
    // A duplicate that arrives meanwhile waits for the same commit; what was not committed is not remembered.
    let answer = app.memory.try_get_with(key, commit).await;
    (answer.unwrap_or_else(|answer| Answer::clone(&answer)), None)
}

/// Where the event goes; asks for the repository's runner groups if they decide, and if anybody can be asked.
async fn route(app: &App, facts: &JobFacts<'_>, deadline: Instant) -> Result<Routing, Answer> {
    let Some(groups) = &app.settings.groups else {
        return Ok(app.index.route(facts, Visibility::Unchecked));
    };
    match app.index.route(facts, Visibility::Unknown) {
        Routing::NeedsGroups => {
            let visible = groups.visible(&facts.place(), deadline).await?;
            Ok(app.index.route(facts, Visibility::Known(&visible)))
        }
        routing => Ok(routing),
    }
}

/// Upstream answers these with nothing.
fn ignored(reason: Ignored) -> Answer {
    tracing::trace!(reason = %reason, "Ignored");
    Answer::new(Outcome::Ignored, "")
}

/// Writes an event to the ledgers that it concerns. What waited at an autoscaler that was deleted is routed
/// again once.
async fn commit(
    app: &App,
    facts: &JobFacts<'_>,
    job: &Job<'_>,
    chosen: Vec<Chosen>,
    deadline: Instant,
) -> Result<Answer, Answer> {
    let Some(action) = job_action(facts.action) else {
        return Err(ignored(Ignored::Action));
    };
    let event = JobEvent {
        key: facts.key.clone(),
        action,
        runner: facts.runner.map(str::to_owned),
        created_at: job.created_at(),
    };
    let mut done: Vec<(Chosen, reservation::Outcome)> = Vec::with_capacity(chosen.len());
    let mut targets = chosen;
    for is_last in [false, true] {
        let write = |chosen: &Chosen| {
            let (id, event) = (chosen.autoscaler.id.clone(), event.clone());
            async move { app.writers.commit(&id, event, deadline).await }
        };
        let results = match targets.as_slice() {
            [only] => vec![write(only).await],
            several => join_all(several.iter().map(write)).await,
        };
        let mut some_gone = false;
        for (chosen, result) in std::mem::take(&mut targets).into_iter().zip(results) {
            match result {
                Ok(reservation::Outcome::Full) => return Err(full(&chosen.autoscaler)),
                Ok(outcome) => done.push((chosen, outcome)),
                Err(NotWritten::Gone) => some_gone = true,
                Err(reason @ (NotWritten::Busy | NotWritten::Unconfirmed)) => {
                    return Err(not_written(reason));
                }
            }
        }
        if !some_gone || is_last {
            break;
        }
        if let Routing::To(again) = route(app, facts, deadline).await? {
            targets = again;
            targets.retain(|next| {
                done.iter()
                    .all(|(other, _)| other.autoscaler.id != next.autoscaler.id)
            });
        }
        if targets.is_empty() {
            break;
        }
    }
    if done.is_empty() {
        return Err(nothing());
    }
    Ok(sentence(action, &done))
}

fn job_action(action: WorkflowAction) -> Option<JobAction> {
    match action {
        WorkflowAction::Queued => Some(JobAction::Queued),
        WorkflowAction::InProgress => Some(JobAction::InProgress),
        WorkflowAction::Completed => Some(JobAction::Completed),
        WorkflowAction::Waiting | WorkflowAction::Other => None,
    }
}

/// Upstream's words where a number changed. A repeated `queued` of a job that counts is answered as the first
/// one was, so that it does not matter which replica gets the repetition.
fn sentence(action: JobAction, done: &[(Chosen, reservation::Outcome)]) -> Answer {
    use reservation::Outcome as Ledger;
    let mut parts: Vec<(Outcome, String)> = done
        .iter()
        .map(|(chosen, outcome)| {
            let name = &chosen.autoscaler.id.name;
            match (outcome, action) {
                (Ledger::Added, _) | (Ledger::Updated | Ledger::Unchanged, JobAction::Queued) => {
                    (Outcome::ScaledUp, format!("scaled {name} by 1"))
                }
                (Ledger::Finished | Ledger::Consumed, _) => {
                    (Outcome::ScaledDown, format!("scaled {name} by -1"))
                }
                (Ledger::Updated | Ledger::Adopted, _) => {
                    (Outcome::Recorded, format!("noted in {name} who runs the job"))
                }
                (Ledger::Remembered, _) => (
                    Outcome::Recorded,
                    format!("noted in {name} that the job has finished"),
                ),
                (Ledger::Unchanged, _) => (
                    Outcome::Unchanged,
                    format!("{name} knows already that the job runs"),
                ),
                (Ledger::AlreadyFinished | Ledger::Full, _) => (
                    Outcome::Unchanged,
                    format!("{name} knows already that the job has finished"),
                ),
            }
        })
        .collect();
    parts.sort_by_key(|(outcome, _)| match outcome {
        Outcome::ScaledUp => 0,
        Outcome::ScaledDown => 1,
        Outcome::Recorded => 2,
        _ => 3,
    });
    let outcome = parts.first().map_or(Outcome::Unchanged, |(outcome, _)| *outcome);
    let text = parts
        .into_iter()
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join("\n");
    let matched = done.iter().map(|(chosen, _)| Matched {
        autoscaler: chosen.autoscaler.id.clone(),
        reason: chosen.reason.as_str(),
        candidates: chosen.candidates,
    });
    Answer::new(outcome, Cow::Owned(text)).matched(matched.collect())
}
