//! The commands of the documents, executed as they stand. A block whose language is `sh` is run by bash in the workspace, with a control plane of its
//! document as the cluster; `sh elsewhere` needs what is not here (GitHub, Docker, a network) and has its syntax checked only; any other language is
//! no command. A block that needs `helm` is executed where the testbed has it.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    batch::v1::Job,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, process::Command};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    control_plane::{ADMIN, ControlPlane, Options},
    helm::Helm,
    keeper::{target_dir, workspace_dir},
    process::binary,
};

/// The documents whose commands are promised to work.
pub const DOCUMENTS: [&str; 3] = ["README.md", "docs/install.md", "docs/migrate-from-arc.md"];
/// How long a block may take.
const DEADLINE: Duration = Duration::from_mins(3);

/// What is to be done with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Execute,
    Parse,
}

/// A block of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    mode: Mode,
    text: String,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Blocks that were executed.
    pub executed: usize,
    /// Blocks whose syntax was checked for want of helm.
    pub parsed: usize,
    /// Blocks that say that they need something else; their syntax was checked.
    pub left_out: usize,
    /// Blocks that failed, with what they printed.
    pub failed: Vec<String>,
}

impl Figures {
    /// Whether nothing failed, and there was something to do.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.executed >= DOCUMENTS.len()
    }
}

/// Executes all documents, each with a cluster of its own.
pub async fn run() -> Result<Figures> {
    let mut figures = Figures::default();
    for document in DOCUMENTS {
        let path = workspace_dir().join(document);
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let blocks = blocks(&text);
        ensure!(!blocks.is_empty(), "{document} has no block of commands");
        let bench = Bench::new().await?;
        for block in blocks {
            let place = format!("{document}:{}", block.line);
            bench.handle(&place, &block, &mut figures).await?;
        }
    }
    Ok(figures)
}

/// The blocks of commands of a Markdown text, in its order.
fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(usize, Option<Mode>, usize, Vec<&str>)> = None;
    for (index, line) in markdown.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(language)) => {
                let mode = match language.trim() {
                    "sh" => Some(Mode::Execute),
                    "sh elsewhere" => Some(Mode::Parse),
                    _ => None,
                };
                open = Some((index + 2, mode, indent, Vec::new()));
            }
            (Some((line, mode, _, lines)), Some(_)) => {
                if let Some(mode) = *mode {
                    found.push(Block {
                        line: *line,
                        mode,
                        text: lines.join("\n") + "\n",
                    });
                }
                open = None;
            }
            (Some((_, _, indent, lines)), None) => {
                lines.push(line.get((*indent).min(line.len())..).unwrap_or_default());
            }
            (None, None) => {}
        }
    }
    found
}

/// Time between two looks at Jobs.
const LOOK: Duration = Duration::from_millis(500);

