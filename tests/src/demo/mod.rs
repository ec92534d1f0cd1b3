//! The demo: the main job end to end on real parts, shown live, with a result that a program can read. `make demo`
//! runs it as a program, tests call [`run`].
//!
//! It starts a control plane, a fake GitHub, a simulated kubelet and the real binaries, applies
//! `config/samples/demo.yaml` (or `demo-runnerset.yaml`), lets GitHub queue jobs whose signed webhooks do the rest, and waits until nothing is
//! left of the runners.

mod display;
mod keep;
mod load;
mod metrics;
mod options;
mod report;

use std::{
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, api::PostParams};
use muster_crds::legacy::{
    HorizontalRunnerAutoscaler, HorizontalRunnerAutoscalerSpec, Runner, RunnerConfig, RunnerDeployment,
    RunnerDeploymentSpec, RunnerReplicaSet, RunnerReplicaSetSpec, RunnerSpec, RunnerTemplate,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    control_plane::{ControlPlane, binaries, manifests},
    keeper::{target_dir, workspace_dir},
    process,
    terminal::{Terminal, write_line},
    world::{Kind, ORGANIZATION, World, WorldBuilder},
};

pub(crate) use self::metrics::value as metric_value;
pub use self::{
    options::Options,
    report::{LeftBehind, Report, Spread, rounded},
};

/// Begins the name of the demo's namespace.
const NAMESPACE: &str = "muster-demo";
/// What the sample's objects are called.
const SAMPLE: &str = "demo";
/// How long the end of everything may take after the last job.
const TAIL: Duration = Duration::from_mins(1);
/// How long the processes may take to see the sample.
const SEEN: Duration = Duration::from_secs(30);

/// How a demo ended.
#[derive(Debug)]
pub enum Outcome {
    /// It ran to its end.
    Ended(Box<Report>),
    /// It was told to stop.
    Stopped,
}

/// Runs a demo, on `plane` or else on a control plane of its own (or on the existing cluster, where `options` say
/// so). Leaves nothing behind, also when `stop` is cancelled.
pub async fn run(
    options: &Options,
    plane: Option<Arc<ControlPlane>>,
    terminal: Terminal,
    stop: &CancellationToken,
) -> Result<Outcome> {
    let begun = Instant::now();
    if options.release_bins {
        process::use_binaries_of(&target_dir().join("release"))?;
    }
    if options.existing_cluster && options.kind == Kind::RunnerSet {
        bail!(
            "--kind runnerset needs a control plane of its own: the API server of another cluster cannot ask the manager \
             on this machine for the registration tokens of a StatefulSet's pods; leave out --existing-cluster"
        );
    }
    let world = if options.existing_cluster {
        // Not cut off half way: what was made there must be known to be removed.
        start_on_existing(options, terminal).await?
    } else {
        let started = stop.run_until_cancelled(start_embedded(options, plane, terminal));
        match started.await {
            Some(started) => started?,
            None => return Ok(Outcome::Stopped),
        }
    };
    let mut played = stop
        .run_until_cancelled(play(&world, options, terminal, begun))
        .await;
    if let (true, Some(Ok(_))) = (options.keep, &played)
        // Ctrl-C is how this ends.
        && let Some(Err(error)) = stop.run_until_cancelled(keep::stay(&world, terminal)).await
    {
        played = Some(Err(error));
    }
    if let Some(folder) = &options.logs {
        copy_logs(&world, folder)?;
    }
    let torn_down = if options.existing_cluster {
        let step = terminal.step("cleaning up");
        let torn_down = world.tear_down().await;
        if torn_down.is_ok() {
            step.done("the namespace is deleted; the custom resource definitions stay");
        }
        torn_down
    } else {
        drop(world);
        Ok(())
    };
    match played {
        None => torn_down.map(|()| Outcome::Stopped),
        Some(Err(error)) => Err(error),
        Some(Ok(report)) => torn_down.map(|()| Outcome::Ended(Box::new(report))),
    }
}

async fn start_embedded(
    options: &Options,
    plane: Option<Arc<ControlPlane>>,
    terminal: Terminal,
) -> Result<World> {
    let plane = match plane {
        Some(plane) => plane,
        None => {
            // Prints progress of its own when there is something to build.
            tokio::task::spawn_blocking(binaries::find)
                .await
                .context("the search for the control plane's programs was cut off")??;
            let step = terminal.step("control plane");
            let plane = ControlPlane::start().await?;
            warm_up(&plane).await?;
            step.done(format_args!(
                "etcd, kube-apiserver and kube-controller-manager at {}, {} custom resource definitions",
                plane.url(),
                plane.crds().len()
            ));
            Arc::new(plane)
        }
    };
    start_world(options, World::builder(NAMESPACE).on(plane), terminal).await
}

