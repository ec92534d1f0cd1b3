//! The list of webhook intake: what was accepted is kept, whatever happens; and what never arrived is found.

use std::time::Duration;

use anyhow::Result;

use crate::scenarios::{
    backlog::{Backlog, backlog},
    intake::{Burst, burst as run_burst},
    recovery::{Losses, Quiet, losses, quiet},
};

use super::{Item, Running, Verdict, item, main_job};

/// The worked examples of spec part 03.
const EXAMPLES: usize = 24;
/// The tests that are tables of spec part 03.
const TABLES: [&str; 4] = [
    "the_worked_examples",
    "the_decision_table",
    "content_types_forms_and_the_vectors_of_the_specification",
    "the_vectors_of_the_specification_verify",
];
/// The program under load.
const WEBHOOK_SERVER: &str = "github-webhook-server";
/// Spec part 90, PAIN-05.
const ANSWER: Duration = Duration::from_secs(1);
/// Period of the recovery loops, half of the default.
const PERIOD: Duration = Duration::from_secs(30);
/// What a look, a write and a pod's start add to a period.
const START: Duration = Duration::from_secs(5);

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[
    item(
        "tables",
        "the worked examples, the decision table, the HMAC vectors",
        |running| Box::pin(tables(running)),
    ),
    item(
        "burst",
        "2,000 jobs at 500/s: killed replicas, failing writes, an autoscaler deleted",
        |running| Box::pin(burst(running)),
    ),
    item(
        "recovery",
        "200 jobs, a fifth of the webhooks lost, the receiver down for a while",
        |running| Box::pin(recovery(running)),
    ),
    item(
        "budget",
        "without faults both loops keep to their calls and find nothing",
        |running| Box::pin(budget(running)),
    ),
    item(
        "backlog",
        "50 jobs on 2 runners, some longer than their entries live",
        |running| Box::pin(long_jobs(running)),
    ),
    item(
        "fuzz",
        "a million inputs and no panic of the readers of GitHub's bytes",
        |running| Box::pin(main_job::fuzz(running)),
    ),
    item("memory", "the webhook server's memory does not grow", |running| {
        Box::pin(main_job::memory(running))
    }),
    super::TRACES,
];

async fn tables(running: &Running<'_>) -> Result<Verdict> {
    let args = ["test", "--workspace", "--lib", "--"];
    let args: Vec<&str> = args.into_iter().chain(TABLES).collect();
    let ran = running.run("cargo", &args, &[]).await?;
    let missing: Vec<&str> = TABLES
        .into_iter()
        .filter(|name| !ran.output.contains(&format!("{name} ... ok")))
        .collect();
    let passed = ran.tests_passed();
    if ran.is_success() && missing.is_empty() {
        let words = format!(
            "{EXAMPLES} worked examples, the decision table with our deviations, the vectors: {passed} tests"
        );
        return Ok(Verdict::new(true, words));
    }
    let words = format!("{passed} tests passed, not among them: {}", missing.join(", "));
    Ok(Verdict::new(false, words))
}

async fn burst(running: &Running<'_>) -> Result<Verdict> {
    let server = main_job::optimized(running, &[WEBHOOK_SERVER])
        .await?
        .join(WEBHOOK_SERVER);
    let figures = running
        .scenario(run_burst(
            "accept-burst",
            &Burst {
                pools: 20,
                jobs: 2_000,
                per_second: 520,
                replicas: 3,
                kill_every: Duration::from_secs(2),
                faulty: 0.05,
                seed: 4,
                program: Some(server),
            },
        ))
        .await?;
    let [p50, p99, longest] = figures.answers;
    let [others, longest_of_others] = figures.others;
    let ok = figures.per_second >= 500.0
        && figures.kills > 0
        && figures.faults > 10
        && figures.wrong.is_empty()
        && figures.ledgers.is_none()
        && figures.repeated.is_none()
        && p99 < ANSWER
        && others < ANSWER;
    let wrong = figures.wrong.first().map(|wrong| format!("; {wrong}"));
    Ok(Verdict::new(
        ok,
        format!(
            "2,000 in {:.1?}, begun at {:.0}/s, {} attempts, {} unanswered, {} kills, {} faulty writes; answers p50 {:.0?} p99 {:.0?} max {:.0?}, of the other autoscalers after the deletion p99 {:.0?} max {:.0?}; {} missing, {} doubled ({} excused), {} unexpected, {} wrong answers{}",
            figures.took,
            figures.per_second,
            figures.attempts,
            figures.unanswered,
            figures.kills,
            figures.faults,
            p50,
            p99,
            longest,
            others,
            longest_of_others,
            figures.ledgers.missing.len() + figures.repeated.missing.len(),
            figures.ledgers.doubled.len() + figures.repeated.doubled.len(),
            figures.ledgers.excused,
            figures.ledgers.unexpected.len() + figures.repeated.unexpected.len(),
            figures.wrong.len(),
            wrong.unwrap_or_default(),
        ),
    ))
}

