//! The cluster that a world is in, and the rights of the processes under test: those of `config/rbac`, given by the
//! real authorizer.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Namespace,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use serde_json::json;
use tokio::sync::Mutex;

use crate::{
    control_plane::{ControlPlane, MANAGER, WEBHOOK_SERVER, client_from, manifests},
    keeper::workspace_dir,
};

/// Which manifest gives which user its rights.
const ROLES: [(&str, &str); 2] = [
    (MANAGER, "manager_role.yaml"),
    (WEBHOOK_SERVER, "github-webhook-server_role.yaml"),
];
/// The authorizer learns of a binding by its own watch, normally within milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where a world is.
#[derive(Clone, Debug)]
pub(super) enum Cluster {
    /// On a control plane of ours.
    Embedded(Arc<ControlPlane>),
    /// On somebody's cluster, with the rights of this kubeconfig file.
    Existing(PathBuf),
}

impl Cluster {
    pub(super) async fn admin(&self) -> Result<Client> {
        match self {
            Self::Embedded(plane) => plane.admin().await,
            Self::Existing(kubeconfig) => client_from(kubeconfig).await,
        }
    }

    pub(super) fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        match self {
            Self::Embedded(plane) => plane.kubeconfig(user).map(PathBuf::from),
            Self::Existing(kubeconfig) => Ok(kubeconfig.clone()),
        }
    }

    /// Makes a namespace, and on an existing cluster our definitions.
    pub(super) async fn namespace(&self, client: &Client, prefix: &str) -> Result<String> {
        match self {
            Self::Embedded(plane) => plane.namespace(prefix).await,
            Self::Existing(_) => {
                manifests::apply_crds(client, &workspace_dir().join("crds")).await?;
                let namespace = Namespace {
                    metadata: ObjectMeta {
                        generate_name: Some(format!("{prefix}-")),
                        ..ObjectMeta::default()
                    },
                    ..Namespace::default()
                };
                let api: Api<Namespace> = Api::all(client.clone());
                let made = api.create(&PostParams::default(), &namespace).await;
                Ok(made.context("could not make a namespace")?.name_any())
            }
        }
    }
}

/// Gives the two users the cluster roles of `config/rbac`, or all rights where that is asked for or no role is
/// there yet; returns when the authorizer knows.
pub async fn ensure_rights(plane: &ControlPlane, cluster_admin: bool) -> Result<()> {
    // Two worlds that begin at once would apply the same roles at once.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _guard = ONE_AT_A_TIME.lock().await;
    let admin = plane.admin().await?;
    for (user, file) in ROLES {
        let path = workspace_dir().join("config").join("rbac").join(file);
        if cluster_admin || !path.is_file() {
            plane.grant(user, "cluster-admin").await?;
        } else {
            let yaml =
                fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
            for document in manifests::parse(&yaml)? {
                if document.pointer("/kind").and_then(|kind| kind.as_str()) != Some("ClusterRole") {
                    continue;
                }
                let applied = manifests::apply_value(&admin, "default", &document).await?;
                plane
                    .grant(user, applied.metadata.name.as_deref().unwrap_or_default())
                    .await?;
            }
        }
        let client = plane.client(user).await?;
        wait_until_allowed(
            &client,
            "list",
            "actions.summerwind.dev",
            "horizontalrunnerautoscalers",
        )
        .await?;
    }
    Ok(())
}

/// Gives the webhook servers their Lease in a namespace, by the optional Role of `config/rbac`.
pub(super) async fn grant_replay_lease(admin: &Client, ns: &str) -> Result<()> {
    let path = workspace_dir().join("config/rbac/github-webhook-server_replay_role.yaml");
    let yaml = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    for mut document in manifests::parse(&yaml)? {
        if let Some(namespace) = document.pointer_mut("/metadata/namespace") {
            *namespace = json!(ns);
        }
        if let Some(subjects) = document.pointer_mut("/subjects") {
            *subjects =
                json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": WEBHOOK_SERVER}]);
        }
        manifests::apply_value(admin, ns, &document).await?;
    }
    Ok(())
}

/// Whether the client's user may use `verb` on `resource` in all namespaces.
pub async fn is_allowed(client: &Client, verb: &str, group: &str, resource: &str) -> Result<bool> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await;
    let answer = answer.context("could not ask for rights")?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// Waits until [`is_allowed`].
pub async fn wait_until_allowed(client: &Client, verb: &str, group: &str, resource: &str) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while !is_allowed(client, verb, group, resource).await? {
        if Instant::now() > end {
            bail!("{verb} {resource} is not allowed after {DEADLINE:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
