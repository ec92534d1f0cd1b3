//! What a program must not leave behind: processes without a parent, folders of the testbed, temporary files,
//! changes in the working copy.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::keeper::{target_dir, workspace_dir};

/// Watchdogs may take so long to clear away.
const PATIENCE: Duration = Duration::from_secs(15);
/// Programs that adopt processes whose parent has ended.
const REAPERS: [&str; 5] = ["systemd", "init", "tini", "dumb-init", "containerd-shim"];

/// What was there at one moment.
#[derive(Debug)]
pub(super) struct Traces {
    processes: BTreeSet<u32>,
    folders: BTreeSet<PathBuf>,
    changes: Option<String>,
    /// An empty folder for the temporary files of what is run.
    temporary: tempfile::TempDir,
}

impl Traces {
    /// Looks around.
    pub(super) fn now() -> Result<Self> {
        let target = target_dir();
        fs::create_dir_all(&target).with_context(|| format!("could not make {}", target.display()))?;
        Ok(Self {
            processes: processes().into_iter().map(|process| process.pid).collect(),
            folders: folders(),
            changes: changes(),
            temporary: tempfile::Builder::new()
                .prefix("accept-tmp-")
                .tempdir_in(&target)
                .context("could not make a folder for temporary files")?,
        })
    }

    /// Where temporary files have to go.
    pub(super) fn temporary(&self) -> &Path {
        self.temporary.path()
    }

    /// What has come since and belongs to nobody who lives, one line each. Waits a little for it to go.
    pub(super) fn left(&self) -> Result<Vec<String>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = self.left_now()?;
            if left.is_empty() || Instant::now() > end {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn left_now(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let (target, all) = (target_dir(), processes());
        let ours = target.display().to_string();
        let comm_of = |pid: u32| all.iter().find(|p| p.pid == pid).map(|p| p.comm.as_str());
        for process in &all {
            let is_orphan = process.parent == 1
                || comm_of(process.parent).is_none_or(|comm| REAPERS.iter().any(|r| comm.starts_with(r)));
            if is_orphan && process.command.contains(&ours) && !self.processes.contains(&process.pid) {
                left.push(format!("process {}: {}", process.pid, process.command));
            }
        }
        for folder in folders().difference(&self.folders) {
            // Somebody else's run in the same build folder has processes that work there.
            let path = folder.display().to_string();
            if !all.iter().any(|process| process.command.contains(&path)) {
                left.push(format!("folder {path}"));
            }
        }
        let entries = fs::read_dir(self.temporary()).context("could not list the temporary files")?;
        for entry in entries.flatten() {
            left.push(format!("temporary file {}", entry.path().display()));
        }
        if changes() != self.changes {
            left.push("git status differs".to_owned());
        }
        Ok(left)
    }
}

#[derive(Debug)]
struct ProcessEntry {
    pid: u32,
    parent: u32,
    comm: String,
    command: String,
}

fn processes() -> Vec<ProcessEntry> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let read = |file: &str| fs::read(entry.path().join(file)).ok();
            let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
            let (before, rest) = stat.rsplit_once(')')?;
            let command = read("cmdline")?;
            Some(ProcessEntry {
                pid,
                parent: rest.split_whitespace().nth(1)?.parse().ok()?,
                comm: before.split_once('(')?.1.to_owned(),
                command: String::from_utf8_lossy(&command)
                    .replace('\0', " ")
                    .trim()
                    .to_owned(),
            })
        })
        .collect()
}

/// Data folders of the testbed.
fn folders() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(target_dir().join("testbed"))
        .into_iter()
        .flatten()
        .flatten();
    entries.map(|entry| entry.path()).collect()
}

/// What git says of the working copy; `None` where there is no git.
fn changes() -> Option<String> {
    let output = Command::new("git")
        .current_dir(workspace_dir())
        .args(["status", "--porcelain"])
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_file_is_seen() {
        let traces = Traces::now().unwrap();
        assert!(
            processes()
                .iter()
                .any(|process| process.pid == std::process::id())
        );
        fs::write(traces.temporary().join("forgotten"), "").unwrap();
        let left = traces.left_now().unwrap();
        assert!(left.iter().any(|line| line.contains("forgotten")), "{left:?}");
    }
}
