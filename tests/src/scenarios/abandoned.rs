//! A namespace that is deleted while nobody can ask GitHub about its runners: gone in time, and what may be left is said
//! (90 PAIN-07, FEATURE 3).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use muster_crds::{keys, legacy::Runner};
use serde_json::json;

use crate::{
    control_plane::ControlPlane,
    github::{Fault, FaultKind},
    kubelet::Strike,
    world::World,
};

/// Grace period of the pods.
pub const GRACE: Duration = Duration::from_secs(5);
/// The manager's `--runner-unregistration-timeout`.
pub const TIME_BOX: Duration = Duration::from_secs(10);
/// A pod that no kubelet confirms is removed by force this long after its grace period (spec 02 §12.1).
pub const FORCE_AFTER: Duration = Duration::from_mins(1);
/// The tenant's login.
const TOKEN: &str = "ghp_tenant";
const SECRET: &str = "login";
const PATIENCE: Duration = Duration::from_mins(4);

/// Why nobody can ask GitHub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// It does not answer.
    Down,
    /// It refuses the login.
    Unauthorized,
    /// The Secret with the login is gone, and the manager has been started again since.
    SecretGone,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Abandoned {
    /// Pods in the namespace when it was deleted.
    pub pods: usize,
    /// Of those, pods on a node that was lost.
    pub lost: usize,
    /// Until the namespace controller had told all pods to go: it makes 20 calls a second, and asks for every kind of object.
    pub told_after: Duration,
    /// From the end of its grace period until a pod of the living node was gone, the slowest one.
    pub slowest: Duration,
    /// Until all pods of the living node were gone.
    pub pods_gone_after: Duration,
    /// Until nothing of ours was left in the namespace.
    pub empty_after: Duration,
    /// Until the namespace was gone: Kubernetes' namespace controller looks again ever more rarely, up to a minute later.
    pub gone_after: Duration,
    /// Reasons in the condition `muster.dev/Unregistered` of pods meanwhile.
    pub reasons: BTreeSet<String>,
    /// Pods that carried the condition.
    pub with_condition: usize,
    /// Runners that GitHub still had when the namespace was gone.
    pub on_github: usize,
    /// `muster_leftover_runners` then.
    pub reported: usize,
    /// Until both were zero, from the end of the outage; `None` where there is no login to do it with.
    pub settled_after: Option<Duration>,
}

/// Deletes a namespace of `runners` runners, a tenth of them persistent and `lost` on a node that was lost, during an outage.
pub async fn namespace(
    plane: Option<Arc<ControlPlane>>,
    runners: usize,
    lost: usize,
    outage: Outage,
) -> Result<Abandoned> {
    let builder = World::builder("abandoned").manager_flag(&format!(
        "--runner-unregistration-timeout={}s",
        TIME_BOX.as_secs()
    ));
    let world = match plane {
        Some(plane) => builder.on(plane).start().await?,
        None => builder.start().await?,
    };
    let lost = fill(&world, runners, lost).await?;
    match outage {
        Outage::Down => world.github.set_dark(true),
        Outage::Unauthorized => {
            world.github.inject(Fault::everywhere(FaultKind::Unauthorized));
        }
        Outage::SecretGone => {
            let secrets: Api<Secret> = world.api();
            let deleted = secrets.delete(SECRET, &DeleteParams::default()).await;
            deleted.context("could not delete the Secret")?;
            world.restart_manager().await?;
        }
    }
    let mut figures = delete(&world, &lost).await?;
    figures.on_github = world.github.runners().len();
    figures.reported = reported(&world).await?;
    if outage != Outage::SecretGone {
        world.github.set_dark(false);
        world.github.clear_faults();
        let over = Instant::now();
        let none = async |world: &World| Ok(world.github.runners().is_empty() && reported(world).await? == 0);
        world
            .until("GitHub has none of them any more", PATIENCE, none)
            .await?;
        figures.settled_after = Some(over.elapsed());
    }
    Ok(figures)
}

