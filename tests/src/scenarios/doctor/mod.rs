//! `kubectl muster doctor` in a healthy installation and with one fault at a time: the fault must be found first, with a remedy, and be gone when it
//! has been mended. Real API server and authorizer; the processes are Deployments whose pods nobody starts.

mod edit;
mod seeds;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kube::Client;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    control_plane::{ControlPlane, client_from, manifests},
    keeper::workspace_dir,
    process::binary,
    world::{is_allowed, wait_until_allowed},
};

use self::edit::Editor;

/// The service account that asks.
const ACCOUNT: &str = "doctor";
/// Where the installation is.
const HOME: &str = "muster-system";
/// How long the plugin may take.
const DEADLINE: Duration = Duration::from_mins(2);
/// The authorizer and the definitions follow changes by watches of their own.
const SETTLED: Duration = Duration::from_secs(20);

/// What became of a fault.
#[derive(Clone, Debug)]
pub struct Diagnosed {
    /// The fault that was seeded.
    pub seeded: &'static str,
    /// The first finding's word; empty when there was none.
    pub first: String,
    /// Whether it had a remedy, and the exit code was right.
    pub is_sound: bool,
    /// What the plugin said, for a failure.
    pub said: String,
}

impl Diagnosed {
    /// Whether the fault was found first, with a remedy.
    pub fn is_found(&self) -> bool {
        self.first == self.seeded && self.is_sound
    }
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Findings in the healthy installation, before and after all faults.
    pub healthy: Vec<String>,
    /// Each fault.
    pub faults: Vec<Diagnosed>,
    /// Writes of the plugin that the API server would have allowed: its role must have none.
    pub may_write: Vec<String>,
}

impl Figures {
    /// Faults that were not found, in sentences.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.faults.iter().filter(|fault| !fault.is_found());
        missed
            .map(|fault| format!("{}: first was {:?}: {}", fault.seeded, fault.first, fault.said))
            .collect()
    }
}

/// Seeds every fault, one after the other, in a control plane of its own.
pub async fn run() -> Result<Figures> {
    let plane = ControlPlane::start().await?;
    let client = plane.admin().await?;
    install(&client).await?;
    let kubeconfig = plane.service_account(HOME, ACCOUNT).await?;
    let user = format!("system:serviceaccount:{HOME}:{ACCOUNT}");
    let role = apply_file(&client, "config/rbac/doctor_viewer_role.yaml").await?;
    for name in role {
        plane.grant(&user, &name).await?;
    }
    let own = client_from(&kubeconfig).await?;
    wait_until_allowed(&own, "create", "authorization.k8s.io", "subjectaccessreviews").await?;
    let doctor = Doctor {
        program: binary("kubectl-muster")?,
        kubeconfig,
    };
    let mut figures = Figures {
        may_write: may_write(&own).await?,
        healthy: doctor.until_healthy().await?,
        ..Figures::default()
    };
    let editor = Editor::new(client);
    for seed in seeds::all() {
        let undo = editor
            .apply(seed.edits)
            .await
            .with_context(|| format!("could not seed {}", seed.fault))?;
        let diagnosed = doctor.until_first(seed.fault).await?;
        figures.faults.push(diagnosed);
        editor
            .undo(undo)
            .await
            .with_context(|| format!("could not mend {}", seed.fault))?;
        let left = doctor.until_healthy().await?;
        ensure!(left.is_empty(), "after {} was mended: {left:?}", seed.fault);
    }
    Ok(figures)
}

async fn apply_file(client: &Client, path: &str) -> Result<Vec<String>> {
    let path = workspace_dir().join(path);
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let applied = manifests::apply_yaml(client, HOME, &text).await?;
    Ok(applied
        .into_iter()
        .filter_map(|object| object.metadata.name)
        .collect())
}

/// A certificate that signed itself, as PEM in base64.
fn authority() -> Result<String> {
    let key = KeyPair::generate().context("could not draw a key")?;
    let made = CertificateParams::new(vec!["webhook-service.muster-system.svc".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .context("could not make a certificate")?;
    Ok(STANDARD.encode(made.pem()))
}

/// The installation of `config`, a pool, and the statuses that kubelets and controllers would write.
#[expect(
    clippy::disallowed_methods,
    reason = "kubelets and controllers write their own clock"
)]
async fn install(client: &Client) -> Result<()> {
    for file in [
        "config/rbac/namespace.yaml",
        "config/rbac/service_accounts.yaml",
        "config/rbac/manager_role.yaml",
        "config/rbac/manager_role_binding.yaml",
        "config/rbac/github-webhook-server_role.yaml",
        "config/rbac/github-webhook-server_role_binding.yaml",
        "config/webhook/service.yaml",
    ] {
        apply_file(client, file).await?;
    }
    let authority = authority()?;
    let path = workspace_dir().join("tests/fixtures/doctor.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let text = text.replace("__CA__", &authority).replace(
        "__NOW__",
        &Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string(),
    );
    manifests::apply_yaml(client, HOME, &text).await?;
    let path = workspace_dir().join("config/webhook/manifests.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    for mut document in manifests::parse(&text)? {
        for webhook in document
            .get_mut("webhooks")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            // Nobody answers: the API server must not ask.
            let nowhere = json!({"matchLabels": {"kubernetes.io/metadata.name": "nowhere"}});
            if let Some(fields) = webhook.as_object_mut() {
                fields.insert("namespaceSelector".to_owned(), nowhere);
            }
            if let Some(client) = webhook.get_mut("clientConfig").and_then(Value::as_object_mut) {
                client.insert("caBundle".to_owned(), json!(authority));
            }
        }
        manifests::apply_value(client, HOME, &document).await?;
    }
    let editor = Editor::new(client.clone());
    for name in ["controller-manager", "github-webhook-server"] {
        editor.set_ready(HOME, name, 1).await?;
    }
    Ok(())
}

