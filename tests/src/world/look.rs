//! Looking at a world: what is there, what is left, and a description for a failed wait.

use std::fmt::Write;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use muster_crds::legacy::{CapacityReservation, HorizontalRunnerAutoscaler, Runner, RunnerDeployment};

use crate::process::Process;

use super::World;

/// What is there of runners, wherever it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Pods in the namespace.
    pub pods: usize,
    /// `Runner` objects.
    pub runners: usize,
    /// `StatefulSet` objects.
    pub stateful_sets: usize,
    /// Runners that GitHub knows.
    pub registered: usize,
    /// Reservations that still count.
    pub live_reservations: usize,
}

impl Leftovers {
    /// Whether nothing is there at all.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The sum.
    pub fn total(&self) -> usize {
        self.pods + self.runners + self.stateful_sets + self.registered + self.live_reservations
    }
}

/// Whether an entry stands for demand: a tombstone does not.
pub fn is_live_reservation(entry: &CapacityReservation) -> bool {
    entry.replicas.unwrap_or_default() > 0
}

/// Entries that stand for demand: of the entries of one job (two writers at one moment) a tombstone wins.
fn live_jobs(ledger: &[CapacityReservation]) -> usize {
    fn job(entry: &CapacityReservation) -> Option<&str> {
        entry.name.as_deref()?.split('@').next()
    }
    let is_over = |entry: &CapacityReservation| {
        job(entry).is_some_and(|name| {
            let same = |other: &&CapacityReservation| job(other) == Some(name);
            ledger
                .iter()
                .filter(same)
                .any(|other| !is_live_reservation(other))
        })
    };
    let live = ledger.iter().filter(|entry| is_live_reservation(entry));
    live.filter(|entry| !is_over(entry)).count()
}

impl World {
    /// The pods in the world's namespace.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let list = self.api::<Pod>().list(&ListParams::default()).await;
        list.map(|list| list.items).context("could not list the pods")
    }

    /// The `Runner` objects in the world's namespace.
    pub async fn runners(&self) -> Result<Vec<Runner>> {
        let list = self.api::<Runner>().list(&ListParams::default()).await;
        list.map(|list| list.items).context("could not list the runners")
    }

    /// What is there of runners now.
    pub async fn leftovers(&self) -> Result<Leftovers> {
        let autoscalers = self
            .api::<HorizontalRunnerAutoscaler>()
            .list(&ListParams::default())
            .await
            .context("could not list the autoscalers")?;
        let live_reservations = autoscalers
            .items
            .iter()
            .map(|a| live_jobs(a.spec.capacity_reservations.as_deref().unwrap_or_default()))
            .sum();
        Ok(Leftovers {
            pods: self.pods().await?.len(),
            runners: self.runners().await?.len(),
            stateful_sets: self.stateful_sets().await?.len(),
            registered: self.github.runners().len(),
            live_reservations,
        })
    }

    /// The state of everything, for people.
    pub async fn describe(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _infallible = self.describe_to(&mut text).await;
        text
    }

    async fn describe_to(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "jobs: {:?}", self.github.job_stats())?;
        writeln!(text, "kubelet: {:?}", self.kubelet.counters())?;
        writeln!(text, "webhooks pending: {}", self.github.pending_webhooks())?;
        for runner in self.github.runners() {
            writeln!(text, "registered: {} busy={}", runner.name, runner.busy)?;
        }
        for violation in self.github.violations() {
            writeln!(text, "violation: {}", violation.detail)?;
        }
        match self
            .api::<HorizontalRunnerAutoscaler>()
            .list(&ListParams::default())
            .await
        {
            Ok(list) => {
                for autoscaler in list {
                    let spec = serde_json::to_string(&autoscaler.spec).unwrap_or_default();
                    let status = serde_json::to_string(&autoscaler.status).unwrap_or_default();
                    writeln!(
                        text,
                        "autoscaler {}: {spec}\n  status {status}",
                        autoscaler.name_any()
                    )?;
                }
            }
            Err(error) => writeln!(text, "autoscalers: {error}")?,
        }
        if let Ok(list) = self.api::<RunnerDeployment>().list(&ListParams::default()).await {
            for deployment in list {
                let (replicas, status) = (deployment.spec.replicas, &deployment.status);
                writeln!(
                    text,
                    "deployment {}: replicas {replicas:?}, {status:?}",
                    deployment.name_any()
                )?;
            }
        }
        self.describe_sets(text).await?;
        for runner in self.runners().await.unwrap_or_default() {
            let (deleted, status) = (runner.metadata.deletion_timestamp.is_some(), &runner.status);
            writeln!(text, "runner {}: deleted={deleted} {status:?}", runner.name_any())?;
        }
        for pod in self.pods().await.unwrap_or_default() {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            let (deleted, finalizers) = (
                pod.metadata.deletion_timestamp.is_some(),
                pod.finalizers().join(","),
            );
            writeln!(
                text,
                "pod {}: {phase:?} deleted={deleted} finalizers={finalizers} {:?}",
                pod.name_any(),
                pod.annotations()
            )?;
        }
        for manager in self.managers() {
            if let Some(manager) = manager.lock().await.as_ref() {
                write_log(text, manager)?;
            }
        }
        for server in &self.webhook_servers {
            write_log(text, &*server.lock().await)?;
        }
        for (component, proxy) in &self.proxies {
            let (injected, counts) = (proxy.injected(), proxy.counts());
            writeln!(text, "calls of {component}: {injected} by faults, {counts:?}")?;
        }
        Ok(())
    }
}

fn write_log(text: &mut String, process: &Process) -> std::fmt::Result {
    writeln!(
        text,
        "--- {}\n{}",
        process.log().display(),
        process.log_tail(3_000)
    )
}
