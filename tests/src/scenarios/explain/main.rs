//! Causes that live side by side in one namespace: every pool has a label of its own, and where GitHub is to refuse, an organization or a login
//! of its own.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use muster_crds::legacy::{
    EmbeddedMeta, GitHubApiCredentialsFrom, RunnerDeploymentSpec, ScaleUpTrigger, SecretReference,
};
use serde_json::json;

use crate::{
    agent::RunnerScope,
    control_plane::manifests,
    github::{Fault, FaultKind, HookSpec, JobHandle, JobSpec, RunnerGroupSpec},
    world::{ORGANIZATION, REPOSITORY, SECRET, World},
};

use super::Case;

/// Logins of pools that must not spoil the others'.
pub(super) const LIMITED_TOKEN: &str = "ghp_musterExplainLimited00000000000000000";
pub(super) const BURSTING_TOKEN: &str = "ghp_musterExplainBursting0000000000000000";
/// One that GitHub does not know.
pub(super) const REVOKED_TOKEN: &str = "ghp_musterExplainRevoked00000000000000000";

/// Jobs that are to be there as long as anybody asks.
const LONG: Duration = Duration::from_mins(30);
/// Time for what must come about before a question makes sense.
const PATIENCE: Duration = Duration::from_mins(2);
/// A second organization, without any pool.
const STRANGER: &str = "stranger";
/// A third, without a webhook.
const SILENT: &str = "silent";

/// Pools and jobs in the making.
struct Script<'a> {
    world: &'a World,
    cases: Vec<Case>,
}

impl Script<'_> {
    fn case(&mut self, cause: &'static str, what: &'static str, name: impl Into<String>, code: &'static str) {
        self.cases
            .push(Case::new(cause, &self.world.ns, what, name, code));
    }

    /// A pool whose runners alone have the label of its name.
    async fn deployment(&self, name: &str, change: impl FnOnce(&mut RunnerDeploymentSpec)) -> Result<()> {
        self.world
            .deployment(name, |spec| {
                spec.template.spec.config.labels = Some(vec![name.to_owned()]);
                change(spec);
            })
            .await
    }

    /// The same, scaled by jobs.
    async fn pool(&self, name: &str, change: impl FnOnce(&mut RunnerDeploymentSpec)) -> Result<()> {
        self.deployment(name, change).await?;
        self.world.autoscaler(name, name, |_| {}).await
    }

    /// A pool with so many runners, without an autoscaler.
    async fn fixed(&self, name: &str, change: impl FnOnce(&mut RunnerDeploymentSpec)) -> Result<()> {
        self.deployment(name, |spec| {
            spec.replicas = Some(1);
            change(spec);
        })
        .await
    }

    fn job(&self, label: &str) -> JobHandle {
        self.world
            .github
            .queue_job(JobSpec::new(REPOSITORY, ["self-hosted", label]).duration(LONG))
    }
}

fn key(job: JobHandle) -> String {
    format!("{}/{}", job.repository_id, job.id)
}

/// The kubelet does this to the pool's pods.
fn suffer(spec: &mut RunnerDeploymentSpec, fault: &str) {
    let meta = spec.template.metadata.get_or_insert_with(EmbeddedMeta::default);
    meta.annotations
        .get_or_insert_default()
        .insert("sim.muster.dev/fault".to_owned(), fault.to_owned());
}

fn in_organization(spec: &mut RunnerDeploymentSpec, organization: &str) {
    spec.template.spec.config.organization = Some(organization.to_owned());
}

fn with_login(spec: &mut RunnerDeploymentSpec, secret: &str) {
    spec.template.spec.config.github_api_credentials_from = Some(GitHubApiCredentialsFrom {
        secret_ref: Some(SecretReference {
            name: secret.to_owned(),
        }),
    });
}

async fn start(name: &str) -> Result<World> {
    World::builder(name)
        .github(|options| options.offline_after = Duration::from_secs(2))
        .manager_flag("--queue-reconciliation-period=0s")
        .manager_flag("--runner-offline-timeout=5s")
        .replay(false)
        .start()
        .await
}

