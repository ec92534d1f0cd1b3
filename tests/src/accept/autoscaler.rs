//! The list of the autoscaler: schedules, metrics.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{
    github::FaultKind,
    keeper::workspace_dir,
    scenarios::{
        autoscaling,
        budgets::{self, Load},
        explain,
        schedule::{self, Compared},
    },
};

use super::{Item, Running, Verdict, item, main_job};

/// Tests of the core that must have run: the tables of the specification's parts 01 and 02.
const METRICS_TABLES: &[&str] = &[
    "autoscale::metrics::tests::percentage_table",
    "autoscale::metrics::tests::jobs_table",
    "autoscale::metrics::tests::runs_table",
    "autoscale::metrics::tests::runners_are_counted_by_name",
    "autoscale::metrics::tests::parameters_and_combinations_that_cannot_be",
    "autoscale::demand::tests::wanted_table",
    "autoscale::desired::tests::unknown_is_not_zero",
];
const SCHEDULE_TABLES: &[&str] = &[
    "autoscale::schedule::tests::vectors_of_upstream",
    "autoscale::schedule::tests::vectors_of_upstream_in_another_zone",
    "autoscale::schedule::tests::summaries_are_upstreams",
    "autoscale::schedule::tests::occurrences_are_those_that_one_can_count",
];

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[
    item(
        "schedule-oracle",
        "a year of overrides by the minute, as Go's calendar has it",
        |running| Box::pin(schedule_oracle(running)),
    ),
    item(
        "schedule-tables",
        "upstream's vectors of overrides and summaries",
        |running| Box::pin(tables(running, "autoscale::schedule", SCHEDULE_TABLES)),
    ),
    item("metrics-tables", "every edge of the pull metrics", |running| {
        Box::pin(tables(running, "autoscale::", METRICS_TABLES))
    }),
    item(
        "metrics-live",
        "pull metrics scale a pool up and down, and no failure scales it",
        |running| Box::pin(metrics_live(running)),
    ),
    item(
        "demand-merge",
        "30 jobs that webhooks and a metric tell of, taken for one demand",
        |running| Box::pin(demand_merge(running)),
    ),
    item(
        "schedule-live",
        "an override takes effect at its edges and not at a resync",
        |running| Box::pin(schedule_live(running)),
    ),
    item(
        "explain",
        "the first reason of `kubectl muster explain` for scripted causes, by a reader without Secrets",
        |running| Box::pin(explained(running)),
    ),
    item(
        "budget-rules",
        "lanes, reserve, line and pool: tables and 10,000 random hours",
        |running| Box::pin(budget_rules(running)),
    ),
    item(
        "budget-scale",
        "a simulated hour of 20 scopes costs the same calls with 300 runners and 600",
        |running| Box::pin(budget_scale(running)),
    ),
    item(
        "budget-limit",
        "a simulated hour at 500 calls: never exceeded, urgent calls wait 5 s at most",
        |running| Box::pin(budget_limit(running)),
    ),
    item(
        "budget-pool",
        "three credentials do at least 2.8 times the work of one",
        |running| Box::pin(budget_pool(running)),
    ),
    super::TRACES,
];

/// An hour of the size that was promised.
const HOUR: Load = Load {
    scopes: 20,
    runners: 300,
    minutes: 60,
    life: (20, 40),
    ephemeral: true,
    limit: 5_000,
    credentials: 1,
    etags: true,
    seed: 1,
};

/// Tests of the budget that must have run.
const BUDGET_TESTS: &[&str] = &[
    "budget::tests::each_lane_has_its_floor",
    "budget::tests::a_paced_call_is_told_the_very_moment",
    "budget::tests::those_who_wait_are_served_in_their_order_each_at_its_time",
    "budget::tests::a_secondary_limit_holds_everything_until_its_end",
    "budget::tests::a_server_that_states_no_limits_has_none",
    "budget::tests::the_limit_is_never_exceeded",
    "budget::tests::pacing_gives_a_lane_its_part_and_keeps_the_reserve",
    "pool::tests::the_best_is_asked_first",
];

