//! The command line and environment of `github-webhook-server` (spec 03 §1.2), with a few flags of our own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use muster_intake::{SecretFlags, positive, secret};
use muster_runtime::args::{
    self, Env, Exit, GitHubArgs, GitHubEnv, GitHubFlags, GoDuration, LogArgs, LogFlags,
};
use muster_runtime::lease;
use muster_runtime::serve::Address;
use secrecy::SecretString;

use crate::replay::{HookName, ReplaySettings};

/// Deliveries that may wait for their commit where `--queue-limit` is absent or not positive. Upstream's 100
/// counts events that were answered already; here each is an open connection, and there are 512 of these at
/// most.
pub const DEFAULT_QUEUE_LIMIT: usize = 1_024;

const DEBUG_TOKEN_VARIABLE: &str = "MUSTER_DEBUG_TOKEN";

/// Receives GitHub's webhooks and writes the demand for runners into autoscalers.
#[derive(Debug, clap::Parser)]
#[command(name = "github-webhook-server")]
struct Flags {
    /// Address that webhooks are received on.
    #[arg(long, value_name = "ADDR", default_value = ":8000")]
    webhook_addr: String,
    /// Address of /metrics, /healthz and /readyz; 0 switches them off.
    #[arg(long, value_name = "ADDR", default_value = ":8080")]
    metrics_addr: String,
    /// Namespace whose autoscalers are considered; all namespaces when empty.
    #[arg(long, value_name = "NAMESPACE", default_value = "")]
    watch_namespace: String,
    /// Deliveries that may wait for their write at the same time; further ones are answered 503. 1024 when
    /// absent, zero or negative.
    #[arg(long, value_name = "N", value_parser = args::parse_int, default_value = "0")]
    queue_limit: i64,
    /// PEM file with the certificate chain for TLS on the webhook address; plain HTTP when absent. Read again when it changes.
    #[arg(long, value_name = "PATH", default_value = "")]
    tls_cert_file: String,
    /// PEM file with the certificate's private key.
    #[arg(long, value_name = "PATH", default_value = "")]
    tls_key_file: String,
    /// Bearer token for /debug/unmatched on the metrics address, which is off without one [env: `MUSTER_DEBUG_TOKEN`].
    #[arg(long, value_name = "TOKEN", value_parser = args::secret)]
    debug_token: Option<SecretString>,
    /// Path of a kubeconfig; in-cluster configuration when absent.
    #[arg(long, value_name = "PATH", default_value = "")]
    kubeconfig: String,
    /// Time for the answer to a delivery: GitHub waits 10 s, GitHub Enterprise Server up to 30 s.
    #[arg(long, value_name = "DURATION", default_value = "8s")]
    commit_deadline: GoDuration,
    /// Longest time that a delivery waits for others that share its write.
    #[arg(long, value_name = "DURATION", default_value = "50ms")]
    commit_window: GoDuration,
    /// Connections at the same time.
    #[arg(long, value_name = "N", value_parser = args::parse_int, default_value = "512")]
    connection_limit: i64,
    /// Labels that the manager adds to every runner (its flag of the same name), comma-separated; may be
    /// repeated.
    #[arg(long, value_name = "LABELS")]
    common_runner_labels: Vec<String>,
    /// How often GitHub's log of deliveries is searched for those that were missed; 0 switches that off.
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    replay_period: GoDuration,
    /// Name of the Lease that lets one replica at a time do so.
    #[arg(long, value_name = "NAME", default_value = "github-webhook-server-replay")]
    replay_lease_name: String,
    /// Namespace of that Lease; by default the server's own.
    #[arg(long, value_name = "NAMESPACE", default_value = "")]
    replay_lease_namespace: String,
    /// Hook whose log is searched before its first delivery: owner/name=ID, organization=ID, or app for the GitHub App's; may be
    /// repeated.
    #[arg(long, value_name = "HOOK")]
    replay_hook: Vec<HookName>,
    #[command(flatten)]
    secrets: SecretFlags,
    #[command(flatten)]
    github: GitHubFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// What the server is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where webhooks are received.
    pub webhook_addr: Address,
    /// Where metrics and health are shown.
    pub metrics_addr: Address,
    /// The only namespace to watch; none for all.
    pub watch_namespace: Option<String>,
    /// Deliveries that may wait at the same time.
    pub queue_limit: usize,
    /// Secrets that a signature may be made with, the current one first; none accepts unsigned deliveries.
    pub secrets: Vec<SecretString>,
    /// Certificate and key files for TLS where webhooks are received.
    pub tls: Option<TlsFiles>,
    /// Token for the debug endpoint, which is off without one.
    pub debug_token: Option<SecretString>,
    /// Kubeconfig that was named.
    pub kubeconfig: Option<PathBuf>,
    /// Time for the answer to a delivery.
    pub commit_deadline: Duration,
    /// Longest time that a delivery waits for company.
    pub commit_window: Duration,
    /// Connections at the same time.
    pub connection_limit: usize,
    /// Labels that count as every runner's.
    pub common_labels: Vec<String>,
    /// Delivery replay.
    pub replay: ReplaySettings,
    /// How to log.
    pub log: LogArgs,
    /// Login to GitHub, for runner groups; optional.
    pub github: GitHubArgs,
    /// What to tell once logging works.
    pub notices: Vec<String>,
}

