//! What queue reconciliation counts.

use muster_runtime::metrics::Announce as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabels {
    why: &'static str,
}

/// The kinds of drift: jobs that should count and did not, jobs that counted and should not.
const KINDS: [&str; 2] = ["missing", "leaked"];

/// Metrics of queue reconciliation. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueMetrics {
    looks: Family<OutcomeLabels, Counter>,
    drift: Family<KindLabels, Gauge>,
    changes: Family<WhyLabels, Counter>,
    hot: Gauge,
}

impl QueueMetrics {
    /// Registers everything in `registry`; the series of drift are there from the start.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        for kind in KINDS {
            drop(this.drift.get_or_create(&KindLabels { kind }));
        }
        registry.announce(
            "muster_queue_reconciliations",
            "Looks at a repository's queue, by outcome",
            this.looks.clone(),
        );
        // A count under the name that spec 20 gives it: a counter's would end in `_total`.
        registry.announce(
            "muster_demand_drift",
            "Jobs by which ledgers and GitHub's queue differed and that were mended, since the start",
            this.drift.clone(),
        );
        registry.announce(
            "muster_queue_reconciliation_changes",
            "Ledger entries that queue reconciliation changed, by reason",
            this.changes.clone(),
        );
        registry.announce(
            "muster_hot_repositories",
            "Repositories whose queue is looked at",
            this.hot.clone(),
        );
        this
    }

    pub(super) fn looked(&self, outcome: &'static str) {
        self.looks.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(super) fn hot(&self, repositories: usize) {
        self.hot.set(i64::try_from(repositories).unwrap_or(i64::MAX));
    }

    pub(super) fn changed(&self, why: &'static str) {
        self.changes.get_or_create(&WhyLabels { why }).inc();
    }

    /// A job that drifted was mended.
    pub(super) fn drifted(&self, kind: &'static str) {
        self.drift.get_or_create(&KindLabels { kind }).inc();
    }
}
