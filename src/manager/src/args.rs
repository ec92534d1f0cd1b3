//! Command line and environment of the manager (spec 02 §2.1–2.3).
//!
//! Every flag of upstream is known, those of the scale-set mode included, so that the command lines of ARC's charts and docs start this
//! process.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Parser;
use jiff::SignedDuration;
use muster_controllers::{ReconciliationSettings, VolumeSettings};
use muster_core::{
    autoscale::{demand::DemandMerge, schedule::Clock},
    pods::phase::Deadlines,
};
use muster_runtime::args::{
    Env, Exit, GitHubArgs, GitHubEnv, GitHubFlags, GoDuration, LogArgs, LogFlags, Parsed, parse, parse_int,
};

/// Port of the admission webhooks where none, or 0, is given.
const DEFAULT_PORT: u16 = 9443;

/// The flags, as written. Unknown ones end the process with code 2.
#[derive(Debug, Parser)]
#[command(name = "manager")]
struct Flags {
    #[command(flatten)]
    log: LogFlags,
    #[command(flatten)]
    github: GitHubFlags,
    /// Base URL of the GitHub Enterprise server [env: `GITHUB_ENTERPRISE_URL`].
    #[arg(long, value_name = "URL")]
    github_enterprise_url: Option<String>,

    /// Address of the metrics endpoint; 0 switches it off.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    metrics_addr: String,
    /// Address of the profiling endpoint; accepted for compatibility, without effect.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pprof_addr: String,
    /// Address of /healthz and /readyz; off when empty.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    health_probe_bind_address: String,
    /// Elect a leader among several managers through a Lease.
    #[arg(long)]
    enable_leader_election: bool,
    /// Name of the Lease.
    #[arg(long, value_name = "NAME", default_value = "actions-runner-controller")]
    leader_election_id: String,
    /// Port of the admission webhooks.
    #[arg(long, value_name = "PORT", value_parser = parse_int, default_value = "9443")]
    port: i64,
    /// Make the webhooks' certificate when there is none in files, and write its authority into the webhook configurations.
    #[arg(long)]
    admission_self_signed: bool,
    /// Service by which the API server calls the webhooks, for --admission-self-signed.
    #[arg(long, value_name = "NAME", default_value = "webhook-service")]
    admission_service_name: String,
    /// How often every object is looked at without an event.
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    sync_period: GoDuration,
    /// The only namespace to watch; all when empty.
    #[arg(long, value_name = "NAMESPACE", default_value = "")]
    watch_namespace: String,
    /// Requests per second to the Kubernetes API; accepted for compatibility, there is no client-side throttle.
    #[arg(long, value_name = "QPS", value_parser = parse_int, default_value = "20")]
    k8s_client_rate_limiter_qps: i64,
    /// Burst of requests to the Kubernetes API; accepted for compatibility, there is no client-side throttle.
    #[arg(long, value_name = "BURST", value_parser = parse_int, default_value = "30")]
    k8s_client_rate_limiter_burst: i64,
    /// Kubeconfig; else KUBECONFIG, the pod's service account, ~/.kube/config.
    #[arg(long, value_name = "PATH", default_value = "")]
    kubeconfig: String,