/// A few causes that show at once.
pub(super) async fn few() -> Result<(World, Vec<Case>)> {
    let world = start("explain").await?;
    let mut script = Script {
        world: &world,
        cases: Vec::new(),
    };
    configuration(&mut script).await?;
    routing(&mut script).await?;
    pods(&mut script).await?;
    let cases = script.cases;
    Ok((world, cases))
}

/// All of them.
pub(super) async fn all() -> Result<(World, Vec<Case>)> {
    let world = start("explain").await?;
    let mut script = Script {
        world: &world,
        cases: Vec::new(),
    };
    configuration(&mut script).await?;
    routing(&mut script).await?;
    pods(&mut script).await?;
    slow_pods(&mut script).await?;
    refusals(&mut script).await?;
    limits(&mut script).await?;
    runners(&mut script).await?;
    let cases = script.cases;
    Ok((world, cases))
}

/// Objects that ask for what cannot be.
async fn configuration(script: &mut Script<'_>) -> Result<()> {
    script.world.autoscaler("no-target", "nowhere", |_| {}).await?;
    script.case("the target does not exist", "pool", "no-target", "TargetNotFound");

    script.deployment("bad-duration", |_| {}).await?;
    let badly = |triggers: &mut Option<Vec<ScaleUpTrigger>>| {
        for trigger in triggers.iter_mut().flatten() {
            trigger.duration = Some("soon".to_owned());
        }
    };
    script
        .world
        .autoscaler("bad-duration", "bad-duration", |spec| {
            badly(&mut spec.scale_up_triggers);
        })
        .await?;
    script.case("a duration is none", "pool", "bad-duration", "InvalidSpec");

    script
        .fixed("no-secret", |spec| with_login(spec, "not-there"))
        .await?;
    script.case(
        "the login's Secret is missing",
        "pool",
        "no-secret",
        "InvalidCredentials",
    );

    script.deployment("paused", |_| {}).await?;
    script
        .world
        .autoscaler("paused", "paused", |spec| spec.max_replicas = Some(0))
        .await?;
    // The autoscaler must be known to the webhook server before its job comes.
    Ok(())
}

/// Jobs that no autoscaler takes.
async fn routing(script: &mut Script<'_>) -> Result<()> {
    let world = script.world;
    let github = &world.github;
    script.pool("plain", |_| {}).await?;
    script.deployment("two-triggers", |_| {}).await?;
    script
        .world
        .autoscaler("two-triggers", "two-triggers", |spec| {
            let triggers = spec.scale_up_triggers.get_or_insert_default();
            triggers.extend(triggers.clone());
        })
        .await?;
    github.add_runner_group(&RunnerGroupSpec {
        scope: RunnerScope::Organization(ORGANIZATION.to_owned()),
        name: "secluded".to_owned(),
        repositories: Some(vec![format!("{ORGANIZATION}/another")]),
    });
    script
        .pool("grouped", |spec| {
            spec.template.spec.config.group = Some("secluded".to_owned());
        })
        .await?;
    github.add_hook(HookSpec::organization(STRANGER, &world.webhook_url, SECRET));
    settle(world, &["paused", "plain", "two-triggers", "grouped"]).await?;

    let job = key(script.job("paused"));
    script.case("the autoscaler's maximum is 0", "job", job, "Paused");
    let job = key(script.job("gpu"));
    script.case("no pool has the label", "job", job, "MissingLabel");
    let job = key(script.job("two-triggers"));
    script.case("the autoscaler takes no jobs", "job", job, "TriggerMissing");
    let job = key(script.job("grouped"));
    script.case(
        "the runner group is not for the repository",
        "job",
        job,
        "GroupNotVisible",
    );
    let spec = JobSpec::new(&format!("{STRANGER}/app"), ["self-hosted", "plain"]);
    script.case(
        "no pool for the organization",
        "job",
        key(github.queue_job(spec)),
        "NoPoolInScope",
    );
    let spec = JobSpec::new(&format!("{SILENT}/app"), ["self-hosted", "plain"]);
    script.case(
        "no webhook came",
        "job",
        key(github.queue_job(spec)),
        "WebhookNotReceived",
    );
    let spec = JobSpec::new(REPOSITORY, ["self-hosted", "plain"]).waiting();
    script.case(
        "the job waits for an approval",
        "job",
        key(github.queue_job(spec)),
        "JobWaitsForApproval",
    );
    Ok(())
}

