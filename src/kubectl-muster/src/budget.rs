//! GitHub budgets, as the manager's metrics tell them.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Name of the gauge of what is left, and of what there is.
const REMAINING: &str = "github_rate_limit_remaining";
const LIMIT: &str = "github_rate_limit";

/// What is left of a rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Budget {
    /// The labels of the metric, or `github` where it has none.
    pub(crate) name: String,
    /// Calls per hour.
    pub(crate) limit: u64,
    /// Calls that are left.
    pub(crate) remaining: u64,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "budget  {}: {} of {} calls left",
            self.name, self.remaining, self.limit
        )
    }
}

/// Asks the manager's metrics endpoint.
pub(crate) async fn read(url: &str) -> Result<Vec<Budget>> {
    let what = || format!("could not read the metrics at {url}");
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
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

/// Reads the gauges in Prometheus' text format. A limit of zero is none that was learned.
fn parse(text: &str) -> Vec<Budget> {
    let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let name = name.rsplit_once("muster_").map_or(name, |(_, name)| name);
        let whole = value.split('.').next().unwrap_or_default();
        let Ok(value) = whole.parse() else { continue };
        let labels = labels.trim_end_matches('}').replace('"', "");
        let entry = found.entry(if labels.is_empty() {
            "github".to_owned()
        } else {
            labels
        });
        match name {
            LIMIT => entry.or_default().0 = value,
            REMAINING => entry.or_default().1 = value,
            _ => {}
        }
    }
    found
        .into_iter()
        .filter(|(_, (limit, _))| *limit > 0)
        .map(|(name, (limit, remaining))| Budget {
            name,
            limit,
            remaining,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_become_budgets() {
        let text = "# HELP github_rate_limit Requests\n# TYPE github_rate_limit gauge\ngithub_rate_limit 5000\n\
            github_rate_limit_remaining 4812\nother{a=\"b\"} 1\n";
        let budgets = parse(text);
        assert_eq!(budgets.len(), 1);
        assert_eq!(budgets[0].to_string(), "budget  github: 4812 of 5000 calls left");
        assert_eq!(parse("github_rate_limit 0\ngithub_rate_limit_remaining 0\n"), []);
        let labelled = parse(
            "github_rate_limit{credential=\"a\"} 10\ngithub_rate_limit_remaining{credential=\"a\"} 7\n",
        );
        assert_eq!(labelled[0].name, "credential=a");
    }
}
