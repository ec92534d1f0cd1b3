//! A year of scheduled overrides in one-minute steps, against what `tools/scheduleoracle` says: another program, in another language, with time zones of its own.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use muster_core::autoscale::schedule::{Clock, evaluate};
use muster_crds::legacy::ScheduledOverride;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Zones with a summer time in the north and in the south, of half an hour, with odd offsets, and without one.
pub const ZONES: [&str; 5] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Asia/Kolkata",
];
/// The year: a leap year.
pub const YEAR: i16 = 2028;
const MINUTE: i64 = 60;

/// What is asked of the oracle.
#[derive(Debug, Serialize)]
pub struct Question {
    from: i64,
    minutes: i64,
    scenarios: Vec<Scenario>,
}

#[derive(Debug, Serialize)]
struct Scenario {
    name: String,
    overrides: Vec<ScheduledOverride>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    name: String,
    changes: Vec<(i64, i64, i64)>,
}

/// What came out of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Lists of overrides.
    pub scenarios: usize,
    /// Minutes that were compared, of all lists together.
    pub minutes: usize,
    /// Times at which the oracle says that something changes.
    pub changes: usize,
    /// Minutes in which Muster and the oracle differ.
    pub differ: usize,
}

/// The whole year, in all [`ZONES`].
///
/// # Errors
/// A scenario that is no override.
pub fn question() -> Result<Question> {
    let from = start_of(YEAR)?;
    let minutes = (start_of(YEAR + 1)? - from) / MINUTE;
    let mut scenarios = Vec::new();
    for zone in ZONES {
        for (name, overrides) in rules(zone) {
            let overrides = serde_json::from_value(overrides)
                .with_context(|| format!("scenario {name} of {zone} is no list of overrides"))?;
            scenarios.push(Scenario {
                name: format!("{zone}: {name}"),
                overrides,
            });
        }
    }
    Ok(Question {
        from,
        minutes,
        scenarios,
    })
}

fn start_of(year: i16) -> Result<i64> {
    let start: Timestamp = format!("{year}-01-01T00:00:00Z").parse()?;
    Ok(start.as_second())
}

fn rules(zone: &str) -> Vec<(&'static str, Value)> {
    let rule = |start: &str, end: &str, rule: Value, min: Value| json!({"startTime": start, "endTime": end, "timeZone": zone, "minReplicas": min, "recurrenceRule": rule});
    let every = |frequency: &str| json!({"frequency": frequency});
    let nights = rule(
        "2027-11-02T22:00:00Z",
        "2027-11-03T06:00:00Z",
        every("Daily"),
        json!(1),
    );
    let weekends = rule(
        "2027-11-06T00:00:00Z",
        "2027-11-08T00:00:00Z",
        every("Weekly"),
        json!(0),
    );
    let exception = rule(
        "2028-04-14T00:00:00+02:00",
        "2028-04-18T00:00:00+02:00",
        json!({}),
        Value::Null,
    );
    vec![
        ("nights", json!([nights])),
        ("weekends", json!([weekends])),
        (
            "the hour that is skipped or comes twice",
            json!([rule(
                "2027-01-01T02:15:00Z",
                "2027-01-01T04:45:00Z",
                every("Daily"),
                json!(2)
            )]),
        ),
        (
            "early, in every zone's own night",
            json!([rule(
                "2027-01-01T13:30:00Z",
                "2027-01-01T16:10:00Z",
                every("Daily"),
                json!(2)
            )]),
        ),
        (
            "the 31st",
            json!([rule(
                "2027-01-31T06:00:00Z",
                "2027-02-01T18:00:00Z",
                every("Monthly"),
                json!(5)
            )]),
        ),
        (
            "longer than a short month",
            json!([rule(
                "2027-01-01T12:00:00Z",
                "2027-01-31T13:00:00Z",
                every("Monthly"),
                json!(5)
            )]),
        ),
        (
            "leap days",
            json!([rule(
                "2024-02-29T14:00:00Z",
                "2024-03-02T14:00:00Z",
                every("Yearly"),
                json!(4)
            )]),
        ),
        (
            "Christmas",
            json!([rule(
                "2027-12-24T00:00:00Z",
                "2027-12-27T00:00:00Z",
                every("Yearly"),
                json!(0)
            )]),
        ),
        (
            "until June",
            json!([rule(
                "2027-11-02T22:00:00Z",
                "2027-11-03T06:00:00Z",
                json!({"frequency": "Daily", "untilTime": "2028-06-15T12:00:00+02:00"}),
                json!(1)
            )]),
        ),
        ("all together", json!([exception, weekends, nights])),
        (
            "by the written offset",
            json!([{
                "startTime": "2027-12-31T00:00:00+05:30", "endTime": "2027-12-31T09:00:00+05:30", "minReplicas": 3,
                "recurrenceRule": {"frequency": "Monthly"}
            }]),
        ),
    ]
}