/// Says of every Job that it has succeeded: helm waits for its hooks, and there is no node here that would run them. What they do is tried where releases
/// are ([`crate::install`]).
async fn succeed(client: Client) {
    let all: Api<Job> = Api::all(client.clone());
    loop {
        // A Job that was just deleted, or cannot be read, is looked at again.
        let jobs = all.list(&ListParams::default()).await.ok();
        for job in jobs.into_iter().flatten() {
            let status = job.status.as_ref();
            if status.is_some_and(|status| status.succeeded.is_some()) {
                continue;
            }
            let now = Timestamp::from_second(crate::kubelet::now().as_second()).unwrap_or_default();
            let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
            let status = json!({"status": {"startTime": now, "completionTime": now, "succeeded": 1,
                "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]}});
            let jobs: Api<Job> = Api::namespaced(client.clone(), &job.namespace().unwrap_or_default());
            let patched = jobs
                .patch_status(&job.name_any(), &PatchParams::default(), &Patch::Merge(status))
                .await;
            if let Err(error) = patched {
                tracing::debug!(%error, "could not end a Job");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A cluster and the programs that the documents name.
struct Bench {
    /// Jobs succeed until it is dropped.
    _jobs: DropGuard,
    _plane: ControlPlane,
    client: Client,
    kubeconfig: PathBuf,
    folder: tempfile::TempDir,
    path: OsString,
    has_helm: bool,
}

impl Bench {
    async fn new() -> Result<Self> {
        let bare = Options {
            crds: None,
            ..Options::default()
        };
        let plane = ControlPlane::start_with(bare).await?;
        let folder = tempfile::Builder::new()
            .prefix("documents-")
            .tempdir_in(target_dir())
            .context("could not make a folder for the commands")?;
        let programs = folder.path().join("bin");
        fs::create_dir(&programs).context("could not make a folder for the programs")?;
        symlink(binary("kubectl-muster")?, programs.join("kubectl-muster"))
            .context("could not offer the plugin")?;
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let is_on_path = std::env::split_paths(&inherited).any(|folder| folder.join("kubectl").is_file());
        if built("kubectl").is_none() && !is_on_path {
            // A fresh machine: it is built, once.
            Helm::find().await?;
        }
        for name in ["kubectl", "helm"] {
            if let Some(program) = built(name) {
                symlink(program, programs.join(name)).with_context(|| format!("could not offer {name}"))?;
            }
        }
        let all = std::iter::once(programs.clone()).chain(std::env::split_paths(&inherited));
        let path = std::env::join_paths(all).context("PATH has a colon in a folder's name")?;
        let has = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
        ensure!(
            has("kubectl"),
            "kubectl is missing: it is built with helm (tools/helm), or comes from PATH"
        );
        let has_helm = has("helm");
        let stop = CancellationToken::new();
        let client = plane.admin().await?;
        let succeeding = succeed(client.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(succeeding));
        Ok(Self {
            _jobs: stop.drop_guard(),
            client,
            kubeconfig: plane.kubeconfig(ADMIN)?.to_path_buf(),
            _plane: plane,
            folder,
            path,
            has_helm,
        })
    }

    /// Takes away what the API server would ask and nobody serves: the release's admission webhooks, whose pods no node runs. [`crate::install`] has them.
    async fn unask(&self) -> Result<()> {
        let (delete, all) = (DeleteParams::default(), ListParams::default());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let gone = validating.delete_collection(&delete, &all).await;
        gone.context("could not delete the ValidatingWebhookConfigurations")?;
        let gone = mutating.delete_collection(&delete, &all).await;
        gone.context("could not delete the MutatingWebhookConfigurations")?;
        Ok(())
    }

    async fn handle(&self, place: &str, block: &Block, figures: &mut Figures) -> Result<()> {
        let uses_helm = block
            .text
            .lines()
            .any(|line| line.trim_start().starts_with("helm "));
        let executes = block.mode == Mode::Execute && (self.has_helm || !uses_helm);
        let slot = match (block.mode, executes) {
            (_, true) => &mut figures.executed,
            (Mode::Execute, false) => &mut figures.parsed,
            (Mode::Parse, false) => &mut figures.left_out,
        };
        *slot += 1;
        if executes {
            self.unask().await?;
        }
        let flags: &[&str] = if executes {
            &["-euo", "pipefail", "-s"]
        } else {
            &["-n", "-s"]
        };
        let (is_good, printed) = self.bash(flags, &block.text).await?;
        if !is_good {
            figures.failed.push(format!("{place}: {}", printed.trim()));
        }
        Ok(())
    }

    async fn bash(&self, flags: &[&str], text: &str) -> Result<(bool, String)> {
        let mut child = Command::new("bash")
            .args(flags)
            .current_dir(workspace_dir())
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env("KUBECONFIG", &self.kubeconfig)
            // What people have in their environment, as the documents say.
            .env("GITHUB_TOKEN", "a-token-for-nobody")
            .env("WEBHOOK_SECRET", "a webhook secret")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("could not start bash")?;
        let mut stdin = child.stdin.take().context("bash has no standard input")?;
        stdin
            .write_all(text.as_bytes())
            .await
            .context("could not give bash its commands")?;
        drop(stdin);
        let ended = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
        let Ok(ended) = ended else {
            return Ok((false, format!("it takes longer than {DEADLINE:?}")));
        };
        let ended = ended.context("could not wait for bash")?;
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr)
        );
        Ok((ended.status.success(), printed))
    }
}

/// A program that the testbed builds, or that the assets have.
fn built(name: &str) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let own = ["helm", "controlplane"].map(|folder| target_dir().join(folder));
    let folders = assets.into_iter().chain(own);
    folders
        .map(|folder| folder.join(name))
        .find(|path: &PathBuf| Path::is_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_marks() {
        let text = "# Title\n```\nno command\n```\n1. x\n   ```sh\n   a\n     b\n   ```\n```sh elsewhere\nc\n```\n```yaml\nd: e\n```\n";
        assert_eq!(
            blocks(text),
            [
                Block {
                    line: 7,
                    mode: Mode::Execute,
                    text: "a\n  b\n".to_owned()
                },
                Block {
                    line: 11,
                    mode: Mode::Parse,
                    text: "c\n".to_owned()
                },
            ]
        );
    }
}
