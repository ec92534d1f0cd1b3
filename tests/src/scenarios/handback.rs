//! Back to ARC: what `kubectl muster handback` leaves, and whether ARC's own list algorithm gets on with it (spec 03 §1.12).

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::StatefulSet, core::v1::Pod, policy::v1::PodDisruptionBudget},
};
use kube::{
    Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use muster_crds::{
    keys,
    legacy::{
        CapacityReservation, HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet,
        RunnerSet,
    },
    time::MicroTime,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    control_plane::{ControlPlane, manifests},
    keeper::workspace_dir,
    process::binary,
    world::{World, wait_until_allowed},
};

use super::{arc, take_over};

const MINUTE: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_mins(3);
/// The service account that hands back.
const ACCOUNT: &str = "handback";
/// How long an entry of ARC's lives: the trigger of [`arc::pool`] says so.
const LIFE: SignedDuration = SignedDuration::from_mins(30);

/// One operation of ARC's webhook server: so many entries more, or fewer.
pub type Amount = i64;

/// What ARC's webhook server makes of a list of reservations (spec 03 §1.12): entries beyond the maximum begin anew, expired ones go, additions come
/// last, and removals take the first.
pub fn upstream(
    list: &[CapacityReservation],
    max: Option<i64>,
    operations: &[(Amount, SignedDuration)],
    now: Timestamp,
) -> Vec<CapacityReservation> {
    let mut list = list.to_vec();
    if let Some(max) = max.and_then(|max| usize::try_from(max).ok())
        && list.len() > max
    {
        for entry in list.iter_mut().skip(max) {
            let span = |entry: &CapacityReservation| {
                let (since, until) = (entry.effective_time?, entry.expiration_time?);
                Some(until.0.duration_since(since.0))
            };
            let span = span(entry).unwrap_or(SignedDuration::ZERO);
            entry.effective_time = Some(MicroTime(now));
            entry.expiration_time = Some(MicroTime(now + span));
        }
    }
    list.retain(|entry| entry.expiration_time.is_some_and(|until| until.0 > now));
    for (amount, duration) in operations {
        let count = usize::try_from(amount.unsigned_abs()).unwrap_or(usize::MAX);
        if *amount > 0 {
            let entry = CapacityReservation {
                name: None,
                replicas: Some(1),
                effective_time: Some(MicroTime(now)),
                expiration_time: Some(MicroTime(now + *duration)),
            };
            list.extend(std::iter::repeat_n(entry, count));
        } else {
            list.drain(..count.min(list.len()));
        }
    }
    list
}

/// The plugin, with the rights of `config/rbac/handback_role.yaml`.
#[derive(Debug)]
pub struct Plugin {
    program: PathBuf,
    kubeconfig: PathBuf,
    ns: String,
}

/// What it said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit code.
    pub code: Option<i32>,
    /// The report.
    pub report: Value,
}

impl Said {
    /// How many changes it made, or would make.
    pub fn changes(&self) -> usize {
        let changes = self.report.get("changes").and_then(Value::as_array);
        changes.map_or(usize::MAX, Vec::len)
    }
}

impl Plugin {
    /// Makes the service account and gives it the role.
    pub async fn new(world: &World) -> Result<Self> {
        let plane = world
            .plane()
            .context("handing back needs a control plane of ours")?;
        let kubeconfig = plane.service_account(&world.ns, ACCOUNT).await?;
        let path = workspace_dir().join("config/rbac/handback_role.yaml");
        let yaml = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let user = format!("system:serviceaccount:{}:{ACCOUNT}", world.ns);
        for applied in manifests::apply_yaml(&world.client, "default", &yaml).await? {
            plane.grant(&user, &applied.name_any()).await?;
        }
        let client = crate::control_plane::client_from(&kubeconfig).await?;
        wait_until_allowed(&client, "delete", "policy", "poddisruptionbudgets").await?;
        Ok(Self {
            program: binary("kubectl-muster")?,
            kubeconfig,
            ns: world.ns.clone(),
        })
    }

    /// Runs it in the world's namespace.
    pub async fn run(&self, flags: &[&str]) -> Result<Said> {
        let running = Command::new(&self.program)
            .args(["handback", "-n", &self.ns, "-o", "json"])
            .args(flags)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .env_remove("KUBECONFIG")
            .kill_on_drop(true)
            .output();
        let ran = tokio::time::timeout(PATIENCE, running)
            .await
            .context("the plugin took too long")?
            .context("could not start the plugin")?;
        let report = serde_json::from_slice(&ran.stdout).with_context(|| {
            format!(
                "the plugin printed no JSON: {}{}",
                String::from_utf8_lossy(&ran.stdout),
                String::from_utf8_lossy(&ran.stderr)
            )
        })?;
        Ok(Said {
            code: ran.status.code(),
            report,
        })
    }
}