    /// Default image of runners.
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "summerwind/actions-runner:latest"
    )]
    runner_image: String,
    /// Default image of the Docker sidecar.
    #[arg(long, value_name = "IMAGE", default_value = "docker:dind")]
    docker_image: String,
    /// Group id of Docker's socket in the sidecar.
    #[arg(long, value_name = "GID", default_value = "1001")]
    docker_gid: String,
    /// Default imagePullSecret of runner pods; may be repeated.
    #[arg(long, value_name = "SECRET")]
    runner_image_pull_secret: Vec<String>,
    /// Default mirror for Docker images.
    #[arg(long, value_name = "URL", default_value = "")]
    docker_registry_mirror: String,
    /// Let runners report their phase.
    #[arg(long)]
    runner_status_update_hook: bool,
    /// How long an autoscaler does not scale down after it scaled up.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    default_scale_down_delay: GoDuration,
    /// How an autoscaler's pull metrics and its queued jobs become one number: sum adds them, max takes the larger.
    #[arg(long, value_name = "sum|max", default_value = "sum")]
    demand_merge: DemandMerge,
    /// Time zone whose clock scheduled overrides follow that name none: an IANA name, or Local for this process' own. By default that of the offset
    /// in startTime.
    #[arg(long, value_name = "ZONE", default_value = "")]
    schedule_time_zone: String,
    /// Labels for all runners, separated by commas; may be repeated.
    #[arg(long, value_name = "LABELS")]
    common_runner_labels: Vec<String>,

    /// How long a runner pod may wait for a node before it is replaced.
    #[arg(long, value_name = "DURATION", default_value = "25m")]
    runner_scheduling_timeout: GoDuration,
    /// How long a runner pod with a node may take to start before it is replaced.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    runner_start_timeout: GoDuration,
    /// How long a ready runner may take to register with GitHub before it is replaced.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    runner_registration_timeout: GoDuration,
    /// How long a registered runner without a job may be offline or unknown to GitHub before it is replaced.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    runner_offline_timeout: GoDuration,
    /// How long after its grace period a deleted runner pod is held while GitHub gives no clear answer about its runner.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    runner_unregistration_timeout: GoDuration,

    /// How many free volumes a RunnerSet keeps for each of its claim templates.
    #[arg(long, value_name = "COUNT", value_parser = parse_int, default_value = "100")]
    runner_set_kept_volumes: i64,
    /// How long a RunnerSet keeps a volume that no runner uses.
    #[arg(long, value_name = "DURATION", default_value = "168h")]
    runner_set_kept_volume_age: GoDuration,
    /// How long a new runner of a RunnerSet waits for a volume that is about to be free; 0 does not wait.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    runner_set_volume_wait: GoDuration,

    /// How often the queue of a repository with demand is compared with GitHub's; 0 switches that off.
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    queue_reconciliation_period: GoDuration,
    /// How long a webhook may be under way before queue reconciliation acts in its place.
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    queue_reconciliation_grace: GoDuration,
    /// Calls to GitHub per hour that queue reconciliation costs at most while nothing happens: with many repositories the period is
    /// stretched. 0 sets no bound.
    #[arg(long, value_name = "CALLS", value_parser = parse_int, default_value = "3000")]
    queue_reconciliation_calls_per_hour: i64,
    /// Repository (owner/name) whose queue is always compared, also before its first job; may be repeated.
    #[arg(long, value_name = "REPOSITORY")]
    queue_reconciliation_repository: Vec<String>,

    /// `manager drain`: how long runners may take to end before it gives up.
    #[arg(long, value_name = "DURATION", default_value = "4m")]
    drain_timeout: GoDuration,
    /// `manager drain`: Deployment of the managers, or of webhook servers, which is scaled to zero first; may be repeated.
    #[arg(long, value_name = "NAME")]
    drain_deployment: Vec<String>,
    /// `manager drain`: Lease that they leave behind, which is deleted at the end; may be repeated.
    #[arg(long, value_name = "NAME")]
    drain_lease: Vec<String>,
    /// `manager drain`: delete the definitions at the end, with all objects of their kinds.
    #[arg(long)]
    drain_definitions: bool,

    /// Run the reconcilers of the scale-set mode instead of the legacy ones.
    #[arg(long)]
    auto_scaling_runner_set_only: bool,
    /// Scale-set mode: the only namespace whose scale sets are watched.
    #[arg(long, value_name = "NAMESPACE", default_value = "")]
    watch_single_namespace: String,
    /// Scale-set mode: imagePullSecret of listener pods; may be repeated.
    #[arg(long, value_name = "SECRET")]
    auto_scaler_image_pull_secrets: Vec<String>,
    /// Scale-set mode: address of the listeners' metrics.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080")]
    listener_metrics_addr: String,
    /// Scale-set mode: path of the listeners' metrics.
    #[arg(long, value_name = "PATH", default_value = "/metrics")]
    listener_metrics_endpoint: String,
    /// Scale-set mode: concurrent reconciles of runners.
    #[arg(long, value_name = "COUNT", value_parser = parse_int, default_value = "2")]
    runner_max_concurrent_reconciles: i64,
    /// Scale-set mode: labels with this prefix are not passed on; may be repeated.
    #[arg(long, value_name = "PREFIX")]
    exclude_label_propagation_prefix: Vec<String>,
    /// Scale-set mode: kind of work queue limiter.
    #[arg(long, value_name = "KIND", default_value = "")]
    workqueue_rate_limiter: String,
}

