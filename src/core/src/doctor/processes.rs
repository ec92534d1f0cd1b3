//! The processes: there, ready, one at a time, and where the objects are.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use muster_crds::keys;

use super::{Fault, Finding, Objects, Observed, subject};
use crate::{
    explain::Subject,
    installation::{Process, Program, leader},
};

pub(super) fn check(observed: &Observed, now: Timestamp, findings: &mut Vec<Finding>) {
    let Some(deployments) = &observed.deployments else {
        return;
    };
    let processes = Process::all(deployments);
    let of = |program: Program| -> Vec<&Process<'_>> {
        processes
            .iter()
            .filter(|process| process.program == program)
            .collect()
    };
    let managers = of(Program::Manager);
    manager(&managers, observed, findings);
    together(&managers, findings);
    for process in &managers {
        leads(process, observed, now, findings);
    }
    watched(&managers, &observed.objects, findings);
    webhook_server(&of(Program::WebhookServer), &observed.objects, findings);
}

fn log(process: &Process<'_>) -> String {
    let deployment = process.deployment;
    format!(
        "kubectl -n {} logs deployment/{}",
        deployment.namespace().unwrap_or_default(),
        deployment.name_any()
    )
}

fn scale(process: &Process<'_>) -> String {
    let deployment = process.deployment;
    format!(
        "kubectl -n {} scale deployment/{} --replicas=1",
        deployment.namespace().unwrap_or_default(),
        deployment.name_any()
    )
}

fn is_ready(process: &Process<'_>) -> bool {
    let status = process.deployment.status.as_ref();
    status.and_then(|status| status.ready_replicas).unwrap_or(0) > 0
}

fn not_ready(fault: Fault, process: &Process<'_>) -> Finding {
    Finding::new(
        fault,
        subject(process.deployment),
        format!(
            "none of {} pods of {} is ready",
            process.replicas(),
            process.deployment.name_any()
        ),
        format!("Look what keeps it from starting: {}", log(process)),
    )
}

fn manager(managers: &[&Process<'_>], observed: &Observed, findings: &mut Vec<Finding>) {
    let objects = &observed.objects;
    if managers.is_empty() {
        let has_pools = !(objects.deployments.is_empty() && objects.runner_sets.is_empty());
        if has_pools {
            findings.push(Finding::new(
                Fault::ManagerMissing,
                Subject::new("Deployment", "", "manager"),
                "there are pools, and no Deployment in the cluster runs the manager",
                "Install it: docs/install.md.",
            ));
        }
        return;
    }
    if managers.iter().all(|process| process.replicas() == 0) {
        for process in managers {
            findings.push(Finding::new(
                Fault::ManagerStopped,
                subject(process.deployment),
                format!("{} is scaled to 0", process.deployment.name_any()),
                format!("Start it: {}", scale(process)),
            ));
        }
    }
    for process in managers {
        if process.replicas() > 0 && !is_ready(process) {
            findings.push(not_ready(Fault::ManagerNotReady, process));
        }
    }
}

/// The namespace that a process looks at; `None` for all.
fn scope<'a>(process: &Process<'a>) -> Option<&'a str> {
    process
        .flag("watch-namespace")
        .filter(|namespace| !namespace.is_empty())
}

/// Managers that look at the same objects take turns by one Lease, or must not be.
fn together(managers: &[&Process<'_>], findings: &mut Vec<Finding>) {
    let running: Vec<&&Process<'_>> = managers.iter().filter(|process| process.replicas() > 0).collect();
    for (index, one) in running.iter().enumerate() {
        if one.replicas() > 1 && one.leader_lease().is_none() {
            findings.push(Finding::new(
                Fault::NoLeaderElection,
                subject(one.deployment),
                format!(
                    "{} has {} replicas without --enable-leader-election: each of them scales",
                    one.deployment.name_any(),
                    one.replicas()
                ),
                "Add --enable-leader-election, or have one replica.",
            ));
        }
        for other in running.iter().skip(index + 1) {
            let overlap = match (scope(one), scope(other)) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            };
            let same_place = one.deployment.namespace() == other.deployment.namespace();
            let take_turns =
                same_place && one.leader_lease().is_some() && one.leader_lease() == other.leader_lease();
            if overlap && !take_turns {
                let name = |process: &Process<'_>| {
                    format!(
                        "{}/{}",
                        process.deployment.namespace().unwrap_or_default(),
                        process.deployment.name_any()
                    )
                };
                findings.push(Finding::new(
                    Fault::TwoManagers,
                    subject(other.deployment),
                    format!("{} and {} both scale {}", name(one), name(other), scope(one).or_else(|| scope(other)).map_or_else(|| "all namespaces".to_owned(), |one| format!("namespace {one}"))),
                    "Stop one of them (ARC's, when this is a take-over: docs/migrate-from-arc.md), or give each a --watch-namespace of its own.",
                ));
            }
        }
    }
}

