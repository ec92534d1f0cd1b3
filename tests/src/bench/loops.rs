//! What the API server does at best on this machine, in these minutes: plain loops that make the writes which a job
//! needs, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use muster_crds::legacy::{Runner, RunnerConfig, RunnerSpec};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{control_plane::ControlPlane, demo::Spread, world::ORGANIZATION};

/// Environment variables of a runner pod, about.
const VARIABLES: usize = 30;

/// A loop's result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Writes.
    pub(super) writes: usize,
    /// From the first to the last answer.
    pub(super) took: Duration,
    /// Microseconds of each.
    pub(super) latency: Spread,
}

impl Rate {
    pub(super) fn per_second(&self) -> f64 {
        super::figures::count(self.writes) / self.took.as_secs_f64().max(1e-9)
    }
}

/// A namespace without a kubelet and without Muster.
#[derive(Clone)]
pub(super) struct Bare {
    client: Client,
    ns: String,
}

impl Bare {
    pub(super) async fn make(plane: &Arc<ControlPlane>) -> Result<Self> {
        Ok(Self {
            client: plane.admin().await?,
            ns: plane.namespace("bare").await?,
        })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.ns)
    }

    fn runners(&self) -> Api<Runner> {
        Api::namespaced(self.client.clone(), &self.ns)
    }

    /// Runs `write` for the numbers below `count`, so many at a time; `writes` of it go to the API server each time.
    async fn repeat<F>(
        &self,
        count: usize,
        at_a_time: usize,
        writes: usize,
        write: impl Fn(Self, usize) -> F + Clone + Send + 'static,
    ) -> Result<Rate>
    where
        F: Future<Output = Result<()>> + Send,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        let begun = Instant::now();
        for _ in 0..at_a_time {
            let (next, write, bare) = (next.clone(), write.clone(), self.clone());
            workers.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok::<_, anyhow::Error>(times);
                    }
                    let began = Instant::now();
                    write(bare.clone(), number).await?;
                    times.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
            });
        }
        let mut times = Vec::new();
        while let Some(done) = workers.join_next().await {
            times.extend(done.context("a worker failed")??);
        }
        Ok(Rate {
            writes: count * writes,
            took: begun.elapsed(),
            latency: Spread::of(times),
        })
    }

    /// Creates a Runner and its pod, `count` times: what a burst needs at least.
    pub(super) async fn runners_with_pods(&self, count: usize, at_a_time: usize) -> Result<Rate> {
        self.repeat(count, at_a_time, 2, |bare, number| async move {
            let name = format!("loop-{number:05}");
            let params = PostParams::default();
            let created = bare.runners().create(&params, &runner(&name)).await;
            created.context("could not create a Runner")?;
            let created = bare.pods().create(&params, &pod(&name)?).await;
            created.map(drop).context("could not create a pod")
        })
        .await
    }

    /// A mixture of the writes of a pod's life: creation, an annotation, a status, deletion.
    pub(super) async fn lives(&self, count: usize, at_a_time: usize) -> Result<Rate> {
        self.repeat(count, at_a_time, 4, |bare, number| async move {
            let (pods, name) = (bare.pods(), format!("life-{number:05}"));
            let create = pods.create(&PostParams::default(), &pod(&name)?).await;
            create.context("could not create a pod")?;
            let params = PatchParams::default();
            let note = json!({"metadata": {"annotations": {"example.com/number": number.to_string()}}});
            let noted = pods.patch_metadata(&name, &params, &Patch::Merge(note)).await;
            noted.context("could not annotate a pod")?;
            let running = json!({"status": {"phase": "Running"}});
            let ran = pods.patch_status(&name, &params, &Patch::Merge(running)).await;
            ran.context("could not write a pod's status")?;
            let gone = DeleteParams::default().grace_period(0);
            let deleted = pods.delete(&name, &gone).await;
            deleted.map(drop).context("could not delete a pod")
        })
        .await
    }

    /// Four writes one after the other and then a pod, `count` times: what stands between a webhook and a pod. The
    /// times are those of whole chains.
    pub(super) async fn chains(&self, count: usize) -> Result<Rate> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.ns);
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "chain"}, "data": {"at": "0"}}))
                .context("the map is malformed")?;
        let made = maps.create(&PostParams::default(), &map).await;
        made.context("could not create a map")?;
        self.repeat(count, 1, 5, |bare, number| async move {
            let maps: Api<ConfigMap> = Api::namespaced(bare.client.clone(), &bare.ns);
            for step in 0..3 {
                let change = json!({"data": {"at": format!("{number}-{step}")}});
                let changed = maps
                    .patch("chain", &PatchParams::default(), &Patch::Merge(change))
                    .await;
                changed.context("could not change a map")?;
            }
            let (params, name) = (PostParams::default(), format!("chain-{number:05}"));
            let created = bare.runners().create(&params, &runner(&name)).await;
            created.context("could not create a Runner")?;
            let created = bare.pods().create(&params, &pod(&name)?).await;
            created.map(drop).context("could not create a pod")
        })
        .await
    }

    /// Removes what the loops have made.
    pub(super) async fn clear(&self) -> Result<()> {
        let now = DeleteParams::default().grace_period(0);
        let pods = self.pods().delete_collection(&now, &ListParams::default()).await;
        pods.context("could not delete the pods")?;
        let params = DeleteParams::default();
        let runners = self
            .runners()
            .delete_collection(&params, &ListParams::default())
            .await;
        runners.map(drop).context("could not delete the Runners")
    }
}

fn runner(name: &str) -> Runner {
    let config = RunnerConfig {
        organization: Some(ORGANIZATION.to_owned()),
        labels: Some(vec!["loop".to_owned()]),
        ..RunnerConfig::default()
    };
    Runner::new(
        name,
        RunnerSpec {
            config,
            ..RunnerSpec::default()
        },
    )
}

fn pod(name: &str) -> Result<Pod> {
    let variables: Vec<Value> = (0..VARIABLES)
        .map(|number| json!({"name": format!("VARIABLE_{number}"), "value": "a value of the usual length"}))
        .collect();
    let container = json!({"name": "runner", "image": "example.com/runner:1", "env": variables});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"containers": [container]}}))
        .context("the pod is malformed")
}
