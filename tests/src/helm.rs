//! helm and kubectl: pinned by `tools/helm`, built when they are first needed, run without anything of this machine's configuration.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{
    go::{GoModule, LINK_SMALL},
    keeper::{Keeper, workspace_dir},
};

/// File names of the programs.
const PROGRAMS: [&str; 2] = ["helm", "kubectl"];

/// The two programs, and a home for what they write down.
#[derive(Debug)]
pub struct Helm {
    folder: PathBuf,
    home: Keeper,
}

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Whether the exit code was 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    what: String,
}

impl Said {
    /// Standard output; an error, with what was said, after another exit code than 0.
    pub fn good(self) -> Result<String> {
        if !self.ok {
            bail!("{} failed: {}{}", self.what, self.err.trim(), self.out.trim());
        }
        Ok(self.out)
    }
}

/// The chart.
pub fn chart() -> PathBuf {
    workspace_dir().join("charts").join("actions-runner-controller")
}

impl Helm {
    /// Finds the programs, building them when there are none; that takes minutes.
    pub async fn find() -> Result<Self> {
        let module = GoModule {
            name: "helm",
            what: "helm and kubectl".to_owned(),
            sources: &["go.mod", "kubectl/main.go"],
            programs: &PROGRAMS,
            // helm asks which Kubernetes it was built for, and does without an answer.
            ldflags: LINK_SMALL.to_owned(),
        };
        let folder = tokio::task::spawn_blocking(move || module.ensure_built())
            .await
            .context("the build of helm was cut off")??;
        Ok(Self {
            folder,
            home: Keeper::new("helm")?,
        })
    }

    /// A folder for files of the caller's; it goes with this value.
    pub fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// Where `helm` or `kubectl` is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs `helm`, with the cluster of `kubeconfig` where there is one.
    pub async fn helm(&self, kubeconfig: Option<&Path>, args: &[&str]) -> Result<Said> {
        self.run("helm", kubeconfig, args).await
    }

    /// Runs `kubectl`.
    pub async fn kubectl(&self, kubeconfig: Option<&Path>, args: &[&str]) -> Result<Said> {
        self.run("kubectl", kubeconfig, args).await
    }

    /// What `helm template` makes of the chart for a release in a namespace, with values files and further arguments.
    pub async fn template(
        &self,
        (release, ns): (&str, &str),
        files: &[&Path],
        further: &[&str],
    ) -> Result<Said> {
        let chart = chart().display().to_string();
        let mut args = vec!["template", release, &chart, "--namespace", ns];
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        for file in &files {
            args.extend(["--values", file]);
        }
        args.extend(further);
        self.helm(None, &args).await
    }

    async fn run(&self, program: &str, kubeconfig: Option<&Path>, args: &[&str]) -> Result<Said> {
        let home = self.home.dir();
        let none = home.join("no-kubeconfig");
        let output = Command::new(self.folder.join(program))
            .current_dir(workspace_dir())
            .args(args)
            .env_clear()
            .env("HOME", home)
            .env("KUBECONFIG", kubeconfig.unwrap_or(&none))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("could not start {program}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said {
            ok: output.status.success(),
            out: text(output.stdout),
            err: text(output.stderr),
            what: format!(
                "{program} {}",
                args.iter().take(2).copied().collect::<Vec<_>>().join(" ")
            ),
        })
    }
}
