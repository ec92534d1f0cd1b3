//! The command line and environment of `actions-metrics-server` (spec 03 §2.1), with a few flags of our own.

use std::ffi::OsString;

use muster_core::job_metrics::{Bounds, JobLabel, parse_labels};
use muster_intake::SecretFlags;
use muster_runtime::{
    args::{self, Env, Exit, GitHubArgs, GitHubEnv, GitHubFlags, LogArgs, LogFlags},
    serve::Address,
};
use secrecy::SecretString;

/// Shows what webhooks tell of workflow jobs as Prometheus metrics.
#[derive(Debug, clap::Parser)]
#[command(name = "actions-metrics-server")]
struct Flags {
    /// Address that webhooks are received on.
    #[arg(long, value_name = "ADDR", default_value = ":8000")]
    webhook_addr: String,
    /// Address that metrics are shown on, also /healthz and /readyz.
    #[arg(long, value_name = "ADDR", default_value = ":8080")]
    metrics_addr: String,
    /// Accepted as in ARC; without effect, as this server does not speak to Kubernetes.
    #[arg(long, value_name = "PATH", default_value = "")]
    kubeconfig: String,
    /// Labels that tell jobs apart, comma-separated: `runs_on`, `job_name`, `organization`, `repository`, `repository_full_name`, `owner`, `workflow_name`,
    /// `head_branch`; or all, as in ARC.
    #[arg(long, value_name = "LABELS", default_value = "runs_on,organization,owner")]
    job_labels: String,
    /// Values that each of these labels may have; further ones are shown as other. 0 is no bound. 100 when absent, 0 with --job-labels=all.
    #[arg(long, value_name = "N", value_parser = args::parse_int)]
    job_label_values: Option<i64>,
    /// Combinations that all these labels together may have; further ones are shown as other. 0 is no bound. 1000 when absent, 0 with
    /// --job-labels=all.
    #[arg(long, value_name = "N", value_parser = args::parse_int)]
    job_label_sets: Option<i64>,
    /// Bytes that are read of a job's log for its exit code; 0 asks for no logs.
    #[arg(long, value_name = "BYTES", value_parser = args::parse_int, default_value = "67108864")]
    job_log_limit: i64,
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
    /// Where metrics are shown.
    pub metrics_addr: Address,
    /// Secrets that a signature may be made with, the current one first; none accepts unsigned deliveries.
    pub secrets: Vec<SecretString>,
    /// Labels that tell jobs apart.
    pub labels: Vec<JobLabel>,
    /// How many series they may make.
    pub bounds: Bounds,
    /// Bytes that are read of a log; 0 for none.
    pub log_limit: u64,
    /// How to log.
    pub log: LogArgs,
    /// Login to GitHub, for logs; optional.
    pub github: GitHubArgs,
    /// What to tell once logging works.
    pub notices: Vec<String>,
}

impl Settings {
    /// Reads command line and environment. `argv` starts with the program's name.
    ///
    /// # Errors
    /// An [`Exit`] with the message and code to end with.
    pub fn parse(argv: impl IntoIterator<Item = OsString>, env: &Env) -> Result<Self, Exit> {
        let github_env = GitHubEnv::read(env).map_err(Exit::failure)?;
        let args::Parsed { flags, ignored } = args::parse::<Flags>(argv)?;
        let log = flags.log.resolve()?;
        let mut notices = Vec::new();
        if let Some(word) = ignored.first() {
            notices.push(format!(
                "Ignored the words from {word:?} on: flags end at the first word that is none"
            ));
        }
        let secrets = flags.secrets.resolve(env, &mut notices)?;
        let labels = parse_labels(&flags.job_labels)
            .map_err(|error| Exit::failure(format_args!("--job-labels: {error}")))?;
        let default = if labels == JobLabel::ALL {
            Bounds::NONE
        } else {
            Bounds::default()
        };
        let bounds = Bounds {
            values: bound("job-label-values", flags.job_label_values, default.values)?,
            sets: bound("job-label-sets", flags.job_label_sets, default.sets)?,
        };
        let address = |text: &str, default| Address::parse(text, default).map_err(Exit::failure);
        Ok(Self {
            webhook_addr: address(&flags.webhook_addr, ":8000")?,
            // compat: upstream hands an empty address to Go, which takes port 80.
            metrics_addr: address(&flags.metrics_addr, ":80")?,
            secrets,
            labels,
            bounds,
            log_limit: u64::try_from(flags.job_log_limit).map_err(|_| negative("job-log-limit"))?,
            log,
            github: GitHubArgs::merge(github_env, flags.github, None),
            notices,
        })
    }
}

