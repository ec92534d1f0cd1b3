//! Metrics of a process' calls to GitHub: upstream's rate-limit gauges, from live answers only (spec 02 §16.1, Q38), and the histogram that
//! every process has for external calls (part 91 B6).

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::budget::Lane;
use crate::observer::{CallFamily, Identity, LiveRequest, Observer};
use crate::shared::{BudgetView, Shared};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    api: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

fn call(family: CallFamily, outcome: &'static str) -> Call {
    Call {
        api: "github",
        operation: family.as_str(),
        outcome,
    }
}

/// The observer of this process' GitHub client.
#[derive(Clone, Debug)]
pub struct GitHubMetrics {
    limit: Gauge,
    remaining: Gauge,
    calls: Family<Call, Histogram, fn() -> Histogram>,
    saved: Family<Call, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl GitHubMetrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self {
            limit: Gauge::default(),
            remaining: Gauge::default(),
            calls: Family::new_with_constructor(seconds),
            saved: Family::default(),
        };
        registry.register(
            "github_rate_limit",
            "Requests per hour that GitHub allows",
            this.limit.clone(),
        );
        registry.register(
            "github_rate_limit_remaining",
            "Requests left in this hour",
            this.remaining.clone(),
        );
        registry.register_collector(Box::new(Calls(this.clone())));
        this
    }
}

/// Shows the calls by their labels, named from the start.
#[derive(Debug)]
struct Calls(GitHubMetrics);

impl Collector for Calls {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let GitHubMetrics { calls, saved, .. } = &self.0;
        let help = "Calls to GitHub that went over the network";
        let name = "muster_external_call_duration_seconds";
        calls.encode(encoder.encode_descriptor(name, help, None, MetricType::Histogram)?)?;
        let help = "Calls to GitHub answered from the cache or held back by a known limit";
        let name = "muster_external_calls_saved";
        saved.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }
}

impl Observer for GitHubMetrics {
    fn request(&self, request: &LiveRequest) {
        self.calls
            .get_or_create(&call(request.family, request.outcome.as_str()))
            .observe(request.elapsed.as_secs_f64());
        // A GitHub App's own budget is not the installation's, which the gauges are about.
        let rate = request.rate_limit.as_ref();
        if let Some(rate) = rate.filter(|_| request.identity == Identity::Credential) {
            self.limit.set(i64::try_from(rate.limit).unwrap_or(i64::MAX));
            self.remaining
                .set(i64::try_from(rate.remaining).unwrap_or(i64::MAX));
        }
    }

    fn cache_hit(&self, family: CallFamily) {
        self.saved.get_or_create(&call(family, "cache_hit")).inc();
    }

    fn held_back(&self, family: CallFamily) {
        self.saved.get_or_create(&call(family, "held_back")).inc();
    }
}

/// The budget of every credential in use, read at each scrape: a credential that nobody uses any more has no series.
#[derive(Debug)]
pub struct Budgets(Shared);

/// One series: its labels behind `credential`, and its value.
type Series = (Vec<(&'static str, String)>, u64);

/// One metric: its name, what it is, what kind, and how it comes out of a budget.
type Metric = (
    &'static str,
    &'static str,
    MetricType,
    fn(&BudgetView) -> Vec<Series>,
);

const METRICS: [Metric; 6] = [
    (
        "muster_github_budget_limit",
        "Calls per hour of a credential and bucket",
        MetricType::Gauge,
        |view| each_bucket(view, |bucket| bucket.limit),
    ),
    (
        "muster_github_budget_remaining",
        "Calls left in this hour of a credential and bucket",
        MetricType::Gauge,
        |view| each_bucket(view, |bucket| bucket.remaining),
    ),
    (
        "muster_github_budget_reset_timestamp_seconds",
        "When the hour of a credential and bucket ends, since the Unix epoch",
        MetricType::Gauge,
        |view| {
            each_bucket(view, |bucket| {
                u64::try_from(bucket.reset_at.as_second()).unwrap_or(0)
            })
        },
    ),
    (
        "muster_github_credential_accepted",
        "Whether GitHub accepts a credential (1) or refused it within the last minute (0)",
        MetricType::Gauge,
        |view| vec![(Vec::new(), u64::from(view.is_accepted))],
    ),
    (
        "muster_github_waits",
        "Calls that had to wait, by how urgent they were",
        MetricType::Counter,
        |view| {
            let lanes = Lane::ALL.iter().zip(view.waits);
            lanes
                .map(|(lane, waits)| (vec![("lane", lane.as_str().to_owned())], waits))
                .collect()
        },
    ),
    (
        "muster_github_refusals",
        "Calls that GitHub refused for a rate limit",
        MetricType::Counter,
        |view| {
            let limits = ["primary", "secondary"].into_iter().zip(view.refusals);
            limits
                .map(|(limit, refusals)| (vec![("limit", limit.to_owned())], refusals))
                .collect()
        },
    ),
];

fn each_bucket(view: &BudgetView, value: fn(&crate::BucketView) -> u64) -> Vec<Series> {
    let buckets = view.buckets.iter();
    buckets
        .map(|bucket| (vec![("bucket", bucket.bucket.clone())], value(bucket)))
        .collect()
}

impl Budgets {
    /// Shows the budgets of this process' credentials in `registry`.
    pub fn register(shared: &Shared, registry: &mut Registry) {
        registry.register_collector(Box::new(Self(shared.clone())));
    }
}

impl Collector for Budgets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let budgets = self.0.budgets();
        for (name, help, kind, of) in METRICS {
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for view in &budgets {
                for (mut labels, value) in of(view) {
                    labels.insert(0, ("credential", view.credential.clone()));
                    let series = metric.encode_family(&labels)?;
                    match kind {
                        MetricType::Counter => ConstCounter::new(value).encode(series)?,
                        _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(series)?,
                    }
                }
            }
        }
        Ok(())
    }
}
