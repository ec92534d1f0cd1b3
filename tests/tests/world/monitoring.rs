//! Dashboard, alerts and documentation speak of metrics that exist, and the documentation of all of them. What exists is what the real
//! binaries show.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use muster_tests::{
    github::{DEFAULT_TOKEN, HookSpec},
    keeper::Keeper,
    monitoring::{
        documented::{Documented, sections},
        promql, queries,
        shown::{self, Shown},
    },
    process::{MetricsServerConfig, Process},
    world::{ORGANIZATION, World},
};

const MINUTE: Duration = Duration::from_mins(1);

/// Sections of the documentation, and whose metrics they are about.
const SECTIONS: [(&str, &[&str]); 6] = [
    ("Every process", &[MANAGER, WEBHOOK_SERVER, METRICS_SERVER]),
    (
        "Every process with a GitHub login",
        &[MANAGER, WEBHOOK_SERVER, METRICS_SERVER],
    ),
    (
        "Every process that speaks to Kubernetes",
        &[MANAGER, WEBHOOK_SERVER],
    ),
    ("Manager", &[MANAGER]),
    ("github-webhook-server", &[WEBHOOK_SERVER]),
    ("Jobs, by actions-metrics-server", &[METRICS_SERVER]),
];
const MANAGER: &str = "manager";
const WEBHOOK_SERVER: &str = "github-webhook-server";
const METRICS_SERVER: &str = "actions-metrics-server";

/// The documentation's rows of each process.
fn documented() -> BTreeMap<&'static str, BTreeMap<String, Documented>> {
    let mut sections = sections(&queries::read("docs/monitoring.md").unwrap()).unwrap();
    let mut documented: BTreeMap<&str, BTreeMap<String, Documented>> = BTreeMap::new();
    for (heading, components) in SECTIONS {
        let rows = sections
            .remove(heading)
            .unwrap_or_else(|| panic!("docs/monitoring.md has no section {heading:?}"));
        for component in components {
            documented.entry(component).or_default().extend(rows.clone());
        }
    }
    assert!(sections.is_empty(), "of no process: {:?}", sections.keys());
    documented
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_names_what_the_processes_show_and_nothing_else() {
    let world = World::builder("monitoring").replay(true).start().await.unwrap();
    let keeper = Arc::new(Keeper::new("monitoring").unwrap());
    let config = MetricsServerConfig {
        github_url: world.github.base_url(),
        github_token: Some(DEFAULT_TOKEN.to_owned()),
        secret: "monitoring".to_owned(),
        flags: Vec::new(),
    };
    let made = config.command().unwrap();
    let _server = Process::start(&keeper, made.command).await.unwrap();
    world
        .github
        .add_hook(HookSpec::organization(ORGANIZATION, &made.url, "monitoring"));
    world.deployment("pool", |_| {}).await.unwrap();
    world.autoscaler("pool", "pool", |_| {}).await.unwrap();
    world.queue_jobs(3, Duration::from_millis(200));
    world.until_jobs_done(2 * MINUTE).await.unwrap();

    let mut wrong = Vec::new();
    for (component, rows) in documented() {
        let text = if component == METRICS_SERVER {
            let answer = reqwest::Client::builder().no_proxy().build().unwrap();
            answer
                .get(&made.metrics_url)
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap()
        } else {
            world.metrics(component).await.unwrap()
        };
        compare(component, &shown::metrics(&text), &rows, &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn compare(
    component: &str,
    shown: &BTreeMap<String, Shown>,
    rows: &BTreeMap<String, Documented>,
    wrong: &mut Vec<String>,
) {
    for name in shown.keys().filter(|name| !rows.contains_key(*name)) {
        wrong.push(format!(
            "{component} shows {name}, which docs/monitoring.md does not name"
        ));
    }
    for (name, row) in rows {
        let Some(shown) = shown.get(name) else {
            wrong.push(format!(
                "{component} does not show {name}, which docs/monitoring.md names"
            ));
            continue;
        };
        if shown.kind != row.kind {
            wrong.push(format!("{name} is a {} and not a {}", shown.kind, row.kind));
        }
        for labels in &shown.labels {
            let fits = if row.may_lack {
                labels.is_subset(&row.labels)
            } else {
                *labels == row.labels
            };
            if !fits {
                wrong.push(format!(
                    "{name} has the labels {labels:?} and not {:?}",
                    row.labels
                ));
            }
        }
    }
}

/// Labels that Prometheus adds, and those of buckets.
const OTHER_LABELS: [&str; 3] = ["instance", "job", "le"];

#[test]
fn queries_of_dashboard_and_alerts_are_about_what_is_documented() {
    let rows: BTreeMap<String, Documented> = documented().into_values().flatten().collect();
    let (dashboard, rules) = (queries::dashboard().unwrap(), queries::rules().unwrap());
    assert!(
        dashboard.len() > 40 && rules.len() > 10,
        "{} and {}",
        dashboard.len(),
        rules.len()
    );
    let mut used = BTreeSet::new();
    for query in dashboard.iter().chain(&rules) {
        let names = promql::names(&query.text).unwrap();
        assert!(!names.metrics.is_empty(), "{query:?}");
        let mut labels: BTreeSet<&str> = OTHER_LABELS.into();
        for series in &names.metrics {
            let row = rows.get(series).or_else(|| {
                let histogram = rows.get(shown::base(series));
                histogram.filter(|row| row.kind == "histogram")
            });
            let row = row.unwrap_or_else(|| panic!("there is no {series}: {query:?}"));
            labels.extend(row.labels.iter().map(String::as_str));
            used.insert(shown::base(series).to_owned());
        }
        for label in &names.labels {
            assert!(
                labels.contains(label.as_str()),
                "no metric here has {label}: {query:?}"
            );
        }
    }
    assert!(used.len() > 40, "few metrics are shown or watched: {used:?}");
}

#[test]
fn alerts_are_documented_and_the_same_in_chart_and_kustomize() {
    assert_eq!(
        queries::read(queries::RULES).unwrap(),
        queries::read(queries::CHART_RULES).unwrap()
    );
    let text = queries::read("docs/monitoring.md").unwrap();
    let rows: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `Muster")?.split('`').next())
        .collect();
    let alerts: Vec<String> = queries::rules()
        .unwrap()
        .into_iter()
        .map(|rule| rule.place)
        .collect();
    let alerts: BTreeSet<&str> = alerts
        .iter()
        .filter_map(|alert| alert.strip_prefix("Muster"))
        .collect();
    assert_eq!(alerts, rows);
}
