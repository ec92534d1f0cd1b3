//! Where etcd, kube-apiserver and kube-controller-manager come from: `KUBEBUILDER_ASSETS` (what `setup-envtest`
//! prints), then the project's build cache, then the Go module in `tools/controlplane` (spec part 10).

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    go::{GoModule, LINK_SMALL},
    keeper::workspace_dir,
};

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
        let cache = module()?.ensure_built()?;
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

fn module() -> Result<GoModule> {
    let file = workspace_dir().join("tools/controlplane/go.mod");
    let go_mod = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    let version = kubernetes_version(&go_mod).context("go.mod names no k8s.io/kubernetes version")?;
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
    let package = "k8s.io/component-base/version";
    Ok(GoModule {
        name: "controlplane",
        what: format!("etcd and Kubernetes {version}"),
        sources: &["go.mod"],
        programs: &BUILT,
        // Without these, kubectl and helm cannot parse what the server says of itself.
        ldflags: format!(
            "{LINK_SMALL} -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        ),
    })
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
}