/// Waits until the manager has decided about these autoscalers. The webhook server watches the same objects.
async fn settle(world: &World, names: &[&str]) -> Result<()> {
    for name in names {
        let known = async |world: &World| {
            let status = world.get_autoscaler(name).await?.status;
            Ok(status.is_some())
        };
        world
            .until(&format!("the manager knows autoscaler {name}"), PATIENCE, known)
            .await?;
    }
    Ok(())
}

/// Pods that do not come up.
async fn pods(script: &mut Script<'_>) -> Result<()> {
    script
        .fixed("unschedulable", |spec| suffer(spec, "never-scheduled"))
        .await?;
    script.case("no node fits", "pool", "unschedulable", "Unschedulable");
    script
        .fixed("no-image", |spec| suffer(spec, "never-ready"))
        .await?;
    script.case(
        "the image cannot be pulled",
        "pool",
        "no-image",
        "ImagePullFailed",
    );
    script
        .fixed("slow", |spec| suffer(spec, "slow-start=900"))
        .await?;
    script.case("the pod starts slowly", "pool", "slow", "PodStarting");
    Ok(())
}

/// Pods that come up and are no runners.
async fn slow_pods(script: &mut Script<'_>) -> Result<()> {
    script
        .fixed("deaf", |spec| suffer(spec, "never-registers"))
        .await?;
    script.case(
        "the runner does not register",
        "pool",
        "deaf",
        "RunnerNotRegistered",
    );
    script
        .fixed("crashing", |spec| suffer(spec, "crash=3@started"))
        .await?;
    script.case(
        "runners crash one after the other",
        "pool",
        "crashing",
        "RunnersFail",
    );
    Ok(())
}

/// What GitHub refuses.
async fn refusals(script: &mut Script<'_>) -> Result<()> {
    let world = script.world;
    for (name, token) in [
        ("limited", LIMITED_TOKEN),
        ("bursting", BURSTING_TOKEN),
        ("revoked", REVOKED_TOKEN),
    ] {
        if token != REVOKED_TOKEN {
            world.github.accept_token(token);
        }
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"github_token": token}});
        manifests::apply_value(&world.client, &world.ns, &secret).await?;
    }
    let hour = Duration::from_hours(1);
    let faults = [
        ("forbidden", FaultKind::Forbidden),
        ("unknown", FaultKind::Status(404)),
        ("troubled", FaultKind::Status(503)),
        ("limited", FaultKind::PrimaryRateLimit(hour)),
        ("bursting", FaultKind::SecondaryRateLimit(hour)),
    ];
    for (name, kind) in faults {
        world
            .github
            .inject(Fault::everywhere(kind).at_path(&format!("orgs/{name}/")));
    }
    for (name, cause, code) in [
        ("forbidden", "the login lacks a permission", "GitHubForbidden"),
        (
            "unknown",
            "GitHub does not know the organization",
            "GitHubNotFound",
        ),
        ("troubled", "GitHub answers 503", "GitHubUnavailable"),
        ("limited", "the hourly limit is used up", "GitHubRateLimited"),
        ("bursting", "the secondary limit holds", "GitHubRateLimited"),
        ("revoked", "the token was revoked", "GitHubUnauthorized"),
    ] {
        script
            .fixed(name, |spec| {
                in_organization(spec, name);
                if matches!(name, "limited" | "bursting" | "revoked") {
                    with_login(spec, name);
                }
            })
            .await?;
        script.case(cause, "pool", name, code);
    }
    Ok(())
}

