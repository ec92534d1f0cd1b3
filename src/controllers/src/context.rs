//! What every reconciler gets.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use kube::Client;
use muster_core::{
    autoscale::{demand::DemandMerge, schedule},
    pods::{PodView, phase::Deadlines, template::PodDefaults},
};
use muster_crds::legacy::{
    HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet, RunnerSet,
};
use muster_runtime::{
    clock::Clock,
    drive::{Cache, Queue},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clients::Clients,
    ends::Ends,
    events::Recorder,
    gate::Gate,
    legacy::{
        autoscaler::{Memory, pull::Samples},
        leftovers::Leftovers,
        linked::FirstFailures,
        reconciliation::ReconciliationSettings,
        runner_set::storage::{Storage, VolumeSettings},
        tracking::Tracking,
    },
    metrics::Metrics,
    pod_owner::Expectations,
};

/// What the manager's flags say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Defaults of runner pods.
    pub pods: PodDefaults,
    /// `--common-runner-labels`: appended to the labels of every RunnerDeployment's runners.
    pub common_runner_labels: Vec<String>,
    /// `--default-scale-down-delay`.
    pub scale_down_delay: SignedDuration,
    /// `--demand-merge`: how pull metrics and reservations become one number.
    pub demand_merge: DemandMerge,
    /// `--schedule-time-zone`: whose clock scheduled overrides follow that name no zone.
    pub schedule_clock: schedule::Clock,
    /// `--sync-period`: everything is looked at again after this long, as a safety net; nothing waits for it.
    pub sync_period: Duration,
    /// How long a runner may take for each step of its life.
    pub deadlines: Deadlines,
    /// Queue reconciliation.
    pub reconciliation: ReconciliationSettings,
    /// Volumes of RunnerSets.
    pub volumes: VolumeSettings,
    /// `--watch-namespace`; `None` watches all.
    pub watch_namespace: Option<String>,
    /// `manager drain`: no runner is wanted, and none is made.
    pub draining: bool,
}

/// The caches that reconcilers share.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    pub(crate) autoscalers: Cache<HorizontalRunnerAutoscaler>,
    pub(crate) deployments: Cache<RunnerDeployment>,
    pub(crate) replica_sets: Cache<RunnerReplicaSet>,
    pub(crate) runners: Cache<Runner>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) runner_sets: Cache<RunnerSet>,
    pub(crate) stateful_sets: Cache<StatefulSet>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
}

/// What every reconciler gets.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) clients: Arc<Clients>,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) caches: Caches,
    pub(crate) ends: Arc<Ends>,
    pub(crate) gate: Gate,
    pub(crate) expectations: Expectations,
    pub(crate) memory: Memory,
    pub(crate) tracking: Tracking,
    /// Wakes the reconciler of runner pods.
    pub(crate) pods: Queue<Pod>,
    /// Wakes the reconciler of autoscalers.
    pub(crate) autoscalers: Queue<HorizontalRunnerAutoscaler>,
    pub(crate) samples: Samples,
    pub(crate) linked_failures: FirstFailures,
    pub(crate) storage: Storage,
    pub(crate) leftovers: Leftovers,
    /// What is done beside the reconciles: reports of failures, questions to GitHub.
    pub(crate) tasks: TaskTracker,
    /// Told to stop; what is done beside the reconciles and may take long gives up then.
    pub(crate) stop: CancellationToken,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// The facts of a pod under this process' deadlines.
    pub(crate) fn view(&self, pod: &Pod) -> PodView {
        PodView::of(pod).within(self.settings.deadlines)
    }

    /// The sync period with up to 10 % more, spread by name, so that not everything is looked at in the same moment; until a full second, so that one moment does for
    /// several: with hundreds of idle runners waking up costs more than looking.
    pub(crate) fn resync(&self, name: &str) -> Duration {
        let spread = name.bytes().fold(0_u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u32::from(byte))
        }) % 100;
        let wait = self.settings.sync_period + self.settings.sync_period * spread / 1_000;
        let nanoseconds = u32::try_from(self.clock.now().subsec_nanosecond()).unwrap_or_default();
        let due = wait + Duration::from_nanos(nanoseconds.into());
        wait + Duration::from_secs(due.as_secs() + 1).saturating_sub(due)
    }
}
