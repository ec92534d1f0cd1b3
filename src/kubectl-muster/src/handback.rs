//! `kubectl muster handback`: gather → plan (`core::handback`) → apply → report, and again while objects change under it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v1::Scale,
    coordination::v1::Lease,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
};
use muster_core::{
    explain::Subject,
    handback::{Action, Note, Observed, Options, Plan, Step, plan},
    installation::{Objects, Process, Program, leader},
};
use muster_crds::{
    keys,
    legacy::{HorizontalRunnerAutoscaler, Runner, RunnerDeployment, RunnerReplicaSet, RunnerSet},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    args::{ClusterArgs, Format, HandbackArgs},
    cluster::{Cluster, is_forbidden},
    explain::now,
    output, render,
};

/// Everything was handed back, or would be.
const DONE: u8 = 0;
/// A manager or webhook server runs that would write again: nothing was changed.
const REFUSED: u8 = 2;
/// Objects may change while they are handed back: so often all of it is looked at again.
const ROUNDS: usize = 5;
/// How long a stopped Deployment's pods may take.
const STOPPING: Duration = Duration::from_mins(3);
/// Field manager of the writes.
const FIELD_MANAGER: &str = "muster-handback";
/// Secret of the certificate that a manager makes for itself.
const SELF_SIGNED: &str = "webhook-service-self-signed";

/// A step that was taken, or would be.
#[derive(Debug, Serialize)]
struct Change {
    object: Subject,
    what: Vec<String>,
}

/// What JSON has.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    changes: Vec<Change>,
    notes: Vec<Note>,
    /// Why nothing was done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<String>,
    /// What could not be looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unseen: Vec<String>,
}

/// Hands back; answers the exit code.
pub(crate) async fn run(cluster: &ClusterArgs, asked: &HandbackArgs) -> Result<u8> {
    let cluster = Cluster::of(cluster).await?;
    let mut report = Report {
        dry_run: asked.dry_run,
        ..Report::default()
    };
    stop(&cluster, asked, &mut report).await?;
    let places = writers(&cluster, asked, &mut report).await?;
    if !report.refused.is_empty() && !asked.force && !asked.dry_run {
        print(&report, asked.output)?;
        return Ok(REFUSED);
    }
    let options = Options {
        drop_settings: asked.drop_settings,
    };
    for round in 0..ROUNDS {
        let observed = observe(&cluster, &places, &mut report).await?;
        let Plan { steps, notes } = plan(&observed, options, now());
        report.notes = notes;
        let mut retry = false;
        for step in steps {
            // A dry run has to show the same as the run, so it takes the same way up to the write.
            let written = asked.dry_run || apply(&cluster, &step).await?;
            retry |= !written;
            if written {
                report.changes.push(Change {
                    object: step.object,
                    what: step.what,
                });
            }
        }
        if !retry {
            print(&report, asked.output)?;
            return Ok(DONE);
        }
        tokio::time::sleep(Duration::from_millis(200 << round)).await;
    }
    print(&report, asked.output)?;
    bail!("objects kept changing meanwhile: stop who writes them and run it again")
}

/// Scales the Deployments that were named to zero, and waits for the end of their pods.
async fn stop(cluster: &Cluster, asked: &HandbackArgs, report: &mut Report) -> Result<()> {
    for (namespace, name) in &asked.stop {
        let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
        let what = || format!("could not stop Deployment {namespace}/{name}");
        let deployment = api.get(name).await.with_context(what)?;
        let before = Process::of(&deployment).with_context(|| {
            format!("Deployment {namespace}/{name} runs none of Muster's programs: --stop is for the manager and the webhook server")
        })?;
        if before.replicas() == 0 {
            continue;
        }
        report.changes.push(Change {
            object: Subject {
                kind: "Deployment".to_owned(),
                namespace: namespace.clone(),
                name: name.clone(),
            },
            what: vec![format!("scale it from {} to 0", before.replicas())],
        });
        if asked.dry_run {
            continue;
        }
        let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
        let _scale: Scale = api
            .patch_scale(name, &params(), &patch)
            .await
            .with_context(what)?;
        wait_until_stopped(&api, name).await.with_context(what)?;
    }
    Ok(())
}