/// All objects of a kind in the world's namespace, as JSON.
async fn objects<K>(world: &World) -> Result<Vec<Value>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let list = world.api::<K>().list(&ListParams::default()).await;
    let list = list.with_context(|| format!("could not list {}", K::plural(&())))?;
    let values = list
        .items
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>();
    values.context("could not write an object")
}

/// What of ours is left in the world's namespace, in sentences.
pub async fn left(world: &World) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut all = objects::<HorizontalRunnerAutoscaler>(world).await?;
    all.extend(objects::<RunnerDeployment>(world).await?);
    all.extend(objects::<RunnerReplicaSet>(world).await?);
    all.extend(objects::<RunnerSet>(world).await?);
    all.extend(objects::<Runner>(world).await?);
    all.extend(objects::<StatefulSet>(world).await?);
    all.extend(objects::<Pod>(world).await?);
    for object in &mut all {
        // Who wrote what is history.
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
        let ours = object.to_string().matches("muster.dev/").count();
        if ours > 0 {
            found.push(format!("{name} has {ours} marks: {object}"));
        }
        let is_custom = object
            .pointer("/apiVersion")
            .and_then(Value::as_str)
            .unwrap_or_default()
            == "actions.summerwind.dev/v1alpha1";
        if is_custom && object.pointer("/status/conditions").is_some() {
            found.push(format!("{name} has conditions"));
        }
        let reservations = object
            .pointer("/spec/capacityReservations")
            .and_then(Value::as_array);
        for entry in reservations.into_iter().flatten() {
            let upstreams = entry.get("name").is_none()
                && entry.get("replicas") == Some(&json!(1))
                && entry.get("effectiveTime").is_some()
                && entry.get("expirationTime").is_some();
            if !upstreams {
                found.push(format!("{name} has the entry {entry}"));
            }
        }
    }
    for budget in objects::<PodDisruptionBudget>(world).await? {
        found.push(format!("budget {budget}"));
    }
    Ok(found)
}

/// ARC's webhook server as far as the ledger goes: reads, counts, writes without a precondition. Answers how many entries there are then.
pub async fn as_upstream(
    world: &World,
    name: &str,
    operations: &[(Amount, SignedDuration)],
) -> Result<usize> {
    let autoscaler = world.get_autoscaler(name).await?;
    let list = autoscaler.spec.capacity_reservations.unwrap_or_default();
    let list = upstream(
        &list,
        autoscaler.spec.max_replicas,
        operations,
        world.github.now(),
    );
    let patch = Patch::Merge(json!({"spec": {"capacityReservations": list}}));
    let api = world.api::<HorizontalRunnerAutoscaler>();
    let patched = api.patch(name, &PatchParams::default(), &patch).await;
    patched.context("could not write as ARC does")?;
    Ok(list.len())
}

/// Entries of a ledger.
async fn ledger(world: &World, name: &str) -> Result<Vec<CapacityReservation>> {
    let autoscaler = world.get_autoscaler(name).await?;
    Ok(autoscaler.spec.capacity_reservations.unwrap_or_default())
}

/// What came of a way back.
#[derive(Clone, Debug, Default)]
pub struct Back {
    /// Pods of ARC's.
    pub pods: usize,
    /// Pods that were made anew or lost on the way.
    pub recreated: usize,
    /// From the webhook server's start until it took webhooks.
    pub webhook_gap: Duration,
    /// From the manager's start until it had looked at everything.
    pub taken_over_after: Duration,
    /// Changes that the dry run announced, that the run made, and that a second run made.
    pub changes: [usize; 3],
    /// How long handing back took.
    pub handed_back_in: Duration,
    /// Whether the dry run changed nothing.
    pub dry_run_is_dry: bool,
    /// What of ours was left, and what ARC could not work with.
    pub left: Vec<String>,
    /// Whether the templates that ARC compares are as they were.
    pub templates_unchanged: bool,
    /// Entries after handing back; after a job more by ARC's algorithm; after as many completions as there were jobs.
    pub entries: [usize; 3],
    /// Jobs that ended well.
    pub completed: usize,
    /// Jobs that lost their runner.
    pub interrupted: usize,
}

impl Back {
    /// Whether it is as was promised, for this many busy runners.
    pub fn is_good(&self, busy: usize) -> bool {
        let [announced, made, again] = self.changes;
        self.recreated == 0
            && self.webhook_gap < Duration::from_secs(30)
            && announced == made
            && made > 0
            && again == 0
            && self.dry_run_is_dry
            && self.left.is_empty()
            && self.templates_unchanged
            && self.entries == [busy, busy + 1, 0]
            && (self.completed, self.interrupted) == (busy, 0)
    }
}

