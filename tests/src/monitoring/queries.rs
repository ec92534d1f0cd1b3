//! The queries of the dashboard and of the alerts.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::keeper::workspace_dir;

/// The alerts, as kustomize applies them.
pub const RULES: &str = "config/prometheus/prometheus_rule.yaml";
/// The alerts, as the chart makes them.
pub const CHART_RULES: &str = "charts/actions-runner-controller/files/prometheus_rule.yaml";
/// The dashboard.
pub const DASHBOARD: &str = "charts/actions-runner-controller/files/grafana_dashboard.json";

/// A query and where it stands.
#[derive(Clone, Debug)]
pub struct Query {
    /// The panel's title or the alert's name.
    pub place: String,
    /// `PromQL`.
    pub text: String,
}

/// A file of the repository.
pub fn read(path: &str) -> Result<String> {
    fs::read_to_string(workspace_dir().join(path)).with_context(|| format!("could not read {path}"))
}

/// The alerts' names with their queries.
pub fn rules() -> Result<Vec<Query>> {
    let rules: Value = serde_saphyr::from_str(&read(RULES)?).context(RULES)?;
    let groups = rules.pointer("/spec/groups").and_then(Value::as_array);
    let rules = groups
        .into_iter()
        .flatten()
        .filter_map(|group| group.get("rules")?.as_array());
    rules
        .flatten()
        .map(|rule| {
            let text = |key: &str| rule.get(key).and_then(Value::as_str).map(str::to_owned);
            Ok(Query {
                place: text("alert").context("an alert without a name")?,
                text: text("expr").context("an alert without a query")?,
            })
        })
        .collect()
}

/// The queries of the dashboard's panels and variables.
pub fn dashboard() -> Result<Vec<Query>> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?).context(DASHBOARD)?;
    let list = |pointer: &str| {
        dashboard
            .pointer(pointer)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut queries = Vec::new();
    for panel in list("/panels") {
        let place = panel.get("title").and_then(Value::as_str).unwrap_or_default();
        for target in panel
            .get("targets")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = target
                .get("expr")
                .and_then(Value::as_str)
                .context("a target without a query")?;
            queries.push(Query {
                place: place.to_owned(),
                text: text.to_owned(),
            });
        }
    }
    for variable in list("/templating/list") {
        if let Some(text) = variable.get("definition").and_then(Value::as_str) {
            // The second argument is a label.
            let text = text.split_once(',').map_or(text, |(metric, _)| metric);
            queries.push(Query {
                place: "variables".to_owned(),
                text: format!("{})", text.trim_end_matches(')')),
            });
        }
    }
    Ok(queries)
}
