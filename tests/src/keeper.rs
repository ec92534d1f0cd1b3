//! Keeps child processes and their files from outliving the process that started them.
//!
//! A keeper owns a directory and a *watchdog*: a small shell that reads from a pipe whose other end only the
//! parent holds. However the parent ends (return, panic, Ctrl-C, SIGKILL), the pipe closes; the watchdog then
//! kills every child that is registered in the directory and removes the directory. Children register by
//! themselves before they become the program they are to run, so there is no moment at which one is unknown.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Runs until its standard input closes, then kills the processes of `$1/pids` and removes `$1`. The rename
/// comes first: a child that registers later fails to, and does not start.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP QUIT
while read -r _; do :; done
mv "$1/pids" "$1/ended" 2>/dev/null
for f in "$1"/ended/*; do
  [ -e "$f" ] || continue
  n=0
  while [ ! -s "$f" ] && [ $n -lt 20 ]; do sleep 0.05; n=$((n + 1)); done
  read -r pid <"$f" && kill -KILL "$pid" 2>/dev/null
done
n=0
while [ $n -lt 50 ]; do
  rm -rf "$1" 2>/dev/null && [ ! -e "$1" ] && exit 0
  sleep 0.1; n=$((n + 1))
done
exit 1
"#;

/// Writes its own process id to the file `$1`, then becomes the program that follows.
const REGISTER: &str = r#"echo $$ >"$1" || exit 125; shift; exec "$@""#;

/// A directory and the processes that work in it; both end with this value, or with this process.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    watchdog: Child,
    /// Open as long as this process lives. `None` only while dropping.
    lifeline: Option<ChildStdin>,
}

impl Keeper {
    /// Makes a new directory `<prefix>-…` under the build folder and starts its watchdog.
    pub fn new(prefix: &str) -> Result<Self> {
        let base = scratch_dir()?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{prefix}-"))
            .tempdir_in(&base)
            .with_context(|| format!("could not make a directory in {}", base.display()))?
            .keep();
        fs::create_dir(dir.join("pids")).context("could not make the directory of process ids")?;
        let mut watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "muster-watchdog"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("could not start the watchdog shell")?;
        let lifeline = watchdog.stdin.take();
        Ok(Self {
            dir,
            watchdog,
            lifeline,
        })
    }

    /// The directory; everything in it goes when the keeper does.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a program with an environment of its own (nothing of this process's is inherited but `PATH`, `HOME`
    /// and the temporary directory); its output is appended to `<dir>/<name>.log`.
    pub fn spawn(
        &self,
        name: &str,
        program: &Path,
        args: &[String],
        env: &BTreeMap<String, String>,
    ) -> Result<Kept> {
        if !program.exists() {
            bail!("{} does not exist", program.display());
        }
        let log = self.dir.join(format!("{name}.log"));
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("could not open {}", log.display()))?;
        let err = out.try_clone().context("could not share the log file")?;
        let registration = self.dir.join("pids").join(name);
        let child = Command::new("/bin/sh")
            .args(["-c", REGISTER, "muster-start"])
            .arg(&registration)
            .arg(program)
            .args(args)
            .env_clear()
            .envs(inherited())
            .envs(env)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {name}"))?;
        Ok(Kept {
            name: name.to_owned(),
            child,
            log,
            registration,
            ended: None,
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // Nothing to do about a failure here: the watchdog has done what it could.
        drop(self.watchdog.wait());
    }
}

/// A process that a [`Keeper`] started. Dropping it kills it.
#[derive(Debug)]
pub struct Kept {
    name: String,
    child: Child,
    log: PathBuf,
    registration: PathBuf,
    ended: Option<ExitStatus>,
}

impl Kept {
    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with the process's output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last part of the output, `bytes` long at most.
    pub fn log_tail(&self, bytes: u64) -> String {
        tail(&self.log, bytes).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// How the process ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.note_end(status);
        }
        self.ended
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.child
            .kill()
            .with_context(|| format!("could not kill {}", self.name))?;
        let status = self
            .child
            .wait()
            .with_context(|| format!("could not wait for {}", self.name))?;
        self.note_end(status);
        Ok(status)
    }

    /// Sends SIGTERM, as Kubernetes does, and returns at once.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal("TERM")
    }

    /// Stops the process without its notice (SIGSTOP); [`resume`](Self::resume) continues it.
    pub fn pause(&mut self) -> Result<()> {
        self.signal("STOP")
    }

    /// Continues a paused process.
    pub fn resume(&mut self) -> Result<()> {
        self.signal("CONT")
    }

    /// Waits until the process has ended by itself.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("{} still runs after {deadline:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Fails with the end of the log when the process is not running any more.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                let how = status
                    .signal()
                    .map_or_else(|| status.to_string(), |s| format!("signal {s}"));
                bail!(
                    "{} ended ({how}); the end of its log:\n{}",
                    self.name,
                    self.log_tail(4_000)
                )
            }
        }
    }

    fn signal(&mut self, signal: &str) -> Result<()> {
        if self.ended().is_some() {
            bail!("{} has ended already", self.name);
        }
        // The crate forbids unsafe code, and the standard library sends SIGKILL only.
        let status = Command::new("/bin/sh")
            .args(["-c", r#"kill -"$1" "$2""#, "muster-signal", signal])
            .arg(self.child.id().to_string())
            .status()
            .context("could not run kill")?;
        if !status.success() {
            bail!("could not send SIG{signal} to {}", self.name);
        }
        Ok(())
    }

    /// The process id may be given to somebody else from now on: the watchdog must not know it any more.
    fn note_end(&mut self, status: ExitStatus) {
        self.ended = Some(status);
        drop(fs::remove_file(&self.registration));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // When this fails the watchdog is still there.
        drop(self.kill());
    }
}

/// The workspace's build folder: `CARGO_TARGET_DIR`, or `target` in the workspace.
pub fn target_dir() -> PathBuf {
    let workspace = workspace_dir();
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => workspace.join(dir),
        _ => workspace.join("target"),
    }
}

/// The workspace's top folder, as it was at compile time.
pub fn workspace_dir() -> PathBuf {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member.parent().unwrap_or(member).to_path_buf()
}

/// Where data of running tests lives. Inside the build folder, so that a machine that loses power has nothing
/// left outside of it.
fn scratch_dir() -> Result<PathBuf> {
    let dir = target_dir().join("testbed");
    fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
    Ok(dir)
}

/// The variables that children get from this process: a developer's `GITHUB_TOKEN` or `HTTPS_PROXY` must not reach
/// the programs under test. `LLVM_PROFILE_FILE` is how coverage is collected.
fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"]
        .into_iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
}

fn tail(path: &Path, bytes: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
