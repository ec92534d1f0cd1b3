//! The Node object of the simulated kubelet: wanted for display, and on clusters whose node controller removes the
//! pods of nodes that it has not heard of.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::{coordination::v1::Lease, core::v1};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{control_plane::manifests::FIELD_MANAGER, volumes::Node};

/// A kubelet renews its lease this often.
const RENEW: Duration = Duration::from_secs(10);
/// Label, and key of the taint that keeps real pods away.
const SIMULATED: &str = "muster.dev/simulated";

/// A node that is an object of the API.
#[derive(Clone, Debug)]
pub(super) struct NodeObject {
    pub(super) node: Node,
    /// Keeps pods away that do not tolerate it.
    pub(super) tainted: bool,
}

/// Makes the node and renews its lease, for ever.
pub(super) async fn keep(client: Client, node: NodeObject) {
    loop {
        if let Err(error) = announce(&client, &node).await {
            tracing::debug!(
                error = format!("{error:#}"),
                "The simulated node could not report"
            );
        }
        tokio::time::sleep(RENEW).await;
    }
}

async fn announce(client: &Client, object: &NodeObject) -> Result<()> {
    let name = &object.node.name;
    let mut labels = object.node.labels.clone();
    labels.insert(SIMULATED.to_owned(), "true".to_owned());
    let taint = json!([{"key": SIMULATED, "value": "true", "effect": "NoSchedule"}]);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let now = super::now();
    let stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let nodes: Api<v1::Node> = Api::all(client.clone());
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": if object.tainted { json!({"taints": taint}) } else { json!({}) },
    });
    nodes
        .patch(name, &params, &Patch::Apply(&node))
        .await
        .context("could not make the node")?;
    let status = json!({"apiVersion": "v1", "kind": "Node", "status": {
        "capacity": {"cpu": "1000", "memory": "1000Gi", "pods": "10000"},
        "allocatable": {"cpu": "1000", "memory": "1000Gi", "pods": "10000"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Simulated", "message": "simulated",
            "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}],
    }});
    nodes
        .patch_status(name, &params, &Patch::Apply(&status))
        .await
        .context("could not report the node")?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40,
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string()},
    });
    leases
        .patch(name, &params, &Patch::Apply(&lease))
        .await
        .context("could not renew the node's lease")?;
    Ok(())
}

/// Removes the node and its lease.
pub(super) async fn forget(client: &Client, name: &str) -> Result<()> {
    let nodes: Api<v1::Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let params = DeleteParams::default();
    for removed in [
        nodes.delete(name, &params).await.map(drop),
        leases.delete(name, &params).await.map(drop),
    ] {
        match removed {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => other.context("could not remove the simulated node")?,
        }
    }
    Ok(())
}