/// Verbs that would change something and that the plugin's account has.
async fn may_write(client: &Client) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (group, resource) in [
        ("actions.summerwind.dev", "runners"),
        ("actions.summerwind.dev", "horizontalrunnerautoscalers"),
        ("", "pods"),
        ("", "secrets"),
        ("apps", "deployments"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ] {
        for verb in ["create", "update", "patch", "delete"] {
            if is_allowed(client, verb, group, resource).await? {
                found.push(format!("{verb} {resource}"));
            }
        }
    }
    Ok(found)
}

struct Doctor {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Doctor {
    /// Exit code and report.
    async fn ask(&self) -> Result<(Option<i32>, Value, String)> {
        let running = Command::new(&self.program)
            .args([
                "doctor",
                "-A",
                "-o",
                "json",
                "--stuck-after",
                "0s",
                "--kubeconfig",
            ])
            .arg(&self.kubeconfig)
            .env_remove("KUBECONFIG")
            .kill_on_drop(true)
            .output();
        let ran = tokio::time::timeout(DEADLINE, running)
            .await
            .context("the plugin took too long")?
            .context("could not start the plugin")?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr)
        );
        let report = serde_json::from_slice(&ran.stdout)
            .with_context(|| format!("the plugin printed no JSON: {said}"))?;
        Ok((ran.status.code(), report, said))
    }

    /// Asks until the first finding is this one, or for long enough.
    async fn until_first(&self, fault: &'static str) -> Result<Diagnosed> {
        let end = tokio::time::Instant::now() + SETTLED;
        loop {
            let (code, report, said) = self.ask().await?;
            let text = |path: &str| report.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let is_error = text("/findings/0/severity") == "error";
            let expected = if is_error { Some(3) } else { Some(0) };
            let first = text("/findings/0/fault").to_owned();
            if first == fault || tokio::time::Instant::now() > end {
                return Ok(Diagnosed {
                    seeded: fault,
                    first,
                    is_sound: !text("/findings/0/remedy").is_empty()
                        && !text("/findings/0/sentence").is_empty()
                        && code == expected,
                    said,
                });
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Asks until nothing is found, or for long enough; what is found then. Something that could not be looked at is a finding here.
    async fn until_healthy(&self) -> Result<Vec<String>> {
        let end = tokio::time::Instant::now() + SETTLED;
        loop {
            let (code, report, _) = self.ask().await?;
            let list = |name: &str| {
                let all = report.get(name).and_then(Value::as_array).cloned();
                all.unwrap_or_default().into_iter()
            };
            let mut found: Vec<String> = list("findings")
                .chain(list("unseen"))
                .map(|one| one.to_string())
                .collect();
            if code != Some(0) && found.is_empty() {
                found.push(format!("exit code {code:?}"));
            }
            if found.is_empty() || tokio::time::Instant::now() > end {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use muster_core::doctor::{
        Fault,
        rights::{self, Right},
    };

    use super::*;

    /// Group, resource and verb of every rule of the `ClusterRole`s in a file.
    fn rules(file: &str) -> BTreeSet<(String, String, String)> {
        let text = fs::read_to_string(workspace_dir().join("config/rbac").join(file)).unwrap();
        let mut found = BTreeSet::new();
        for document in manifests::parse(&text).unwrap() {
            for rule in document["rules"].as_array().into_iter().flatten() {
                let all = |field: &str| -> Vec<String> {
                    let values = rule[field].as_array().unwrap().iter();
                    values.map(|value| value.as_str().unwrap().to_owned()).collect()
                };
                for group in all("apiGroups") {
                    for resource in all("resources") {
                        for verb in all("verbs") {
                            found.insert((group.clone(), resource.clone(), verb));
                        }
                    }
                }
            }
        }
        found
    }

    fn table(rights: &[Right]) -> BTreeSet<(String, String, String)> {
        let triple =
            |right: &Right, verb: &str| (right.group.to_owned(), right.resource.to_owned(), verb.to_owned());
        let all = rights.iter();
        all.flat_map(|right| right.verbs.iter().map(move |verb| triple(right, verb)))
            .collect()
    }

    #[test]
    fn the_rights_that_are_asked_about_are_those_of_the_roles() {
        assert_eq!(table(rights::MANAGER), rules("manager_role.yaml"));
        assert_eq!(
            table(rights::WEBHOOK_SERVER),
            rules("github-webhook-server_role.yaml")
        );
    }

    #[test]
    fn every_fault_is_seeded_once() {
        let known: BTreeSet<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        let seeded: Vec<&str> = seeds::all().iter().map(|seed| seed.fault).collect();
        assert_eq!(seeded.iter().copied().collect::<BTreeSet<_>>(), known);
        assert_eq!(seeded.len(), known.len());
    }
}
