//! The volumes of a world's runners: which are kept for the next one, and which are left to nobody.

use std::{collections::BTreeSet, fmt::Write, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{ResourceExt, api::ListParams};
use muster_crds::{keys, legacy::RunnerSet};

use super::World;

/// Label of a volume that is kept: the namespace of its RunnerSet.
const KEPT_NAMESPACE: &str = "muster.dev/runnerset-namespace";

/// What became of a world's volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeFigures {
    /// Volumes that were made.
    pub created: usize,
    /// Times that a runner got a volume that another one had used before.
    pub reused: usize,
    /// Times that a volume was in use by two pods at once.
    pub double_mounts: usize,
    /// Claims and volumes that nobody uses or keeps.
    pub leaks: usize,
}

impl VolumeFigures {
    /// Whether no volume was in use twice and none is lost.
    pub fn is_good(&self) -> bool {
        self.double_mounts == 0 && self.leaks == 0
    }

    /// Adds those of another world.
    pub fn add(&mut self, other: Self) {
        self.created += other.created;
        self.reused += other.reused;
        self.double_mounts += other.double_mounts;
        self.leaks += other.leaks;
    }

    /// The figures in a line.
    pub fn line(&self) -> String {
        format!(
            "{} volumes made, {} times used again, {} in use twice, {} leaked",
            self.created, self.reused, self.double_mounts, self.leaks
        )
    }
}

impl World {
    /// What became of the volumes so far; nothing in a world without storage.
    pub async fn volume_figures(&self) -> Result<VolumeFigures> {
        let Some(storage) = &self.storage else {
            return Ok(VolumeFigures::default());
        };
        let counters = storage.counters();
        Ok(VolumeFigures {
            created: counters.created,
            reused: counters.reused,
            double_mounts: counters.double_mounts,
            leaks: self.volume_leaks().await?.len(),
        })
    }

    /// Waits until every volume is in use, kept or gone.
    pub async fn until_volumes_settle(&self, deadline: Duration) -> Result<()> {
        let settled = async |world: &Self| match world.storage {
            Some(_) => Ok(world.volume_leaks().await?.is_empty()),
            None => Ok(true),
        };
        self.until("no volume is left to nobody", deadline, settled).await
    }

    /// Claims and volumes that nobody uses or keeps, one sentence each: claims without a StatefulSet, volumes without a
    /// claim that no RunnerSet keeps, and storage whose volume is gone.
    pub async fn volume_leaks(&self) -> Result<Vec<String>> {
        let storage = self.storage()?;
        let volumes = storage.volumes();
        let (claims, sets) = (self.claims().await?, self.stateful_sets().await?);
        let sets: BTreeSet<String> = sets.iter().map(ResourceExt::name_any).collect();
        let pools = self.api::<RunnerSet>().list(&ListParams::default()).await;
        let pools: BTreeSet<String> = pools
            .context("could not list the RunnerSets")?
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        let pods = self.pod_names().await?;
        let mut leaks = Vec::new();
        for claim in &claims {
            let name = claim.name_any();
            // `<template>-<StatefulSet>-<ordinal>`, and the last two are the pod's name.
            let stem = name.rsplit_once('-').map_or("", |(stem, _)| stem);
            let is_of_set = sets.iter().any(|set| stem.ends_with(&format!("-{set}")));
            let is_of_pod = pods.iter().any(|pod| name.ends_with(&format!("-{pod}")));
            if !(is_of_set || is_of_pod) && claim.metadata.deletion_timestamp.is_none() {
                leaks.push(format!("claim {name} has no StatefulSet"));
            }
        }
        let uids: BTreeSet<String> = claims.iter().filter_map(ResourceExt::uid).collect();
        for volume in &volumes {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            let is_claimed = reference
                .and_then(|claim| claim.uid.as_ref())
                .is_some_and(|uid| uids.contains(uid));
            if !is_claimed && !self.is_kept(volume, &pools) && volume.metadata.deletion_timestamp.is_none() {
                leaks.push(format!(
                    "volume {} is {}, and nobody keeps it",
                    volume.name_any(),
                    phase(volume)
                ));
            }
        }
        let orphaned = storage.counters().orphaned;
        if orphaned > 0 {
            leaks.push(format!("{orphaned} volumes are gone and their storage is not"));
        }
        Ok(leaks)
    }

    /// Whether a RunnerSet that exists keeps the volume for its next runner.
    fn is_kept(&self, volume: &PersistentVolume, pools: &BTreeSet<String>) -> bool {
        let label = |key: &str| volume.labels().get(key);
        label(keys::LABEL_RUNNERSET_NAME).is_some_and(|pool| pools.contains(pool))
            && label(KEPT_NAMESPACE) == Some(&self.ns)
    }

    /// StatefulSets, claims and volumes, for people.
    pub(super) async fn describe_sets(&self, text: &mut String) -> std::fmt::Result {
        let Some(storage) = &self.storage else {
            return Ok(());
        };
        writeln!(text, "volumes: {:?}", storage.counters())?;
        if let Ok(list) = self.api::<RunnerSet>().list(&ListParams::default()).await {
            for set in list {
                let (name, replicas, status) = (set.name_any(), set.spec.replicas, &set.status);
                writeln!(text, "runner set {name}: replicas {replicas:?}, {status:?}")?;
            }
        }
        for set in self.stateful_sets().await.unwrap_or_default() {
            let deleted = set.metadata.deletion_timestamp.is_some();
            writeln!(
                text,
                "stateful set {}: deleted={deleted} {:?}",
                set.name_any(),
                set.annotations()
            )?;
        }
        for claim in self.claims().await.unwrap_or_default() {
            let phase = claim.status.as_ref().and_then(|status| status.phase.clone());
            let deleted = claim.metadata.deletion_timestamp.is_some();
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
            writeln!(
                text,
                "claim {}: {phase:?} deleted={deleted} {volume:?}",
                claim.name_any()
            )?;
        }
        for volume in storage.volumes() {
            let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
            let claim = claim.and_then(|claim| claim.name);
            writeln!(
                text,
                "volume {}: {} for {claim:?} {:?}",
                volume.name_any(),
                phase(&volume),
                volume.labels()
            )?;
        }
        Ok(())
    }
}

fn phase(volume: &PersistentVolume) -> &str {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.unwrap_or("new")
}