/// What the process is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The manager.
    Manage,
    /// `manager drain`: ends all runners, then itself.
    Drain,
    /// `manager definitions`: applies the custom resource definitions of this version.
    Definitions,
}

impl Command {
    /// Takes the command off the command line: its first word, if that is one.
    fn take(argv: &mut Vec<OsString>) -> Self {
        let command = match argv.get(1).and_then(|word| word.to_str()) {
            Some("drain") => Self::Drain,
            Some("definitions") => Self::Definitions,
            _ => return Self::Manage,
        };
        argv.remove(1);
        command
    }
}

/// `--drain-…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrainArgs {
    /// How long runners may take to end.
    pub(crate) timeout: Duration,
    /// The Deployments that make way.
    pub(crate) deployments: Vec<String>,
    /// What they leave behind.
    pub(crate) leases: Vec<String>,
    /// Delete the definitions, too.
    pub(crate) definitions: bool,
}

/// What the manager was told to do.
#[derive(Clone, Debug)]
pub(crate) struct ManagerArgs {
    /// What the process is to be.
    pub(crate) command: Command,
    /// `--drain-…`.
    pub(crate) drain: DrainArgs,
    /// Logging.
    pub(crate) log: LogArgs,
    /// Login and URLs of GitHub.
    pub(crate) github: GitHubArgs,
    /// Address of the metrics server, in Go's notation; its default is `:8080`.
    pub(crate) metrics_addr: String,
    /// Address of the health server; its default is off.
    pub(crate) health_probe_bind_address: String,
    /// Somebody asked for profiling, which does not exist.
    pub(crate) pprof_requested: bool,
    /// Elect a leader.
    pub(crate) enable_leader_election: bool,
    /// Name of the Lease.
    pub(crate) leader_election_id: String,
    /// Port of the admission webhooks.
    pub(crate) port: u16,
    /// Service whose webhooks get a certificate of our own; `None` where that is not wanted.
    pub(crate) admission_service: Option<String>,
    /// Time after which every object is looked at again; zero switches that off.
    pub(crate) sync_period: Duration,
    /// The only namespace to watch.
    pub(crate) watch_namespace: Option<String>,
    /// Kubeconfig that was named.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Defaults of runner pods.
    pub(crate) runner: RunnerArgs,
    /// `--runner-…-timeout`.
    pub(crate) deadlines: Deadlines,
    /// `--queue-reconciliation-…`.
    pub(crate) reconciliation: ReconciliationSettings,
    /// `--runner-set-…`.
    pub(crate) volumes: VolumeSettings,
    /// `--default-scale-down-delay`.
    pub(crate) default_scale_down_delay: SignedDuration,
    /// `--demand-merge`.
    pub(crate) demand_merge: DemandMerge,
    /// `--schedule-time-zone`.
    pub(crate) schedule_clock: Clock,
    /// `--common-runner-labels`, split.
    pub(crate) common_runner_labels: Vec<String>,
    /// `--auto-scaling-runner-set-only`: the scale-set mode.
    pub(crate) scale_set_mode: bool,
    /// Words of the command line that Go's flag package would have ignored.
    pub(crate) ignored: Vec<String>,
}

/// Defaults for runner pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunnerArgs {
    /// `--runner-image`.
    pub(crate) image: String,
    /// `--docker-image`.
    pub(crate) docker_image: String,
    /// `--docker-gid`.
    pub(crate) docker_gid: String,
    /// `--runner-image-pull-secret`.
    pub(crate) image_pull_secrets: Vec<String>,
    /// `--docker-registry-mirror`.
    pub(crate) docker_registry_mirror: Option<String>,
    /// `--runner-status-update-hook`.
    pub(crate) status_update_hook: bool,
}