/// What the autoscaler does not allow.
async fn limits(script: &mut Script<'_>) -> Result<()> {
    let world = script.world;
    script.deployment("full", |_| {}).await?;
    world
        .autoscaler("full", "full", |spec| spec.max_replicas = Some(1))
        .await?;
    script.deployment("night", |_| {}).await?;
    let now = now();
    let night = json!([{"startTime": now.checked_sub(SignedDuration::from_hours(1))?.to_string(),
        "endTime": now.checked_add(SignedDuration::from_hours(3))?.to_string(), "maxReplicas": 1}]);
    let night = serde_json::from_value(night).context("an override is none")?;
    world
        .autoscaler("night", "night", |spec| spec.scheduled_overrides = Some(night))
        .await?;
    script.pool("held", |_| {}).await?;
    settle(world, &["full", "night", "held"]).await?;
    for (name, cause, code) in [
        ("full", "the maximum is reached", "MaxReplicasReached"),
        ("night", "the schedule's maximum is reached", "ScheduledOverride"),
    ] {
        script.job(name);
        let second = script.job(name);
        script.case(cause, "job", key(second), code);
    }

    // A job that GitHub has in its queue, asks for another label there, and so goes to nobody.
    world
        .autoscaler("held", "held", |spec| spec.min_replicas = Some(1))
        .await?;
    let job = script.job("nobody-has-this");
    let mut told = world.github.job_payload(job.id).context("the job is gone")?;
    told.labels = vec!["self-hosted".to_owned(), "held".to_owned()];
    let hook = world.hook.context("there is no hook")?;
    world
        .github
        .send_event(hook, "workflow_job", told.render("queued"));
    script.case(
        "GitHub gives the job to no idle runner",
        "job",
        key(job),
        "NotDispatched",
    );
    Ok(())
}

/// Runners on their way out.
async fn runners(script: &mut Script<'_>) -> Result<()> {
    let world = script.world;
    script.pool("spare", |spec| suffer(spec, "slow-start=4")).await?;
    settle(world, &["spare"]).await?;
    let job = script.job("spare");
    script
        .deployment("retiring", |spec| spec.replicas = Some(2))
        .await?;
    script.fixed("lost", |spec| suffer(spec, "goes-offline")).await?;
    script.job("retiring");
    script.job("retiring");

    // The job is cancelled while its runner starts: a spare one is left.
    until_pods(world, "spare", 1).await?;
    world.github.cancel_job(job.id);
    script.case("a spare runner is kept", "pool", "spare", "IdleRetained");

    let busy = async |world: &World| {
        let runners = world.github.runners();
        Ok(runners
            .iter()
            .filter(|runner| runner.busy && runner.name.starts_with("retiring-"))
            .count()
            == 2)
    };
    world.until("both runners have a job", PATIENCE, busy).await?;
    let patch = json!({"spec": {"replicas": 1}});
    let api = world.api::<muster_crds::legacy::RunnerDeployment>();
    api.patch(
        "retiring",
        &kube::api::PatchParams::default(),
        &kube::api::Patch::Merge(patch),
    )
    .await
    .context("could not scale down")?;
    let asked = async |world: &World| Ok(asked_to_go(world).await?.is_some());
    world
        .until("a busy runner is asked to go", PATIENCE, asked)
        .await?;
    let retired = asked_to_go(world)
        .await?
        .context("nobody is asked to go any more")?;
    script.case("a busy runner is surplus", "runner", retired, "RetiringBusy");

    let first = async |world: &World| Ok(first_lost(world).is_some());
    world
        .until("a runner loses its connection", PATIENCE, first)
        .await?;
    let lost = first_lost(world).context("GitHub has forgotten the lost runner")?;
    script.case("GitHub lost the runner", "runner", lost, "RunnerLost");
    Ok(())
}

async fn until_pods(world: &World, pool: &str, count: usize) -> Result<()> {
    let prefix = format!("{pool}-");
    let there = async |world: &World| {
        let pods = world.pods().await?;
        Ok(pods
            .iter()
            .filter(|pod| pod.name_any().starts_with(&prefix))
            .count()
            >= count)
    };
    world
        .until(&format!("{pool} has {count} pods"), PATIENCE, there)
        .await
}

/// A busy runner that the manager tried to remove.
async fn asked_to_go(world: &World) -> Result<Option<String>> {
    let pods = world.pods().await?;
    let found = pods.iter().find(|pod| {
        pod.name_any().starts_with("retiring-")
            && pod
                .annotations()
                .contains_key("actions-runner/unregistration-failure-message")
    });
    Ok(found.map(ResourceExt::name_any))
}

fn first_lost(world: &World) -> Option<String> {
    let runners = world.github.runners();
    runners
        .into_iter()
        .find(|runner| runner.name.starts_with("lost-"))
        .map(|runner| runner.name)
}

/// The machine's clock, as whoever writes an override reads it.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the world outside: its clock is the real one"
)]
fn now() -> Timestamp {
    Timestamp::now()
}
