//! Every shape of a runner's pod on the real API server: the Runner, its pod and its account, strictly validated. Their contents are snapshots
//! in `muster-core`, made of the same file.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{core::v1::Pod, node::v1::RuntimeClass, scheduling::v1::PriorityClass};
use kube::{Api, Client, api::PostParams};
use muster_core::pods::{
    rbac,
    template::{PodDefaults, Registration, runner_pod},
};
use muster_crds::legacy::Runner;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{control_plane::ControlPlane, keeper::workspace_dir};

/// Which file has the shapes.
const SHAPES: &str = "tests/fixtures/pod_shapes.json";

/// What the API server said.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Shapes that were sent.
    pub shapes: usize,
    /// Objects that were accepted.
    pub accepted: usize,
    /// Objects that were refused, and why.
    pub refused: Vec<String>,
}

impl Figures {
    fn note<T>(&mut self, what: &str, name: &str, answer: kube::Result<T>) {
        match answer {
            Ok(_) => self.accepted += 1,
            Err(error) => self.refused.push(format!("{what} {name}: {error}")),
        }
    }
}

fn defaults(flags: &Value) -> Result<PodDefaults> {
    let text = |flag: &str| flags.get(flag).and_then(Value::as_str).map(str::to_owned);
    let secrets = flags.get("runner-image-pull-secret").cloned();
    Ok(PodDefaults {
        runner_image: "summerwind/actions-runner:latest".to_owned(),
        docker_image: "docker:dind".to_owned(),
        docker_gid: text("docker-gid").unwrap_or_else(|| "1001".to_owned()),
        image_pull_secrets: serde_json::from_value(secrets.unwrap_or_else(|| json!([])))
            .context("a shape's pull secrets are no list of names")?,
        docker_registry_mirror: text("docker-registry-mirror").unwrap_or_default(),
        status_update_hook: flags.get("runner-status-update-hook") == Some(&json!(true)),
        version: "0.1.0".to_owned(),
    })
}

/// What `kubectl create --dry-run=server --validate=strict` does.
async fn try_out(client: &Client, path: &str, object: &impl Serialize) -> kube::Result<Value> {
    let request = http::Request::post(format!("{path}?dryRun=All&fieldValidation=Strict"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object).map_err(kube::Error::SerdeError)?)
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

/// Admission refuses pods of classes that are not there.
async fn make_classes(client: &Client) -> Result<()> {
    let batch: PriorityClass = serde_json::from_value(json!({"metadata": {"name": "batch"}, "value": 10}))
        .context("the PriorityClass is none")?;
    let gvisor: RuntimeClass =
        serde_json::from_value(json!({"metadata": {"name": "gvisor"}, "handler": "runsc"}))
            .context("the RuntimeClass is none")?;
    let params = PostParams::default();
    let priorities = Api::<PriorityClass>::all(client.clone());
    let made = priorities.create(&params, &batch).await;
    made.context("could not make the PriorityClass")?;
    let runtimes = Api::<RuntimeClass>::all(client.clone());
    let made = runtimes.create(&params, &gvisor).await;
    made.context("could not make the RuntimeClass")?;
    // Admission knows of them by watches of its own.
    let probe: Pod = serde_json::from_value(json!({"metadata": {"name": "probe"}, "spec": {
        "priorityClassName": "batch", "runtimeClassName": "gvisor", "containers": [{"name": "x", "image": "x"}]}}))
    .context("the probe is no pod")?;
    for _ in 0..200 {
        if try_out(client, "/api/v1/namespaces/default/pods", &probe)
            .await
            .is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("admission does not see the classes")
}

/// Sends every shape to a control plane that no other run of this has used.
pub async fn run(plane: &ControlPlane) -> Result<Figures> {
    let client = plane.admin().await?;
    let ns = plane.namespace("shapes").await?;
    make_classes(&client).await?;
    let text = fs::read_to_string(workspace_dir().join(SHAPES));
    let text = text.with_context(|| format!("could not read {SHAPES}"))?;
    let shapes: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("{SHAPES} is no list of shapes"))?;
    let mut figures = Figures::default();
    for shape in &shapes {
        let name = shape.get("name").and_then(Value::as_str).unwrap_or_default();
        try_shape(&client, &ns, name, shape, &mut figures)
            .await
            .with_context(|| format!("shape {name}"))?;
        figures.shapes += 1;
    }
    Ok(figures)
}

async fn try_shape(
    client: &Client,
    ns: &str,
    name: &str,
    shape: &Value,
    figures: &mut Figures,
) -> Result<()> {
    let mut metadata = shape.get("metadata").cloned().unwrap_or_else(|| json!({}));
    let fields = metadata.as_object_mut().context("the metadata is no object")?;
    fields.insert("name".to_owned(), json!(name.replace('_', "-")));
    fields.insert("namespace".to_owned(), json!(ns));
    let mut object = json!({
        "apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "Runner",
        "metadata": metadata, "spec": shape.get("spec")
    });
    let runners = format!("/apis/actions.summerwind.dev/v1alpha1/namespaces/{ns}/runners");
    figures.note("Runner", name, try_out(client, &runners, &object).await);

    // As the API server would have given it.
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid".to_owned(), json!("0fc1a1de-0000-4000-8000-000000000000"));
    }
    let runner: Runner = serde_json::from_value(object).context("it is no Runner")?;
    let defaults = defaults(shape.get("flags").unwrap_or(&Value::Null))?;
    let registration = Registration {
        github_url: "https://github.com/",
        token: "AAA",
    };
    let pod = runner_pod(&runner, &defaults, &registration).context("no pod can be made of it")?;
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    figures.note("Pod", name, try_out(client, &pods, &pod).await);
    if let Some(made) = rbac::generated(&runner, defaults.status_update_hook) {
        let accounts = format!("/api/v1/namespaces/{ns}/serviceaccounts");
        let rights = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
        let (roles, bindings) = (format!("{rights}/roles"), format!("{rights}/rolebindings"));
        let account = try_out(client, &accounts, &made.service_account).await;
        figures.note("ServiceAccount", name, account);
        figures.note("Role", name, try_out(client, &roles, &made.role).await);
        let binding = try_out(client, &bindings, &made.role_binding).await;
        figures.note("RoleBinding", name, binding);
    }
    Ok(())
}
