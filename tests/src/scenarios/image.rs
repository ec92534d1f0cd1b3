//! The image: assembled from the built executables without a network, packed as an OCI layout, unpacked into an empty folder, and each executable
//! started there with nothing else in it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use muster_core::installation::Program;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::process::Command as Tool;

use crate::{
    control_plane::{ControlPlane, MANAGER, WEBHOOK_SERVER, free_port},
    keeper::{Keeper, target_dir, workspace_dir},
    process::{Command, ManagerConfig, Process, WebhookServerConfig, binary},
    world::ensure_rights,
};

/// Where the kubeconfig is, within the root.
const KUBECONFIG: &str = "/kubeconfig";
/// Where the authorities are, within the root.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Executables that every image has.
const REQUIRED: [Program; 2] = [Program::Manager, Program::WebhookServer];

/// How executables can be started in a root of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With the root as their own: the kernel lets a user do that in a namespace of users.
    Chroot,
    /// By the root's loader and libraries; the rest of the machine's files could be seen.
    Loader,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How they were started.
    pub how: How,
    /// Those that were started and answered.
    pub started: Vec<&'static str>,
    /// Files of the root.
    pub files: usize,
    /// Size of the packed layer, in bytes.
    pub packed: u64,
    /// User of the image.
    pub user: String,
    /// Executables of the root that do not answer, and why.
    pub failed: Vec<String>,
}

impl Figures {
    /// Whether the image is as promised.
    pub fn is_good(&self) -> bool {
        let has = |program: &Program| self.started.contains(&program.name());
        self.failed.is_empty() && REQUIRED.iter().all(has) && self.user == "65532:65532"
    }
}

/// Builds, packs, unpacks and starts.
pub async fn run(plane: Option<Arc<ControlPlane>>) -> Result<Figures> {
    let plane = match plane {
        Some(plane) => plane,
        None => ControlPlane::shared().await?,
    };
    ensure_rights(&plane, false).await?;
    let folder = tempfile::Builder::new()
        .prefix("image-")
        .tempdir_in(target_dir())
        .context("could not make a folder for the image")?;
    let built = folder.path().join("built");
    let programs = binary("manager")?;
    let programs = programs.parent().context("the manager is in no folder")?;
    tool("image-root", &[programs, &built]).await?;
    let layout = folder.path().join("muster.tar");
    tool("image-layout", &[&built, &layout]).await?;
    let root = folder.path().join("root");
    let (packed, user) = unpack(&layout, folder.path(), &root).await?;
    let files = count(&root)?;
    let how = how(&root).await?;
    let mut figures = Figures {
        how,
        started: Vec::new(),
        files,
        packed,
        user,
        failed: Vec::new(),
    };
    let keeper = Arc::new(Keeper::new("image")?);
    for (program, name) in Program::ALL {
        if !root.join(name).is_file() {
            continue;
        }
        let user = if program == Program::Manager {
            MANAGER
        } else {
            WEBHOOK_SERVER
        };
        fs::copy(
            plane.kubeconfig(user)?,
            root.join(KUBECONFIG.trim_start_matches('/')),
        )
        .context("could not give the root a kubeconfig")?;
        let command = within(command(program)?, name, &root, how)?;
        match Process::start(&keeper, command).await {
            Ok(mut process) => {
                process.check_alive()?;
                figures.started.push(name);
                process.kill()?;
            }
            Err(error) => figures.failed.push(format!("{name}: {error:#}")),
        }
    }
    Ok(figures)
}

/// Runs one of `tools/`.
async fn tool(name: &str, paths: &[&Path]) -> Result<()> {
    let ran = Tool::new(workspace_dir().join("tools").join(name))
        .args(paths)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("could not start tools/{name}"))?;
    ensure!(
        ran.status.success(),
        "tools/{name} failed: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    Ok(())
}

async fn untar(archive: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).context("could not make a folder to unpack in")?;
    let ran = Tool::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .arg("--no-same-owner")
        .kill_on_drop(true)
        .output()
        .await
        .context("could not start tar")?;
    ensure!(
        ran.status.success(),
        "tar failed: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    Ok(())
}

/// Follows the layout from its index to its layer, checks every digest on the way, and unpacks the layer. Answers its size and the image's user.
async fn unpack(archive: &Path, folder: &Path, root: &Path) -> Result<(u64, String)> {
    let layout = folder.join("layout");
    untar(archive, &layout).await?;
    let index = fs::read(layout.join("index.json")).context("the layout has no index.json")?;
    let index: Value = serde_json::from_slice(&index).context("index.json is no JSON")?;
    let (manifest, _) = blob(&layout, index.pointer("/manifests/0"))?;
    let manifest: Value = serde_json::from_slice(&manifest).context("the manifest is no JSON")?;
    let (config, _) = blob(&layout, manifest.pointer("/config"))?;
    let config: Value = serde_json::from_slice(&config).context("the configuration is no JSON")?;
    let (layer, path) = blob(&layout, manifest.pointer("/layers/0"))?;
    untar(&path, root).await?;
    let user = config.pointer("/config/User").and_then(Value::as_str);
    Ok((u64::try_from(layer.len())?, user.unwrap_or_default().to_owned()))
}