/// Lets the API server create (and not keep) an object of each kind: the first one after a definition was made takes
/// it two seconds now and then, and those are not Muster's.
async fn warm_up(plane: &ControlPlane) -> Result<()> {
    let client = plane.admin().await?;
    let spec = || RunnerSpec {
        config: RunnerConfig {
            organization: Some(ORGANIZATION.to_owned()),
            ..RunnerConfig::default()
        },
        ..RunnerSpec::default()
    };
    let template = || RunnerTemplate {
        spec: spec(),
        ..RunnerTemplate::default()
    };
    let set = RunnerReplicaSetSpec {
        template: template(),
        ..RunnerReplicaSetSpec::default()
    };
    let deployment = RunnerDeploymentSpec {
        template: template(),
        ..RunnerDeploymentSpec::default()
    };
    tokio::join!(
        create_dry(&client, Runner::new(SAMPLE, spec())),
        create_dry(&client, RunnerReplicaSet::new(SAMPLE, set)),
        create_dry(&client, RunnerDeployment::new(SAMPLE, deployment)),
        create_dry(
            &client,
            HorizontalRunnerAutoscaler::new(SAMPLE, HorizontalRunnerAutoscalerSpec::default())
        ),
    );
    Ok(())
}

async fn create_dry<K>(client: &Client, object: K)
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    // Whatever the answer is, the API server has done what it does once.
    drop(api.create(&dry, &object).await);
}

async fn start_on_existing(options: &Options, terminal: Terminal) -> Result<World> {
    let kubeconfig = existing_kubeconfig()?;
    terminal.say(format_args!("using the cluster of {}", kubeconfig.display()));
    let builder = World::builder(NAMESPACE).on_existing_cluster(&kubeconfig);
    start_world(options, builder, terminal).await
}

async fn start_world(options: &Options, builder: WorldBuilder, terminal: Terminal) -> Result<World> {
    let step = terminal.step("Muster");
    let mut builder = builder.kind(options.kind).seed(options.seed);
    if let Some(delay) = &options.scale_down_delay {
        builder = builder.manager_flag(&format!("--default-scale-down-delay={delay}"));
    }
    if let Some(level) = &options.log_level {
        let flag = format!("--log-level={level}");
        builder = builder.manager_flag(&flag).webhook_flag(&flag);
    }
    let world = builder.start().await?;
    step.done(format_args!(
        "manager, github-webhook-server at {}; fake GitHub at {}; a simulated kubelet",
        world.webhook_url,
        world.github.base_url()
    ));
    Ok(world)
}

/// The first file that KUBECONFIG names.
fn existing_kubeconfig() -> Result<PathBuf> {
    let named = std::env::var_os("KUBECONFIG").context("--existing-cluster needs KUBECONFIG")?;
    let first = std::env::split_paths(&named)
        .find(|path| !path.as_os_str().is_empty())
        .context("KUBECONFIG is empty")?;
    if !first.is_file() {
        bail!("KUBECONFIG names {}, which is no file", first.display());
    }
    Ok(first)
}

/// Everything between the start and the end of a world.
pub(crate) async fn play(
    world: &World,
    options: &Options,
    terminal: Terminal,
    begun: Instant,
) -> Result<Report> {
    let step = terminal.step("sample");
    apply_sample(world, options).await?;
    step.done(format_args!(
        "config/samples/{}.yaml in namespace {}",
        sample_name(options.kind),
        world.ns
    ));
    let start_seconds = rounded(begun.elapsed());
    let writes_before = metrics::api_writes(world).await;

    let played = load::play(world, options, terminal).await?;
    let last = Instant::now();
    let left = wait_for_nothing(world).await?;
    let mut report = Report::of(world);
    report.cleaned_up_ms = u64::try_from(last.elapsed().as_millis()).unwrap_or_default();
    report.left = left.into();
    report.leftovers = left.total();
    if world.storage.is_some() {
        report.read_volumes(&world.volume_figures().await?);
    }
    report.kills = played.kills;
    report.seed = options.seed;
    report.start_seconds = start_seconds;
    if let (Some(before), Some(after)) = (writes_before, metrics::api_writes(world).await) {
        let all = after.saturating_sub(before);
        let kubelet = u64::try_from(report.kubelet_writes).unwrap_or_default();
        report.api_writes = Some(all.saturating_sub(kubelet));
    }

    terminal.say("");
    for line in report.lines() {
        terminal.say(line);
    }
    let problems = report.problems();
    if !problems.is_empty() {
        terminal.say(format_args!("\nNot as it should be: {}.\n", problems.join(", ")));
        terminal.say(world.describe().await);
    }
    if options.json {
        write_line(serde_json::to_string(&report).context("could not write the report")?);
    }
    Ok(report)
}