/// Makes the runners; the names of those whose node is lost.
async fn fill(world: &World, runners: usize, lost: usize) -> Result<BTreeSet<String>> {
    world.github.accept_token(TOKEN);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET},
        "stringData": {"github_token": TOKEN}});
    world.apply(&secret.to_string()).await?;
    let persistent = runners / 10;
    let pools = [
        ("ephemeral", runners - persistent - lost),
        ("persistent", persistent),
        ("lost", lost),
    ];
    for (name, count) in pools {
        let from = serde_json::from_value(json!({"secretRef": {"name": SECRET}}))?;
        let replicas = i64::try_from(count).context("so many runners")?;
        world
            .deployment(name, |spec| {
                spec.replicas = Some(replicas);
                let runner = &mut spec.template.spec;
                runner.config.github_api_credentials_from = Some(from);
                runner.config.ephemeral = Some(name != "persistent");
                runner.pod.termination_grace_period_seconds = i64::try_from(GRACE.as_secs()).ok();
            })
            .await?;
    }
    world.until_known(runners, PATIENCE).await?;
    let pods = world.pods().await?;
    let lost: BTreeSet<String> = pods
        .iter()
        .map(ResourceExt::name_any)
        .filter(|name| name.starts_with("lost-"))
        .collect();
    for name in &lost {
        world.kubelet.strike(name, Strike::LoseNode);
    }
    Ok(lost)
}

/// Deletes the namespace and watches it go.
async fn delete(world: &World, lost: &BTreeSet<String>) -> Result<Abandoned> {
    let pods = world.pods().await?.len();
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let deleted = namespaces.delete(&world.ns, &DeleteParams::default()).await;
    deleted.context("could not delete the namespace")?;
    let begun = Instant::now();
    let (mut with_condition, mut reasons) = (BTreeSet::new(), BTreeSet::new());
    let (mut pods_gone_after, mut empty_after) = (None, None);
    let mut farewell = Farewell::default();
    loop {
        let left = world.pods().await?;
        farewell.see(&left, lost, (begun.elapsed(), world.github.now()));
        for pod in &left {
            if let Some(reason) = unclear_reason(pod) {
                reasons.insert(reason);
                with_condition.insert(pod.name_any());
            }
        }
        if pods_gone_after.is_none() && left.iter().all(|pod| lost.contains(&pod.name_any())) {
            pods_gone_after = Some(begun.elapsed());
        }
        let runners: Api<Runner> = world.api();
        let runners = runners.list_metadata(&ListParams::default()).await;
        let runners = runners.context("could not list the Runners")?.items.len();
        if left.is_empty() && runners == 0 {
            empty_after.get_or_insert_with(|| begun.elapsed());
        }
        let gone = empty_after.is_some() && is_gone(&namespaces, &world.ns).await?;
        if gone || begun.elapsed() > PATIENCE {
            return Ok(Abandoned {
                pods,
                lost: lost.len(),
                told_after: farewell.told_after,
                slowest: farewell.slowest,
                pods_gone_after: pods_gone_after.unwrap_or(PATIENCE),
                empty_after: empty_after.unwrap_or(PATIENCE),
                gone_after: begun.elapsed(),
                reasons,
                with_condition: with_condition.len(),
                on_github: 0,
                reported: 0,
                settled_after: None,
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How the pods of the living node go.
#[derive(Debug, Default)]
struct Farewell {
    /// End of the grace period of those that are there.
    ends: BTreeMap<String, Timestamp>,
    told_after: Duration,
    slowest: Duration,
}

impl Farewell {
    fn see(&mut self, left: &[Pod], lost: &BTreeSet<String>, (elapsed, now): (Duration, Timestamp)) {
        let mut there = BTreeMap::new();
        for pod in left.iter().filter(|pod| !lost.contains(&pod.name_any())) {
            match &pod.metadata.deletion_timestamp {
                Some(end) => {
                    there.insert(pod.name_any(), end.0);
                }
                None => self.told_after = elapsed,
            }
        }
        for (pod, end) in std::mem::replace(&mut self.ends, there) {
            if !self.ends.contains_key(&pod) {
                let late = Duration::try_from(now.duration_since(end)).unwrap_or_default();
                self.slowest = self.slowest.max(late);
            }
        }
    }
}

async fn is_gone(namespaces: &Api<Namespace>, name: &str) -> Result<bool> {
    let found = namespaces.get_opt(name).await;
    Ok(found.context("could not look for the namespace")?.is_none())
}

fn unclear_reason(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ours = conditions
        .iter()
        .find(|condition| condition.type_ == keys::CONDITION_UNREGISTERED && condition.status == "False")?;
    ours.reason.clone()
}

/// The manager's gauge of runners that GitHub may still list.
async fn reported(world: &World) -> Result<usize> {
    let text = world.metrics("manager").await?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("muster_leftover_runners "));
    let number = line.context("the manager has no muster_leftover_runners")?;
    number
        .trim()
        .parse()
        .context("muster_leftover_runners is no number")
}
