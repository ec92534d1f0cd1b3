//! Metrics of the webhooks: controller-runtime's names (spec 02 §16.2), and what was answered.

use std::time::Duration;

use muster_runtime::metrics::Announce as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::hooks::Hook;

/// Upper bounds in seconds: a validation takes microseconds, a new token up to the API server's time-out.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
/// Every answer has this HTTP status.
const CODE: &str = "200";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Webhook {
    webhook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Coded {
    webhook: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    webhook: &'static str,
    outcome: &'static str,
}

/// Counts reviews. Clones share their counters.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    requests: Family<Coded, Counter>,
    latency: Family<Webhook, Histogram, fn() -> Histogram>,
    in_flight: Family<Webhook, Gauge>,
    panics: Counter,
    answers: Family<Answered, Counter>,
}

impl AdmissionMetrics {
    /// Creates the metrics in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            in_flight: Family::default(),
            panics: Counter::default(),
            answers: Family::default(),
        };
        let prefixed = registry.sub_registry_with_prefix("controller_runtime_webhook");
        prefixed.announce(
            "requests",
            "Admission requests by HTTP status",
            metrics.requests.clone(),
        );
        prefixed.announce(
            "latency_seconds",
            "Duration of admission requests",
            metrics.latency.clone(),
        );
        prefixed.announce(
            "requests_in_flight",
            "Admission requests that are being answered",
            metrics.in_flight.clone(),
        );
        prefixed.announce(
            "panics",
            "Admission requests that panicked",
            metrics.panics.clone(),
        );
        registry.announce(
            "muster_admission_answers",
            "Admission requests by what was answered",
            metrics.answers.clone(),
        );
        for hook in Hook::all() {
            let webhook = hook.path();
            drop(metrics.requests.get_or_create(&Coded { webhook, code: CODE }));
            drop(metrics.in_flight.get_or_create(&Webhook { webhook }));
        }
        metrics
    }

    pub(super) fn begin(&self, webhook: &'static str) -> Counted<'_> {
        self.in_flight.get_or_create(&Webhook { webhook }).inc();
        Counted {
            metrics: self,
            webhook,
        }
    }

    pub(super) fn panicked(&self) {
        self.panics.inc();
    }
}

/// A request that is being answered: until then, or until the peer goes.
pub(super) struct Counted<'a> {
    metrics: &'a AdmissionMetrics,
    webhook: &'static str,
}

impl Counted<'_> {
    pub(super) fn end(self, outcome: &'static str, elapsed: Duration) {
        let webhook = self.webhook;
        let metrics = self.metrics;
        metrics
            .requests
            .get_or_create(&Coded { webhook, code: CODE })
            .inc();
        metrics
            .answers
            .get_or_create(&Answered { webhook, outcome })
            .inc();
        let seconds = elapsed.as_secs_f64();
        metrics
            .latency
            .get_or_create(&Webhook { webhook })
            .observe(seconds);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let webhook = self.webhook;
        self.metrics.in_flight.get_or_create(&Webhook { webhook }).dec();
    }
}