impl ManagerArgs {
    /// Reads the environment, then the command line, then the log settings: the first failure decides the exit code, as upstream.
    /// `argv` starts with the program's name.
    ///
    /// # Errors
    /// [`Exit`], to be reported and returned by `main`.
    pub(crate) fn read(argv: impl IntoIterator<Item = OsString>, env: &Env) -> Result<Self, Exit> {
        let github_env = GitHubEnv::read(env).map_err(Exit::failure)?;
        let mut argv: Vec<OsString> = argv.into_iter().collect();
        let command = Command::take(&mut argv);
        let Parsed { flags, ignored } = parse::<Flags>(argv)?;
        let log = flags.log.resolve()?;
        let non_empty = |text: String| (!text.is_empty()).then_some(text);
        let port = match u16::try_from(flags.port) {
            // compat: upstream's library takes 0 for its default (spec 02 §2.2, Q40).
            Ok(0) => DEFAULT_PORT,
            Ok(port) => port,
            Err(_) => {
                return Err(Exit::failure(format_args!(
                    "--port has the value {}: expected 0 to 65535",
                    flags.port
                )));
            }
        };
        Ok(Self {
            command,
            drain: DrainArgs {
                timeout: flags.drain_timeout.as_std(),
                deployments: flags.drain_deployment,
                leases: flags.drain_lease,
                definitions: flags.drain_definitions,
            },
            log,
            github: GitHubArgs::merge(github_env, flags.github, flags.github_enterprise_url),
            metrics_addr: flags.metrics_addr,
            health_probe_bind_address: flags.health_probe_bind_address,
            pprof_requested: !flags.pprof_addr.is_empty(),
            enable_leader_election: flags.enable_leader_election,
            leader_election_id: flags.leader_election_id,
            port,
            admission_service: flags
                .admission_self_signed
                .then_some(flags.admission_service_name),
            sync_period: flags.sync_period.as_std(),
            watch_namespace: non_empty(flags.watch_namespace),
            kubeconfig: non_empty(flags.kubeconfig).map(PathBuf::from),
            runner: RunnerArgs {
                image: flags.runner_image,
                docker_image: flags.docker_image,
                docker_gid: flags.docker_gid,
                image_pull_secrets: flags.runner_image_pull_secret,
                docker_registry_mirror: non_empty(flags.docker_registry_mirror),
                status_update_hook: flags.runner_status_update_hook,
            },
            deadlines: Deadlines {
                scheduling: flags.runner_scheduling_timeout.0,
                start: flags.runner_start_timeout.0,
                registration: flags.runner_registration_timeout.0,
                offline: flags.runner_offline_timeout.0,
                unregistration: flags.runner_unregistration_timeout.0,
            },
            reconciliation: ReconciliationSettings {
                period: flags.queue_reconciliation_period.as_std(),
                grace: flags.queue_reconciliation_grace.0.max(SignedDuration::ZERO),
                calls_per_hour: flags.queue_reconciliation_calls_per_hour,
                repositories: flags.queue_reconciliation_repository,
            },
            volumes: VolumeSettings {
                count: usize::try_from(flags.runner_set_kept_volumes).unwrap_or(0),
                age: flags.runner_set_kept_volume_age.0.max(SignedDuration::ZERO),
                patience: flags.runner_set_volume_wait.0.max(SignedDuration::ZERO),
            },
            default_scale_down_delay: flags.default_scale_down_delay.0,
            demand_merge: flags.demand_merge,
            schedule_clock: schedule_clock(&flags.schedule_time_zone, env)?,
            common_runner_labels: flags
                .common_runner_labels
                .iter()
                .flat_map(|labels| labels.split(','))
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect(),
            scale_set_mode: flags.auto_scaling_runner_set_only,
            ignored,
        })
    }
}