/// ARC leaves `busy` busy and `idle` idle runners, Muster takes over, stops, and hands back; ARC's algorithm then counts the jobs down to none.
pub async fn there_and_back(
    plane: Option<Arc<ControlPlane>>,
    busy: usize,
    idle: usize,
    job: Duration,
) -> Result<Back> {
    let world = match plane {
        Some(plane) => World::builder("there-and-back").on(plane).start().await?,
        None => World::new("there-and-back").await?,
    };
    let before = take_over::leave(&world, busy, idle, job).await?;
    let templates = arc::templates(&world).await?;
    let mut back = Back {
        pods: before.len(),
        ..Back::default()
    };
    let (started, begun) = (Instant::now(), world.github.now());
    world.restart_webhook_server().await?;
    back.webhook_gap = started.elapsed();
    world.restart_manager().await?;
    world
        .until("the manager has looked at them", PATIENCE, async |world| {
            take_over::settled(world, busy + idle, begun).await
        })
        .await?;
    back.taken_over_after = started.elapsed();
    ensure!(
        take_over::running_jobs(&world) == busy,
        "the jobs ended before anything was handed back: {}",
        world.describe().await
    );
    // Marks of a live Muster: it protects what is busy, although ARC's ledger does not say who that is.
    let protected = async |world: &World| {
        let pods = world.pods().await?;
        let marked = pods
            .iter()
            .filter(|pod| pod.labels().contains_key(keys::LABEL_BUSY));
        Ok(marked.count() == busy)
    };
    world
        .until("Muster protects what is busy", MINUTE, protected)
        .await?;
    world.kill_webhook_server().await?;
    world.kill_manager().await?;

    let plugin = Plugin::new(&world).await?;
    let versions = versions(&world).await?;
    let dry = plugin.run(&["--dry-run"]).await?;
    back.dry_run_is_dry = dry.code == Some(0) && versions == self::versions(&world).await?;
    let begun = Instant::now();
    let first = plugin.run(&[]).await?;
    back.handed_back_in = begun.elapsed();
    let second = plugin.run(&[]).await?;
    back.changes = [dry.changes(), first.changes(), second.changes()];
    ensure!(first.code == Some(0), "handing back failed: {}", first.report);
    back.left = left(&world).await?;
    back.left.extend(arc::objections(&world).await?);
    back.templates_unchanged = arc::templates(&world).await? == templates;
    back.recreated = before
        .symmetric_difference(&take_over::uids(&world).await?)
        .count();

    back.entries[0] = ledger(&world, arc::POOL).await?.len();
    back.entries[1] = as_upstream(&world, arc::POOL, &[(1, LIFE)]).await?;
    world.until_jobs_done(PATIENCE + job).await?;
    for _ in 0..=busy {
        back.entries[2] = as_upstream(&world, arc::POOL, &[(-1, SignedDuration::ZERO)]).await?;
    }
    let counters = world.kubelet.counters();
    back.completed = counters.jobs_succeeded;
    back.interrupted = counters.busy_deleted + world.github.interrupted();
    Ok(back)
}

/// Resource versions of what could be handed back. Pods change by themselves.
async fn versions(world: &World) -> Result<Vec<Value>> {
    let mut all = objects::<HorizontalRunnerAutoscaler>(world).await?;
    all.extend(objects::<RunnerDeployment>(world).await?);
    all.extend(objects::<RunnerReplicaSet>(world).await?);
    all.extend(objects::<PodDisruptionBudget>(world).await?);
    let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    Ok(all.iter().filter_map(version).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(since: &str, until: &str) -> CapacityReservation {
        let time = |text: &str| Some(MicroTime(text.parse().unwrap()));
        CapacityReservation {
            name: None,
            replicas: Some(1),
            effective_time: time(since),
            expiration_time: time(until),
        }
    }

    #[test]
    fn upstreams_algorithm_is_that_of_the_specification() {
        let now: Timestamp = "2027-01-01T10:00:00Z".parse().unwrap();
        let a = entry("2027-01-01T09:00:00Z", "2027-01-01T10:30:00Z");
        let expired = entry("2027-01-01T09:00:00Z", "2027-01-01T10:00:00Z");
        let half_an_hour = SignedDuration::from_mins(30);
        let fresh = entry("2027-01-01T10:00:00Z", "2027-01-01T10:30:00Z");
        // Expired ones go, additions come last.
        let list = upstream(&[expired.clone(), a.clone()], None, &[(2, half_an_hour)], now);
        assert_eq!(list, [a.clone(), fresh.clone(), fresh.clone()]);
        // Removals take the first, and never more than there are.
        let list = upstream(&[a.clone(), fresh.clone()], None, &[(-1, half_an_hour)], now);
        assert_eq!(list, [fresh]);
        assert!(upstream(&list, None, &[(-3, half_an_hour)], now).is_empty());
        // Beyond the maximum the clock begins anew, even for what has expired.
        let list = upstream(&[a.clone(), expired], Some(1), &[], now);
        assert_eq!(list, [a, entry("2027-01-01T10:00:00Z", "2027-01-01T11:00:00Z")]);
        // Operations are not netted.
        let list = upstream(
            &[],
            None,
            &[(1, half_an_hour), (1, half_an_hour), (-1, half_an_hour)],
            now,
        );
        assert_eq!(list.len(), 1);
    }
}
