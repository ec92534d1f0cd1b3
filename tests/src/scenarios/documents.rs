//! The commands of the documents, executed as they stand. A block whose language is `sh` is run by bash in the workspace, with a control plane of its
//! document as the cluster; `sh elsewhere` needs what is not here (GitHub, Docker, a network) and has its syntax checked only; any other language is
//! no command. What helm installs runs on the cluster, and speaks to the fake GitHub.

use std::{
    collections::BTreeMap, ffi::OsString, fs, os::unix::fs::symlink, path::PathBuf, process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    github::{DEFAULT_TOKEN, FakeGitHub, FakeGitHubOptions},
    install::{self, Installation},
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
        let bench = Bench::new(release_namespace(&blocks)).await?;
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

/// Where the document's release is.
fn release_namespace(blocks: &[Block]) -> &str {
    let mut of_helm = blocks.iter().filter(|block| block.text.contains("helm "));
    of_helm
        .find_map(|block| block.text.split_once("--namespace ")?.1.split_whitespace().next())
        .unwrap_or(install::NAMESPACE)
}

/// A cluster and the programs that the documents name.
struct Bench {
    installation: Installation,
    _github: FakeGitHub,
    kubeconfig: PathBuf,
    folder: tempfile::TempDir,
    path: OsString,
}

impl Bench {
    async fn new(ns: &str) -> Result<Self> {
        let github = FakeGitHub::start(FakeGitHubOptions::default()).await?;
        let env = BTreeMap::from([("GITHUB_URL".to_owned(), github.base_url())]);
        let installation = Installation::start_in(ns, env).await?;
        let folder = tempfile::Builder::new()
            .prefix("documents-")
            .tempdir_in(target_dir())
            .context("could not make a folder for the commands")?;
        let programs = folder.path().join("bin");
        fs::create_dir(&programs).context("could not make a folder for the programs")?;
        let helm = &installation.helm;
        for program in [
            binary("kubectl-muster")?,
            helm.program("kubectl"),
            helm.program("helm"),
        ] {
            let name = program.file_name().context("a program has no name")?;
            symlink(&program, programs.join(name))
                .with_context(|| format!("could not offer {}", program.display()))?;
        }
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(programs).chain(std::env::split_paths(&inherited));
        let path = std::env::join_paths(all).context("PATH has a colon in a folder's name")?;
        Ok(Self {
            kubeconfig: installation.kubeconfig()?,
            installation,
            _github: github,
            folder,
            path,
        })
    }

    async fn handle(&self, place: &str, block: &Block, figures: &mut Figures) -> Result<()> {
        let (slot, flags): (_, &[&str]) = match block.mode {
            Mode::Execute => (&mut figures.executed, &["-euo", "pipefail", "-s"]),
            Mode::Parse => (&mut figures.left_out, &["-n", "-s"]),
        };
        *slot += 1;
        let (is_good, printed) = self.bash(flags, &block.text).await?;
        if !is_good {
            let logs = self.installation.logs();
            figures
                .failed
                .push(format!("{place}: {}\n{logs}", printed.trim()));
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
            .env("GITHUB_TOKEN", DEFAULT_TOKEN)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_where_helm_puts_it() {
        let text = "```sh\nkubectl get pods --namespace other\n```\n```sh\nhelm install a b \\\n  --namespace there --wait\n```\n";
        assert_eq!(release_namespace(&blocks(text)), "there");
        assert_eq!(
            release_namespace(&blocks("```sh\ntrue\n```\n")),
            install::NAMESPACE
        );
    }

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