/// The clock that `--schedule-time-zone` names. `Local` is the environment's `TZ`, else what `/etc/localtime` links to, else UTC, as for a Go program.
fn schedule_clock(zone: &str, env: &Env) -> Result<Clock, Exit> {
    // A path counts by the name below the database's folder.
    let name_of = |zone: &str| {
        let zone = zone.trim_start_matches(':');
        zone.rsplit_once("zoneinfo/")
            .map_or(zone, |(_, name)| name)
            .to_owned()
    };
    let of_system = || Some(name_of(std::fs::read_link("/etc/localtime").ok()?.to_str()?));
    let local = || {
        let zone = match env.get("TZ") {
            Ok(Some(zone)) => Some(name_of(zone)),
            _ => of_system(),
        };
        zone.filter(|zone| !zone.is_empty())
            .unwrap_or_else(|| "UTC".to_owned())
    };
    let name = if zone == "Local" { local() } else { zone.to_owned() };
    Clock::named(&name).map_err(|problem| Exit::failure(format_args!("--schedule-time-zone: {problem}")))
}

#[cfg(test)]
mod tests {
    use muster_runtime::args::{Credentials, LogFormat, LogLevel};

    use super::*;

    fn read(words: &[&str], env: &[(&str, &str)]) -> Result<ManagerArgs, Exit> {
        let argv = std::iter::once("/manager")
            .chain(words.iter().copied())
            .map(OsString::from);
        ManagerArgs::read(argv, &Env::of(env.iter().copied()))
    }

    #[test]
    fn defaults_are_upstreams() {
        let args = read(&[], &[]).unwrap();
        assert_eq!(args.metrics_addr, ":8080");
        assert_eq!(args.health_probe_bind_address, "");
        assert!(!args.enable_leader_election && !args.scale_set_mode && !args.pprof_requested);
        assert_eq!(args.leader_election_id, "actions-runner-controller");
        assert_eq!((args.port, args.admission_service), (9443, None));
        assert_eq!(args.sync_period, Duration::from_mins(1));
        assert_eq!(args.watch_namespace, None);
        assert_eq!(
            args.log,
            LogArgs {
                level: LogLevel::DEBUG,
                format: LogFormat::Text
            }
        );
        assert_eq!(args.kubeconfig, None);
        assert_eq!(args.default_scale_down_delay, SignedDuration::from_mins(10));
        assert_eq!(args.volumes, VolumeSettings::default());
        assert!(args.common_runner_labels.is_empty() && args.ignored.is_empty());
        let runner = RunnerArgs {
            image: "summerwind/actions-runner:latest".into(),
            docker_image: "docker:dind".into(),
            docker_gid: "1001".into(),
            image_pull_secrets: vec![],
            docker_registry_mirror: None,
            status_update_hook: false,
        };
        assert_eq!(args.runner, runner);
    }

    #[test]
    fn the_first_word_may_be_a_command() {
        assert_eq!(read(&["--port=1"], &[]).unwrap().command, Command::Manage);
        let args = read(&["drain", "--drain-timeout=9s", "--drain-deployment=arc"], &[]).unwrap();
        let drain = DrainArgs {
            timeout: Duration::from_secs(9),
            deployments: vec!["arc".to_owned()],
            leases: Vec::new(),
            definitions: false,
        };
        assert_eq!((args.command, args.drain), (Command::Drain, drain));
        assert!(args.ignored.is_empty());
        let args = read(&["definitions", "--log-format=json"], &[]).unwrap();
        assert_eq!(args.command, Command::Definitions);
    }