async fn budget_rules(running: &Running<'_>) -> Result<Verdict> {
    let args = ["test", "--workspace", "--lib", "--", "budget::", "pool::"];
    let ran = running
        .run("cargo", &args, &[("PROPTEST_CASES", "10000")])
        .await?;
    let missing: Vec<&str> = BUDGET_TESTS
        .iter()
        .copied()
        .filter(|test| !ran.output.contains(&format!("test {test} ... ok")))
        .collect();
    let figure = if missing.is_empty() {
        format!("{} tests and properties", BUDGET_TESTS.len())
    } else {
        format!("these did not pass: {}", missing.join(", "))
    };
    Ok(Verdict::new(ran.is_success() && missing.is_empty(), figure))
}

async fn budget_scale(running: &Running<'_>) -> Result<Verdict> {
    let one = running.scenario(budgets::simulate(&HOUR)).await?;
    let twice = Load { runners: 600, ..HOUR };
    let two = running.scenario(budgets::simulate(&twice)).await?;
    // Each scope asks once a minute; which minute is the last is a matter of seconds.
    let scopes = 20;
    let ok =
        one.listings.abs_diff(two.listings) <= scopes && one.refused + two.refused == 0 && one.made >= 300;
    let figure = format!(
        "{} listings in 20 scopes with 300 runners, {} with 600 ({} and {} of them free); {} and {} runners made",
        one.listings, two.listings, one.free, two.free, one.made, two.made
    );
    Ok(Verdict::new(ok, figure))
}

async fn budget_limit(running: &Running<'_>) -> Result<Verdict> {
    let load = Load {
        limit: 500,
        ephemeral: false,
        // Beyond the hour for most: a tenth of the runners is removed and replaced.
        life: (40, 240),
        // Every listing costs a call: two and a half times as many are wanted as there are.
        etags: false,
        ..HOUR
    };
    let hour = running.scenario(budgets::simulate(&load)).await?;
    let ok = hour.refused == 0
        && hour.most_charged <= 500
        && hour.charged <= 500
        && hour.critical >= 300
        && hour.critical_wait <= Duration::from_secs(5)
        && hour.waits > 0
        // Fair turns are four minutes apart; who comes back when another of its scope has just been served waits for the next.
        && hour.longest_gap <= Duration::from_mins(20)
        && hour.starved == 0;
    let figure = format!(
        "{} calls charged of 500 and {} free, {} refused; {} tokens and removals, the longest wait {:?}; listings told to wait {} times, the longest gap of an autoscaler {} s",
        hour.charged,
        hour.free,
        hour.refused,
        hour.critical,
        hour.critical_wait,
        hour.waits,
        hour.longest_gap.as_secs()
    );
    Ok(Verdict::new(ok, figure))
}

async fn budget_pool(running: &Running<'_>) -> Result<Verdict> {
    // Every listing costs a call, and there are more of them than three may make.
    let load = Load {
        limit: 300,
        runners: 100,
        etags: false,
        ..HOUR
    };
    let one = running.scenario(budgets::simulate(&load)).await?;
    let three = Load {
        credentials: 3,
        ..load
    };
    let three = running.scenario(budgets::simulate(&three)).await?;
    let ok = three.charged * 10 >= one.charged * 28
        && one.refused + three.refused == 0
        && three.most_charged <= 300
        && one.charged >= 200;
    let figure = format!(
        "{} calls with one credential, {} with three; at most {} of 300 with one of them, {} refused",
        one.charged, three.charged, three.most_charged, three.refused
    );
    Ok(Verdict::new(ok, figure))
}

/// Causes that are scripted at least.
const CAUSES: usize = 25;

async fn explained(running: &Running<'_>) -> Result<Verdict> {
    let figures = running.scenario(explain::run(explain::Extent::All)).await?;
    Ok(Verdict::new(
        figures.is_good() && figures.causes >= CAUSES,
        figures.line(),
    ))
}

/// Tests of the core by name: each of these must have run, and passed.
async fn tables(running: &Running<'_>, filter: &str, wanted: &[&str]) -> Result<Verdict> {
    let ran = running
        .run("cargo", &["test", "--workspace", "--lib", "--", filter], &[])
        .await?;
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| !ran.output.contains(&format!("test {name} ... ok")))
        .collect();
    let passed = ran.tests_passed();
    let figure = if missing.is_empty() {
        format!("{passed} tests, with all {} tables", wanted.len())
    } else {
        format!("{passed} tests, without {}", missing.join(", "))
    };
    Ok(Verdict::new(ran.is_success() && missing.is_empty(), figure))
}

