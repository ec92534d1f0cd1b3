//! The real `actions-metrics-server` between a fake GitHub that sends webhooks and keeps logs, and a scraper.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use muster_tests::{
    github::{DEFAULT_TOKEN, FakeGitHub, FakeGitHubOptions, Family, Fault, FaultKind, HookSpec, JobSpec},
    keeper::Keeper,
    process::{MetricsServerConfig, Process},
};

const SECRET: &str = "metrics-secret";
const LABELS: &str = "runs_on=\"self-hosted,linux\",organization=\"acme\",owner=\"acme\"";

/// A GitHub, the server that its organization's hook leads to, and where that shows its metrics.
struct Rig {
    github: FakeGitHub,
    server: Process,
    webhooks: String,
    metrics: String,
    http: reqwest::Client,
    _keeper: Arc<Keeper>,
}

impl Rig {
    async fn start(flags: &[&str], token: Option<&str>) -> Self {
        let github = FakeGitHub::start(FakeGitHubOptions::default()).await.unwrap();
        let keeper = Arc::new(Keeper::new("metrics-server").unwrap());
        let config = MetricsServerConfig {
            github_url: github.base_url(),
            github_token: token.map(str::to_owned),
            secret: SECRET.to_owned(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        let made = config.command().unwrap();
        let server = Process::start(&keeper, made.command).await.unwrap();
        github.add_hook(HookSpec::organization("acme", &made.url, SECRET));
        Self {
            github,
            server,
            webhooks: made.url,
            metrics: made.metrics_url,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            _keeper: keeper,
        }
    }

    /// A job's whole life.
    fn run(&self, spec: JobSpec) -> u64 {
        let job = self.github.queue_job(spec).id;
        assert!(self.github.start_elsewhere(job, "runner-1"));
        assert!(self.github.complete_job(job, "success"));
        job
    }

    async fn shown(&self) -> String {
        let answer = self.http.get(&self.metrics).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// Waits until all these lines are shown.
    async fn until(&self, lines: &[String]) {
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            let text = self.shown().await;
            let missing: Vec<&String> = lines
                .iter()
                .filter(|line| !text.lines().any(|have| have == **line))
                .collect();
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{missing:#?} are not in\n{text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn job() -> JobSpec {
    JobSpec::new("acme/api", ["self-hosted", "linux"])
}

fn failures(code: &str, count: u64) -> String {
    format!("github_workflow_job_failures_total{{{LABELS},failed_step=\"3\",exit_code=\"{code}\"}} {count}")
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_counted_and_the_logs_of_failed_ones_are_read() {
    let rig = Rig::start(&[], Some(DEFAULT_TOKEN)).await;
    rig.run(job());
    rig.run(job().fails_with(137));
    rig.run(job().fails_with(2));
    rig.run(job().concludes("cancelled"));
    let concluded = |conclusion: &str, count| {
        format!("github_workflow_job_conclusions_total{{{LABELS},job_conclusion=\"{conclusion}\"}} {count}")
    };
    rig.until(&[
        format!("github_workflow_jobs_queued_total{{{LABELS}}} 4"),
        format!("github_workflow_jobs_started_total{{{LABELS}}} 4"),
        format!("github_workflow_jobs_completed_total{{{LABELS}}} 4"),
        concluded("success", 1),
        concluded("failure", 2),
        concluded("cancelled", 1),
        failures("137", 1),
        failures("2", 1),
        format!("github_workflow_job_queue_duration_seconds_count{{{LABELS}}} 4"),
        format!("github_workflow_job_run_duration_seconds_count{{{LABELS},job_conclusion=\"failure\"}} 2"),
        "muster_actions_metrics_logs_total{outcome=\"read\"} 2".to_owned(),
        "muster_actions_metrics_logs_waiting 0".to_owned(),
        "github_rate_limit 5000".to_owned(),
    ])
    .await;
    let calls = |family| rig.github.calls(family).total;
    assert_eq!(
        (calls(Family::JobLog), calls(Family::LogFile)),
        (2, 2),
        "GitHub is asked about failed jobs only"
    );
    for url in [&rig.webhooks, &rig.metrics.replace("/metrics", "/any/path")] {
        let answer = rig.http.get(url).send().await.unwrap();
        assert!(answer.status().is_success(), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_there_yet_is_asked_for_again() {
    let rig = Rig::start(&[], Some(DEFAULT_TOKEN)).await;
    let missing = Fault::on(Family::JobLog, FaultKind::Status(404)).times(1);
    rig.github.inject(missing);
    rig.run(job().fails_with(42));
    rig.until(&[failures("42", 1)]).await;
    assert_eq!(rig.github.calls(Family::JobLog).total, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_or_a_log_a_failure_counts_all_the_same() {
    let rig = Rig::start(&[], None).await;
    rig.run(job().fails_with(3));
    rig.until(&[failures("na", 1)]).await;
    assert_eq!(rig.github.calls(Family::JobLog).total, 0);

    let rig = Rig::start(&["--job-log-limit=20"], Some(DEFAULT_TOKEN)).await;
    rig.run(job().fails_with(3));
    let too_long = "muster_actions_metrics_logs_total{outcome=\"too_long\"} 1".to_owned();
    rig.until(&[failures("na", 1), too_long]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_shows_upstreams_labels_and_stops_when_it_is_told_to() {
    let mut rig = Rig::start(&["--job-labels=all"], Some(DEFAULT_TOKEN)).await;
    rig.github
        .inject(Fault::on(Family::JobLog, FaultKind::Status(404)));
    rig.run(job().fails_with(3));
    let end = Instant::now() + Duration::from_mins(1);
    while !rig
        .shown()
        .await
        .contains("muster_actions_metrics_logs_waiting 1")
    {
        assert!(Instant::now() < end, "{}", rig.shown().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = rig.shown().await;
    let job = text
        .lines()
        .find(|line| line.starts_with("github_workflow_jobs_completed_total{"))
        .unwrap();
    for label in [
        "job_name=\"job-",
        "repository_full_name=\"acme/api\"",
        "workflow_name=\"ci\"",
        "head_branch=\"main\"",
    ] {
        assert!(job.contains(label), "{label} is not in {job}");
    }
    let status = rig.server.stop(Duration::from_secs(20)).await.unwrap();
    assert!(status.success(), "{status}");
}
