//! Programs that Go builds: each module in `tools/` pins what it needs, and is built when that is first needed.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::keeper::{target_dir, workspace_dir};

/// Linker flags that leave out what only a debugger reads.
pub(crate) const LINK_SMALL: &str = "-s -w";
/// What the cached programs were built from.
const STAMP: &str = "built-from.go.mod";
/// Time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// A module in `tools/` and the programs that it builds.
#[derive(Clone, Debug)]
pub(crate) struct GoModule {
    /// Its folder in `tools/`, and in the build folder.
    pub(crate) name: &'static str,
    /// What it builds, for people.
    pub(crate) what: String,
    /// Files of the module whose change makes the programs stale.
    pub(crate) sources: &'static [&'static str],
    /// File names of the programs.
    pub(crate) programs: &'static [&'static str],
    /// For the linker.
    pub(crate) ldflags: String,
}

impl GoModule {
    /// The folder of the programs, which are built unless they are there. Blocks, the first time for minutes.
    pub(crate) fn ensure_built(&self) -> Result<PathBuf> {
        let cache = target_dir().join(self.name);
        let module = workspace_dir().join("tools").join(self.name);
        let sources = self.read_sources(&module)?;
        if self.is_current(&cache, &sources) {
            return Ok(cache);
        }
        let parent = cache.parent().context("the build cache has no parent folder")?;
        fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))?;
        let lock = File::create(parent.join(format!("{}.lock", self.name)))
            .context("could not create the lock file")?;
        if lock.try_lock().is_err() {
            say(&format!("Another process builds {}; waiting for it.", self.what));
            lock.lock().context("could not lock the build")?;
        }
        if self.is_current(&cache, &sources) {
            return Ok(cache);
        }
        let fresh = tempfile::Builder::new()
            .prefix(&format!("{}-", self.name))
            .tempdir_in(parent)
            .context("could not make a folder to build in")?;
        self.build(&module, fresh.path())?;
        fs::write(fresh.path().join(STAMP), &sources).context("could not write the stamp")?;
        let fresh = fresh.keep();
        if cache.exists() {
            // Running programs keep the files that they have open.
            let old = parent.join(format!("{}-old-{}", self.name, std::process::id()));
            fs::rename(&cache, &old).context("could not move the old programs away")?;
            fs::rename(&fresh, &cache).context("could not move the new programs in place")?;
            fs::remove_dir_all(&old).context("could not remove the old programs")?;
        } else {
            fs::rename(&fresh, &cache).context("could not move the programs in place")?;
        }
        Ok(cache)
    }

    fn read_sources(&self, module: &Path) -> Result<String> {
        let read = |file: &&str| {
            let path = module.join(file);
            fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
        };
        self.sources.iter().map(read).collect()
    }

    /// Whether the cache has all programs, built from these sources. A cache without a stamp was filled by hand and is
    /// trusted.
    fn is_current(&self, cache: &Path, sources: &str) -> bool {
        let complete = self.programs.iter().all(|name| cache.join(name).exists());
        let fresh = fs::read_to_string(cache.join(STAMP)).map_or(true, |built_from| built_from == sources);
        complete && fresh
    }

    fn build(&self, module: &Path, out: &Path) -> Result<()> {
        say(&format!(
            "Building {} with Go, once: this takes minutes on few cores.",
            self.what
        ));
        let packages = count_packages(module);
        let mut go = Command::new("go")
            .current_dir(module)
            .args(["build", "-v", "-trimpath", "-ldflags", &self.ldflags, "-o"])
            .arg(format!("{}/", out.display()))
            .arg("tool")
            .env("CGO_ENABLED", "0")
            .env_remove("GOFLAGS")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!(
                    "could not run go; install Go 1.26 or newer: it builds {}",
                    self.what
                )
            })?;
        let stderr = go.stderr.take().context("go has no output")?;
        let compiled = Arc::new(AtomicUsize::new(0));
        let counter = compiled.clone();
        let reader = std::thread::spawn(move || read_progress(BufReader::new(stderr), &counter));
        let started = Instant::now();
        let mut next = started + PROGRESS_EVERY;
        let status = loop {
            if let Some(status) = go.try_wait().context("could not wait for go")? {
                break status;
            }
            if Instant::now() >= next {
                let done = compiled.load(Ordering::Relaxed);
                say(&format!(
                    "  {done} of at most {packages} packages, {} s",
                    started.elapsed().as_secs()
                ));
                next += PROGRESS_EVERY;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let rest = reader.join().unwrap_or_default();
        if !status.success() {
            bail!("go build of {} failed ({status}):\n{rest}", self.what);
        }
        say(&format!(
            "Built {} in {} s.",
            self.what,
            started.elapsed().as_secs()
        ));
        Ok(())
    }
}

/// Counts the packages that `go build -v` names, and keeps the last lines of everything else.
fn read_progress(lines: impl BufRead, compiled: &AtomicUsize) -> String {
    let mut kept = Vec::new();
    for line in lines.lines().map_while(std::io::Result::ok) {
        if line.contains(' ') || line.starts_with('#') {
            kept.push(line);
        } else {
            compiled.fetch_add(1, Ordering::Relaxed);
        }
    }
    let from = kept.len().saturating_sub(40);
    kept.split_off(from).join("\n")
}

/// How many packages the programs consist of; zero when go does not say.
fn count_packages(module: &Path) -> usize {
    Command::new("go")
        .current_dir(module)
        .args(["list", "-deps", "tool"])
        .env("CGO_ENABLED", "0")
        .env_remove("GOFLAGS")
        .stderr(Stdio::inherit())
        .output()
        .map_or(0, |output| output.stdout.split(|byte| *byte == b'\n').count())
}

fn say(line: &str) {
    // Progress that cannot be shown is no reason to stop.
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_from_another_go_mod_is_stale() {
        let module = GoModule {
            name: "none",
            what: "nothing".to_owned(),
            sources: &[],
            programs: &["one", "two"],
            ldflags: String::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        assert!(!module.is_current(dir.path(), "a"));
        for name in module.programs {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert!(module.is_current(dir.path(), "a"));
        fs::write(dir.path().join(STAMP), "b").unwrap();
        assert!(!module.is_current(dir.path(), "a"));
        assert!(module.is_current(dir.path(), "b"));
    }
}
