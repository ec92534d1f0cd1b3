//! What the webhook server counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use muster_runtime::metrics::Announce as _;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Labels of `muster_webhook_deliveries_total`, each from a closed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeliveryLabels {
    /// Event type; `other` for one that GitHub does not document.
    pub event: &'static str,
    /// Action of a `workflow_job`; empty for other events.
    pub action: &'static str,
    /// What became of it, see [`crate::answer::Outcome`].
    pub outcome: &'static str,
}

/// Labels of the commit metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CommitLabels {
    /// `ok`, `refused`, `gone` or `failed`.
    pub outcome: &'static str,
}

/// Labels of `muster_webhook_signatures_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SignatureLabels {
    /// `current` or `previous`.
    pub secret: &'static str,
}

/// The metrics of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Deliveries by event, action and outcome.
    pub deliveries: Family<DeliveryLabels, Counter>,
    /// Signed deliveries by the secret that fits.
    pub signatures: Family<SignatureLabels, Counter>,
    /// Patches of autoscalers by outcome.
    pub commits: Family<CommitLabels, Counter>,
    /// Seconds from a delivery's arrival at its writer to the API server's acknowledgement.
    pub commit_seconds: Histogram,
    /// Events per patch.
    pub batch_size: Histogram,
    /// Patches refused because the autoscaler had changed.
    pub conflicts: Counter,
    /// Deliveries that matched no autoscaler.
    pub unmatched: Counter,
    /// Repeated deliveries answered from memory.
    pub duplicates: Counter,
    /// Deliveries that wait for a commit.
    pub waiting: Gauge,
    /// Autoscalers in the index.
    pub autoscalers: Gauge,
    /// Bytes of autoscaler objects that were written, as far as the API server stores them.
    pub written_bytes: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            deliveries: Family::default(),
            signatures: Family::default(),
            commits: Family::default(),
            commit_seconds: Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0]),
            batch_size: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]),
            conflicts: Counter::default(),
            unmatched: Counter::default(),
            duplicates: Counter::default(),
            waiting: Gauge::default(),
            autoscalers: Gauge::default(),
            written_bytes: Counter::default(),
        }
    }
}

impl Metrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let webhook = registry.sub_registry_with_prefix("muster_webhook");
        webhook.announce(
            "deliveries",
            "Deliveries by event, action and outcome",
            metrics.deliveries.clone(),
        );
        webhook.announce(
            "signatures",
            "Signed deliveries by the secret that fits: once previous stands still, it can be dropped",
            metrics.signatures.clone(),
        );
        webhook.announce(
            "commits",
            "Patches of autoscalers by outcome",
            metrics.commits.clone(),
        );
        webhook.register_with_unit(
            "commit",
            "Time from a delivery's arrival at its writer to the API server's acknowledgement",
            Unit::Seconds,
            metrics.commit_seconds.clone(),
        );
        webhook.announce("batch_size", "Events per patch", metrics.batch_size.clone());
        webhook.announce(
            "conflicts",
            "Patches refused because the autoscaler had changed",
            metrics.conflicts.clone(),
        );
        webhook.announce(
            "unmatched",
            "Deliveries that matched no autoscaler",
            metrics.unmatched.clone(),
        );
        webhook.announce(
            "duplicates",
            "Repeated deliveries answered from memory",
            metrics.duplicates.clone(),
        );
        webhook.announce(
            "queue_depth",
            "Deliveries that wait for a commit",
            metrics.waiting.clone(),
        );
        webhook.announce(
            "autoscalers",
            "Autoscalers in the index",
            metrics.autoscalers.clone(),
        );
        webhook.register_with_unit(
            "written",
            "Size of the autoscalers that were written",
            Unit::Bytes,
            metrics.written_bytes.clone(),
        );
        metrics
    }

    /// Counts a patch.
    pub fn commit(&self, outcome: &'static str) {
        self.commits.get_or_create(&CommitLabels { outcome }).inc();
    }

    /// Notes how long a delivery waited for its commit.
    pub fn committed_after(&self, elapsed: Duration) {
        self.commit_seconds.observe(elapsed.as_secs_f64());
    }
}

/// A count as a histogram takes it.
pub fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
