//! GitHub budgets, as the manager's metrics tell them.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Serialize;

/// Calls per hour, calls left and the end of the hour, each by credential and bucket.
const LIMIT: &str = "muster_github_budget_limit";
const REMAINING: &str = "muster_github_budget_remaining";
const RESET: &str = "muster_github_budget_reset_timestamp_seconds";
/// How long the endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is left of a rate limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Budget {
    /// Whose, and for which calls, as the metric's labels say.
    pub(crate) name: String,
    /// Calls per hour.
    pub(crate) limit: u64,
    /// Calls that are left.
    pub(crate) remaining: u64,
    /// When all are back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reset_at: Option<Timestamp>,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "budget  {}: {} of {} calls left",
            self.name, self.remaining, self.limit
        )?;
        match self.reset_at {
            Some(at) => write!(f, " until {}", at.strftime("%H:%M:%SZ")),
            None => Ok(()),
        }
    }
}

/// Asks the manager's metrics endpoint.
pub(crate) async fn read(url: &str) -> Result<Vec<Budget>> {
    let what = || format!("could not read the metrics at {url}");
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .build()
        .with_context(what)?;
    let answer = client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status);
    let text = answer.with_context(what)?.text().await.with_context(what)?;
    Ok(parse(&text))
}

/// Reads the gauges in Prometheus' text format.
fn parse(text: &str) -> Vec<Budget> {
    let mut found: BTreeMap<String, Budget> = BTreeMap::new();
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Some((metric, labels)) = series.split_once('{') else {
            continue;
        };
        let set: fn(&mut Budget, u64) = match metric {
            LIMIT => |budget, value| budget.limit = value,
            REMAINING => |budget, value| budget.remaining = value,
            RESET => |budget, value| {
                budget.reset_at = i64::try_from(value)
                    .ok()
                    .and_then(|second| Timestamp::from_second(second).ok());
            },
            _ => continue,
        };
        // Gauges may be written with a fraction.
        let Ok(value) = value.split('.').next().unwrap_or_default().parse() else {
            continue;
        };
        let name = name(labels);
        let budget = found.entry(name.clone()).or_insert_with(|| Budget {
            name,
            ..Budget::default()
        });
        set(budget, value);
    }
    found.into_values().filter(|budget| budget.limit > 0).collect()
}

/// The values of the labels, without their names.
fn name(labels: &str) -> String {
    let values: Vec<&str> = labels
        .trim_end_matches('}')
        .split("\",")
        .filter_map(|label| label.split_once("=\""))
        .map(|(_, value)| value.trim_end_matches('"'))
        .collect();
    values.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_become_budgets() {
        let text = "# TYPE muster_github_budget_limit gauge\n\
            muster_github_budget_limit{credential=\"app 12\",bucket=\"core\"} 5000\n\
            muster_github_budget_remaining{credential=\"app 12\",bucket=\"core\"} 4812\n\
            muster_github_budget_reset_timestamp_seconds{credential=\"app 12\",bucket=\"core\"} 1800000000\n\
            muster_github_budget_remaining{credential=\"token\",bucket=\"core\"} 7\n\
            github_rate_limit 5000\nother{a=\"b\"} 1\n";
        let budgets = parse(text);
        assert_eq!(budgets.len(), 1, "a limit that nobody knows is none");
        assert_eq!(
            budgets[0].to_string(),
            "budget  app 12, core: 4812 of 5000 calls left until 08:00:00Z"
        );
    }
}
