//! The list of the autoscaler: schedules, metrics.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    keeper::workspace_dir,
    scenarios::{
        explain,
        schedule::{self, Compared},
    },
};

use super::{Item, Running, Verdict, item};

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
        "explain",
        "the first reason of `kubectl muster explain` for scripted causes, by a reader without Secrets",
        |running| Box::pin(explained(running)),
    ),
    super::TRACES,
];

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
        .run(
            "cargo",
            &["test", "-p", "muster-core", "--lib", "--", filter],
            &[],
        )
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
    let compared = running.scenario(async {
        tokio::task::spawn_blocking(move || schedule::compare(&question, &answered)).await?
    });
    Ok(judge(compared.await?))
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
