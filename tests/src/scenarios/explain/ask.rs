//! Who asks: the real plugin, as a process, with the token of a service account that has the rights of `config/rbac/explain_viewer_role.yaml`.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::ListParams};
use serde_json::Value;
use tokio::{process::Command, sync::Semaphore};

use crate::{
    control_plane::{client_from, manifests},
    keeper::workspace_dir,
    process::binary,
    world::{World, wait_until_allowed},
};

use super::Case;

/// The service account.
const ACCOUNT: &str = "explainer";
/// Plugins that run at a time: the machine has other work as well.
const AT_ONCE: usize = 4;
/// A question is answered in this time, or something is wrong.
const DEADLINE: Duration = Duration::from_secs(30);

/// An answer of the plugin.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Code of the first reason.
    pub(super) code: String,
    /// How long the program took.
    pub(super) took: Duration,
}

/// Asks, and keeps everything that was printed.
#[derive(Debug)]
pub(super) struct Asker {
    program: PathBuf,
    kubeconfig: PathBuf,
    ns: String,
    slots: Semaphore,
    printed: Mutex<Vec<(String, String)>>,
}

impl Asker {
    /// Makes the service account and gives it the rights of the sample role.
    pub(super) async fn new(worlds: &[World]) -> Result<Self> {
        let world = worlds.first().context("there is no world")?;
        let plane = world.plane().context("the causes need a control plane of ours")?;
        let kubeconfig = plane.service_account(&world.ns, ACCOUNT).await?;
        let path = workspace_dir().join("config/rbac/explain_viewer_role.yaml");
        let yaml = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let user = format!("system:serviceaccount:{}:{ACCOUNT}", world.ns);
        for document in manifests::parse(&yaml)? {
            let applied = manifests::apply_value(&world.client, "default", &document).await?;
            plane
                .grant(&user, applied.metadata.name.as_deref().unwrap_or_default())
                .await?;
        }
        let client = client_from(&kubeconfig).await?;
        wait_until_allowed(&client, "list", "", "events").await?;
        Ok(Self {
            program: binary("kubectl-muster")?,
            kubeconfig,
            ns: world.ns.clone(),
            slots: Semaphore::new(AT_ONCE),
            printed: Mutex::default(),
        })
    }

    /// The rights are those of a reader: Secrets are not among them.
    pub(super) async fn refuses_secrets(&self) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(client_from(&self.kubeconfig).await?, &self.ns);
        match api.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(()),
            Err(error) => Err(error).context("the API server does not say whether Secrets may be listed"),
            Ok(_) => bail!("the role of the plugin allows to list Secrets"),
        }
    }

    /// The token that the plugin itself logs in with.
    pub(super) fn token(&self) -> Result<Option<String>> {
        let text = fs::read_to_string(&self.kubeconfig).context("could not read the plugin's kubeconfig")?;
        let value: Value = serde_json::from_str(&text).context("the plugin's kubeconfig is no JSON")?;
        let token = value.pointer("/users/0/user/token").and_then(Value::as_str);
        Ok(token.map(str::to_owned))
    }

    /// Asks for JSON.
    pub(super) async fn explain(&self, case: &Case) -> Result<Answer> {
        let begun = Instant::now();
        let args = ["explain", case.what, &case.name, "-n", &case.ns, "-o", "json"];
        let (text, waited) = self.run(&args).await?;
        let took = begun.elapsed().saturating_sub(waited);
        let answer: Value =
            serde_json::from_str(&text).with_context(|| format!("{}: no JSON: {text}", case.cause))?;
        let code = answer.pointer("/reasons/0/code").and_then(Value::as_str);
        Ok(Answer {
            code: code.context("the answer has no reason")?.to_owned(),
            took,
        })
    }

    /// Asks for text; it must name the reason and what to do.
    pub(super) async fn explain_text(&self, case: &Case) -> Result<()> {
        let args = ["explain", case.what, &case.name, "-n", &case.ns];
        let (text, _) = self.run(&args).await?;
        ensure!(text.contains("1. "), "{}: no reason in {text}", case.cause);
        Ok(())
    }

    /// Looks at all pools of the worlds, as text and as JSON.
    pub(super) async fn top(&self, worlds: &[World]) -> Result<()> {
        for world in worlds {
            let (text, _) = self.run(&["top", "--once", "-n", &world.ns]).await?;
            ensure!(text.starts_with("POOL"), "top shows no table: {text}");
        }
        let (text, _) = self.run(&["top", "-A", "-o", "json"]).await?;
        let report: Value = serde_json::from_str(&text).context("top's JSON is none")?;
        let pools = report
            .pointer("/pools")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        ensure!(pools > 0, "top shows no pools");
        Ok(())
    }

    /// Everything that was printed, by question.
    pub(super) fn outputs(&self) -> Vec<(String, String)> {
        self.printed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What the plugin printed, and how long the question waited for its turn.
    async fn run(&self, args: &[&str]) -> Result<(String, Duration)> {
        let begun = Instant::now();
        let slot = self.slots.acquire().await.context("no more questions")?;
        let waited = begun.elapsed();
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .kill_on_drop(true);
        let ran = tokio::time::timeout(DEADLINE, command.output()).await;
        drop(slot);
        let question = args.join(" ");
        let ran = ran
            .with_context(|| format!("{question}: no answer in {DEADLINE:?}"))?
            .context("could not start kubectl-muster")?;
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        let complained = String::from_utf8_lossy(&ran.stderr).into_owned();
        self.printed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((question.clone(), format!("{printed}{complained}")));
        // 2 is "nothing of that name", which a cause that has not shown yet may be.
        if !matches!(ran.status.code(), Some(0 | 2)) || printed.is_empty() {
            bail!("{question}: {:?}: {complained}", ran.status.code());
        }
        Ok((printed, waited))
    }
}

/// The registration tokens in the world's pods.
pub(super) async fn registration_tokens(world: &World) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for pod in world.pods().await? {
        let containers = pod.spec.into_iter().flat_map(|spec| spec.containers);
        for variable in containers.flat_map(|container| container.env.unwrap_or_default()) {
            if variable.name == "RUNNER_TOKEN" {
                found.extend(variable.value.filter(|value| value.len() >= 6));
            }
        }
    }
    Ok(found)
}