/// Compares minute by minute what Muster's core says with the oracle's answers in this file.
///
/// # Errors
/// A file that is not the answer to the question.
pub fn compare(question: &Question, answers: &Path) -> Result<Compared> {
    let text = fs::read(answers).with_context(|| format!("could not read {}", answers.display()))?;
    let answers: Vec<Answer> = serde_json::from_slice(&text).context("the oracle's answers are malformed")?;
    let pairs: Vec<_> = question.scenarios.iter().zip(&answers).collect();
    if pairs.len() != question.scenarios.len()
        || pairs
            .iter()
            .any(|(scenario, answer)| scenario.name != answer.name)
    {
        bail!("the oracle answered another question");
    }
    let (next, differ) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some((scenario, answer)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let wrong = differences(question, scenario, answer);
            if let Some(first) = wrong.first() {
                tracing::error!(scenario = %scenario.name, first = %first, "Muster and the oracle differ.");
            }
            differ.fetch_add(wrong.len(), Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let minutes = usize::try_from(question.minutes).unwrap_or_default();
    Ok(Compared {
        scenarios: pairs.len(),
        minutes: minutes * pairs.len(),
        changes: answers.iter().map(|answer| answer.changes.len()).sum(),
        differ: differ.into_inner(),
    })
}

/// Minutes in which the two differ.
fn differences(question: &Question, scenario: &Scenario, answer: &Answer) -> Vec<String> {
    let mut changes = answer.changes.iter().peekable();
    let mut expected = (-1, 0);
    let mut wrong = Vec::new();
    for minute in 0..question.minutes {
        let now = question.from + minute * MINUTE;
        while let Some((_, min, edge)) = changes.next_if(|(at, _, _)| *at <= now) {
            expected = (*min, *edge);
        }
        let Ok(at) = Timestamp::from_second(now) else {
            wrong.push(format!("{now} is out of range"));
            continue;
        };
        let schedule = evaluate(&scenario.overrides, &Clock::Written, at);
        let edge = schedule.next_edge.map_or(0, Timestamp::as_second);
        let found = (schedule.min.unwrap_or(-1), edge);
        if found != expected || !schedule.problems.is_empty() {
            wrong.push(format!(
                "{at}: {found:?} instead of {expected:?} {:?}",
                schedule.problems
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_noticed() {
        let question = Question {
            from: start_of(YEAR).unwrap(),
            minutes: 3,
            scenarios: vec![Scenario {
                name: "once".to_owned(),
                overrides: serde_json::from_value(json!([{
                    "startTime": "2028-01-01T00:01:00Z", "endTime": "2028-01-01T00:02:00Z", "minReplicas": 7
                }]))
                .unwrap(),
            }],
        };
        let from = question.from;
        let answer = |changes| Answer {
            name: "once".to_owned(),
            changes,
        };
        let right = vec![
            (from, -1, from + 60),
            (from + 60, 7, from + 120),
            (from + 120, -1, 0),
        ];
        let wrong = vec![(from, -1, from + 60), (from + 60, 7, from + 120)];
        let scenario = &question.scenarios[0];
        assert_eq!(differences(&question, scenario, &answer(right)).len(), 0);
        assert_eq!(differences(&question, scenario, &answer(wrong)).len(), 1);
    }
}
