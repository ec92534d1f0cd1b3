//! One scan of a hook's log, and feeding what was missed to the intake.

use futures::{StreamExt as _, stream};
use http::HeaderMap;
use muster_core::autoscale::recovery::replay::{Attempt, Missed, Scan, Seen, order};
use muster_github::{Error, ErrorClass, RepositoryName};
use muster_runtime::telemetry::chain;
use tokio::time::Instant;

use super::{Budget, HookName, HookState, Replay};
use crate::answer::Answer;
use crate::delivery::{self, Delivery, ENTERPRISE_HOST_HEADER};
use crate::handler::{take_event, take_job};

/// Deliveries that are fetched and taken at the same time.
const AT_ONCE: usize = 8;

/// A delivery that the intake does not take is given up after so many scans.
const MOST_TRIES: u32 = 10;

/// What became of a missed delivery.
enum Fate {
    /// Dealt with: the `outcome` label.
    Done(&'static str),
    /// To be tried in the next scan.
    Later,
    /// GitHub does not answer: nothing more is asked in this scan.
    Stop(Error),
}

/// Reads the log from its newest delivery back to where the last scan began, and feeds what nobody took to the intake.
pub(super) async fn scan(
    replay: &Replay,
    name: &HookName,
    state: &mut HookState,
    seen: &mut Seen,
    budget: &mut Budget,
) -> Result<(), Error> {
    let Some(hook) = name.hook() else { return Ok(()) };
    let now = replay.clock.now();
    let mut scan = Scan::new(state.cursor, replay.window(), replay.overlap(), now);
    let mut pages = replay.github.deliveries(&hook)?;
    while let Some(page) = pages.next_page().await? {
        let attempts = page.into_iter().map(|delivery| Attempt {
            id: delivery.id,
            guid: delivery.guid,
            delivered_at: Some(delivery.delivered_at),
            status_code: delivery.status_code,
            event: delivery.event,
            action: delivery.action,
        });
        if !scan.page(attempts.collect()) {
            break;
        }
    }
    state.cursor = scan.cursor();
    let missed = scan.missed(|guid| seen.contains(guid) || replay.heard.is_accepted(guid));
    if !missed.is_empty() {
        tracing::info!(hook = %name, deliveries = missed.len(), "GitHub could not deliver; fetching what was missed");
    }
    for missed in missed {
        seen.insert(&missed.guid);
        replay.metrics.missed.inc();
        if !missed.is_useful() || missed.is_trigger() && !replay.app.waits_for_events() {
            replay.metrics.recovered("irrelevant");
        } else if missed.is_trigger() && missed.is_stale(now) {
            // What it would add has been of no use for so long; that it is known now costs no call.
            replay.metrics.recovered("stale");
        } else {
            state.backlog.push((missed, 0));
        }
    }
    feed(replay, &hook, state, budget).await
}

/// Feeds the backlog, ends first. What cannot be had now stays.
async fn feed(
    replay: &Replay,
    hook: &muster_github::Hook,
    state: &mut HookState,
    budget: &mut Budget,
) -> Result<(), Error> {
    let mut waiting: Vec<Missed> = Vec::new();
    let mut tries_of = std::collections::HashMap::new();
    for (missed, tried) in std::mem::take(&mut state.backlog) {
        tries_of.insert(missed.guid.clone(), tried);
        waiting.push(missed);
    }
    order(&mut waiting);
    let mut trouble = None;
    while !waiting.is_empty() {
        // All ends before anything that could start.
        let action = waiting.first().and_then(|missed| missed.action.clone());
        let rest = waiting
            .iter()
            .position(|missed| missed.action != action)
            .unwrap_or(waiting.len());
        let later = waiting.split_off(rest);
        let (now, mut postponed): (Vec<Missed>, Vec<Missed>) = waiting
            .into_iter()
            .partition(|_| trouble.is_none() && budget.take());
        let mut fates = stream::iter(now)
            .map(async |missed| {
                let fate = recover(replay, hook, &missed).await;
                (missed, fate)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((missed, fate)) = fates.next().await {
            match fate {
                Fate::Done(outcome) => {
                    tracing::debug!(
                        delivery = missed.guid,
                        action = missed.action,
                        outcome,
                        "Missed delivery"
                    );
                    replay.metrics.recovered(outcome);
                }
                Fate::Later => postponed.push(missed),
                Fate::Stop(error) => {
                    postponed.push(missed);
                    trouble.get_or_insert(error);
                }
            }
        }
        drop(fates);
        for missed in postponed {
            let tried = tries_of.get(&missed.guid).copied().unwrap_or(0) + 1;
            if tried < MOST_TRIES || trouble.is_some() {
                state.backlog.push((missed, tried));
            } else {
                replay.metrics.recovered("given_up");
            }
        }
        waiting = later;
    }
    trouble.map_or(Ok(()), Err)
}

async fn recover(replay: &Replay, hook: &muster_github::Hook, missed: &Missed) -> Fate {
    let delivery = match replay.github.get_delivery(hook, missed.id).await {
        Ok(delivery) => delivery,
        Err(error) if error.class() == ErrorClass::NotFound => return Fate::Done("forgotten"),
        Err(error) => return Fate::Stop(error),
    };
    if delivery.payload.is_empty() {
        return Fate::Done("forgotten");
    }
    let host = header(&delivery.headers, ENTERPRISE_HOST_HEADER);
    let job = match delivery::read(&missed.event, host, &delivery.payload) {
        Ok(Delivery::Job(job)) => job,
        Ok(Delivery::Trigger(_)) if missed.is_stale(replay.clock.now()) => return Fate::Done("stale"),
        Ok(Delivery::Trigger(event)) => {
            return fate(&take_event(&replay.app, &event, Some(&missed.guid), Instant::now()).await);
        }
        Ok(Delivery::Ping | Delivery::Unsupported) => return Fate::Done("irrelevant"),
        Err(answer) => return Fate::Done(answer.outcome.as_str()),
    };
    if missed.is_stale(replay.clock.now()) {
        let Ok(repository) = job.repository().parse::<RepositoryName>() else {
            return Fate::Done("malformed");
        };
        match replay.github.get_job(&repository, job.id()).await {
            Ok(Some(job)) if job.status == "queued" => {}
            Ok(_) => return Fate::Done("stale"),
            Err(error) => match error.class() {
                // Whether it waits still is not known, and demand is never taken from an error.
                ErrorClass::Forbidden | ErrorClass::NotFound | ErrorClass::Unauthorized => {
                    tracing::debug!(error = %chain(&error), "Whether a job is queued still could not be told.");
                    return Fate::Done("unknown");
                }
                _ => return Fate::Stop(error),
            },
        }
    }
    fate(&take_job(&replay.app, &job, Some(&missed.guid), Instant::now()).await)
}

fn fate(answer: &Answer) -> Fate {
    if answer.status().is_server_error() {
        return Fate::Later;
    }
    Fate::Done(answer.outcome.as_str())
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
