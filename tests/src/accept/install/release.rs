//! What is tried on a running release.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{core::v1::Pod, rbac::v1::ClusterRole};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    demo,
    install::{
        Installation, MANAGER, METRICS_SERVER, NAMESPACE, RELEASE, Scope, Use, WEBHOOK_SERVER,
        rights::{self, Right},
        values_for,
    },
    keeper::workspace_dir,
    terminal::Terminal,
    world::World,
};

use super::super::{Running, Verdict};

/// How long a step of a scenario may take before it is broken.
const PATIENCE: Duration = Duration::from_mins(2);
/// What the metrics server counts of completed jobs.
const COMPLETED: &str = "github_workflow_jobs_completed_total{";
/// Jobs of the demo.
const JOBS: usize = 50;

/// Rights that the manager has because ARC's has them, so that either program works under the other's role (spec 02 §17).
fn of_arc() -> Result<BTreeSet<Right>> {
    let text = std::fs::read_to_string(workspace_dir().join("tests/fixtures/arc-rights.yaml"))
        .context("could not read the rights of ARC's manager")?;
    let rules = crate::control_plane::manifests::parse(&text)?
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<Vec<_>, _>>()
        .context("the rights of ARC's manager are no rules")?;
    Ok(rights::of_rules(&rules))
}

/// A release that serves a world.
struct Served {
    // Before the installation: its processes use the plane.
    world: World,
    installation: Installation,
    /// Where the metrics server shows what it has counted.
    counted: String,
}

impl Served {
    async fn start(scope: Scope) -> Result<Self> {
        let installation = Installation::start().await?;
        let world = installation.world("muster-demo").await?;
        installation.install(&values_for(&world, scope)).await?;
        Self::connect(world, installation).await
    }

    /// Leads the world's webhooks to the release.
    async fn connect(mut world: World, installation: Installation) -> Result<Self> {
        installation.connect(&mut world).await?;
        let counted = installation.count_jobs(&world).await?;
        Ok(Self {
            world,
            installation,
            counted,
        })
    }

    /// How many jobs were completed, as the metrics server says.
    async fn counted(&self) -> Result<usize> {
        let answer = reqwest::get(&self.counted).await;
        let answer = answer.context("the metrics server does not show its metrics")?;
        let text = answer.text().await.context("the metrics broke off")?;
        let lines = text.lines().filter(|line| line.starts_with(COMPLETED));
        let count = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        Ok(count.sum())
    }

    async fn demo(&self, jobs: usize) -> Result<demo::Report> {
        let options = demo::Options {
            jobs: Some(jobs),
            ..demo::Options::default()
        };
        let played = demo::play(&self.world, &options, Terminal::silent(), Instant::now()).await;
        played.with_context(|| self.installation.logs())
    }
}

