//! An installation of Muster or upstream in a cluster: its processes, recognised by their Deployments, who leads, and the objects that it works with.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    coordination::v1::Lease,
    core::v1::{Container, PersistentVolume, Pod, PodSpec},
};
use kube::ResourceExt;
use muster_crds::legacy::{
    HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet, RunnerSet,
};

/// Name of the managers' Lease where no flag says otherwise.
pub const LEADER_LEASE: &str = "actions-runner-controller";
/// Repositories of upstream's images.
const UPSTREAM_IMAGES: [&str; 2] = [
    "summerwind/actions-runner-controller",
    "ghcr.io/actions/actions-runner-controller",
];
/// Beginnings of the manager's flags that no other operator has.
const MANAGER_FLAGS: [&str; 6] = [
    "--docker-image",
    "--runner-image",
    "--default-scale-down-delay",
    "--github-api-cache-duration",
    "--runner-github-url",
    "--runner-status-update-hook",
];
/// Variables of a login to GitHub, which the manager does not start without.
const LOGIN: [&str; 3] = ["GITHUB_TOKEN", "GITHUB_APP_ID", "GITHUB_BASICAUTH_PASSWORD"];

/// Objects of the namespaces in question.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// `HorizontalRunnerAutoscaler`s.
    pub autoscalers: Vec<HorizontalRunnerAutoscaler>,
    /// `RunnerDeployment`s.
    pub deployments: Vec<RunnerDeployment>,
    /// `RunnerReplicaSet`s.
    pub replica_sets: Vec<RunnerReplicaSet>,
    /// `RunnerSet`s.
    pub runner_sets: Vec<RunnerSet>,
    /// `Runner`s.
    pub runners: Vec<Runner>,
    /// Runner pods.
    pub pods: Vec<Pod>,
    /// `StatefulSet`s of RunnerSets.
    pub stateful_sets: Vec<StatefulSet>,
    /// Volumes that RunnerSets keep.
    pub volumes: Vec<PersistentVolume>,
}

/// A program of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    /// The reconcilers.
    Manager,
    /// What receives webhooks.
    WebhookServer,
    /// What turns webhooks into metrics.
    MetricsServer,
}

impl Program {
    /// Every one, with the name of its executable.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Manager, "manager"),
        (Self::WebhookServer, "github-webhook-server"),
        (Self::MetricsServer, "actions-metrics-server"),
    ];

    /// Name of the executable.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.into_iter().find(|(program, _)| *program == self);
        named.map_or("", |(_, name)| name)
    }
}

/// A Deployment that runs one of the programs.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    /// Which.
    pub program: Program,
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// Its pods.
    pub pod: &'a PodSpec,
    /// The container with the program.
    pub container: &'a Container,
}

impl<'a> Process<'a> {
    /// The processes among some Deployments.
    pub fn all(deployments: &'a [Deployment]) -> Vec<Self> {
        deployments.iter().filter_map(Self::of).collect()
    }

    /// Recognises a Deployment.
    pub fn of(deployment: &'a Deployment) -> Option<Self> {
        let pod = deployment.spec.template.spec.as_ref()?;
        pod.containers.iter().find_map(|container| {
            let program = program(container)?;
            (program != Program::Manager || is_ours(deployment, container)).then_some(Self {
                program,
                deployment,
                pod,
                container,
            })
        })
    }

    /// How many pods it shall have.
    pub fn replicas(&self) -> i32 {
        self.deployment.spec.replicas.unwrap_or(1)
    }

    /// Whether the image is one that upstream publishes. Of any other nobody can say whose it is.
    pub fn is_upstreams(&self) -> bool {
        let image = self.container.image.as_deref().unwrap_or_default();
        let image = image.strip_prefix("docker.io/").unwrap_or(image);
        let repository = image.split('@').next().unwrap_or_default();
        let repository = repository
            .rsplit_once(':')
            .map_or(repository, |(before, _)| before);
        UPSTREAM_IMAGES.contains(&repository)
    }

    /// The value of a flag, as `--name=value` or `--name value`; of a switch, `true`.
    pub fn flag(&self, name: &str) -> Option<&'a str> {
        let args = self.container.args.as_deref().unwrap_or_default();
        args.iter().enumerate().find_map(|(index, arg)| {
            let rest = arg.trim_start_matches('-').strip_prefix(name)?;
            match rest.strip_prefix('=') {
                Some(value) => Some(value),
                None if rest.is_empty() => {
                    let next = args.get(index + 1).map(String::as_str);
                    Some(next.filter(|next| !next.starts_with('-')).unwrap_or("true"))
                }
                None => None,
            }
        })
    }

    /// Name of the Lease by which managers take turns; none where they do not.
    pub fn leader_lease(&self) -> Option<&'a str> {
        let is_on = self
            .flag("enable-leader-election")
            .is_some_and(|value| value != "false");
        (self.program == Program::Manager && is_on)
            .then(|| self.flag("leader-election-id").unwrap_or(LEADER_LEASE))
    }

    /// The service account that its pods are.
    pub fn account(&self) -> String {
        let named = self.pod.service_account_name.as_deref();
        let namespace = self.deployment.namespace().unwrap_or_default();
        let name = named.filter(|name| !name.is_empty()).unwrap_or("default");
        format!("system:serviceaccount:{namespace}:{name}")
    }
}

