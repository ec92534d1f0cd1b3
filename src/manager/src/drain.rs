//! `manager drain` and `manager definitions`: what a release needs before it goes and before it comes. The chart runs them as Jobs.

use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use muster_controllers::{
    Clients, Metrics,
    legacy::{
        Start,
        drain::{self, Replicas},
    },
};
use muster_github::metrics::GitHubMetrics;
use muster_runtime::{
    args::Env,
    client::kube_client,
    clock::Clock,
    lease::{self, LeaseConfig, LeaseMetrics},
    metrics::{ReconcileMetrics, new_registry},
    shutdown,
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::ManagerArgs,
    run::{default_client, settings},
};

/// Brings the definitions of this version to the API server.
pub(crate) async fn apply_definitions(args: &ManagerArgs) -> anyhow::Result<()> {
    let client = kube_client(args.kubeconfig.as_deref())
        .await
        .context("could not set up the Kubernetes client")?;
    let definitions = muster_crds::schema::crds().context("could not make the definitions")?;
    Ok(drain::apply_definitions(&client, &definitions).await?)
}

/// Ends all runners after the managers have gone, and removes what the managers have made for themselves.
pub(crate) async fn drain(args: &ManagerArgs, env: &Env) -> anyhow::Result<()> {
    let client = kube_client(args.kubeconfig.as_deref())
        .await
        .context("could not set up the Kubernetes client")?;
    let stop = shutdown::on_signals().context("could not listen for signals")?;
    let namespace = lease::namespace(env, args.kubeconfig.as_deref())
        .context("the drain must know the managers' namespace: set POD_NAMESPACE")?;
    let mut stopped = Vec::new();
    let drained = async {
        for name in &args.drain.deployments {
            stopped.extend(Replicas::stop(&client, &namespace, name, args.drain.timeout).await?);
        }
        Box::pin(without_managers(args, &client, &namespace, &stop)).await
    };
    if let Err(error) = drained.await {
        // Nothing was decided for good: runners come back, and the drain may be repeated.
        for replicas in &stopped {
            replicas.resume().await?;
        }
        return Err(error);
    }
    let secret = args
        .admission_service
        .as_ref()
        .map(|service| format!("{service}-self-signed"));
    drain::remove_own(&client, &namespace, &args.drain.leases, secret.as_deref()).await?;
    if args.drain.definitions {
        let definitions = muster_crds::schema::crds().context("could not make the definitions")?;
        let names: Vec<String> = definitions
            .into_iter()
            .filter_map(|definition| definition.metadata.name)
            .collect();
        drain::remove_definitions(&client, &names, args.drain.timeout).await?;
    }
    tracing::info!("No runner is left.");
    Ok(())
}

async fn without_managers(
    args: &ManagerArgs,
    client: &Client,
    namespace: &str,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let clock = Clock::system();
    let mut registry = new_registry("drain");
    let default = default_client(&args.github, &clock, GitHubMetrics::register(&mut registry))?;
    let start = Start {
        client: client.clone(),
        clock: clock.clone(),
        settings: settings(args),
        clients: Arc::new(Clients::new(client.clone(), default)),
        metrics: Metrics::register(&mut registry),
        reconciles: ReconcileMetrics::register(&mut registry),
    };
    if !args.enable_leader_election {
        return Ok(drain::run(start, args.drain.timeout, stop).await?);
    }
    // A manager that nobody scaled down would make new runners meanwhile.
    let config = LeaseConfig::new(namespace, args.leader_election_id.clone());
    let metrics = LeaseMetrics::register(&mut registry);
    let acquired = lease::acquire(client.clone(), config, clock, metrics, stop);
    let leadership = tokio::time::timeout(args.drain.timeout, acquired)
        .await
        .context(
            "another manager holds the lock: scale it down, or name its Deployment by --drain-deployment",
        )?
        .context("told to stop before the drain began")?;
    let drained = tokio::select! {
        drained = drain::run(start, args.drain.timeout, stop) => drained.map_err(anyhow::Error::from),
        () = leadership.lost() => Err(anyhow::anyhow!("lost the leader election to another manager; scale it down and run the drain again")),
    };
    leadership.release().await;
    drained
}
