//! The real binaries as processes, started with the command lines and the environment that users give them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    control_plane::free_port,
    keeper::{Keeper, Kept},
};

/// How long a binary may take until it answers its health endpoint.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Time between two looks at a starting process.
const POLL: Duration = Duration::from_millis(25);

/// What a process is started with, every time.
#[derive(Clone, Debug)]
pub struct Command {
    /// Name in logs and error messages.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// The command line.
    pub args: Vec<String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The URL that answers 2xx once the process is ready; `None`: ready at once.
    pub ready: Option<String>,
}

/// A running (or killed) process that can be started again.
#[derive(Debug)]
pub struct Process {
    command: Command,
    running: Option<Kept>,
    keeper: Arc<Keeper>,
    http: reqwest::Client,
    starts: usize,
}

impl Process {
    /// Starts the process and waits until it is ready.
    pub async fn start(keeper: &Arc<Keeper>, command: Command) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(2))
            .build()
            .context("could not make an HTTP client")?;
        let mut process = Self {
            command,
            running: None,
            keeper: keeper.clone(),
            http,
            starts: 0,
        };
        process.restart().await?;
        Ok(process)
    }

    /// What the process is started with; changes count from the next restart on.
    pub fn command_mut(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Kills the process if it runs, starts it anew and waits until it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.ready().await
    }

    /// Kills the process if it runs and starts it anew, without waiting for it.
    pub fn launch(&mut self) -> Result<()> {
        self.kill()?;
        let Command {
            name,
            program,
            args,
            env,
            ..
        } = &self.command;
        self.running = Some(self.keeper.spawn(name, program, args, env)?);
        self.starts += 1;
        Ok(())
    }

    /// Waits until the process answers its health endpoint.
    pub async fn ready(&mut self) -> Result<()> {
        let running = self
            .running
            .as_mut()
            .with_context(|| format!("{} is not running", self.command.name))?;
        let Some(url) = &self.command.ready else {
            return Ok(());
        };
        let until = Instant::now() + READY_DEADLINE;
        loop {
            running.check_alive()?;
            if let Ok(answer) = self.http.get(url).send().await
                && answer.status().is_success()
            {
                return Ok(());
            }
            if Instant::now() > until {
                bail!(
                    "{} did not answer {url} within {READY_DEADLINE:?}; the end of its log:\n{}",
                    self.command.name,
                    running.log_tail(4_000)
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills the process (SIGKILL) and waits until it is gone. Nothing happens when it does not run.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill()?;
        }
        Ok(())
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    pub async fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let mut running = self
            .running
            .take()
            .with_context(|| format!("{} is not running", self.command.name))?;
        running.terminate()?;
        running.wait(deadline).await
    }

    /// Fails with the end of the log when the process has ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        match &mut self.running {
            Some(running) => running.check_alive(),
            None => Ok(()),
        }
    }

    /// Whether the process has ended by itself, with these words at the end of its log.
    pub fn has_ended_with(&mut self, words: &str) -> bool {
        self.running
            .as_mut()
            .is_some_and(|running| running.ended().is_some() && running.log_tail(1_000).contains(words))
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.running
            .as_mut()
            .is_some_and(|running| running.ended().is_none())
    }

    /// The process itself, for signals.
    pub fn running_mut(&mut self) -> Option<&mut Kept> {
        self.running.as_mut()
    }

    /// How often the process was started.
    pub fn starts(&self) -> usize {
        self.starts
    }

    /// The log file, which all starts share.
    pub fn log(&self) -> PathBuf {
        self.keeper.dir().join(format!("{}.log", self.command.name))
    }

    /// The last part of the log, `bytes` long at most.
    pub fn log_tail(&self, bytes: u64) -> String {
        self.running.as_ref().map_or_else(
            || format!("({} is not running)", self.command.name),
            |r| r.log_tail(bytes),
        )
    }
}

/// Where [`binary`] looks instead of beside this program.
static ELSEWHERE: OnceLock<PathBuf> = OnceLock::new();

/// Starts the executables of another folder from now on: the optimized ones, say.
pub fn use_binaries_of(folder: &Path) -> Result<()> {
    let chosen = ELSEWHERE.get_or_init(|| folder.to_path_buf());
    if chosen != folder {
        bail!("the binaries of {} are in use already", chosen.display());
    }
    Ok(())
}

/// The executable `name`, built by cargo into the folder that this program is in (or into the one that
/// [`use_binaries_of`] names).
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = ELSEWHERE.get() {
        let program = folder.join(name);
        if !program.is_file() {
            bail!(
                "{} does not exist; run `cargo build --workspace --bins --release` first",
                program.display()
            );
        }
        return Ok(program);
    }
    let own = std::env::current_exe().context("could not find this program's own path")?;
    let folder = own.parent().context("this program is in no folder")?;
    // Tests are in `deps`, examples in `examples`.
    let mut candidates = vec![folder.join(name)];
    candidates.extend(folder.parent().map(|profile| profile.join(name)));
    let found = candidates.iter().find(|path| path.is_file());
    found.cloned().with_context(|| {
        format!(
            "{name} was not found in {}; run `cargo build --workspace --bins` first",
            folder.display()
        )
    })
}

/// How the manager is started.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Kubeconfig file, for the user that the manager runs as.
    pub kubeconfig: PathBuf,
    /// Base URL of GitHub's API.
    pub github_url: String,
    /// Base URL that runners register against.
    pub runner_github_url: String,
    /// Personal access token.
    pub github_token: String,
    /// The only namespace to look at; `None` for all.
    pub namespace: Option<String>,
    /// Further flags, for example `--default-scale-down-delay=5s`.
    pub flags: Vec<String>,
}

