//! What the processes' accounts may do: the API server's own authorizer is asked about each right, so that bindings, groups and wildcards count.

use std::collections::BTreeMap;

use super::{Fault, Finding, Observed};
use crate::{
    explain::Subject,
    installation::{Process, Program},
};

/// Verbs on a resource, and what does not work without them; where that is nothing vital the right is optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// API group; empty is the core's.
    pub group: &'static str,
    /// Resource, with its subresource.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// What is done without, if it can be done without.
    pub without: Option<&'static str>,
}

const fn must(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Right {
    Right {
        group,
        resource,
        verbs,
        without: None,
    }
}

const fn may(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    without: &'static str,
) -> Right {
    Right {
        group,
        resource,
        verbs,
        without: Some(without),
    }
}

const ARC: &str = muster_crds::keys::GROUP;
const ALL: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const STATUS: &[&str] = &["get", "patch", "update"];
const READ: &[&str] = &["get", "list", "watch"];

/// The manager's, as in `config/rbac/manager_role.yaml`.
pub const MANAGER: &[Right] = &[
    must(ARC, "horizontalrunnerautoscalers", ALL),
    must(ARC, "runnerdeployments", ALL),
    must(ARC, "runnerreplicasets", ALL),
    must(ARC, "runners", ALL),
    must(ARC, "runnersets", ALL),
    must(ARC, "horizontalrunnerautoscalers/status", STATUS),
    must(ARC, "runnerdeployments/status", STATUS),
    must(ARC, "runnerreplicasets/status", STATUS),
    must(ARC, "runners/status", STATUS),
    must(ARC, "runnersets/status", STATUS),
    must(ARC, "horizontalrunnerautoscalers/finalizers", ALL),
    must(ARC, "runnerdeployments/finalizers", ALL),
    must(ARC, "runnerreplicasets/finalizers", ALL),
    must(ARC, "runners/finalizers", ALL),
    must(ARC, "runnersets/finalizers", ALL),
    must("", "pods", ALL),
    must("", "pods/finalizers", ALL),
    may(
        "",
        "secrets",
        READ,
        "logins that objects name are read only where a Role of the namespace allows it",
    ),
    must("", "events", &["create", "patch"]),
    must(
        "coordination.k8s.io",
        "leases",
        &["create", "get", "list", "update"],
    ),
    must("apps", "statefulsets", ALL),
    must("apps", "statefulsets/finalizers", ALL),
    must(
        "",
        "persistentvolumeclaims",
        &["delete", "get", "list", "patch", "update", "watch"],
    ),
    must(
        "",
        "persistentvolumes",
        &["delete", "get", "list", "patch", "update", "watch"],
    ),
    may(
        "",
        "pods/status",
        &["patch"],
        "the pod does not say why its runner cannot be removed",
    ),
    may(
        "",
        "nodes",
        &["list"],
        "kept volumes of different places are not combined",
    ),
    may(
        "policy",
        "poddisruptionbudgets",
        &["create"],
        "annotations alone protect busy runners from evictions",
    ),
];

/// The webhook server's, as in `config/rbac/github-webhook-server_role.yaml`.
pub const WEBHOOK_SERVER: &[Right] = &[
    must(
        ARC,
        "horizontalrunnerautoscalers",
        &["get", "list", "watch", "patch"],
    ),
    must(ARC, "runnerdeployments", &["list", "watch"]),
    must(ARC, "runnersets", &["list", "watch"]),
    may(
        ARC,
        "horizontalrunnerautoscalers/status",
        &["patch"],
        "the autoscaler does not say whose deliveries GitHub hides",
    ),
    may(
        "",
        "events",
        &["create"],
        "jobs that no autoscaler takes are told of at /debug/unmatched only",
    ),
];

/// One question for the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The process's account.
    pub account: String,
    /// Its program.
    pub program: Program,
    /// Where; `None` for all namespaces.
    pub namespace: Option<String>,
    /// API group.
    pub group: &'static str,
    /// Resource.
    pub resource: &'static str,
    /// Verb.
    pub verb: &'static str,
    /// See [`Right::without`].
    pub without: Option<&'static str>,
}

/// A question and its answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// Whether it is allowed.
    pub is_allowed: bool,
}

/// What is to be asked about the processes among these Deployments.
pub fn wanted(observed: &Observed) -> Vec<Question> {
    let deployments = observed.deployments.as_deref().unwrap_or_default();
    let mut questions: Vec<Question> = Process::all(deployments)
        .iter()
        .filter(|process| process.replicas() > 0)
        .flat_map(of)
        .collect();
    questions.sort();
    questions.dedup();
    questions
}

fn of(process: &Process<'_>) -> Vec<Question> {
    let rights = match process.program {
        Program::Manager => MANAGER,
        Program::WebhookServer => WEBHOOK_SERVER,
        Program::MetricsServer => return Vec::new(),
    };
    let watched = process
        .flag("watch-namespace")
        .filter(|namespace| !namespace.is_empty());
    let home = process.deployment.metadata.namespace.as_deref();
    let is_placed = |resource: &str| !matches!(resource, "persistentvolumes" | "nodes");
    let mut questions = Vec::new();
    for right in rights {
        // Leader election is at home, and by the flag.
        let namespace = match right.resource {
            "leases" if process.leader_lease().is_none() => continue,
            "leases" => home,
            resource if is_placed(resource) => watched,
            _ => None,
        };
        questions.extend(right.verbs.iter().map(|verb| Question {
            account: process.account(),
            program: process.program,
            namespace: namespace.map(str::to_owned),
            group: right.group,
            resource: right.resource,
            verb,
            without: right.without,
        }));
    }
    questions
}

/// Account, program, namespace, API group, resource, and what is done without.
type Rule<'a> = (String, Program, Option<String>, &'a str, &'a str, Option<&'a str>);

/// One finding for each resource of an account that lacks verbs.
pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    let mut lacking: BTreeMap<Rule<'_>, Vec<&str>> = BTreeMap::new();
    for answer in observed.rights.iter().filter(|answer| !answer.is_allowed) {
        let Question {
            account,
            program,
            namespace,
            group,
            resource,
            verb,
            without,
        } = &answer.question;
        let key = (
            account.clone(),
            *program,
            namespace.clone(),
            *group,
            *resource,
            *without,
        );
        lacking.entry(key).or_default().push(verb);
    }
    for ((account, program, namespace, group, resource, without), verbs) in lacking {
        let mut parts = account.rsplit(':');
        let (name, home) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let place = namespace.map_or_else(
            || "in the cluster".to_owned(),
            |namespace| format!("in namespace {namespace}"),
        );
        let group = if group.is_empty() { "core" } else { group };
        let what = format!(
            "{} may not {} {resource} ({group}) {place}",
            program.name(),
            verbs.join(", ")
        );
        let file = match program {
            Program::Manager => "manager_role.yaml",
            Program::WebhookServer | Program::MetricsServer => "github-webhook-server_role.yaml",
        };
        let (fault, sentence) = match without {
            None => (Fault::PermissionMissing, what),
            Some(without) => (Fault::PermissionOptional, format!("{what}: {without}")),
        };
        findings.push(Finding::new(
            fault,
            Subject::new("ServiceAccount", home, name),
            sentence,
            format!("Add the verbs to the role that {account} is bound to: config/rbac/{file} has the rule."),
        ));
    }
}
