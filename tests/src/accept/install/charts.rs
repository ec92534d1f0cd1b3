//! What needs no running release: rendering, validation, the bases of `config/`.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    control_plane::{ADMIN, ControlPlane, Options, manifests},
    helm::{Helm, chart},
    install::{NAMESPACE, RELEASE, values},
    keeper::workspace_dir,
};

use super::super::{Running, Verdict};

/// So many values files at least.
const FILES: usize = 30;
/// Values that change nothing, as in ARC's chart.
const WITHOUT_EFFECT: [&str; 2] = ["service.port", "actionsMetrics.serviceAnnotations"];
/// The bases of `config/`.
const BASES: [&str; 8] = [
    "config/crd",
    "config/rbac",
    "config/manager",
    "config/webhook",
    "config/certmanager",
    "config/github-webhook-server",
    "config/default",
    "config/prometheus",
];
/// Shapes whose rendering is kept beside the tests: the file, and the values file that makes it.
const GOLDEN: [(&str, Option<&str>); 6] = [
    ("default", None),
    ("one-namespace", Some("one-namespace")),
    ("high-availability", Some("high-availability")),
    ("container-mode", Some("container-mode")),
    ("own-certificate", Some("own-certificate")),
    ("network", Some("network")),
];
/// What writes them anew.
const RENEW: &str = "MUSTER_RENEW_GOLDEN";

/// The kinds of others that the chart renders (cert-manager, Prometheus operator), on a control plane with our definitions.
async fn plane_for_charts() -> Result<(ControlPlane, kube::Client)> {
    let plane = ControlPlane::start_with(Options::default()).await?;
    let client = plane.admin().await?;
    manifests::apply_crds(&client, &workspace_dir().join("tests/fixtures/foreign-kinds")).await?;
    Ok((plane, client))
}

pub(super) async fn charts(running: &Running<'_>) -> Result<Verdict> {
    running.scenario(check_charts()).await
}

async fn check_charts() -> Result<Verdict> {
    let helm = Helm::find().await?;
    let (_plane, client) = plane_for_charts().await?;
    for ns in [NAMESPACE, "elsewhere", "monitoring", "runners"] {
        let namespace =
            serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}});
        manifests::apply_value(&client, ns, &namespace).await?;
    }
    let files = values::files()?;
    let known = values::known()?;
    let (mut effective, mut objects) = (BTreeSet::new(), 0);
    let changed = helm.dir().join("changed.json");
    for (name, path) in &files {
        let path_text = path.display().to_string();
        helm.helm(
            None,
            &[
                "lint",
                "--strict",
                &chart().display().to_string(),
                "--values",
                &path_text,
            ],
        )
        .await?
        .good()
        .with_context(|| name.clone())?;
        let rendered = render(&helm, path)
            .await?
            .with_context(|| format!("{name} does not render"))?;
        for document in manifests::parse(&rendered)? {
            manifests::validate(&client, NAMESPACE, &document)
                .await
                .with_context(|| {
                    format!(
                        "{name}: {}",
                        document.pointer("/metadata/name").unwrap_or(&Value::Null)
                    )
                })?;
            objects += 1;
        }
        let values = values::read(path)?;
        for value in known.iter().filter(|value| values::sets(&values, value)) {
            if effective.contains(value) {
                continue;
            }
            fs::write(&changed, values::without(&values, value).to_string())
                .context("could not write the values")?;
            if render(&helm, &changed).await?.as_deref() != Some(&rendered) {
                effective.insert(value.clone());
            }
        }
    }
    let dead: Vec<String> = known
        .difference(&effective)
        .map(|value| value.join("."))
        .filter(|value| !WITHOUT_EFFECT.contains(&value.as_str()))
        .collect();
    let mut figure = format!(
        "{} values files, {objects} objects valid, {} of {} values have an effect",
        files.len(),
        effective.len(),
        known.len()
    );
    if !dead.is_empty() {
        let more = format!(
            "; these have none in any file of tests/fixtures/values: {}",
            dead.join(", ")
        );
        figure.push_str(&more);
    }
    Ok(Verdict::new(dead.is_empty() && files.len() >= FILES, figure))
}

/// What a values file renders to; `None` when it does not render.
async fn render(helm: &Helm, file: &Path) -> Result<Option<String>> {
    let said = helm.template((RELEASE, NAMESPACE), &[file], &[]).await?;
    Ok(said.ok.then_some(said.out))
}

pub(super) async fn golden(running: &Running<'_>) -> Result<Verdict> {
    running.scenario(check_golden()).await
}

async fn check_golden() -> Result<Verdict> {
    let helm = Helm::find().await?;
    let folder = workspace_dir().join("tests/fixtures");
    let (mut stale, mut lines) = (Vec::new(), 0);
    for (name, values) in GOLDEN {
        let file = values.map(|values| folder.join("values").join(values).with_extension("yaml"));
        let files: Vec<&Path> = file.as_deref().into_iter().collect();
        let rendered = helm.template((RELEASE, NAMESPACE), &files, &[]).await?.good()?;
        let golden = folder.join("golden").join(name).with_extension("yaml");
        lines += rendered.lines().count();
        if std::env::var_os(RENEW).is_some() {
            fs::write(&golden, &rendered).with_context(|| format!("could not write {}", golden.display()))?;
        } else if fs::read_to_string(&golden).ok().as_ref() != Some(&rendered) {
            stale.push(name);
        }
    }
    let figure = if stale.is_empty() {
        format!("{} shapes, {lines} lines", GOLDEN.len())
    } else {
        format!(
            "tests/fixtures/golden is not what the chart renders for {}; write it anew with `make golden` and review the difference",
            stale.join(", ")
        )
    };
    Ok(Verdict::new(stale.is_empty(), figure))
}