async fn recovery(running: &Running<'_>) -> Result<Verdict> {
    let wanted = Losses {
        jobs: 200,
        length: Duration::from_secs(2),
        lose: 0.1,
        forget: 0.1,
        outage: Duration::from_secs(30),
        period: PERIOD,
        untold: 10,
    };
    let figures = running.scenario(losses("accept-losses", &wanted)).await?;
    let [queued, completed] = figures.lost;
    let ok = figures.started <= PERIOD + START
        && figures.gone <= 2 * PERIOD + START
        && figures.untold == 10
        && figures.harmed == 0
        && queued.min(completed) >= 20;
    Ok(Verdict::new(
        ok,
        format!(
            "{} % of queued and {} % of completed lost, the outage included; period {PERIOD:?}: all jobs started {:.1?} after the outage, ended {:.1?}, nothing left {:.1?}; missed deliveries {} as in GitHub's log, drift {}, {} of {} jobs without any webhook counted as drift; {} harmed",
            queued,
            completed,
            figures.started,
            figures.ended,
            figures.gone,
            figures.missed,
            figures.drift,
            figures.untold,
            wanted.untold,
            figures.harmed,
        ),
    ))
}

async fn budget(running: &Running<'_>) -> Result<Verdict> {
    let wanted = Quiet {
        jobs: 120,
        every: Duration::from_millis(500),
        period: Duration::from_secs(5),
    };
    let figures = running.scenario(quiet("accept-quiet", &wanted)).await?;
    let ([scans, pages], [looks, run_lists, job_lists]) = (figures.scans, figures.looks);
    Ok(Verdict::new(
        figures.is_within_budget() && figures.drift == [0, 0] && figures.unanswered == 0,
        format!(
            "replay: {pages} list calls in {scans} scans of {} deliveries; reconciliation: {run_lists} lists of runs in {looks} looks, {job_lists} lists of jobs for {} runs, {} jobs asked for singly; {} missed, {:?} missing and leaked",
            figures.deliveries, figures.jobs, figures.singles, figures.unanswered, figures.drift
        ),
    ))
}

async fn long_jobs(running: &Running<'_>) -> Result<Verdict> {
    let wanted = Backlog {
        jobs: 50,
        long: 4,
        long_for: Duration::from_secs(75),
        short_for: Duration::from_secs(1),
        duration: "1m".to_owned(),
        max: 2,
        pod_start: Duration::from_millis(500),
    };
    let figures = running.scenario(backlog("accept-backlog", &wanted)).await?;
    let second = Duration::from_secs(1);
    let ok = figures.done == 50
        && figures.harmed == 0
        && figures.highest == 2
        && figures.refill <= second
        && figures.below <= second + figures.pod_start
        && figures.waited > Duration::from_mins(1);
    Ok(Verdict::new(
        ok,
        format!(
            "{} of 50 jobs done in {:.0?}, the last one waited {:.0?}, 4 took 75 s; 2 pending or running again {:.0?} after an end at most, fewer than 2 running for {:.0?} at most (a pod's start {:.0?}), {} at a time; {} harmed",
            figures.done,
            figures.took,
            figures.waited,
            figures.refill,
            figures.below,
            figures.pod_start,
            figures.highest,
            figures.harmed
        ),
    ))
}
