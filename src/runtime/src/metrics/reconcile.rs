//! The metrics about reconciles under the names of controller-runtime, which dashboards for ARC use (spec 02 §16.2).

use std::time::Duration;

use super::Announce as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Values of the `result` label.
const RESULTS: [&str; 4] = ["success", "error", "requeue", "requeue_after"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Controller {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    controller: &'static str,
    result: &'static str,
}

/// Upper bounds in seconds, the same as controller-runtime's so that recorded series continue.
const BOUNDS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25,
    1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0,
    50.0, 60.0,
];

/// Counts reconciles. Clones share their counters.
#[derive(Clone, Debug)]
pub struct ReconcileMetrics {
    total: Family<Outcome, Counter>,
    errors: Family<Controller, Counter>,
    panics: Family<Controller, Counter>,
    terminal_errors: Family<Controller, Counter>,
    timeouts: Family<Controller, Counter>,
    time: Family<Controller, Histogram, fn() -> Histogram>,
    active: Family<Controller, Gauge>,
    max_concurrent: Family<Controller, Gauge>,
}

impl ReconcileMetrics {
    /// Creates the metrics in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            total: Family::default(),
            errors: Family::default(),
            panics: Family::default(),
            terminal_errors: Family::default(),
            timeouts: Family::default(),
            time: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            active: Family::default(),
            max_concurrent: Family::default(),
        };
        let prefixed = registry.sub_registry_with_prefix("controller_runtime");
        prefixed.announce("reconcile", "Reconciles per controller", metrics.total.clone());
        prefixed.announce(
            "reconcile_errors",
            "Failed reconciles per controller",
            metrics.errors.clone(),
        );
        prefixed.announce(
            "reconcile_panics",
            "Reconciles that panicked",
            metrics.panics.clone(),
        );
        prefixed.announce(
            "terminal_reconcile_errors",
            "Reconciles that failed in a way that only a change of the object can mend",
            metrics.terminal_errors.clone(),
        );
        prefixed.announce(
            "reconcile_timeouts",
            "Reconciles that were given up after their time limit",
            metrics.timeouts.clone(),
        );
        prefixed.announce(
            "reconcile_time_seconds",
            "Duration of a reconcile",
            metrics.time.clone(),
        );
        prefixed.announce(
            "active_workers",
            "Reconciles that run at present",
            metrics.active.clone(),
        );
        prefixed.announce(
            "max_concurrent_reconciles",
            "Limit of reconciles that run at the same time",
            metrics.max_concurrent.clone(),
        );
        metrics
    }

    /// Announces a controller and its limit of concurrent reconciles, so that all its series exist from the start.
    pub fn set_max_concurrent(&self, controller: &'static str, limit: i64) {
        let label = Controller { controller };
        self.max_concurrent.get_or_create(&label).set(limit);
        for result in RESULTS {
            drop(self.total.get_or_create(&Outcome { controller, result }));
        }
        for counter in [&self.errors, &self.panics, &self.terminal_errors, &self.timeouts] {
            drop(counter.get_or_create(&label));
        }
        drop(self.active.get_or_create(&label));
    }

    /// Counts a reconcile that ended with `success`, `error`, `requeue` or `requeue_after`. An error is counted in `reconcile_errors_total`
    /// too.
    pub fn observe(&self, controller: &'static str, result: &'static str, elapsed: Duration) {
        let label = Controller { controller };
        self.total.get_or_create(&Outcome { controller, result }).inc();
        self.time.get_or_create(&label).observe(elapsed.as_secs_f64());
        if result == "error" {
            self.errors.get_or_create(&label).inc();
        }
    }

    /// Counts a reconcile as running.
    pub fn started(&self, controller: &'static str) {
        self.active.get_or_create(&Controller { controller }).inc();
    }

    /// Takes back [`Self::started`].
    pub fn finished(&self, controller: &'static str) {
        self.active.get_or_create(&Controller { controller }).dec();
    }

    /// Counts a panic; to be called beside [`Self::observe`].
    pub fn panicked(&self, controller: &'static str) {
        self.panics.get_or_create(&Controller { controller }).inc();
    }

    /// Counts an error that only a change of the object can mend; to be called beside [`Self::observe`].
    pub fn terminal(&self, controller: &'static str) {
        self.terminal_errors
            .get_or_create(&Controller { controller })
            .inc();
    }

    /// Counts a reconcile that was given up after its time limit; to be called beside [`Self::observe`].
    pub fn timed_out(&self, controller: &'static str) {
        self.timeouts.get_or_create(&Controller { controller }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Exposition, Form},
        *,
    };

    #[test]
    fn reconciles_show_under_the_names_of_controller_runtime() {
        let mut registry = Registry::default();
        let metrics = ReconcileMetrics::register(&mut registry);
        metrics.set_max_concurrent("runner-controller", 8);
        metrics.observe("runner-controller", "success", Duration::from_millis(20));
        metrics.observe("runner-controller", "error", Duration::from_secs(2));
        metrics.observe("runner-controller", "requeue_after", Duration::from_secs(2));
        metrics.panicked("runner-controller");
        metrics.started("runner-controller");
        let exposition = Exposition::new(registry);
        let text = exposition.encode(Form::Classic).unwrap();
        for line in [
            "# TYPE controller_runtime_reconcile_total counter",
            "controller_runtime_reconcile_total{controller=\"runner-controller\",result=\"success\"} 1",
            "controller_runtime_reconcile_total{controller=\"runner-controller\",result=\"error\"} 1",
            "controller_runtime_reconcile_total{controller=\"runner-controller\",result=\"requeue\"} 0",
            "controller_runtime_reconcile_total{controller=\"runner-controller\",result=\"requeue_after\"} 1",
            "controller_runtime_reconcile_errors_total{controller=\"runner-controller\"} 1",
            "controller_runtime_reconcile_panics_total{controller=\"runner-controller\"} 1",
            "controller_runtime_terminal_reconcile_errors_total{controller=\"runner-controller\"} 0",
            "controller_runtime_reconcile_timeouts_total{controller=\"runner-controller\"} 0",
            "# TYPE controller_runtime_reconcile_time_seconds histogram",
            "controller_runtime_reconcile_time_seconds_bucket{le=\"0.025\",controller=\"runner-controller\"} 1",
            "controller_runtime_reconcile_time_seconds_bucket{le=\"2\",controller=\"runner-controller\"} 3",
            "controller_runtime_reconcile_time_seconds_count{controller=\"runner-controller\"} 3",
            "controller_runtime_active_workers{controller=\"runner-controller\"} 1",
            "controller_runtime_max_concurrent_reconciles{controller=\"runner-controller\"} 8",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        metrics.finished("runner-controller");
        let text = exposition.encode(Form::Classic).unwrap();
        assert!(text.contains("controller_runtime_active_workers{controller=\"runner-controller\"} 0\n"));
    }
}
