//! What delivery replay counts.

use muster_runtime::metrics::Announce as _;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels from a closed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// How it went.
    pub outcome: &'static str,
}

/// The metrics of delivery replay. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ReplayMetrics {
    /// 1 while a replica may replay.
    pub enabled: Gauge,
    /// Deliveries that GitHub's log shows without a 2xx, once per GUID.
    pub missed: Counter,
    /// What became of them.
    pub recovered: Family<OutcomeLabels, Counter>,
    scans: Family<OutcomeLabels, Counter>,
}

impl ReplayMetrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.announce(
            "muster_replay_enabled",
            "1 while deliveries that were missed are looked for, by this replica or another",
            metrics.enabled.clone(),
        );
        registry.announce(
            "muster_missed_deliveries",
            "Deliveries that GitHub's log shows without a 2xx, once per GUID",
            metrics.missed.clone(),
        );
        registry.announce(
            "muster_recovered_deliveries",
            "Missed deliveries that were dealt with, by outcome",
            metrics.recovered.clone(),
        );
        registry.announce(
            "muster_replay_scans",
            "Scans of a hook's delivery log, by outcome",
            metrics.scans.clone(),
        );
        metrics
    }

    pub(super) fn recovered(&self, outcome: &'static str) {
        self.recovered.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(super) fn scanned(&self, outcome: &'static str) {
        self.scans.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}
