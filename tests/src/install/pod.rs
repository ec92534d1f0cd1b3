//! What a pod of the release is as a process: its command line and environment as a kubelet would make them.
//!
//! Pods share this machine's loopback, so their ports are mapped: of each flag that says where to listen the port becomes a free one. Nothing
//! else of what the chart rendered is changed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    api::core::v1::{Container, EnvVar, HTTPGetAction, Pod, Secret},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{Api, Client, ResourceExt};

use crate::{control_plane::free_port, process::binary};

/// Flags whose value is an address.
const ADDRESS_FLAGS: [&str; 4] = [
    "metrics-addr",
    "health-probe-bind-address",
    "webhook-addr",
    "pprof-addr",
];
/// Flags whose value is a port.
const PORT_FLAGS: [&str; 1] = ["port"];
/// Where the HTTP components listen that are told nothing: their flag and its default.
const DEFAULT_ADDRESS: (&str, &str) = ("webhook-addr", ":8000");
/// The HTTP components.
const HTTP_COMPONENTS: [&str; 2] = ["/github-webhook-server", "/actions-metrics-server"];

/// A container's process.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
}

/// The ports of a pod, and where they are on this machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports(BTreeMap<u16, u16>);

impl Ports {
    /// Where the pod's port is.
    pub(super) fn of(&self, port: u16) -> Option<u16> {
        self.0.get(&port).copied()
    }

    fn map(&mut self, port: u16) -> Result<u16> {
        if let Some(known) = self.of(port) {
            return Ok(known);
        }
        let free = free_port()?;
        self.0.insert(port, free);
        Ok(free)
    }

    fn address(&mut self, address: &str) -> Result<String> {
        // "0" and "" are no addresses.
        let Some((_, port)) = address.rsplit_once(':') else {
            return Ok(address.to_owned());
        };
        let port = port
            .parse::<u16>()
            .with_context(|| format!("{address} has no port"))?;
        Ok(format!("127.0.0.1:{}", self.map(port)?))
    }

    /// A command line with its ports mapped.
    fn translate(&mut self, program: &str, args: &[String]) -> Result<Vec<String>> {
        let (flag, address) = DEFAULT_ADDRESS;
        let mut args = args.to_vec();
        if HTTP_COMPONENTS.contains(&program)
            && !args.iter().any(|arg| arg.starts_with(&format!("--{flag}=")))
        {
            args.push(format!("--{flag}={address}"));
        }
        let translate = |arg: String| -> Result<String> {
            let Some((name, value)) = arg.strip_prefix("--").and_then(|arg| arg.split_once('=')) else {
                return Ok(arg);
            };
            if ADDRESS_FLAGS.contains(&name) {
                return Ok(format!("--{name}={}", self.address(value)?));
            }
            if PORT_FLAGS.contains(&name) {
                let port = value
                    .parse::<u16>()
                    .with_context(|| format!("{arg} is no port"))?;
                return Ok(format!("--{name}={}", self.map(port)?));
            }
            Ok(arg)
        };
        args.into_iter().map(translate).collect()
    }
}

/// The executable that a container's command names, when it is one of ours.
pub(super) fn executable(container: &Container) -> Option<&str> {
    let command = container.command.as_deref()?.first()?;
    let is_ours = command == "/manager" || HTTP_COMPONENTS.contains(&command.as_str());
    is_ours.then_some(command.as_str())
}

/// The process of a container. `dir` is the pod's own folder.
pub(super) async fn program(
    client: &Client,
    pod: &Pod,
    container: &Container,
    ports: &mut Ports,
    dir: &Path,
) -> Result<Program> {
    let name = executable(container).context("the container is none of ours")?;
    let command = container.command.as_deref().unwrap_or_default();
    let words = container.args.as_deref().unwrap_or_default();
    let mut args = command.get(1..).unwrap_or_default().to_vec();
    args.extend(ports.translate(name, words)?);
    let ns = pod.namespace().unwrap_or_default();
    let mut env = BTreeMap::new();
    for variable in container.env.as_deref().unwrap_or_default() {
        if let Some(value) = value_of(client, pod, variable).await? {
            env.insert(variable.name.clone(), value);
        }
    }
    let tmp = mount(client, pod, container, &ns, dir).await?;
    env.insert("TMPDIR".to_owned(), tmp.display().to_string());
    env.insert("HOSTNAME".to_owned(), pod.name_any());
    env.insert("RUST_BACKTRACE".to_owned(), "1".to_owned());
    Ok(Program {
        path: binary(name.trim_start_matches('/'))?,
        args,
        env,
    })
}