/// The bytes that a descriptor names.
fn blob(layout: &Path, descriptor: Option<&Value>) -> Result<(Vec<u8>, PathBuf)> {
    let descriptor = descriptor.context("a descriptor is missing")?;
    let digest = descriptor
        .get("digest")
        .and_then(Value::as_str)
        .and_then(|digest| digest.strip_prefix("sha256:"))
        .context("a descriptor has no digest")?;
    let path = layout.join("blobs/sha256").join(digest);
    let bytes = fs::read(&path).with_context(|| format!("the layout lacks blob {digest}"))?;
    let mut own = String::new();
    for byte in Sha256::digest(&bytes) {
        // Writing to a string does not fail.
        let _infallible = write!(own, "{byte:02x}");
    }
    ensure!(own == digest, "blob {digest} has digest {own}");
    let size = descriptor.get("size").and_then(Value::as_u64);
    ensure!(
        size == u64::try_from(bytes.len()).ok(),
        "blob {digest} has not the size {size:?}"
    );
    Ok((bytes, path))
}

fn count(folder: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))? {
        let entry = entry.context("could not read a folder entry")?;
        files += if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count(&entry.path())?
        } else {
            1
        };
    }
    Ok(files)
}

/// Whether this kernel lets a user have a root of their own.
async fn how(root: &Path) -> Result<How> {
    let tried = Tool::new("unshare")
        .args(["-r", "--fork", "--kill-child", "chroot"])
        .arg(root)
        .args(["/manager", "--help"])
        .kill_on_drop(true)
        .output()
        .await;
    match tried {
        Ok(ran) if ran.status.success() => Ok(How::Chroot),
        // Not for want of something in the root: that would not be found by the loader either.
        _ if loader(root).is_ok() => Ok(How::Loader),
        _ => bail!("the root has no loader, and cannot be a process's own"),
    }
}

/// The dynamic loader within the root.
fn loader(root: &Path) -> Result<PathBuf> {
    for folder in ["lib64", "lib"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else {
            continue;
        };
        for entry in entries {
            let path = entry.context("could not read a folder entry")?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            if name.is_some_and(|name| name.starts_with("ld-linux")) {
                return Ok(path);
            }
        }
    }
    bail!("there is no ld-linux in lib64 or lib of {}", root.display())
}

/// The command line of a program, with free ports.
fn command(program: Program) -> Result<Command> {
    let kubeconfig = PathBuf::from(KUBECONFIG);
    let nowhere = "http://127.0.0.1:9/".to_owned();
    Ok(match program {
        Program::Manager => {
            ManagerConfig {
                kubeconfig,
                github_url: nowhere.clone(),
                runner_github_url: nowhere,
                github_token: "a-token-for-nobody".to_owned(),
                namespace: Some("default".to_owned()),
                flags: Vec::new(),
            }
            .command()?
            .command
        }
        Program::WebhookServer => {
            WebhookServerConfig {
                kubeconfig,
                secret: "a webhook secret".to_owned(),
                namespace: Some("default".to_owned()),
                flags: Vec::new(),
            }
            .command()?
            .command
        }
        Program::MetricsServer => {
            let (webhook, metrics) = (free_port()?, free_port()?);
            let args = [
                format!("--webhook-addr=127.0.0.1:{webhook}"),
                format!("--metrics-addr=127.0.0.1:{metrics}"),
            ];
            Command {
                name: program.name().to_owned(),
                program: PathBuf::new(),
                args: args.into(),
                env: BTreeMap::from([(
                    "GITHUB_WEBHOOK_SECRET_TOKEN".to_owned(),
                    "a webhook secret".to_owned(),
                )]),
                ready: Some(format!("http://127.0.0.1:{webhook}/")),
            }
        }
    })
}

/// The same command, started within the root.
fn within(mut command: Command, name: &str, root: &Path, how: How) -> Result<Command> {
    let text = |path: &Path| path.display().to_string();
    let prefix: Vec<String> = match how {
        How::Chroot => {
            command.program = PathBuf::from("/usr/bin/unshare");
            let fixed = ["-r", "--fork", "--kill-child", "chroot"].map(str::to_owned);
            fixed
                .into_iter()
                .chain([text(root), format!("/{name}")])
                .collect()
        }
        How::Loader => {
            command.program = loader(root)?;
            let mut libraries = Vec::new();
            for folder in ["lib", "lib64", "usr/lib"] {
                libraries.extend(folders(&root.join(folder))?);
            }
            let own = root.join(KUBECONFIG.trim_start_matches('/'));
            for arg in &mut command.args {
                *arg = arg.replace(
                    &format!("--kubeconfig={KUBECONFIG}"),
                    &format!("--kubeconfig={}", text(&own)),
                );
            }
            if let Some(value) = command.env.get_mut("KUBECONFIG") {
                *value = text(&own);
            }
            vec![
                "--library-path".to_owned(),
                libraries.join(":"),
                text(&root.join(name)),
            ]
        }
    };
    command.args = prefix.into_iter().chain(command.args).collect();
    let authorities = match how {
        How::Chroot => AUTHORITIES.to_owned(),
        How::Loader => text(&root.join(AUTHORITIES.trim_start_matches('/'))),
    };
    command.env.insert("SSL_CERT_FILE".to_owned(), authorities);
    // A folder of this machine's is not there.
    command.env.insert("TMPDIR".to_owned(), "/tmp".to_owned());
    Ok(command)
}

/// A folder and those below it, where it exists.
fn folders(folder: &Path) -> Result<Vec<String>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = vec![folder.display().to_string()];
    for entry in fs::read_dir(folder).context("could not list a folder")? {
        let path = entry.context("could not read a folder entry")?.path();
        if path.is_dir() {
            found.extend(folders(&path)?);
        }
    }
    Ok(found)
}