fn bound(flag: &str, given: Option<i64>, default: usize) -> Result<usize, Exit> {
    given.map_or(Ok(default), |number| {
        usize::try_from(number).map_err(|_| negative(flag))
    })
}

fn negative(flag: &str) -> Exit {
    Exit::failure(format_args!("--{flag} is negative: give a number, or 0"))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn parse(words: &[&str], env: &[(&str, &str)]) -> Result<Settings, Exit> {
        let argv = std::iter::once("actions-metrics-server").chain(words.iter().copied());
        Settings::parse(argv.map(OsString::from), &Env::of(env.iter().copied()))
    }

    fn port(port: u16) -> Address {
        Address::At {
            host: String::new(),
            port,
        }
    }

    #[test]
    fn the_defaults_are_upstreams_and_bounded() {
        let settings = parse(&[], &[]).unwrap();
        assert_eq!(
            (settings.webhook_addr, settings.metrics_addr),
            (port(8000), port(8080))
        );
        assert_eq!(settings.log, LogArgs::default());
        assert_eq!(
            (settings.labels, settings.bounds),
            (JobLabel::BOUNDED.to_vec(), Bounds::default())
        );
        assert_eq!(settings.log_limit, 64 << 20);
        assert!(settings.notices.iter().any(|notice| notice.contains("unsigned")));
    }

    #[test]
    fn charts_command_lines_are_understood() {
        let words = [
            "--metrics-addr=",
            "-webhook-addr=:9000",
            "--log-level=info",
            "--log-format=json",
            "--runner-github-url=https://x.example",
            "--kubeconfig=/nowhere",
            "--github-app-id=7",
        ];
        let env = [
            ("GITHUB_WEBHOOK_SECRET_TOKEN", "s3cr3t"),
            ("GITHUB_ENTERPRISE_URL", "https://ghes.example"),
        ];
        let settings = parse(&words, &env).unwrap();
        assert_eq!(
            (settings.webhook_addr, settings.metrics_addr),
            (port(9000), port(80))
        );
        assert_eq!(settings.secrets[0].expose_secret(), "s3cr3t");
        assert_eq!(
            settings.github.enterprise_url.as_deref(),
            Some("https://ghes.example")
        );
    }

    #[test]
    fn upstreams_labels_have_no_bounds_unless_some_are_given() {
        let all = parse(&["--job-labels=all"], &[]).unwrap();
        assert_eq!((all.labels.len(), all.bounds), (8, Bounds::NONE));
        let words = [
            "--job-labels=all",
            "--job-label-values=50",
            "--job-label-sets",
            "9",
        ];
        assert_eq!(parse(&words, &[]).unwrap().bounds, Bounds { values: 50, sets: 9 });
        let one = parse(&["--job-labels=repository", "--job-label-values=0"], &[]).unwrap();
        assert_eq!(one.labels, [JobLabel::Repository]);
        assert_eq!(
            one.bounds,
            Bounds {
                values: 0,
                sets: 1_000
            }
        );
    }

    #[test]
    fn what_cannot_be_understood_ends_the_process() {
        for (words, code) in [
            (&["--watch-namespace=ci"][..], 2),
            (&["--queue-limit=1"], 2),
            (&["--job-log-limit=much"], 2),
            (&["--job-log-limit=-1"], 1),
            (&["--job-label-sets=-1"], 1),
            (&["--job-labels=branch"], 1),
            (&["--log-level=loud"], 1),
            (&["--metrics-addr=8080"], 1),
        ] {
            assert_eq!(parse(words, &[]).unwrap_err().code, code, "{words:?}");
        }
        assert_eq!(parse(&[], &[("GITHUB_APP_ID", "")]).unwrap_err().code, 1);
        let shown = format!(
            "{:?}",
            parse(&["--github-webhook-secret-token=sentinel"], &[]).unwrap()
        );
        assert!(!shown.contains("sentinel"), "{shown}");
    }
}