async fn schedule_oracle(running: &Running<'_>) -> Result<Verdict> {
    let question = schedule::question()?;
    let folder = running.runner.logs.join("schedule-oracle");
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let (asked, answered) = (folder.join("question.json"), folder.join("answers.json"));
    fs::write(&asked, serde_json::to_vec(&question)?)
        .with_context(|| format!("could not write {}", asked.display()))?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let program = text(&workspace_dir().join("tools").join("scheduleoracle"));
    let args = ["run", "-C", &program, ".", &text(&asked), &text(&answered)];
    let ran = running.run("go", &args, &[("GOFLAGS", "")]).await?;
    if !ran.is_success() {
        return Ok(Verdict::new(
            false,
            format!("the oracle failed: {}", ran.last_line()),
        ));
    }
    let program = main_job::optimized(running, &["schedule-year"])
        .await?
        .join("schedule-year");
    let ran = running.run(&text(&program), &[&text(&answered)], &[]).await?;
    if !ran.is_success() {
        return Ok(Verdict::new(false, ran.last_line()));
    }
    let compared = serde_json::from_str(ran.last_line()).context("the figures are malformed")?;
    Ok(judge(compared))
}

fn judge(compared: Compared) -> Verdict {
    let Compared {
        scenarios,
        minutes,
        changes,
        differ,
    } = compared;
    // Every list changes at least at New Year or on its leap day.
    let ok = differ == 0 && scenarios >= 50 && changes > scenarios && minutes >= 525_600 * scenarios;
    Verdict::new(
        ok,
        format!(
            "{scenarios} lists of overrides in {} zones, {minutes} minutes, {changes} changes: {differ} minutes differ",
            schedule::ZONES.len()
        ),
    )
}

/// How long GitHub refuses calls for a rate limit.
const LIMITED: Duration = Duration::from_secs(8);

async fn metrics_live(running: &Running<'_>) -> Result<Verdict> {
    let burst = running
        .scenario(autoscaling::burst("metric-jobs", 30, false, "sum"))
        .await?;
    let steps = running
        .scenario(autoscaling::busy_share("metric-busy", 10))
        .await?;
    let (mut ok, mut kept) = (burst.done == burst.jobs && burst.pods <= burst.jobs, Vec::new());
    for (kind, reason) in [
        (FaultKind::Status(502), "GitHubUnavailable"),
        (FaultKind::Forbidden, "GitHubForbidden"),
        (FaultKind::PrimaryRateLimit(LIMITED), "GitHubRateLimited"),
        (FaultKind::SecondaryRateLimit(LIMITED), "GitHubRateLimited"),
    ] {
        let fewest = running
            .scenario(autoscaling::silence("metric-silence", 5, kind, reason))
            .await?;
        ok &= fewest == 5;
        kept.push(format!("{fewest} of 5 kept ({reason})"));
    }
    ok &= steps.is_sorted_by(|one, other| one < other || *other == 0) && steps.contains(&10);
    let figure = format!(
        "{} jobs, {} pods; busy share {steps:?}; {}",
        burst.done,
        burst.pods,
        kept.join(", ")
    );
    Ok(Verdict::new(ok, figure))
}

async fn demand_merge(running: &Running<'_>) -> Result<Verdict> {
    let max = running
        .scenario(autoscaling::burst("merge-max", 30, true, "max"))
        .await?;
    let sum = running
        .scenario(autoscaling::burst("merge-sum", 30, true, "sum"))
        .await?;
    let ok = max.done == max.jobs && max.pods <= max.jobs && sum.done == sum.jobs;
    let figure = format!(
        "max: {} pods for {} jobs; sum, as upstream: {} pods",
        max.pods, max.jobs, sum.pods
    );
    Ok(Verdict::new(ok, figure))
}

async fn schedule_live(running: &Running<'_>) -> Result<Verdict> {
    let seen = running.scenario(autoscaling::schedule("schedule-live")).await?;
    let [begin, end] = seen.late.map(|late| late.as_millis());
    let figure = format!(
        "{begin} ms after its start, {end} ms after its end; {:?}",
        seen.summaries
    );
    Ok(Verdict::new(seen.is_good(), figure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minute_that_differs_is_a_failure() {
        let good = Compared {
            scenarios: 55,
            minutes: 55 * 527_040,
            changes: 9_000,
            differ: 0,
        };
        assert!(judge(good).ok);
        assert!(!judge(Compared { differ: 1, ..good }).ok);
        assert!(!judge(Compared { minutes: 55, ..good }).ok);
    }
}
