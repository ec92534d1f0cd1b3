//! Programs that the acceptance list runs, each in a process group of its own so that it can be told to end with all
//! that it has started.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::keeper::workspace_dir;

/// How long a program may take to end after SIGINT.
const GRACE: Duration = Duration::from_secs(20);

/// Starts programs.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    /// Folder of the output.
    pub(super) logs: PathBuf,
    /// Folder for temporary files.
    pub(super) temporary: PathBuf,
    /// Everything ends when this is cancelled.
    pub(super) stop: CancellationToken,
}

/// A program that has ended.
#[derive(Debug)]
pub(super) struct Ran {
    /// Exit code; `None` after a signal.
    pub(super) code: Option<i32>,
    /// What it printed, both streams.
    pub(super) output: String,
    /// How long it took.
    pub(super) took: Duration,
}

impl Ran {
    /// Whether the exit code was 0.
    pub(super) fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// The last line that is not empty.
    pub(super) fn last_line(&self) -> &str {
        let mut lines = self.output.lines().map(str::trim);
        lines.rfind(|line| !line.is_empty()).unwrap_or_default()
    }

    /// Sum of the numbers of passed tests that `cargo test` printed.
    pub(super) fn tests_passed(&self) -> u32 {
        let results = self
            .output
            .lines()
            .filter_map(|line| line.strip_prefix("test result: "));
        results
            .filter_map(|rest| {
                let (before, _) = rest.split_once(" passed")?;
                before.rsplit(' ').next()?.parse::<u32>().ok()
            })
            .sum()
    }
}

impl Runner {
    /// Runs `program` in the workspace; its output goes to `<item>.log`, after what is there. With `interrupt_after`
    /// it is sent SIGINT after that time.
    pub(super) async fn run(
        &self,
        item: &str,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        interrupt_after: Option<Duration>,
    ) -> Result<Ran> {
        let path = self.logs.join(format!("{item}.log"));
        let begin = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("could not open {}", path.display()))?;
        let begun = Instant::now();
        let mut child = Command::new(program)
            .current_dir(workspace_dir())
            .args(args)
            .env("TMPDIR", &self.temporary)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("could not share the log")?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let waiting = async {
            match interrupt_after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = child.wait() => Some(ended),
            () = waiting => None,
            () = self.stop.cancelled() => None,
        };
        let status = match ended {
            Some(status) => status.context("could not wait for the program")?,
            None => end(&mut child).await?,
        };
        let all = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        let own = all.get(usize::try_from(begin).unwrap_or(0)..).unwrap_or_default();
        Ok(Ran {
            code: status.code(),
            output: String::from_utf8_lossy(own).into_owned(),
            took: begun.elapsed(),
        })
    }
}

/// Interrupts the program and what it has started, then kills it.
async fn end(child: &mut Child) -> Result<std::process::ExitStatus> {
    signal(child, "INT").await?;
    if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
        return status.context("could not wait for the program");
    }
    signal(child, "KILL").await?;
    child.wait().await.context("could not wait for the program")
}

async fn signal(child: &Child, signal: &str) -> Result<()> {
    let Some(pid) = child.id() else { return Ok(()) };
    // The crate forbids unsafe code, and the standard library sends SIGKILL only.
    Command::new("/bin/sh")
        .args([
            "-c",
            r#"kill -"$1" -"$2""#,
            "accept-signal",
            signal,
            &pid.to_string(),
        ])
        .status()
        .await
        .map(drop)
        .context("could not run kill")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_added_up() {
        let ran = Ran {
            code: Some(0),
            output: "test result: ok. 12 passed; 0 failed\nx\ntest result: ok. 3 passed; 0 failed\n\n".into(),
            took: Duration::ZERO,
        };
        assert_eq!(ran.tests_passed(), 15);
        assert_eq!(ran.last_line(), "test result: ok. 3 passed; 0 failed");
    }
}