async fn secret(client: &Client, ns: &str, name: &str) -> Result<Option<Secret>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), ns);
    api.get_opt(name)
        .await
        .with_context(|| format!("could not read Secret {ns}/{name}"))
}

async fn value_of(client: &Client, pod: &Pod, variable: &EnvVar) -> Result<Option<String>> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(variable.value.clone().unwrap_or_default()));
    };
    let ns = pod.namespace().unwrap_or_default();
    if let Some(key) = &from.secret_key_ref {
        let found = secret(client, &ns, &key.name).await?;
        let data = found.and_then(|secret| secret.data?.remove(&key.key));
        return match data {
            Some(bytes) => Ok(Some(String::from_utf8_lossy(&bytes.0).into_owned())),
            None if key.optional == Some(true) => Ok(None),
            None => bail!("Secret {ns}/{} has no {}", key.name, key.key),
        };
    }
    let field = from.field_ref.as_ref().map(|field| field.field_path.as_str());
    match field {
        Some("metadata.namespace") => Ok(Some(ns)),
        Some("metadata.name") => Ok(Some(pod.name_any())),
        _ => bail!(
            "{}: the testbed knows no such source of a variable",
            variable.name
        ),
    }
}

/// Puts the files of mounted Secrets where the process finds them, below the folder that is its `/tmp`.
async fn mount(client: &Client, pod: &Pod, container: &Container, ns: &str, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    let tmp = root.join("tmp");
    fs::create_dir_all(&tmp).context("could not make the pod's /tmp")?;
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    for mounted in container.volume_mounts.as_deref().unwrap_or_default() {
        let volume = volumes
            .unwrap_or_default()
            .iter()
            .find(|volume| volume.name == mounted.name)
            .with_context(|| format!("there is no volume {}", mounted.name))?;
        let folder = root.join(mounted.mount_path.trim_start_matches('/'));
        fs::create_dir_all(&folder).context("could not make a mount point")?;
        let Some(source) = &volume.secret else { continue };
        let name = source.secret_name.as_deref().unwrap_or_default();
        let Some(found) = secret(client, ns, name).await? else {
            if source.optional == Some(true) {
                continue;
            }
            bail!(
                "Secret {ns}/{name} does not exist, and volume {} needs it",
                volume.name
            );
        };
        for (file, content) in found.data.unwrap_or_default() {
            fs::write(folder.join(&file), content.0).with_context(|| format!("could not write {file}"))?;
        }
    }
    Ok(tmp)
}

/// The URL of a probe on this machine.
pub(super) fn probe_url(get: &HTTPGetAction, container: &Container, ports: &Ports) -> Result<String> {
    let port = port_number(&get.port, std::slice::from_ref(container))?;
    let here = ports
        .of(port)
        .with_context(|| format!("nothing of container {} listens on port {port}", container.name))?;
    Ok(format!(
        "http://127.0.0.1:{here}{}",
        get.path.as_deref().unwrap_or("/")
    ))
}

/// A port by its number, or by its name among the containers' ports.
pub(super) fn port_number(port: &IntOrString, containers: &[Container]) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => containers
            .iter()
            .flat_map(|container| container.ports.as_deref().unwrap_or_default())
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    let number = number.with_context(|| format!("the pod has no port {port:?}"))?;
    u16::try_from(number).with_context(|| format!("{number} is no port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_are_changed() {
        let mut ports = Ports::default();
        let args = [
            "--metrics-addr=127.0.0.1:8080",
            "--health-probe-bind-address=:8081",
            "--port=9443",
            "--sync-period=1m",
            "--enable-leader-election",
            "--runner-image=a:1",
        ]
        .map(str::to_owned);
        let made = ports.translate("/manager", &args).unwrap();
        let here = |port: u16| ports.of(port).unwrap();
        assert_eq!(made[0], format!("--metrics-addr=127.0.0.1:{}", here(8080)));
        assert_eq!(
            made[1],
            format!("--health-probe-bind-address=127.0.0.1:{}", here(8081))
        );
        assert_eq!(made[2], format!("--port={}", here(9443)));
        assert_eq!(made[3..], args[3..]);
        let made = ports.translate("/github-webhook-server", &[]).unwrap();
        assert_eq!(
            made,
            [format!("--webhook-addr=127.0.0.1:{}", ports.of(8000).unwrap())]
        );
    }
}