/// A manager's command line and where it listens.
#[derive(Clone, Debug)]
pub struct ManagerCommand {
    /// To start it with.
    pub command: Command,
    /// `http://…/metrics`.
    pub metrics_url: String,
    /// Where its admission webhooks are, when it has a certificate.
    pub webhook_port: u16,
}

impl ManagerConfig {
    /// The command line, with free ports.
    pub fn command(&self) -> Result<ManagerCommand> {
        let (metrics, health, webhook_port) = (free_port()?, free_port()?, free_port()?);
        let mut args = flags(&[
            ("kubeconfig", &path(&self.kubeconfig)),
            ("metrics-addr", &format!("127.0.0.1:{metrics}")),
            ("health-probe-bind-address", &format!("127.0.0.1:{health}")),
            // Opened only where there is a certificate; two managers must not share 9443.
            ("port", &webhook_port.to_string()),
            ("github-token", &self.github_token),
            ("github-url", &self.github_url),
            ("runner-github-url", &self.runner_github_url),
            ("sync-period", "1m"),
            ("log-level", "debug"),
        ]);
        if let Some(ns) = &self.namespace {
            args.push(format!("--watch-namespace={ns}"));
        }
        args.extend(self.flags.iter().cloned());
        let command = Command {
            name: "manager".to_owned(),
            program: binary("manager")?,
            args,
            env: environment(),
            ready: Some(format!("http://127.0.0.1:{health}/readyz")),
        };
        Ok(ManagerCommand {
            command,
            metrics_url: format!("http://127.0.0.1:{metrics}/metrics"),
            webhook_port,
        })
    }
}

/// How the webhook server is started.
#[derive(Clone, Debug)]
pub struct WebhookServerConfig {
    /// Kubeconfig file, for the user that the server runs as.
    pub kubeconfig: PathBuf,
    /// Secret that deliveries are signed with.
    pub secret: String,
    /// The only namespace to look at; `None` for all.
    pub namespace: Option<String>,
    /// Further flags.
    pub flags: Vec<String>,
}

/// The command line of a server of webhooks, and where it listens.
#[derive(Clone, Debug)]
pub struct WebhookServerCommand {
    /// To start it with.
    pub command: Command,
    /// Where deliveries go.
    pub url: String,
    /// `http://…/metrics`.
    pub metrics_url: String,
}

impl WebhookServerConfig {
    /// The command line, with free ports.
    pub fn command(&self) -> Result<WebhookServerCommand> {
        let (webhook, metrics) = (free_port()?, free_port()?);
        let mut args = flags(&[
            ("webhook-addr", &format!("127.0.0.1:{webhook}")),
            ("metrics-addr", &format!("127.0.0.1:{metrics}")),
            ("github-webhook-secret-token", &self.secret),
            ("log-level", "debug"),
        ]);
        if let Some(ns) = &self.namespace {
            args.push(format!("--watch-namespace={ns}"));
        }
        args.extend(self.flags.iter().cloned());
        let mut env = environment();
        env.insert("KUBECONFIG".to_owned(), path(&self.kubeconfig));
        let url = format!("http://127.0.0.1:{webhook}/");
        let command = Command {
            name: "github-webhook-server".to_owned(),
            program: binary("github-webhook-server")?,
            args,
            env,
            ready: Some(url.clone()),
        };
        Ok(WebhookServerCommand {
            command,
            url,
            metrics_url: format!("http://127.0.0.1:{metrics}/metrics"),
        })
    }
}

/// How the metrics server is started.
#[derive(Clone, Debug)]
pub struct MetricsServerConfig {
    /// Base URL of GitHub's API.
    pub github_url: String,
    /// Personal access token; none where logs stay unread.
    pub github_token: Option<String>,
    /// Secret that deliveries are signed with.
    pub secret: String,
    /// Further flags.
    pub flags: Vec<String>,
}

impl MetricsServerConfig {
    /// The command line, with free ports.
    pub fn command(&self) -> Result<WebhookServerCommand> {
        let (webhook, metrics) = (free_port()?, free_port()?);
        let mut args = flags(&[
            ("webhook-addr", &format!("127.0.0.1:{webhook}")),
            ("metrics-addr", &format!("127.0.0.1:{metrics}")),
            ("github-url", &self.github_url),
            ("log-level", "debug"),
        ]);
        args.extend(self.flags.iter().cloned());
        let mut env = environment();
        env.insert("GITHUB_WEBHOOK_SECRET_TOKEN".to_owned(), self.secret.clone());
        if let Some(token) = &self.github_token {
            env.insert("GITHUB_TOKEN".to_owned(), token.clone());
        }
        let command = Command {
            name: "actions-metrics-server".to_owned(),
            program: binary("actions-metrics-server")?,
            args,
            env,
            ready: Some(format!("http://127.0.0.1:{metrics}/readyz")),
        };
        Ok(WebhookServerCommand {
            command,
            url: format!("http://127.0.0.1:{webhook}/"),
            metrics_url: format!("http://127.0.0.1:{metrics}/metrics"),
        })
    }
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs
        .iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect()
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn environment() -> BTreeMap<String, String> {
    BTreeMap::from([("RUST_BACKTRACE".to_owned(), "1".to_owned())])
}