async fn wait_until_stopped(api: &Api<Deployment>, name: &str) -> Result<()> {
    let waiting = async {
        loop {
            let deployment = api.get(name).await?;
            let status = deployment.status.clone().unwrap_or_default();
            let seen = status.observed_generation >= deployment.metadata.generation;
            if seen && status.replicas.unwrap_or(0) == 0 && status.terminating_replicas.unwrap_or(0) == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    match tokio::time::timeout(STOPPING, waiting).await {
        Ok(ended) => ended,
        Err(_) => bail!("its pods are there after {} s", STOPPING.as_secs()),
    }
}

/// Looks for processes that would write again. Answers the namespaces where Muster's own Leases and Secrets are.
async fn writers(cluster: &Cluster, asked: &HandbackArgs, report: &mut Report) -> Result<Vec<String>> {
    let all = ListParams::default();
    let deployments = cluster.list_everywhere::<Deployment>("Deployments", &all).await;
    let deployments = allowed(deployments, "Deployments of all namespaces", report)?.unwrap_or_default();
    let processes = Process::all(&deployments);
    let mut places: Vec<String> = processes
        .iter()
        .filter_map(|process| process.deployment.namespace())
        .chain(asked.stop.iter().map(|(namespace, _)| namespace.clone()))
        .chain(cluster.namespace.clone())
        .collect();
    places.sort();
    places.dedup();
    let is_stopped = |process: &Process<'_>| {
        let named = (
            process.deployment.namespace().unwrap_or_default(),
            process.deployment.name_any(),
        );
        process.replicas() == 0 || asked.stop.contains(&named)
    };
    for process in &processes {
        if process.program == Program::MetricsServer
            || process.is_upstreams()
            || is_stopped(process)
            || !watches(process, cluster.namespace.as_deref())
        {
            continue;
        }
        let namespace = process.deployment.namespace().unwrap_or_default();
        report.refused.push(format!(
            "Deployment {namespace}/{name} runs {} and would write again: stop it with --stop {namespace}/{name}, or give --force if it is ARC's",
            process.program.name(),
            name = process.deployment.name_any()
        ));
    }
    // Where the manager is no Deployment, it renews its Lease all the same.
    let is_upstream = |place: &str| {
        processes.iter().any(|process| {
            process.is_upstreams()
                && process.replicas() > 0
                && process.deployment.namespace().as_deref() == Some(place)
        })
    };
    for lease in leases(cluster, &places, report).await? {
        let place = lease.namespace().unwrap_or_default();
        let is_ours = lease.annotations().contains_key(keys::ANNOTATION_REPLAY)
            || lease.name_any() == muster_core::installation::LEADER_LEASE;
        if let Some(holder) = leader(&lease, now()).filter(|_| is_ours && !is_upstream(&place)) {
            let told = report.refused.iter().any(|sentence| sentence.contains(&place));
            if !told {
                report.refused.push(format!(
                    "{holder} renews Lease {place}/{}: stop it and wait 15 s, or give --force if it is ARC",
                    lease.name_any()
                ));
            }
        }
    }
    Ok(places)
}

/// Whether a process looks at the namespace that is handed back; `None` is all of them.
fn watches(process: &Process<'_>, namespace: Option<&str>) -> bool {
    let watched = process.flag("watch-namespace").filter(|name| !name.is_empty());
    match (watched, namespace) {
        (Some(watched), Some(namespace)) => watched == namespace,
        _ => true,
    }
}

async fn leases(cluster: &Cluster, places: &[String], report: &mut Report) -> Result<Vec<Lease>> {
    let all = ListParams::default();
    if cluster.namespace.is_none() {
        let listed = cluster.list_everywhere("Leases", &all).await;
        return Ok(allowed(listed, "Leases", report)?.unwrap_or_default());
    }
    let mut found = Vec::new();
    for place in places {
        let api: Api<Lease> = Api::namespaced(cluster.client.clone(), place);
        let listed = api.list(&all).await.map(|list| list.items);
        let listed = listed.with_context(|| format!("could not list Leases in {place}"));
        found.extend(allowed(listed, &format!("Leases of {place}"), report)?.unwrap_or_default());
    }
    Ok(found)
}

/// What may not be looked at is told and left out.
fn allowed<T>(answer: Result<T>, what: &str, report: &mut Report) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_forbidden(&error) => {
            let sentence = format!("no right to look at {what}");
            if !report.unseen.contains(&sentence) {
                report.unseen.push(sentence);
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn observe(cluster: &Cluster, places: &[String], report: &mut Report) -> Result<Observed> {
    let all = ListParams::default();
    let pods = ListParams::default().labels(keys::LABEL_ACTIONS_RUNNER);
    let sets = ListParams::default().labels(keys::LABEL_RUNNERSET_NAME);
    let volumes = cluster.kept_volumes().await;
    let volumes = allowed(
        volumes,
        "PersistentVolumes: volumes that RunnerSets keep stay kept",
        report,
    )?;
    Ok(Observed {
        objects: Objects {
            autoscalers: cluster.list("HorizontalRunnerAutoscalers", &all).await?,
            deployments: cluster.list("RunnerDeployments", &all).await?,
            replica_sets: cluster.list("RunnerReplicaSets", &all).await?,
            runner_sets: cluster.list("RunnerSets", &all).await?,
            runners: cluster.list("Runners", &all).await?,
            pods: cluster.list("pods", &pods).await?,
            stateful_sets: cluster.list("StatefulSets", &sets).await?,
            volumes: volumes.unwrap_or_default(),
        },
        claims: cluster.list("PersistentVolumeClaims", &all).await?,
        budgets: cluster.list("PodDisruptionBudgets", &all).await?,
        leases: leases(cluster, places, report).await?,
        secrets: secrets(cluster, places, report).await?,
    })
}

/// The certificates that managers made for themselves.
async fn secrets(cluster: &Cluster, places: &[String], report: &mut Report) -> Result<Vec<Secret>> {
    let mut found = Vec::new();
    for place in places {
        let api: Api<Secret> = Api::namespaced(cluster.client.clone(), place);
        let got = api.get_opt(SELF_SIGNED).await;
        let got = got.with_context(|| format!("could not get Secret {place}/{SELF_SIGNED}"));
        found.extend(allowed(got, &format!("Secret {place}/{SELF_SIGNED}"), report)?.flatten());
    }
    Ok(found)
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// Writes; false when the object has changed since it was read. One that has gone needs nothing.
async fn apply(cluster: &Cluster, step: &Step) -> Result<bool> {
    let Subject {
        kind,
        namespace,
        name,
    } = &step.object;
    let resource = resource(kind).with_context(|| format!("{kind} is none of our kinds"))?;
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(cluster.client.clone(), &resource)
    } else {
        Api::namespaced_with(cluster.client.clone(), namespace, &resource)
    };
    let written = match &step.action {
        Action::Merge(patch) => api.patch(name, &params(), &Patch::Merge(patch)).await.map(drop),
        Action::MergeStatus(patch) => api
            .patch_status(name, &params(), &Patch::Merge(patch))
            .await
            .map(drop),
        Action::StrategicStatus(patch) => api
            .patch_status(name, &params(), &Patch::Strategic(patch))
            .await
            .map(drop),
        Action::Delete { uid } => {
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: Some(uid.clone()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            api.delete(name, &params).await.map(drop)
        }
    };
    match written {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
        Err(error) => Err(error).with_context(|| format!("could not change {kind} {namespace}/{name}")),
    }
}

fn resource(kind: &str) -> Option<ApiResource> {
    macro_rules! known {
        ($($kind:ty),*) => {
            [$(ApiResource::erase::<$kind>(&())),*]
        };
    }
    let all = known!(
        HorizontalRunnerAutoscaler,
        RunnerDeployment,
        RunnerReplicaSet,
        RunnerSet,
        Runner,
        Pod,
        StatefulSet,
        PersistentVolumeClaim,
        PersistentVolume,
        PodDisruptionBudget,
        Lease,
        Secret
    );
    all.into_iter().find(|resource| resource.kind == kind)
}

fn print(report: &Report, format: Format) -> Result<()> {
    match format {
        Format::Json => output::print_json(report),
        Format::Text => {
            output::print(&text(report));
            Ok(())
        }
    }
}

/// The report for people.
fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for change in &report.changes {
        lines.push(format!(
            "{}: {}",
            render::subject(&change.object),
            change.what.join("; ")
        ));
    }
    for note in &report.notes {
        lines.push(format!(
            "note: {}: {}",
            render::subject(&note.object),
            note.sentence
        ));
    }
    lines.extend(report.unseen.iter().map(|sentence| format!("note: {sentence}")));
    let refused = report.refused.iter();
    lines.extend(refused.map(|sentence| format!("still running: {sentence}")));
    let changes = match report.changes.len() {
        0 => "nothing".to_owned(),
        1 => "1 change".to_owned(),
        many => format!("{many} changes"),
    };
    let verdict = match (report.dry_run, report.refused.is_empty()) {
        (true, true) => format!("dry run: {changes} to make"),
        (true, false) => format!("dry run: {changes} to make, once what runs has been stopped"),
        (false, _) if report.changes.is_empty() && report.refused.is_empty() => {
            "nothing to hand back: ARC understands all of it".to_owned()
        }
        (false, _) if report.changes.is_empty() => "nothing was changed".to_owned(),
        (false, _) => format!("handed back with {changes}: ARC may start"),
    };
    lines.push(verdict);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            changes: vec![Change {
                object: Subject {
                    kind: "Pod".to_owned(),
                    namespace: "ci".to_owned(),
                    name: "a".to_owned(),
                },
                what: vec!["remove x".to_owned(), "remove y".to_owned()],
            }],
            ..Report::default()
        }
    }

    #[test]
    fn the_report_says_what_was_done() {
        assert_eq!(
            text(&report()),
            "Pod ci/a: remove x; remove y\nhanded back with 1 change: ARC may start\n"
        );
        let dry = Report {
            dry_run: true,
            ..report()
        };
        assert!(text(&dry).ends_with("dry run: 1 change to make\n"));
        let refused = Report {
            refused: vec!["it runs".to_owned()],
            ..Report::default()
        };
        assert_eq!(text(&refused), "still running: it runs\nnothing was changed\n");
        assert!(text(&Report::default()).starts_with("nothing to hand back"));
    }

    #[test]
    fn every_kind_of_a_step_has_a_resource() {
        for kind in [
            "HorizontalRunnerAutoscaler",
            "Pod",
            "PersistentVolume",
            "Lease",
            "Secret",
        ] {
            assert!(resource(kind).is_some(), "{kind}");
        }
        assert!(resource("Node").is_none());
    }
}
