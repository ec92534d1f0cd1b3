//! Reading a cluster: our kinds, runner pods and Events, page by page, with a reader's rights.

use std::fmt::Debug;

use anyhow::{Context as _, Result};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{PersistentVolume, Pod},
};
use kube::{
    Api, Client, Config, Resource,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use muster_core::explain::Observed;
use muster_crds::keys;
use muster_runtime::client::{ClientMetrics, connect};
use serde::de::DeserializeOwned;

use crate::args::ClusterArgs;

/// Objects of one answer.
const PAGE: u32 = 500;

/// A cluster, and where in it to look.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// `None` is all namespaces.
    pub(crate) namespace: Option<String>,
    /// The context's.
    home: String,
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Whether Events are wanted, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Events {
    Read,
    Leave,
}

impl Cluster {
    /// The cluster that the flags name.
    pub(crate) async fn of(args: &ClusterArgs) -> Result<Self> {
        let options = KubeConfigOptions {
            context: args.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &args.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path)
                    .with_context(|| format!("could not read the kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config.context("the kubeconfig cannot be used: give --kubeconfig or --context")?;
        let home = config.default_namespace.clone();
        let namespace = match &args.namespace {
            _ if args.all_namespaces => None,
            Some(namespace) => Some(namespace.clone()),
            None => Some(home.clone()),
        };
        let client = connect(config, ClientMetrics::default()).context("could not set up the client")?;
        Ok(Self {
            client,
            namespace,
            home,
        })
    }

    /// Everything that explanations are made of.
    pub(crate) async fn observe(&self, events: Events) -> Result<Observed> {
        // The watch of the manager sees runner pods by this label, too; RunnerSets' pods have it as well.
        let pods = ListParams::default().labels(keys::LABEL_ACTIONS_RUNNER);
        let all = ListParams::default();
        let events = async {
            match events {
                Events::Read => self.list("events", &all).await,
                Events::Leave => Ok(Vec::new()),
            }
        };
        let (autoscalers, deployments, replica_sets, runner_sets, runners, pods, events) = futures::try_join!(
            self.list("horizontalrunnerautoscalers", &all),
            self.list("runnerdeployments", &all),
            self.list("runnerreplicasets", &all),
            self.list("runnersets", &all),
            self.list("runners", &all),
            self.list::<Pod>("pods", &pods),
            events,
        )?;
        Ok(Observed {
            autoscalers,
            deployments,
            replica_sets,
            runner_sets,
            runners,
            pods,
            events,
        })
    }

    /// The same for a question whose namespace nobody knows: all of them, or where that is not allowed, the context's.
    pub(crate) async fn observe_widely(&mut self) -> Result<Observed> {
        self.namespace = None;
        match self.observe(Events::Read).await {
            Err(error) if is_forbidden(&error) => {
                self.namespace = Some(self.home.clone());
                self.observe(Events::Read).await
            }
            other => other,
        }
    }

    /// All objects of a kind, in the namespace or in all of them.
    pub(crate) async fn list<K>(&self, what: &str, params: &ListParams) -> Result<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let place = self.namespace.as_deref().unwrap_or("all namespaces");
        pages(&api, params)
            .await
            .with_context(|| format!("could not list {what} in {place}"))
    }

    /// All objects of a kind in the cluster, whatever namespace was asked for.
    pub(crate) async fn list_everywhere<K>(&self, what: &str, params: &ListParams) -> Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        pages(&Api::all(self.client.clone()), params)
            .await
            .with_context(|| format!("could not list {what}"))
    }

    /// The volumes that RunnerSets of the namespace, or of all, keep: they say so in a label.
    pub(crate) async fn kept_volumes(&self) -> Result<Vec<PersistentVolume>> {
        let label = keys::LABEL_RUNNERSET_NAMESPACE;
        let kept = match &self.namespace {
            Some(namespace) => format!("{label}={namespace}"),
            None => label.to_owned(),
        };
        self.list_everywhere("PersistentVolumes", &ListParams::default().labels(&kept))
            .await
    }
}

async fn pages<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut params = params.clone().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = api.list(&params).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(found),
        }
    }
}

/// Whether the API server refused for want of a right.
pub(crate) fn is_forbidden(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<kube::Error>();
    cause.is_some_and(|cause| matches!(cause, kube::Error::Api(status) if status.is_forbidden()))
}
