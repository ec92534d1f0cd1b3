//! Builds everything from the arguments, waits for leadership, runs the controllers until the process is told to stop (spec 02 §2.1).

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use muster_controllers::{
    Clients, DefaultClient, Metrics, Settings,
    admission::{self, Admission, AdmissionMetrics, SelfSigned},
    legacy::{self, Start},
};
use muster_core::pods::template::PodDefaults;
use muster_github::{
    Auth, GitHub, Login, Shared, UrlSettings, Urls,
    metrics::{Budgets, GitHubMetrics},
};
use muster_runtime::{
    args::{Credentials, Env, GitHubArgs},
    client::{ClientMetrics, kube_client_with},
    clock::Clock,
    lease::{self, Leadership, LeaseConfig, LeaseMetrics},
    metrics::{Exposition, ReconcileMetrics, VERSION, new_registry},
    serve::{Address, Limits, Readiness, health_router, metrics_router, serve},
    shutdown,
    telemetry::Telemetry,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::args::{Command, ManagerArgs};

/// Where metrics are served when the address is empty.
const METRICS_DEFAULT: &str = ":8080";
/// Never looked at again without an event, for `--sync-period=0`.
const NEVER: Duration = Duration::from_hours(24);

pub(crate) async fn run(args: ManagerArgs, env: &Env, logging: &Telemetry) -> anyhow::Result<()> {
    match args.command {
        Command::Manage => manage(args, env, logging).await,
        Command::Drain => Box::pin(crate::drain::drain(&args, env)).await,
        Command::Definitions => crate::drain::apply_definitions(&args).await,
    }
}

async fn manage(args: ManagerArgs, env: &Env, logging: &Telemetry) -> anyhow::Result<()> {
    if args.scale_set_mode {
        bail!(
            "--auto-scaling-runner-set-only is not supported yet by this version: run without it for the legacy mode (actions.summerwind.dev)"
        );
    }
    if !args.ignored.is_empty() {
        tracing::warn!(arguments = ?args.ignored, "Arguments after the first one that is no flag are ignored.");
    }
    if args.pprof_requested {
        tracing::warn!("--pprof-addr has no effect: this is no Go program.");
    }

    let clock = Clock::system();
    let mut registry = new_registry("manager");
    logging.register(&mut registry);
    let github = GitHubMetrics::register(&mut registry);
    let default = default_client(&args.github, &clock, github)?;
    Budgets::register(&default.shared, &mut registry);
    let client = kube_client_with(args.kubeconfig.as_deref(), ClientMetrics::register(&mut registry))
        .await
        .context("could not set up the Kubernetes client")?;
    let metrics = Metrics::register(&mut registry);
    let reconciles = ReconcileMetrics::register(&mut registry);
    let lease_metrics = LeaseMetrics::register(&mut registry);
    let admission_metrics = AdmissionMetrics::register(&mut registry);

    let stop = shutdown::on_signals().context("could not listen for signals")?;
    let servers = CancellationToken::new();
    let tasks = TaskTracker::new();
    let readiness = Readiness::new();
    let ready = readiness.gate("start-up");
    serve_endpoints(
        &args,
        Exposition::new(registry),
        readiness.clone(),
        &servers,
        &tasks,
    )
    .await?;

    let settings = settings(&args);
    tracing::info!(
        version = VERSION,
        runner_image = %settings.pods.runner_image,
        docker_image = %settings.pods.docker_image,
        common_runner_labels = ?settings.common_runner_labels,
        default_scale_down_delay_s = settings.scale_down_delay.as_secs(),
        sync_period_ms = settings.sync_period.as_millis(),
        port = args.port,
        leader_election = args.enable_leader_election,
        leader_election_id = %args.leader_election_id,
        watch_namespace = settings.watch_namespace.as_deref().unwrap_or("all"),
        "Starting the manager."
    );
    let admission = Admission {
        clients: Arc::new(Clients::new(client.clone(), default)),
        clock: clock.clone(),
        metrics: admission_metrics,
    };
    let clients = Arc::clone(&admission.clients);
    serve_admission(&args, env, &client, admission, readiness, (&servers, &tasks)).await?;
    // The API answers, flags and credentials are usable: a manager that is not the leader is ready too.
    ready.open();
    let start = Start {
        client: client.clone(),
        clock: clock.clone(),
        settings,
        clients,
        metrics,
        reconciles,
    };
    let outcome = lead(&args, env, start, (client, clock, lease_metrics), &stop).await;
    ready.close();
    servers.cancel();
    tasks.close();
    tasks.wait().await;
    outcome
}

/// Runs the controllers for as long as this process leads.
async fn lead(
    args: &ManagerArgs,
    env: &Env,
    start: Start,
    (client, clock, metrics): (kube::Client, Clock, LeaseMetrics),
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let leadership = if args.enable_leader_election {
        let namespace = lease::namespace(env, args.kubeconfig.as_deref()).context("leader election is on")?;
        let config = LeaseConfig::new(namespace, args.leader_election_id.clone());
        match lease::acquire(client, config, clock, metrics, stop).await {
            Some(leadership) => leadership,
            None => return Ok(()),
        }
    } else {
        Leadership::always()
    };

    let run = CancellationToken::new();
    let mut controllers = Box::pin(legacy::start(start, run.clone()));
    tokio::select! {
        () = &mut controllers => bail!("the controllers ended by themselves"),
        () = stop.cancelled() => {
            tracing::info!("Told to stop; finishing what is under way.");
            run.cancel();
            let finished = tokio::time::timeout(shutdown::GRACE, controllers).await.is_ok();
            leadership.release().await;
            if !finished {
                bail!("the controllers did not finish in time");
            }
            Ok(())
        }
        // Another process may lead already: nothing may be written any more, and nothing lingers.
        () = leadership.lost() => bail!("lost the leader election; the process ends so that it can start anew"),
    }
}

async fn serve_endpoints(
    args: &ManagerArgs,
    exposition: Exposition,
    readiness: Readiness,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let metrics = Address::parse(&args.metrics_addr, METRICS_DEFAULT).context("--metrics-addr")?;
    if let Some(listener) = metrics.listen().await.context("could not serve metrics")? {
        tasks.spawn(serve(
            listener,
            metrics_router(exposition),
            Limits::default(),
            stop.clone(),
        ));
    }
    if !args.health_probe_bind_address.is_empty() {
        let health =
            Address::parse(&args.health_probe_bind_address, "0").context("--health-probe-bind-address")?;
        if let Some(listener) = health.listen().await.context("could not serve health probes")? {
            tasks.spawn(serve(
                listener,
                health_router(readiness),
                Limits::default(),
                stop.clone(),
            ));
        }
    }
    Ok(())
}

/// Admission does not wait for leadership: the API server may ask any replica.
async fn serve_admission(
    args: &ManagerArgs,
    env: &Env,
    client: &kube::Client,
    admission: Admission,
    readiness: Readiness,
    (stop, tasks): (&CancellationToken, &TaskTracker),
) -> anyhow::Result<()> {
    let self_signed = match &args.admission_service {
        None => None,
        Some(service) => Some(SelfSigned {
            client: client.clone(),
            clock: admission.clock.clone(),
            namespace: lease::namespace(env, args.kubeconfig.as_deref()).map_err(|_| {
                anyhow!(
                    "--admission-self-signed needs the namespace of the webhooks' Service and this process does not run in a pod: set \
                     POD_NAMESPACE, or give the kubeconfig's context a namespace"
                )
            })?,
            service: service.clone(),
        }),
    };
    let start = admission::Start {
        admission,
        address: Address::At {
            host: String::new(),
            port: args.port,
        },
        directory: admission::default_directory(),
        self_signed,
        readiness,
    };
    Ok(admission::start(start, stop, tasks).await?)
}

pub(crate) fn default_client(
    args: &GitHubArgs,
    clock: &Clock,
    observer: GitHubMetrics,
) -> anyhow::Result<DefaultClient> {
    let logins = args.logins()?;
    let logins = logins.into_iter().map(|(name, credentials)| {
        let auth = match credentials {
            Credentials::Basic { username, password } => Auth::Basic { username, password },
            Credentials::Token(token) => Auth::Token(token),
            Credentials::App {
                app_id,
                installation_id,
                private_key,
            } => Auth::App {
                app_id,
                installation_id,
                private_key,
            },
        };
        Login::new(name, auth)
    });
    let urls = UrlSettings {
        enterprise: args.enterprise_url.clone(),
        api: args.url.clone(),
        upload: args.upload_url.clone(),
        runner: args.runner_url.clone(),
    };
    let now = clock.clone();
    let builder = Shared::builder(Arc::new(move || now.now()))
        .version(VERSION)
        .observer(Arc::new(observer));
    let shared = match args.calls_per_hour {
        Some(calls) => builder.calls_per_hour(calls),
        None => builder,
    }
    .build()
    .context("could not set up the GitHub client")?;
    let resolved = Urls::resolve(&urls).context("a GitHub URL cannot be used")?;
    let github = GitHub::pooled(logins.collect(), resolved, &shared)
        .context("the GitHub credentials cannot be used")?;
    Ok(DefaultClient { github, urls, shared })
}

pub(crate) fn settings(args: &ManagerArgs) -> Settings {
    Settings {
        pods: PodDefaults {
            runner_image: args.runner.image.clone(),
            docker_image: args.runner.docker_image.clone(),
            docker_gid: args.runner.docker_gid.clone(),
            image_pull_secrets: args.runner.image_pull_secrets.clone(),
            docker_registry_mirror: args.runner.docker_registry_mirror.clone().unwrap_or_default(),
            status_update_hook: args.runner.status_update_hook,
            version: VERSION.to_owned(),
        },
        common_runner_labels: args.common_runner_labels.clone(),
        scale_down_delay: args.default_scale_down_delay,
        demand_merge: args.demand_merge,
        schedule_clock: args.schedule_clock.clone(),
        sync_period: if args.sync_period.is_zero() {
            NEVER
        } else {
            args.sync_period
        },
        deadlines: args.deadlines,
        reconciliation: args.reconciliation.clone(),
        volumes: args.volumes,
        watch_namespace: args.watch_namespace.clone(),
        draining: false,
    }
}