fn program(container: &Container) -> Option<Program> {
    let command = container.command.as_ref().and_then(|command| command.first());
    let executable = command.map_or("manager", |path| path.rsplit('/').next().unwrap_or_default());
    let found = Program::ALL.into_iter().find(|(_, name)| *name == executable);
    found.map(|(program, _)| program)
}

/// Whether a container that runs something called manager is one of ours: many operators are called so.
fn is_ours(deployment: &Deployment, container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    let args = container.args.as_deref().unwrap_or_default();
    let label = deployment.labels().get("app.kubernetes.io/name");
    let names_login = container
        .env
        .iter()
        .flatten()
        .any(|variable| LOGIN.contains(&variable.name.as_str()));
    let has_flag = |flag: &&str| args.iter().any(|arg| arg.starts_with(flag));
    image.contains("actions-runner-controller")
        || label.is_some_and(|name| name == LEADER_LEASE)
        || names_login
        || MANAGER_FLAGS.iter().any(has_flag)
}

/// Who leads by this Lease now; none where the holder has been silent for longer than its term.
pub fn leader(lease: &Lease, now: Timestamp) -> Option<&str> {
    let spec = lease.spec.as_ref()?;
    let holder = spec
        .holder_identity
        .as_deref()
        .filter(|holder| !holder.is_empty())?;
    let term = SignedDuration::from_secs(i64::from(spec.lease_duration_seconds.unwrap_or(15)));
    let renewed = spec.renew_time.as_ref()?.0;
    (now.duration_since(renewed) <= term).then_some(holder)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "callers write it in place")]
    fn deployment(container: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "x", "namespace": "arc"},
            "spec": {"selector": {}, "template": {"spec": {"containers": [container]}}},
        }))
        .unwrap()
    }

    #[test]
    fn programs_are_recognised_and_other_operators_are_not() {
        for (container, expected) in [
            (
                json!({"name": "manager", "image": "summerwind/actions-runner-controller:v0.27.6", "command": ["/manager"]}),
                Some((Program::Manager, true)),
            ),
            (
                json!({"name": "manager", "image": "registry:5000/muster@sha256:0", "command": ["/manager"],
                    "args": ["--enable-leader-election", "--runner-image=x"]}),
                Some((Program::Manager, false)),
            ),
            (
                json!({"name": "x", "image": "y", "env": [{"name": "GITHUB_TOKEN", "value": "z"}]}),
                Some((Program::Manager, false)),
            ),
            (
                json!({"name": "manager", "image": "other", "command": ["/manager"]}),
                None,
            ),
            (
                json!({"name": "w", "image": "other", "command": ["/github-webhook-server"]}),
                Some((Program::WebhookServer, false)),
            ),
            (
                json!({"name": "w", "image": "nginx", "command": ["/bin/sh"]}),
                None,
            ),
        ] {
            let deployment = deployment(container.clone());
            let process = Process::of(&deployment);
            let found = process.map(|process| (process.program, process.is_upstreams()));
            assert_eq!(found, expected, "{container}");
        }
    }

    #[test]
    fn flags_are_read_in_both_spellings() {
        let deployment = deployment(json!({"name": "m", "image": "muster", "command": ["/manager"],
            "args": ["--runner-image=r", "-leader-election-id", "two", "--enable-leader-election", "--watch-namespace=ci"]}));
        let process = Process::of(&deployment).unwrap();
        assert_eq!(process.flag("watch-namespace"), Some("ci"));
        assert_eq!(process.flag("watch"), None);
        assert_eq!(process.leader_lease(), Some("two"));
        assert_eq!(process.account(), "system:serviceaccount:arc:default");
    }

    #[test]
    fn a_silent_holder_leads_no_longer() {
        let lease: Lease = serde_json::from_value(
            json!({"spec": {"holderIdentity": "a_1", "leaseDurationSeconds": 15,
            "renewTime": "2027-01-01T00:00:00.000000Z"}}),
        )
        .unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(leader(&lease, at("2027-01-01T00:00:15Z")), Some("a_1"));
        assert_eq!(leader(&lease, at("2027-01-01T00:00:16Z")), None);
        assert_eq!(leader(&Lease::default(), at("2027-01-01T00:00:00Z")), None);
    }
}
