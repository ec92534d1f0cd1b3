//! Where etcd, kube-apiserver and kube-controller-manager come from: `KUBEBUILDER_ASSETS` (what `setup-envtest`
//! prints), then the project's build cache, then the Go module in `tools/controlplane` (spec part 10).

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

/// The three programs of a control plane.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The store.
    pub etcd: PathBuf,
    /// The API server.
    pub apiserver: PathBuf,
    /// The controllers of Kubernetes itself.
    pub controller_manager: PathBuf,
}

/// File names in the build cache. etcd's main package is called `server`.
const BUILT: [&str; 3] = ["server", "kube-apiserver", "kube-controller-manager"];
/// File names in `KUBEBUILDER_ASSETS`.
const ASSETS: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];
/// Copy of the `go.mod` that the cached binaries were built from.
const STAMP: &str = "built-from.go.mod";
/// Time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Finds the programs, building them when there are none. Blocks, the first time for minutes.
pub fn find() -> Result<Binaries> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from);
    let mut found = ASSETS.map(|name| {
        assets
            .as_ref()
            .map(|dir| dir.join(name))
            .filter(|path| path.exists())
    });
    // setup-envtest brings no controller manager: what the assets lack comes from the cache.
    if found.iter().any(Option::is_none) {
        let cache = target_dir().join("controlplane");
        ensure_built(&cache)?;
        for (path, name) in found.iter_mut().zip(BUILT) {
            path.get_or_insert_with(|| cache.join(name));
        }
    }
    let [Some(etcd), Some(apiserver), Some(controller_manager)] = found else {
        bail!("no complete control plane was found");
    };
    Ok(Binaries {
        etcd,
        apiserver,
        controller_manager,
    })
}

fn ensure_built(cache: &Path) -> Result<()> {
    let module = workspace_dir().join("tools").join("controlplane");
    let go_mod = fs::read_to_string(module.join("go.mod"))
        .with_context(|| format!("could not read go.mod in {}", module.display()))?;
    if is_current(cache, &go_mod) {
        return Ok(());
    }
    let parent = cache.parent().context("the build cache has no parent folder")?;
    fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))?;
    let lock = File::create(parent.join("controlplane.lock")).context("could not create the lock file")?;
    if lock.try_lock().is_err() {
        say("Another process builds the control plane; waiting for it.");
        lock.lock().context("could not lock the control plane's build")?;
    }
    if is_current(cache, &go_mod) {
        return Ok(());
    }
    let fresh = tempfile::Builder::new()
        .prefix("controlplane-")
        .tempdir_in(parent)
        .context("could not make a folder to build in")?;
    build(&module, &go_mod, fresh.path())?;
    fs::write(fresh.path().join(STAMP), &go_mod).context("could not write the stamp")?;
    let fresh = fresh.keep();
    if cache.exists() {
        // Running control planes keep the files that they have open.
        let old = parent.join(format!("controlplane-old-{}", std::process::id()));
        fs::rename(cache, &old).context("could not move the old control plane away")?;
        fs::rename(&fresh, cache).context("could not move the new control plane in place")?;
        fs::remove_dir_all(&old).context("could not remove the old control plane")?;
    } else {
        fs::rename(&fresh, cache).context("could not move the control plane in place")?;
    }
    Ok(())
}

/// Whether the cache has all programs, built from this `go.mod`. A cache without a stamp was filled by hand and
/// is trusted.
fn is_current(cache: &Path, go_mod: &str) -> bool {
    let complete = BUILT.iter().all(|name| cache.join(name).exists());
    let fresh = fs::read_to_string(cache.join(STAMP)).map_or(true, |built_from| built_from == go_mod);
    complete && fresh
}

fn build(module: &Path, go_mod: &str, out: &Path) -> Result<()> {
    let version = kubernetes_version(go_mod).context("go.mod names no k8s.io/kubernetes version")?;
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
    let package = "k8s.io/component-base/version";
    // Without these, kubectl and helm cannot parse what the server says of itself.
    let ldflags = format!(
        "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    );
    say(&format!(
        "Building etcd and Kubernetes {version} with Go, once: this takes minutes (nearly ten on two cores)."
    ));
    let packages = count_packages(module);
    let mut go = Command::new("go")
        .current_dir(module)
        .args(["build", "-v", "-trimpath", "-ldflags", &ldflags, "-o"])
        .arg(format!("{}/", out.display()))
        .arg("tool")
        .env("CGO_ENABLED", "0")
        .env_remove("GOFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not run go; install Go 1.26 or newer, or set KUBEBUILDER_ASSETS")?;
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
        bail!("go build failed ({status}):\n{rest}");
    }
    say(&format!(
        "Built the control plane in {} s.",
        started.elapsed().as_secs()
    ));
    Ok(())
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

fn kubernetes_version(go_mod: &str) -> Option<&str> {
    go_mod
        .lines()
        .filter_map(|line| {
            line.trim()
                .trim_start_matches("require ")
                .strip_prefix("k8s.io/kubernetes ")
        })
        .find_map(|rest| rest.split_whitespace().next())
}

fn say(line: &str) {
    // Progress that cannot be shown is no reason to stop.
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_either_form_of_require() {
        assert_eq!(
            kubernetes_version("require k8s.io/kubernetes v1.36.3 // indirect\n"),
            Some("v1.36.3")
        );
        assert_eq!(
            kubernetes_version("require (\n\tk8s.io/kubernetes v1.37.0\n)"),
            Some("v1.37.0")
        );
        assert_eq!(kubernetes_version("module x\n"), None);
    }

    #[test]
    fn a_cache_from_another_go_mod_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_current(dir.path(), "a"));
        for name in BUILT {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert!(is_current(dir.path(), "a"));
        fs::write(dir.path().join(STAMP), "b").unwrap();
        assert!(!is_current(dir.path(), "a"));
        assert!(is_current(dir.path(), "b"));
    }
}