/// Waits until nothing is left, for a bounded time; answers what is there at the end.
async fn wait_for_nothing(world: &World) -> Result<crate::world::Leftovers> {
    let end = Instant::now() + TAIL;
    loop {
        let left = world.leftovers().await?;
        let is_kept_well = world.volume_figures().await?.leaks == 0;
        if (left.is_none() && is_kept_well) || Instant::now() > end {
            return Ok(left);
        }
        world.check_alive().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Applies the sample and waits until both processes know it.
async fn apply_sample(world: &World, options: &Options) -> Result<()> {
    let path = sample_path(options.kind);
    let yaml = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    for mut document in manifests::parse(&yaml)? {
        adapt(&mut document, options, &world.ns);
        let yaml = serde_json::to_string(&document).context("could not write the manifest")?;
        world.apply(&yaml).await?;
    }
    let seen = async |world: &World| {
        let metrics = world.metrics("github-webhook-server").await?;
        let indexed = metrics::value(&metrics, "muster_webhook_autoscalers").unwrap_or_default() > 0.0;
        Ok(indexed && world.get_autoscaler(SAMPLE).await?.status.is_some())
    };
    world.until("both processes know the sample", SEEN, seen).await
}

fn sample_name(kind: Kind) -> &'static str {
    match kind {
        Kind::RunnerDeployment => "demo",
        Kind::RunnerSet => "demo-runnerset",
    }
}

fn sample_path(kind: Kind) -> PathBuf {
    workspace_dir()
        .join("config")
        .join("samples")
        .join(sample_name(kind))
        .with_extension("yaml")
}

/// Changes a document of the sample as the options ask for. Claims get volumes of the storage class `class`.
fn adapt(document: &mut Value, options: &Options, class: &str) {
    let claims = document
        .pointer_mut("/spec/volumeClaimTemplates")
        .and_then(Value::as_array_mut);
    for claim in claims.into_iter().flatten() {
        if let Some(spec) = claim.pointer_mut("/spec").and_then(Value::as_object_mut) {
            spec.insert("storageClassName".to_owned(), json!(class));
        }
    }
    let is_autoscaler = document.pointer("/kind") == Some(&json!("HorizontalRunnerAutoscaler"));
    if let (true, Some(most)) = (is_autoscaler, options.max_replicas)
        && let Some(spec) = document.pointer_mut("/spec").and_then(Value::as_object_mut)
    {
        spec.insert("maxReplicas".to_owned(), json!(most));
    }
    // Real nodes must not get these pods, and the simulated one no others.
    if options.existing_cluster
        && let Some(spec) = document
            .pointer_mut("/spec/template/spec")
            .and_then(Value::as_object_mut)
    {
        spec.insert("nodeSelector".to_owned(), json!({"muster.dev/simulated": "true"}));
        spec.insert(
            "tolerations".to_owned(),
            json!([{"key": "muster.dev/simulated", "operator": "Exists"}]),
        );
    }
}

/// Copies the logs of the processes, and of the control plane where it is ours.
fn copy_logs(world: &World, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let plane = world.plane().map(|plane| plane.dir());
    for dir in [Some(world.dir()), plane].into_iter().flatten() {
        for entry in fs::read_dir(dir).context("could not list the logs")? {
            let path = entry.context("could not list the logs")?.path();
            if let (true, Some(name)) = (path.extension().is_some_and(|e| e == "log"), path.file_name()) {
                fs::copy(&path, folder.join(name)).context("could not copy a log")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_adapted_to_the_options() {
        let yaml = fs::read_to_string(sample_path(Kind::RunnerDeployment)).unwrap();
        let options = Options {
            max_replicas: Some(7),
            existing_cluster: true,
            ..Options::default()
        };
        let mut documents = manifests::parse(&yaml).unwrap();
        for document in &mut documents {
            adapt(document, &options, "fast");
        }
        let text = serde_json::to_string(&documents).unwrap();
        assert!(text.contains(r#""maxReplicas":7"#), "{text}");
        assert!(
            text.contains(r#""nodeSelector":{"muster.dev/simulated":"true"}"#),
            "{text}"
        );
        let yaml = fs::read_to_string(sample_path(Kind::RunnerSet)).unwrap();
        let mut documents = manifests::parse(&yaml).unwrap();
        for document in &mut documents {
            adapt(document, &Options::default(), "fast");
        }
        let text = serde_json::to_string(&documents).unwrap();
        assert_eq!(text.matches(r#""storageClassName":"fast""#).count(), 1, "{text}");
    }
}