    #[test]
    fn the_charts_command_line_with_every_value_set_is_understood() {
        // Order and spelling as the chart renders them (spec 04 §3.2).
        let args = read(
            &[
                "--metrics-addr=127.0.0.1:8080",
                "--enable-leader-election",
                "--leader-election-id=arc-two",
                "--port=9444",
                "--sync-period=30s",
                "--default-scale-down-delay=2m",
                "--docker-image=mirror/docker:dind",
                "--runner-image=mirror/runner:v1",
                "--runner-image-pull-secret=one",
                "--runner-image-pull-secret=two",
                "--docker-registry-mirror=https://mirror.example",
                "--watch-namespace=runners",
                "--log-level=-2",
                "--runner-github-url=https://proxy.example",
                "--runner-status-update-hook",
                "--log-format=json",
                "--docker-gid=121",
                "--health-probe-bind-address=:8081",
            ],
            &[
                ("GITHUB_ENTERPRISE_URL", "https://ghes.example.com"),
                ("GITHUB_TOKEN", "token"),
                ("GITHUB_BASICAUTH_USERNAME", "user"),
                ("GITHUB_BASICAUTH_PASSWORD", "password"),
                ("http_proxy", "http://proxy:3128"),
            ],
        )
        .unwrap();
        assert_eq!(args.metrics_addr, "127.0.0.1:8080");
        assert!(args.enable_leader_election && args.runner.status_update_hook);
        assert_eq!((args.leader_election_id.as_str(), args.port), ("arc-two", 9444));
        assert_eq!(args.sync_period, Duration::from_secs(30));
        assert_eq!(args.default_scale_down_delay, SignedDuration::from_mins(2));
        assert_eq!(args.runner.image_pull_secrets, ["one", "two"]);
        assert_eq!(
            args.runner.docker_registry_mirror.as_deref(),
            Some("https://mirror.example")
        );
        assert_eq!(
            (args.runner.image.as_str(), args.runner.docker_image.as_str()),
            ("mirror/runner:v1", "mirror/docker:dind")
        );
        assert_eq!(args.runner.docker_gid, "121");
        assert_eq!(args.watch_namespace.as_deref(), Some("runners"));
        assert_eq!(
            args.log,
            LogArgs {
                level: LogLevel(-2),
                format: LogFormat::Json
            }
        );
        assert_eq!(args.health_probe_bind_address, ":8081");
        assert_eq!(args.github.runner_url.as_deref(), Some("https://proxy.example"));
        assert_eq!(
            args.github.enterprise_url.as_deref(),
            Some("https://ghes.example.com")
        );
        assert!(matches!(args.github.credentials(), Ok(Credentials::Basic { .. })));
    }

    #[test]
    fn the_charts_default_command_lines_are_understood() {
        for metrics in ["--metrics-addr=127.0.0.1:8080", "--metrics-addr=0.0.0.0:8443"] {
            let args = read(
                &[
                    metrics,
                    "--enable-leader-election",
                    "--port=9443",
                    "--sync-period=1m",
                    "--default-scale-down-delay=10m",
                    "--docker-image=docker:dind",
                    "--runner-image=summerwind/actions-runner:latest",
                ],
                &[
                    ("GITHUB_APP_ID", "12"),
                    ("GITHUB_APP_INSTALLATION_ID", "34"),
                    ("GITHUB_APP_PRIVATE_KEY", "PEM"),
                ],
            )
            .unwrap();
            assert!(args.enable_leader_election && args.ignored.is_empty());
            assert!(matches!(
                args.github.credentials(),
                Ok(Credentials::App {
                    installation_id: 34,
                    ..
                })
            ));
        }
        // The kustomize base.
        let args = read(
            &["--metrics-addr=127.0.0.1:8080", "--enable-leader-election"],
            &[("GITHUB_TOKEN", "t")],
        );
        assert!(args.unwrap().enable_leader_election);
    }

    #[test]
    fn every_flag_of_the_scale_set_mode_is_accepted() {
        let args = read(
            &[
                "--auto-scaling-runner-set-only",
                "--watch-single-namespace=ns",
                "--auto-scaler-image-pull-secrets=a,b",
                "--listener-metrics-addr=:8080",
                "--listener-metrics-endpoint=/metrics",
                "--runner-max-concurrent-reconciles=20",
                "--exclude-label-propagation-prefix=argocd.argoproj.io/",
                "--workqueue-rate-limiter=bucket_rate_limiter",
                "--k8s-client-rate-limiter-qps=100",
                "--k8s-client-rate-limiter-burst",
                "200",
                "--pprof-addr=:6060",
                "--kubeconfig",
                "some/path",
            ],
            &[],
        )
        .unwrap();
        assert!(args.scale_set_mode && args.pprof_requested);
        assert_eq!(args.kubeconfig, Some(PathBuf::from("some/path")));
    }