fn names(rights: &BTreeSet<Right>) -> String {
    rights
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

pub(super) async fn rbac_run(running: &Running<'_>) -> Result<Verdict> {
    let arc = of_arc()?;
    let (mut ok, mut figures) = (true, Vec::new());
    for (scope, name) in [
        (Scope::Cluster, "all namespaces"),
        (Scope::Single, "one namespace"),
    ] {
        let (report, counted, uses) = running
            .scenario(async {
                let served = Served::start(scope).await?;
                let report = served.demo(JOBS).await?;
                let installation = &served.installation;
                let all = async || Ok(served.counted().await? >= JOBS);
                let counted = match installation.until("all jobs are counted", COUNTED, all).await {
                    Ok(()) => JOBS,
                    Err(_) => served.counted().await?,
                };
                let mut uses = Vec::new();
                for (account, _) in ACCOUNTS {
                    uses.push(installation.use_of_rights(account, 0).await?);
                }
                Ok((report, counted, uses))
            })
            .await?;
        let problems = report.problems();
        ok &= problems.is_empty() && report.completed == JOBS && counted == JOBS;
        figures.push(format!(
            "{name}: {} of {JOBS} jobs, {counted} counted",
            report.completed
        ));
        if !problems.is_empty() {
            figures.push(problems.join(", "));
        }
        for ((account, other_times), of_account) in ACCOUNTS.iter().zip(&uses) {
            let (is_least, figure) = judge_use(of_account, &explained(account, other_times, &arc));
            ok &= is_least && of_account.used.is_empty() == (*account == METRICS_SERVER);
            let short = account
                .strip_prefix(RELEASE)
                .and_then(|rest| rest.strip_prefix('-'));
            figures.push(format!("{}: {figure}", short.unwrap_or("manager")));
        }
    }
    Ok(Verdict::new(ok, figures.join("; ")))
}

/// How long the metrics server may be behind the jobs.
const COUNTED: Duration = Duration::from_secs(20);

/// A right by its words: group, resource, verb.
type Words = (&'static str, &'static str, &'static str);

/// The proxy of the metrics, which the testbed does not run, asks the API server about who wants to read them.
const OF_PROXY: [Words; 2] = [
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
];

/// The accounts of a release, with the rights that 50 jobs do not need, and what needs them.
const ACCOUNTS: [(&str, &[Words]); 3] = [
    (
        MANAGER,
        &[
            // The condition of a runner that cannot be removed from GitHub.
            ("", "pods/status", "patch"),
            // Where the kept volumes of RunnerSets can be used.
            ("", "nodes", "list"),
            // Runners that are seen to be busy: jobs may be over before.
            ("policy", "poddisruptionbudgets", "create"),
            // A certificate that is renewed.
            ("", "secrets", "patch"),
        ],
    ),
    (
        WEBHOOK_SERVER,
        &[
            // An autoscaler that somebody else has changed meanwhile.
            ("actions.summerwind.dev", "horizontalrunnerautoscalers", "get"),
            // The condition of one whose deliveries GitHub does not show.
            (
                "actions.summerwind.dev",
                "horizontalrunnerautoscalers/status",
                "patch",
            ),
            // A job that no autoscaler takes.
            ("", "events", "create"),
        ],
    ),
    (METRICS_SERVER, &[]),
];

/// Rights that an account may have without using them here.
fn explained(account: &str, other_times: &[Words], arc: &BTreeSet<Right>) -> BTreeSet<Right> {
    let words = other_times.iter().chain(&OF_PROXY);
    let arc = arc.iter().filter(|_| account == MANAGER);
    words
        .map(|(group, resource, verb)| Right::new(group, resource, verb))
        .chain(arc.cloned())
        .collect()
}

/// Whether nothing was refused, and there are no more rights than are used or explained; and how many were used.
fn judge_use(of_account: &Use, explained: &BTreeSet<Right>) -> (bool, String) {
    let needless: BTreeSet<Right> = of_account
        .granted
        .difference(&of_account.used)
        .filter(|right| !explained.contains(right))
        .cloned()
        .collect();
    let mut figure = format!(
        "{} rights used of {}",
        of_account.used.len(),
        of_account.granted.len()
    );
    for (what, rights) in [(", needless", &needless), (", refused", &of_account.refused)] {
        if !rights.is_empty() {
            let more = format!("{what}: {}", names(rights));
            figure.push_str(&more);
        }
    }
    (needless.is_empty() && of_account.refused.is_empty(), figure)
}

pub(super) async fn verbs(running: &Running<'_>) -> Result<Verdict> {
    running.scenario(check_verbs()).await
}

/// The roles whose verbs are taken away one by one: whose they are, the role, what labels its pods have.
const ROLES: [(&str, &str, &str); 2] = [
    (MANAGER, "actions-runner-controller-manager", RELEASE),
    (WEBHOOK_SERVER, WEBHOOK_SERVER, WEBHOOK_SERVER),
];

/// What a job needs; each is taken away once.
fn needed(used: &BTreeSet<Right>) -> Vec<Right> {
    let of_a_job = |right: &&Right| {
        let kinds = ["actions.summerwind.dev", ""];
        kinds.contains(&right.group.as_str()) && !right.resource.starts_with("events")
    };
    used.iter().filter(of_a_job).cloned().collect()
}

async fn check_verbs() -> Result<Verdict> {
    let served = Served::start(Scope::Cluster).await?;
    served.demo(2).await?;
    let installation = &served.installation;
    let (mut noticed, mut unnoticed) = ([0, 0], Vec::new());
    for ((account, role, instance), count) in ROLES.into_iter().zip(&mut noticed) {
        let used = installation.use_of_rights(account, 0).await?.used;
        for right in needed(&used) {
            let (_, from) = rights::asked(&installation.plane, 0)?;
            let Some(saved) = revoke(installation, role, &right).await? else {
                // It comes from another role: secrets.
                continue;
            };
            if (right.resource.as_str(), right.verb.as_str()) == ("runnerreplicasets", "create") {
                // A pool has one already, until somebody takes it away.
                let ns = &served.world.ns;
                let delete = ["delete", "runnerreplicasets", "--all", "-n", ns];
                installation.kubectl(&delete).await?.good()?;
            }
            restart(installation, instance).await?;
            served.world.queue_jobs(1, Duration::from_millis(200));
            let seen = installation
                .until("the refusal", Duration::from_secs(40), async || {
                    let now = installation.use_of_rights(account, from).await?;
                    Ok(now.refused.contains(&right))
                })
                .await;
            restore(installation, saved).await?;
            match seen {
                Ok(()) => *count += 1,
                Err(_) => unnoticed.push(format!("{right} of {account}")),
            }
            restart(installation, instance).await?;
            served.world.until_jobs_done(PATIENCE).await.with_context(|| {
                format!("after {account} had no right to {right}\n{}", installation.logs())
            })?;
        }
    }
    // It has none that could be taken away: it must not need any.
    let free = installation.use_of_rights(METRICS_SERVER, 0).await?;
    let is_free = free.used.is_empty() && free.refused.is_empty();
    let [manager, server] = noticed;
    let mut figure = format!(
        "{manager} verbs of the manager and {server} of the webhook server, each missed as soon as it was gone, and jobs ran when it was back; \
         the metrics server asked Kubernetes for {} things",
        free.used.len() + free.refused.len()
    );
    if !unnoticed.is_empty() {
        let more = format!("; not missed: {}", unnoticed.join(", "));
        figure.push_str(&more);
    }
    let ok = manager >= 10 && server >= 5 && unnoticed.is_empty() && is_free;
    Ok(Verdict::new(ok, figure))
}

/// Takes one verb on one resource out of a role; answers the role as it was.
async fn revoke(installation: &Installation, role: &str, right: &Right) -> Result<Option<ClusterRole>> {
    let api: Api<ClusterRole> = Api::all(installation.client.clone());
    let saved = api
        .get(role)
        .await
        .with_context(|| format!("could not read ClusterRole {role}"))?;
    let mut changed = saved.clone();
    let mut rules = Vec::new();
    for mut rule in changed.rules.take().unwrap_or_default() {
        let one = std::slice::from_ref(&rule);
        if !rights::of_rules(one).contains(right) {
            rules.push(rule);
            continue;
        }
        let mut narrow = rule.clone();
        narrow.resources = Some(vec![right.resource.clone()]);
        narrow.verbs.retain(|verb| *verb != right.verb);
        rule.resources
            .iter_mut()
            .for_each(|all| all.retain(|name| *name != right.resource));
        rules.extend([rule, narrow].into_iter().filter(|rule| {
            !rule.verbs.is_empty() && rule.resources.as_ref().is_some_and(|all| !all.is_empty())
        }));
    }
    changed.rules = Some(rules);
    if changed == saved {
        return Ok(None);
    }
    replace(&api, changed).await?;
    Ok(Some(saved))
}

async fn restore(installation: &Installation, saved: ClusterRole) -> Result<()> {
    let api: Api<ClusterRole> = Api::all(installation.client.clone());
    let mut role = saved;
    role.metadata.resource_version = None;
    replace(&api, role).await
}

async fn replace(api: &Api<ClusterRole>, role: ClusterRole) -> Result<()> {
    let patch = Patch::Merge(json!({"rules": role.rules}));
    api.patch(&role.name_any(), &PatchParams::default(), &patch)
        .await
        .map(drop)
        .with_context(|| format!("could not change ClusterRole {}", role.name_any()))
}

/// Lets processes begin anew: what is watched is asked for then only.
async fn restart(installation: &Installation, instance: &str) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(installation.client.clone(), NAMESPACE);
    let params = ListParams::default().labels(&format!("app.kubernetes.io/instance={instance}"));
    // Some may be going already.
    api.delete_collection(&DeleteParams::default(), &params)
        .await
        .with_context(|| format!("could not delete the pods of {instance}"))?;
    Ok(())
}

/// What must not change in an upgrade: kind and name, and what identifies the object.
async fn identities(installation: &Installation, kinds: &str) -> Result<BTreeMap<String, Value>> {
    let listed = installation
        .kubectl(&["get", kinds, "--all-namespaces", "-o", "json"])
        .await?
        .good()?;
    let listed: Value = serde_json::from_str(&listed).context("kubectl's list is no JSON")?;
    let items = listed.pointer("/items").and_then(Value::as_array).cloned();
    let word = |item: &Value, pointer: &str| {
        item.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Ok(items
        .unwrap_or_default()
        .iter()
        .map(|item| {
            let name = format!(
                "{} {}/{}",
                word(item, "/kind"),
                word(item, "/metadata/namespace"),
                word(item, "/metadata/name")
            );
            let of = |pointer: &str| item.pointer(pointer).cloned().unwrap_or_default();
            (
                name,
                json!({"uid": of("/metadata/uid"), "selector": of("/spec/selector")}),
            )
        })
        .collect())
}

/// What ARC's release consists of.
const OF_RELEASE: &str = "deployments,services,serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings,\
mutatingwebhookconfigurations,validatingwebhookconfigurations,customresourcedefinitions";
/// What users have made.
const OF_USERS: &str = "runnerdeployments,horizontalrunnerautoscalers,runners,runnersets,runnerreplicasets";

pub(super) async fn upgrade(running: &Running<'_>) -> Result<Verdict> {
    running.scenario(check_upgrade()).await
}

async fn check_upgrade() -> Result<Verdict> {
    let installation = Installation::start().await?;
    let world = installation.world("muster-demo").await?;
    let former = workspace_dir()
        .join("tests/fixtures/arc-release")
        .display()
        .to_string();
    installation
        .helm(&[
            "install",
            RELEASE,
            &former,
            "--create-namespace",
            "--namespace",
            NAMESPACE,
        ])
        .await?
        .good()?;
    world.deployment("kept", |spec| spec.replicas = Some(0)).await?;
    world.autoscaler("kept", "kept", |_| {}).await?;
    let mut before = identities(&installation, OF_RELEASE).await?;
    // Not those of Kubernetes itself.
    before.retain(|name, _| name.contains(RELEASE) || name.contains("actions.summerwind.dev"));
    let users = identities(&installation, OF_USERS).await?;
    let spec = serde_json::to_value(world.get_deployment("kept").await?.spec)?;

    installation.install(&values_for(&world, Scope::Cluster)).await?;

    let after = identities(&installation, OF_RELEASE).await?;
    let changed: Vec<&String> = before
        .iter()
        .filter(|(name, identity)| after.get(*name) != Some(*identity))
        .map(|(name, _)| name)
        .collect();
    let users_after = identities(&installation, OF_USERS).await?;
    let lost: Vec<&String> = users
        .iter()
        .filter(|(name, id)| users_after.get(*name) != Some(*id))
        .map(|(name, _)| name)
        .collect();
    let is_same = serde_json::to_value(world.get_deployment("kept").await?.spec)? == spec;
    // The definitions are this version's now.
    let conditions = installation
        .kubectl(&[
            "get",
            "crd",
            "runnerdeployments.actions.summerwind.dev",
            "-o",
            "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.status.properties.conditions.type}",
        ])
        .await?
        .good()?;
    let served = Served::connect(world, installation).await?;
    let report = served.demo(3).await?;
    let ok = changed.is_empty()
        && lost.is_empty()
        && is_same
        && before.len() > 15
        && users.len() >= 2
        && conditions == "array"
        && report.problems().is_empty();
    let figure = format!(
        "{} objects of the release and {} of users are the same, {changed:?} and {lost:?} are not; definitions updated: {}; then {} of 3 jobs ran",
        before.len() - changed.len(),
        users.len() - lost.len(),
        conditions == "array",
        report.completed
    );
    Ok(Verdict::new(ok, figure))
}

pub(super) async fn uninstall(running: &Running<'_>) -> Result<Verdict> {
    running.scenario(check_uninstall()).await
}

/// How long the job runs that an uninstallation must wait for.
const LONG_JOB: Duration = Duration::from_secs(12);

async fn four_registered(world: &World) -> Result<bool> {
    Ok(world.github.runners().len() == 4)
}

async fn check_uninstall() -> Result<Verdict> {
    let served = Served::start(Scope::Cluster).await?;
    let Served {
        world, installation, ..
    } = &served;
    world.deployment("pool", |spec| spec.replicas = Some(4)).await?;
    world
        .until("four runners are registered", PATIENCE, four_registered)
        .await?;
    world.queue_job(LONG_JOB);
    let busy = async |world: &World| Ok(world.github.runners().iter().any(|runner| runner.busy));
    world.until("a runner is busy", PATIENCE, busy).await?;
    let begun = Instant::now();
    let said = installation.uninstall().await?;
    said.good().with_context(|| installation.logs())?;
    let took = begun.elapsed();
    let stats = world.github.job_stats();
    let mut left = leftovers(&served).await?;
    // What users wrote is theirs.
    ensure!(
        world.get_deployment("pool").await?.spec.replicas == Some(4),
        "the RunnerDeployment was changed"
    );
    let left_then = left.len();

    // Once more, with the definitions.
    let mut values = values_for(world, Scope::Cluster);
    if let Some(fields) = values.as_object_mut() {
        fields.insert("crds".to_owned(), json!({"keep": false}));
    }
    installation.install(&values).await?;
    world
        .until("the runners are back", PATIENCE, four_registered)
        .await?;
    let said = installation.uninstall().await?;
    said.good().with_context(|| installation.logs())?;
    left.extend(leftovers(&served).await?);
    let definitions = installation
        .kubectl(&["get", "crd", "-o", "name"])
        .await?
        .good()?;
    left.extend(
        definitions
            .lines()
            .filter(|line| line.contains("summerwind"))
            .map(str::to_owned),
    );
    let ok = left.is_empty() && stats.open() == 0 && stats.completed >= 1 && took >= Duration::from_secs(5);
    let figure = format!(
        "left: {} and {} with the definitions{}; {} job completed, which the first took {} s to wait for",
        left_then,
        left.len() - left_then,
        if left.is_empty() {
            String::new()
        } else {
            format!(" ({})", left.join(", "))
        },
        stats.completed,
        took.as_secs()
    );
    Ok(Verdict::new(ok, figure))
}

/// Everything of a release that is there, and everything that holds something.
async fn leftovers(served: &Served) -> Result<Vec<String>> {
    let Served {
        world, installation, ..
    } = served;
    let mut left = Vec::new();
    let kinds = "deployments,replicasets,pods,services,secrets,configmaps,serviceaccounts,roles,rolebindings,leases,jobs,\
poddisruptionbudgets,networkpolicies,ingresses";
    let own = installation
        .kubectl(&["get", kinds, "-n", NAMESPACE, "-o", "name"])
        .await?
        .good()?;
    left.extend(
        own.lines()
            .filter(|line| !line.ends_with("/default") && !line.ends_with("kube-root-ca.crt"))
            .map(str::to_owned),
    );
    let wide =
        "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let wide = installation.kubectl(&["get", wide, "-o", "name"]).await?.good()?;
    left.extend(
        wide.lines()
            .filter(|line| line.contains(RELEASE))
            .map(str::to_owned),
    );
    let of_runners = installation
        .kubectl(&[
            "get",
            "pods,poddisruptionbudgets,statefulsets",
            "-n",
            &world.ns,
            "-o",
            "name",
        ])
        .await?
        .good()?;
    left.extend(of_runners.lines().map(str::to_owned));
    left.extend(
        world
            .github
            .runners()
            .into_iter()
            .map(|runner| format!("registration {}", runner.name)),
    );
    let held = installation
        .kubectl(&[
            "get",
            OF_USERS,
            "-n",
            &world.ns,
            "-o",
            "jsonpath={.items[*].metadata.finalizers[*]}",
        ])
        .await?;
    if held.ok {
        left.extend(
            held.out
                .split_whitespace()
                .map(|finalizer| format!("finalizer {finalizer}")),
        );
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_nobody_needs_is_a_failure() {
        let right = |verb: &str| Right::new("", "pods", verb);
        let mut manager = Use {
            granted: [right("get"), right("list")].into(),
            used: [right("get")].into(),
            refused: BTreeSet::new(),
        };
        assert!(judge_use(&manager, &[right("list")].into()).0);
        assert!(!judge_use(&manager, &BTreeSet::new()).0);
        manager.used.insert(right("list"));
        assert!(judge_use(&manager, &BTreeSet::new()).0);
        manager.refused.insert(right("watch"));
        assert!(!judge_use(&manager, &BTreeSet::new()).0);
    }

    #[test]
    fn what_arc_has_explains_only_the_managers_rights() {
        let arc = BTreeSet::from([Right::new("", "pods", "get")]);
        assert!(explained(MANAGER, &[], &arc).is_superset(&arc));
        assert!(explained(WEBHOOK_SERVER, &[], &arc).is_disjoint(&arc));
    }
}
