//! The admission webhooks of a world: `config/webhook`, pointed at the manager on loopback, for the world's namespace
//! alone. Pods of RunnerSets get their registration token from them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use muster_crds::{
    keys,
    legacy::{RunnerDeployment, RunnerDeploymentSpec},
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::{control_plane::manifests, keeper::workspace_dir, proxy::Balancer};

use super::World;

/// The API server reads webhook configurations by its own watch.
const NOTICED: Duration = Duration::from_secs(30);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The certificate that a world's manager serves.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    /// The manager's `TMPDIR`, which it looks for its certificate in.
    pub(super) tmp: PathBuf,
    /// The certificate, which signed itself.
    pem: String,
}

impl Certificate {
    /// Makes one below `dir`, where the manager looks for it.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        let tmp = dir.join("tmp");
        let folder = tmp.join("k8s-webhook-server/serving-certs");
        fs::create_dir_all(&folder).context("could not make the folder of the certificate")?;
        let key = KeyPair::generate().context("could not draw a key")?;
        let pem = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .and_then(|params| params.self_signed(&key))
            .context("could not make a certificate")?
            .pem();
        fs::write(folder.join("tls.crt"), &pem).context("could not write the certificate")?;
        fs::write(folder.join("tls.key"), key.serialize_pem()).context("could not write the key")?;
        Ok(Self { tmp, pem })
    }
}

impl World {
    /// Applies the configurations of `config/webhook` for the world's namespace alone, each webhook changed.
    pub async fn register_webhooks(&self, change: impl Fn(&mut Value)) -> Result<Vec<DynamicObject>> {
        let path = workspace_dir().join("config/webhook/manifests.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let mut applied = Vec::new();
        for mut document in manifests::parse(&text)? {
            if let Some(name) = document.pointer_mut("/metadata/name") {
                let own = format!("{}-{}", name.as_str().unwrap_or_default(), self.ns);
                *name = json!(own);
            }
            let webhooks = document.get_mut("webhooks").and_then(Value::as_array_mut);
            for webhook in webhooks.into_iter().flatten() {
                if let Some(fields) = webhook.as_object_mut() {
                    let only = json!({"matchLabels": {"kubernetes.io/metadata.name": self.ns}});
                    fields.insert("namespaceSelector".to_owned(), only);
                }
                change(webhook);
            }
            applied.push(manifests::apply_value(&self.client, "default", &document).await?);
        }
        Ok(applied)
    }

    /// Points the API server at the managers' ports, as the Service in front of them does, and waits until it asks there.
    pub(super) async fn admit(&mut self, certificate: &Certificate, ports: &[u16]) -> Result<()> {
        let managers: Vec<SocketAddr> = ports
            .iter()
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))
            .collect();
        let port = match managers.as_slice() {
            [only] => only.port(),
            _ => self
                .admission
                .insert(Balancer::start(managers).await?)
                .address()
                .port(),
        };
        let bundle = STANDARD.encode(&certificate.pem);
        let hooks = self.register_webhooks(|webhook| {
            let path = webhook
                .pointer("/clientConfig/service/path")
                .and_then(Value::as_str);
            let url = format!("https://127.0.0.1:{port}{}", path.unwrap_or_default());
            if let Some(fields) = webhook.as_object_mut() {
                fields.insert("clientConfig".to_owned(), json!({"url": url, "caBundle": bundle}));
                // A refusal must be the webhook's, not a way around it.
                fields.insert("failurePolicy".to_owned(), json!("Fail"));
            }
        });
        self.webhooks = hooks.await?;
        let end = Instant::now() + NOTICED;
        loop {
            let unasked = self.unasked().await?;
            if unasked.is_empty() {
                break;
            }
            if Instant::now() > end {
                bail!(
                    "after {NOTICED:?} the API server asks no webhook about {}",
                    unasked.join(" and ")
                );
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// What the API server does not ask about yet. An invalid object is refused; of a runner's pod that is only tried out
    /// it is said that it never restarts.
    async fn unasked(&self) -> Result<Vec<&'static str>> {
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let invalid = RunnerDeployment::new("probe", RunnerDeploymentSpec::default());
        let env = |name: &str| json!({"name": name, "value": ""});
        let pod = json!({
            "metadata": {"name": "probe",
                "labels": {(keys::LABEL_INJECT_REGISTRATION_TOKEN): keys::LABEL_VALUE_TRUE}},
            "spec": {"containers": [{"name": keys::CONTAINER_RUNNER, "image": "none", "env": [
                env(keys::ENV_RUNNER_ORG), env(keys::ENV_RUNNER_REPO), env(keys::ENV_RUNNER_ENTERPRISE)]}]},
        });
        let pod: Pod = serde_json::from_value(pod).context("the probe is no pod")?;
        let (objects, pods) = (self.api(), self.api());
        let (invalid, pod) = tokio::join!(objects.create(&dry, &invalid), pods.create(&dry, &pod));
        let restarts = |pod: Pod| pod.spec.and_then(|spec| spec.restart_policy).as_deref() != Some("Never");
        let names = [
            (invalid.is_ok(), "RunnerDeployments"),
            (pod.map_or(true, restarts), "pods"),
        ];
        Ok(names
            .into_iter()
            .filter(|(is_unasked, _)| *is_unasked)
            .map(|(_, name)| name)
            .collect())
    }

    /// Removes the webhook configurations that the world has registered.
    pub async fn unregister_webhooks(&self) -> Result<()> {
        for hook in &self.webhooks {
            let types = hook.types.as_ref().context("a configuration has no kind")?;
            let kind = GroupVersionKind::try_from(types).context("a configuration's kind is malformed")?;
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::from_gvk(&kind));
            match api.delete(&hook.name_any(), &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => drop(other.context("could not remove a webhook configuration")?),
            }
        }
        Ok(())
    }
}
