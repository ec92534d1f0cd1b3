//! Applies YAML manifests of any kind, as `kubectl apply --server-side --validate=strict` does.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{self, Scope},
    runtime::{conditions, wait::await_condition},
};
use serde_json::Value;

/// Field manager of what tests and the demo apply.
pub const FIELD_MANAGER: &str = "muster-testbed";

/// The YAML documents of a text, without the empty ones.
pub fn parse(yaml: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).context("could not parse the YAML")?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// Applies every document of `yaml` in order, by server-side apply with strict field validation. Namespaced
/// objects that name no namespace go to `ns`.
pub async fn apply_yaml(client: &Client, ns: &str, yaml: &str) -> Result<Vec<DynamicObject>> {
    let mut kinds = HashMap::new();
    let mut applied = Vec::new();
    for document in parse(yaml)? {
        applied.push(apply(client, ns, &document, &mut kinds).await?);
    }
    Ok(applied)
}

/// Applies one document, see [`apply_yaml`].
pub async fn apply_value(client: &Client, ns: &str, document: &Value) -> Result<DynamicObject> {
    apply(client, ns, document, &mut HashMap::new()).await
}

/// Asks the API server whether it would take a document, strictly validated, and changes nothing.
pub async fn validate(client: &Client, ns: &str, document: &Value) -> Result<DynamicObject> {
    let params = PatchParams::apply(FIELD_MANAGER)
        .force()
        .validation_strict()
        .dry_run();
    apply_as(client, ns, document, &mut HashMap::new(), &params).await
}

async fn apply(
    client: &Client,
    ns: &str,
    document: &Value,
    kinds: &mut HashMap<GroupVersionKind, (ApiResource, Scope)>,
) -> Result<DynamicObject> {
    let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    apply_as(client, ns, document, kinds, &params).await
}

async fn apply_as(
    client: &Client,
    ns: &str,
    document: &Value,
    kinds: &mut HashMap<GroupVersionKind, (ApiResource, Scope)>,
    params: &PatchParams,
) -> Result<DynamicObject> {
    let object: DynamicObject =
        serde_json::from_value(document.clone()).context("the document is no Kubernetes object")?;
    let types = object
        .types
        .as_ref()
        .context("the document has no apiVersion and kind")?;
    let gvk = GroupVersionKind::try_from(types).context("the document's apiVersion is malformed")?;
    let (resource, scope) = if let Some(known) = kinds.get(&gvk) {
        known.clone()
    } else {
        let (resource, capabilities) = discovery::pinned_kind(client, &gvk)
            .await
            .with_context(|| format!("the API server does not serve {}", gvk.kind))?;
        let found = (resource, capabilities.scope);
        kinds.insert(gvk.clone(), found.clone());
        found
    };
    let name = object
        .metadata
        .name
        .clone()
        .context("the document has no metadata.name")?;
    let api: Api<DynamicObject> = match scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let ns = object.metadata.namespace.as_deref().unwrap_or(ns);
            Api::namespaced_with(client.clone(), ns, &resource)
        }
    };
    api.patch(&name, params, &Patch::Apply(document))
        .await
        .with_context(|| format!("could not apply {} {name}", gvk.kind))
}

/// Applies the custom resource definitions in `dir` (`*.yaml`) and waits until they are served. Answers their
/// names; none when the folder holds none.
pub async fn apply_crds(client: &Client, dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (file, text) in yaml_files(dir)? {
        let applied = apply_yaml(client, "default", &text)
            .await
            .with_context(|| format!("in {file}"))?;
        names.extend(applied.iter().map(ResourceExt::name_any));
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in &names {
        let established = await_condition(api.clone(), name, conditions::is_crd_established());
        match tokio::time::timeout(Duration::from_secs(30), established).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error).with_context(|| format!("could not watch {name}")),
            Err(_) => bail!("{name} was not established within 30 s"),
        }
    }
    Ok(names)
}

/// The `*.yaml` files of a folder, by name; none when the folder does not exist.
pub fn yaml_files(dir: &Path) -> Result<Vec<(String, String)>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("could not list {}", dir.display()))? {
        let path = entry.context("could not read a folder entry")?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
            files.push((path.display().to_string(), text));
        }
    }
    files.sort();
    Ok(files)
}