    #[test]
    fn github_flags_override_the_environment() {
        let args = read(
            &[
                "-github-token=flag",
                "--github-app-id=0x7",
                "--github-app-installation-id=8",
                "--github-app-private-key=pem",
                "--github-url=https://api.example",
                "--github-upload-url=https://up.example",
                "--github-enterprise-url=https://flag.example",
                "--github-basicauth-username=",
                "--github-basicauth-password=p",
            ],
            &[
                ("GITHUB_ENTERPRISE_URL", "https://env.example"),
                ("GITHUB_BASICAUTH_USERNAME", "env"),
            ],
        )
        .unwrap();
        assert_eq!(
            args.github.enterprise_url.as_deref(),
            Some("https://flag.example")
        );
        assert_eq!(args.github.app_id.as_ref().unwrap().as_str(), "7");
        assert!(
            matches!(args.github.credentials(), Ok(Credentials::Token(_))),
            "an empty flag unsets the user"
        );
    }

    #[test]
    fn schedules_follow_the_clock_that_is_named() {
        let clock = |zone: &str, env: &[(&str, &str)]| {
            read(&[&format!("--schedule-time-zone={zone}")], env).map(|args| args.schedule_clock)
        };
        assert_eq!(read(&[], &[]).unwrap().schedule_clock, Clock::Written);
        let tokyo = Clock::named("Asia/Tokyo").unwrap();
        assert_eq!(clock("Asia/Tokyo", &[]).unwrap(), tokyo);
        assert_eq!(clock("Local", &[("TZ", "Asia/Tokyo")]).unwrap(), tokyo);
        assert_eq!(
            clock("Local", &[("TZ", ":/usr/share/zoneinfo/Asia/Tokyo")]).unwrap(),
            tokyo
        );
        assert_eq!(
            clock("Local", &[("TZ", "")]).unwrap(),
            Clock::named("UTC").unwrap()
        );
        assert_eq!(clock("Mars/Base", &[]).unwrap_err().code, 1);
    }

    #[test]
    fn demand_is_added_unless_told_otherwise() {
        assert_eq!(read(&[], &[]).unwrap().demand_merge, DemandMerge::Sum);
        assert_eq!(
            read(&["--demand-merge=max"], &[]).unwrap().demand_merge,
            DemandMerge::Max
        );
        assert_eq!(read(&["--demand-merge=most"], &[]).unwrap_err().code, 2);
    }

    #[test]
    fn labels_are_split_and_empty_ones_dropped() {
        let args = read(
            &[
                "--common-runner-labels=a,,b",
                "--common-runner-labels",
                "c",
                "--common-runner-labels=",
            ],
            &[],
        );
        assert_eq!(args.unwrap().common_runner_labels, ["a", "b", "c"]);
    }

    #[test]
    fn port_zero_is_the_default_port() {
        assert_eq!(read(&["--port=0"], &[]).unwrap().port, 9443);
        assert_eq!(read(&["--port=70000"], &[]).unwrap_err().code, 1);
    }

    #[test]
    fn failures_exit_as_upstream() {
        let code = |words: &[&str], env: &[(&str, &str)]| read(words, env).unwrap_err().code;
        assert_eq!(code(&["--unknown-flag"], &[]), 2);
        assert_eq!(code(&["--sync-period=often"], &[]), 2);
        assert_eq!(code(&["--github-app-id=abc"], &[]), 2);
        assert_eq!(code(&["--log-level=loud"], &[]), 1);
        assert_eq!(code(&["--log-format=xml"], &[]), 1);
        assert_eq!(code(&[], &[("GITHUB_APP_ID", "")]), 1);
        assert_eq!(
            code(&["--unknown-flag"], &[("GITHUB_APP_INSTALLATION_ID", "x")]),
            1,
            "the environment comes first"
        );
        let usage = read(&["--unknown-flag"], &[]).unwrap_err().message;
        assert!(
            usage.starts_with("flag provided but not defined: -unknown-flag\n"),
            "{usage}"
        );
        assert!(usage.contains("--common-runner-labels"), "{usage}");
    }

    #[test]
    fn secrets_do_not_show() {
        let args = read(
            &["--github-token=sentinel"],
            &[("GITHUB_APP_PRIVATE_KEY", "sentinel")],
        )
        .unwrap();
        assert!(!format!("{args:?}").contains("sentinel"));
    }
}