/// Where a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

impl Settings {
    /// Settings without a cluster's specifics, for tests and embedders: any free ports on the loopback
    /// interface, no secret.
    pub fn loopback() -> Self {
        let any = || Address::At {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
        Self {
            webhook_addr: any(),
            metrics_addr: any(),
            watch_namespace: None,
            queue_limit: DEFAULT_QUEUE_LIMIT,
            secrets: Vec::new(),
            tls: None,
            debug_token: None,
            kubeconfig: None,
            commit_deadline: Duration::from_secs(8),
            commit_window: Duration::from_millis(50),
            connection_limit: 512,
            common_labels: Vec::new(),
            replay: ReplaySettings::default(),
            log: LogArgs::default(),
            github: GitHubArgs::default(),
            notices: Vec::new(),
        }
    }

    /// Reads command line and environment. `argv` starts with the program's name.
    ///
    /// # Errors
    /// An [`Exit`] with the message and code to end with.
    pub fn parse(argv: impl IntoIterator<Item = OsString>, env: &Env) -> Result<Self, Exit> {
        let github_env = GitHubEnv::read(env).map_err(Exit::failure)?;
        let args::Parsed { flags, ignored } = args::parse::<Flags>(argv)?;
        let log = flags.log.resolve()?;
        let mut notices = Vec::new();
        if !ignored.is_empty() {
            notices.push(format!(
                "Ignored the words from {:?} on: flags end at the first word that is none",
                ignored.first()
            ));
        }
        let secrets = flags.secrets.resolve(env, &mut notices)?;
        let debug_token = secret(flags.debug_token, env, DEBUG_TOKEN_VARIABLE, &mut notices)?;
        let watch_namespace = Some(flags.watch_namespace).filter(|namespace| !namespace.is_empty());
        notices.push(match &watch_namespace {
            Some(namespace) => format!("Watching the namespace {namespace}"),
            None => "Watching all namespaces".to_owned(),
        });
        let kubeconfig = Some(PathBuf::from(flags.kubeconfig)).filter(|path| !path.as_os_str().is_empty());
        let address = |text: &str, default| Address::parse(text, default).map_err(Exit::failure);
        Ok(Self {
            webhook_addr: address(&flags.webhook_addr, ":8000")?,
            metrics_addr: address(&flags.metrics_addr, ":8080")?,
            watch_namespace,
            queue_limit: positive(flags.queue_limit).unwrap_or(DEFAULT_QUEUE_LIMIT),
            secrets,
            tls: tls_files(flags.tls_cert_file, flags.tls_key_file)?,
            debug_token,
            kubeconfig: kubeconfig.clone(),
            commit_deadline: flags.commit_deadline.as_std().max(Duration::from_millis(100)),
            commit_window: flags.commit_window.as_std().min(Duration::from_secs(1)),
            connection_limit: positive(flags.connection_limit).unwrap_or(512),
            common_labels: flags
                .common_runner_labels
                .iter()
                .flat_map(|labels| labels.split(','))
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect(),
            replay: ReplaySettings {
                period: flags.replay_period.as_std(),
                lease_name: flags.replay_lease_name,
                lease_namespace: Some(flags.replay_lease_namespace)
                    .filter(|namespace| !namespace.is_empty())
                    .or_else(|| lease::namespace(env, kubeconfig.as_deref()).ok()),
                identity: String::new(),
                hooks: flags.replay_hook,
            },
            log,
            github: GitHubArgs::merge(github_env, flags.github, None),
            notices,
        })
    }
}

fn tls_files(certificate: String, key: String) -> Result<Option<TlsFiles>, Exit> {
    match (certificate.is_empty(), key.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(TlsFiles {
            certificate: certificate.into(),
            key: key.into(),
        })),
        _ => Err(Exit::failure(
            "--tls-cert-file and --tls-key-file belong together: give both or none",
        )),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn parse(words: &[&str], env: &[(&str, &str)]) -> Result<Settings, Exit> {
        let argv = std::iter::once("github-webhook-server")
            .chain(words.iter().copied())
            .map(OsString::from);
        Settings::parse(argv, &Env::of(env.iter().copied()))
    }

    #[test]
    fn the_defaults_are_upstreams_except_where_documented() {
        let settings = parse(&[], &[]).unwrap();
        assert_eq!(
            settings.webhook_addr,
            Address::At {
                host: String::new(),
                port: 8000
            }
        );
        assert_eq!(
            settings.metrics_addr,
            Address::At {
                host: String::new(),
                port: 8080
            }
        );
        assert_eq!((settings.queue_limit, settings.connection_limit), (1024, 512));
        assert_eq!(settings.commit_deadline, Duration::from_secs(8));
        assert_eq!(settings.commit_window, Duration::from_millis(50));
        assert_eq!(settings.log, LogArgs::default());
        assert!(
            settings.secrets.is_empty()
                && settings.watch_namespace.is_none()
                && settings.kubeconfig.is_none()
        );
        assert!(settings.notices.iter().any(|notice| notice.contains("unsigned")));
    }

    #[test]
    fn charts_command_lines_are_understood() {
        let settings = parse(
            &[
                "--metrics-addr=0",
                "--log-level=info",
                "-log-format",
                "json",
                "--watch-namespace=ci",
                "--queue-limit=250",
                "-webhook-addr=:9000",
                "--kubeconfig=",
                "--github-app-id=7",
                "--runner-github-url=https://x.example",
                "--common-runner-labels=a,b",
                "--common-runner-labels",
                "c",
            ],
            &[
                ("GITHUB_WEBHOOK_SECRET_TOKEN", "s3cr3t"),
                ("GITHUB_ENTERPRISE_URL", "https://ghes.example"),
            ],
        )
        .unwrap();
        assert_eq!(settings.metrics_addr, Address::Off);
        assert_eq!(
            settings.webhook_addr,
            Address::At {
                host: String::new(),
                port: 9000
            }
        );
        assert_eq!(settings.watch_namespace.as_deref(), Some("ci"));
        assert_eq!(settings.queue_limit, 250);
        assert_eq!(settings.secrets[0].expose_secret(), "s3cr3t");
        assert_eq!(settings.common_labels, ["a", "b", "c"]);
        assert_eq!(
            settings.github.enterprise_url.as_deref(),
            Some("https://ghes.example")
        );
        for limit in ["0", "-1"] {
            assert_eq!(
                parse(&["--queue-limit", limit], &[]).unwrap().queue_limit,
                DEFAULT_QUEUE_LIMIT
            );
        }
        let flag = parse(
            &["--github-webhook-secret-token=flag"],
            &[("GITHUB_WEBHOOK_SECRET_TOKEN", "env")],
        )
        .unwrap();
        assert_eq!(flag.secrets[0].expose_secret(), "flag");
        let empty = parse(
            &["--github-webhook-secret-token="],
            &[("GITHUB_WEBHOOK_SECRET_TOKEN", "env\n")],
        )
        .unwrap();
        assert_eq!(empty.secrets[0].expose_secret(), "env\n", "byte for byte");
        assert!(empty.notices.iter().any(|notice| notice.contains("white space")));
    }

    #[test]
    fn two_secrets_tls_and_the_debug_token() {
        let exposed = |secrets: &[SecretString]| -> Vec<String> {
            secrets
                .iter()
                .map(|secret| secret.expose_secret().to_owned())
                .collect()
        };
        let env = [
            ("GITHUB_WEBHOOK_SECRET_TOKEN", "new"),
            ("GITHUB_WEBHOOK_SECRET_TOKEN_PREVIOUS", "old"),
            ("MUSTER_DEBUG_TOKEN", "token"),
        ];
        let settings = parse(&["--tls-cert-file=a.pem", "--tls-key-file", "b.pem"], &env).unwrap();
        assert_eq!(exposed(&settings.secrets), ["new", "old"]);
        assert_eq!(settings.debug_token.unwrap().expose_secret(), "token");
        assert_eq!(settings.tls.unwrap().key, PathBuf::from("b.pem"));
        let flags = parse(
            &[
                "--github-webhook-previous-secret-token=older",
                "--debug-token=flag",
            ],
            &env,
        )
        .unwrap();
        assert_eq!(exposed(&flags.secrets), ["new", "older"]);
        assert_eq!(flags.debug_token.unwrap().expose_secret(), "flag");
        assert_eq!(flags.tls, None);
    }

    #[test]
    fn what_cannot_be_understood_ends_the_process() {
        assert_eq!(parse(&["--nope"], &[]).unwrap_err().code, 2);
        assert_eq!(parse(&["--queue-limit=many"], &[]).unwrap_err().code, 2);
        assert_eq!(parse(&["--log-level=loud"], &[]).unwrap_err().code, 1);
        assert_eq!(parse(&["--webhook-addr=8000"], &[]).unwrap_err().code, 1);
        assert_eq!(parse(&[], &[("GITHUB_APP_ID", "")]).unwrap_err().code, 1);
        assert_eq!(parse(&["--tls-cert-file=a.pem"], &[]).unwrap_err().code, 1);
        let alone = parse(&["--github-webhook-previous-secret-token=old"], &[]);
        assert_eq!(alone.unwrap_err().code, 1);
        let all = [
            "--github-webhook-secret-token=sentinel",
            "--github-webhook-previous-secret-token=sentinel",
            "--debug-token=sentinel",
        ];
        let shown = format!("{:?}", parse(&all, &[]).unwrap());
        assert!(!shown.contains("sentinel"), "{shown}");
    }
}
