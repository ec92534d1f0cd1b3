//! Metrics of a process' calls to GitHub: upstream's rate-limit gauges, from live answers only (spec 02 §16.1, Q38), and the histogram that
//! every process has for external calls (part 91 B6).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::observer::{CallFamily, Identity, LiveRequest, Observer};

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
        registry.register(
            "muster_external_call_duration_seconds",
            "Calls to GitHub that went over the network",
            this.calls.clone(),
        );
        registry.register(
            "muster_external_calls_saved",
            "Calls to GitHub answered from the cache or held back by a known limit",
            this.saved.clone(),
        );
        this
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