pub(super) async fn apply(running: &Running<'_>) -> Result<Verdict> {
    running.scenario(check_apply()).await
}

async fn check_apply() -> Result<Verdict> {
    let helm = Helm::find().await?;
    let bare = Options {
        crds: None,
        ..Options::default()
    };
    let plane = ControlPlane::start_with(bare).await?;
    let client = plane.admin().await?;
    manifests::apply_crds(&client, &workspace_dir().join("tests/fixtures/foreign-kinds")).await?;
    let kubeconfig = plane.kubeconfig(ADMIN)?;
    // As users do it, with the annotation that has no room for ARC's definitions.
    let crds = helm
        .kubectl(Some(kubeconfig), &["apply", "--validate=strict", "-f", "crds/"])
        .await?;
    let definitions = crds
        .good()?
        .lines()
        .filter(|line| line.contains("customresourcedefinition"))
        .count();
    // Those of a base may refer to another's namespace.
    helm.kubectl(Some(kubeconfig), &["apply", "-k", "config/rbac"])
        .await?
        .good()?;
    // Before the webhooks: nobody would answer them here.
    let strictly = [
        "apply",
        "--validate=strict",
        "-k",
        "config/samples",
        "-n",
        "default",
    ];
    let samples = helm
        .kubectl(Some(kubeconfig), &strictly)
        .await?
        .good()?
        .lines()
        .count();
    let mut all = Vec::new();
    for base in BASES {
        let rendered = helm.kubectl(None, &["kustomize", base]).await?.good()?;
        for document in manifests::parse(&rendered)? {
            manifests::validate(&client, "muster-system", &document)
                .await
                .with_context(|| {
                    format!(
                        "{base}: {}",
                        document.pointer("/metadata/name").unwrap_or(&Value::Null)
                    )
                })?;
            all.push(document);
        }
        let applied = helm
            .kubectl(Some(kubeconfig), &["apply", "--validate=strict", "-k", base])
            .await?;
        applied.good().with_context(|| base.to_owned())?;
    }
    let (monitors, blind) = monitors(&all);
    let mut figure = format!(
        "{definitions} definitions by client-side apply; {} objects of {} bases; {samples} samples; {monitors} ServiceMonitors",
        all.len(),
        BASES.len()
    );
    if !blind.is_empty() {
        let more = format!("; without a Service that has their port: {}", blind.join(", "));
        figure.push_str(&more);
    }
    let ok = definitions == 5 && all.len() > 40 && monitors >= 2 && blind.is_empty();
    Ok(Verdict::new(ok, figure))
}

/// How many monitors of Services there are, and which of their ports no Service has that they select.
fn monitors(documents: &[Value]) -> (usize, Vec<String>) {
    let of_kind = |kind: &'static str| {
        documents
            .iter()
            .filter(move |document| document.get("kind").and_then(Value::as_str) == Some(kind))
    };
    let part = |document: &Value, pointer: &str| document.pointer(pointer).cloned().unwrap_or_default();
    let list = |document: &Value, pointer: &str| {
        let found = part(document, pointer).as_array().cloned();
        found.unwrap_or_default()
    };
    let selects = |monitor: &Value, service: &Value| {
        let labels = part(service, "/metadata/labels");
        let wanted = part(monitor, "/spec/selector/matchLabels");
        part(monitor, "/metadata/namespace") == part(service, "/metadata/namespace")
            && wanted
                .as_object()
                .is_some_and(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
    };
    let mut blind = Vec::new();
    for monitor in of_kind("ServiceMonitor") {
        for endpoint in list(monitor, "/spec/endpoints") {
            let port = part(&endpoint, "/port");
            let has_port = |service: &Value| {
                let ports = list(service, "/spec/ports");
                ports.iter().any(|entry| part(entry, "/name") == port)
            };
            if !of_kind("Service").any(|service| selects(monitor, service) && has_port(service)) {
                blind.push(format!("{} ({port})", part(monitor, "/metadata/name")));
            }
        }
    }
    (of_kind("ServiceMonitor").count(), blind)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_monitor_needs_a_service_with_its_port() {
        let labels = json!({"app": "a"});
        let service = json!({"kind": "Service", "metadata": {"namespace": "n", "labels": labels},
            "spec": {"ports": [{"name": "metrics"}]}});
        let monitor = |ns: &str, port: &str| {
            json!({"kind": "ServiceMonitor", "metadata": {"name": "m", "namespace": ns},
                "spec": {"endpoints": [{"port": port}], "selector": {"matchLabels": labels}}})
        };
        let of = |monitor: Value| monitors(&[service.clone(), monitor]);
        assert_eq!(of(monitor("n", "metrics")), (1, Vec::new()));
        assert_eq!(of(monitor("n", "https")).1, [r#""m" ("https")"#]);
        assert_eq!(of(monitor("elsewhere", "metrics")).1.len(), 1);
    }
}