fn leads(process: &Process<'_>, observed: &Observed, now: Timestamp, findings: &mut Vec<Finding>) {
    let (Some(name), Some(leases)) = (process.leader_lease(), &observed.leases) else {
        return;
    };
    if process.replicas() == 0 || !is_ready(process) {
        return;
    }
    let namespace = process.deployment.namespace();
    let lease = leases
        .iter()
        .find(|lease| lease.name_any() == name && lease.namespace() == namespace);
    let namespace = namespace.unwrap_or_default();
    let object = Subject::new("Lease", &namespace, name);
    let sentence = match lease {
        None => format!("the manager elects its leader by Lease {namespace}/{name}, which is not there"),
        Some(lease) if leader(lease, now).is_none() => {
            let spec = lease.spec.clone().unwrap_or_default();
            let holder = spec.holder_identity.unwrap_or_else(|| "nobody".to_owned());
            let since = spec.renew_time.map_or_else(String::new, |at| {
                format!(" since {}", at.0.strftime("%Y-%m-%dT%H:%M:%SZ"))
            });
            format!("{holder} holds Lease {namespace}/{name} and has not renewed it{since}: nobody leads")
        }
        Some(_) => return,
    };
    findings.push(Finding::new(
        Fault::LeaderSilent,
        object,
        sentence,
        format!(
            "See why no manager takes it (right to update leases? clock?): {}",
            log(process)
        ),
    ));
}

/// Every namespace with pools is some manager's.
fn watched(managers: &[&Process<'_>], objects: &Objects, findings: &mut Vec<Finding>) {
    let scopes: Vec<Option<&str>> = managers.iter().map(|process| scope(process)).collect();
    if managers.is_empty() || scopes.contains(&None) {
        return;
    }
    let deployments = objects.deployments.iter().filter_map(ResourceExt::namespace);
    let sets = objects.runner_sets.iter().filter_map(ResourceExt::namespace);
    let places: BTreeSet<String> = deployments.chain(sets).collect();
    for place in places {
        if !scopes.contains(&Some(place.as_str())) {
            let all: Vec<&str> = scopes.iter().flatten().copied().collect();
            findings.push(Finding::new(
                Fault::NamespaceNotWatched,
                Subject::new("Namespace", "", &place),
                format!("pools in {place}, and the manager has --watch-namespace={}", all.join(", ")),
                "Take --watch-namespace away (scope.singleNamespace in the chart), or install a manager for this namespace.",
            ));
        }
    }
}

fn webhook_server(servers: &[&Process<'_>], objects: &Objects, findings: &mut Vec<Finding>) {
    let waits = objects.autoscalers.iter().find(|autoscaler| {
        autoscaler
            .spec
            .scale_up_triggers
            .as_ref()
            .is_some_and(|triggers| !triggers.is_empty())
    });
    if servers.iter().all(|process| process.replicas() == 0)
        && let Some(autoscaler) = waits
    {
        findings.push(Finding::new(
            Fault::WebhookServerMissing,
            subject(autoscaler),
            format!(
                "{} has scaleUpTriggers, and no Deployment in the cluster runs {}",
                autoscaler.name_any(),
                Program::WebhookServer.name()
            ),
            "Install it (githubWebhookServer.enabled=true in the chart) and create the webhook on GitHub: docs/install.md.",
        ));
    }
    for process in servers {
        if process.replicas() > 0 && !is_ready(process) {
            findings.push(not_ready(Fault::WebhookServerNotReady, process));
        }
    }
}

/// Whether an object is on its way out.
pub(super) fn deleted_at<K: Resource>(object: &K) -> Option<Timestamp> {
    object.meta().deletion_timestamp.as_ref().map(|time| time.0)
}

/// Our finalizers on an object.
pub(super) fn held_by<K: Resource>(object: &K) -> Vec<&str> {
    let ours = [
        keys::FINALIZER_RUNNER,
        keys::FINALIZER_RUNNER_POD,
        keys::FINALIZER_LINKED_RESOURCES,
    ];
    let all = object.meta().finalizers.iter().flatten();
    all.map(String::as_str).filter(|one| ours.contains(one)).collect()
}
