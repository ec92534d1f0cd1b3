//! The webhook server's speed: durable pairs, deliveries for nobody, wrong signatures; and beside them what the API
//! server and an empty HTTP handler do at best on this machine.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::routing::post;
use bytes::Bytes;
use jiff::Timestamp;
use kube::api::ListParams;
use muster_crds::legacy::{HorizontalRunnerAutoscaler, HorizontalRunnerAutoscalerSpec};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    control_plane::ControlPlane,
    demo::metric_value,
    github::{Delivery, JobPayload, OwnerType, RepositoryInfo, RunnerRef},
    terminal::Terminal,
    world::{ORGANIZATION, SECRET, World, is_live_reservation},
};

use super::{
    Options,
    figures::{Bound, Figures, count, count64},
    process::Usage,
    wire::{self, Load},
};

/// Connections of the durable scenario and of the plain patches.
const MANY: usize = 64;
/// Connections of the durable scenario with a crowd.
const CROWD: usize = 512;
/// Jobs that are outstanding on one autoscaler.
const OUTSTANDING: usize = 2_000;
/// Connections of the others.
const SOME: usize = 16;
/// First id of the jobs.
const FIRST_JOB: u64 = 60_000_000_000;

/// A webhook server with autoscalers, and what is needed to send to it.
#[derive(Debug)]
pub(super) struct Bench {
    world: World,
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    autoscalers: usize,
    repository: Arc<RepositoryInfo>,
    next_job: AtomicU64,
    now: Timestamp,
}

/// A scenario's line.
#[derive(Debug)]
struct Line {
    name: &'static str,
    connections: usize,
    expected: u16,
    load: Load,
    /// CPU time of the server, and its memory at the end.
    usage: Option<(Duration, u64)>,
}

impl Bench {
    /// Starts the server and makes the autoscalers.
    pub(super) async fn start(
        options: &Options,
        plane: Arc<ControlPlane>,
        terminal: Terminal,
    ) -> Result<Self> {
        let step = terminal.step("webhook server");
        let world = World::builder("bench")
            .on(plane)
            .without_manager()
            .webhook_flag(&format!("--log-level={}", options.log_level))
            .start()
            .await?;
        for number in 0..options.autoscalers {
            let name = pool(number);
            let labels = vec![name.clone()];
            world
                .deployment(&name, |spec| spec.template.spec.config.labels = Some(labels))
                .await?;
            world.autoscaler(&name, &name, |_| {}).await?;
        }
        let wanted = f64::from(u32::try_from(options.autoscalers).unwrap_or(u32::MAX));
        let seen = async |world: &World| {
            let metrics = world.metrics("github-webhook-server").await?;
            Ok(metric_value(&metrics, "muster_webhook_autoscalers").unwrap_or_default() >= wanted)
        };
        world
            .until("the server knows all autoscalers", Duration::from_secs(30), seen)
            .await?;
        let address = world
            .webhook_url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .parse()
            .context("the webhook URL is no address")?;
        let pid = match world.webhook_servers.first() {
            Some(server) => server.lock().await.running_mut().map(|running| running.pid()),
            None => None,
        };
        step.done(format_args!("{} autoscalers", options.autoscalers));
        Ok(Self {
            now: world.github.now(),
            address,
            pid: pid.context("the webhook server does not run")?,
            autoscalers: options.autoscalers,
            repository: Arc::new(RepositoryInfo::new(
                ORGANIZATION,
                OwnerType::Organization,
                "bench",
                None,
            )),
            next_job: AtomicU64::new(FIRST_JOB),
            world,
        })
    }

    /// A new job for one of the autoscalers.
    pub(super) fn matching_job(&self) -> JobPayload {
        let id = self.next_job.load(Ordering::Relaxed);
        let number = usize::try_from(id).unwrap_or_default() % self.autoscalers.max(1);
        self.job_for(&pool(number))
    }

    /// A new job for none of them.
    pub(super) fn other_job(&self) -> JobPayload {
        let id = self.next_job.fetch_add(1, Ordering::Relaxed);
        let labels = vec!["ubuntu-latest".to_owned()];
        JobPayload::new(self.repository.clone(), id, labels, self.now)
    }

    fn job_for(&self, pool: &str) -> JobPayload {
        let id = self.next_job.fetch_add(1, Ordering::Relaxed);
        let labels = vec!["self-hosted".to_owned(), pool.to_owned()];
        JobPayload::new(self.repository.clone(), id, labels, self.now)
    }

    /// The delivery about a job, signed with the right secret.
    pub(super) fn delivery(&self, action: &str, job: &JobPayload) -> Bytes {
        self.signed(action, job, SECRET)
    }

    /// The same job when it is completed.
    pub(super) fn completed(mut job: JobPayload) -> JobPayload {
        let pool = job.labels.last().cloned().unwrap_or_default();
        job.conclusion = Some("success".to_owned());
        job.completed_at = Some(job.created_at);
        job.runner = Some(RunnerRef {
            id: job.job_id % 1_000_000,
            name: format!("{pool}-x7k2p-{}", job.job_id % 1_000_000),
            group_id: 1,
            group_name: "Default".to_owned(),
        });
        job
    }

    fn signed(&self, action: &str, job: &JobPayload, secret: &str) -> Bytes {
        wire::render(self.address, &Delivery::workflow_job(action, job).sign(secret))
    }

    /// All scenarios; their figures.
    pub(super) async fn run(&self, requests: usize, terminal: Terminal) -> Result<Figures> {
        let idle = Usage::of(self.pid)?;
        let mut lines = Vec::new();
        let step = terminal.step("durable pairs");
        let (line, mut lost) = self.durable("durable pairs", MANY, requests).await?;
        lines.push(line);
        let (line, more) = self.durable("durable at once", CROWD, requests * 2).await?;
        lines.push(line);
        lost += more;
        let (line, more) = self.outstanding().await?;
        lines.push(line);
        lost += more;
        step.done(format_args!("{lost} lost"));

        let step = terminal.step("plain patches");
        lines.push(self.plain_patches(requests / 2).await?);
        lines.push(self.plain_folds().await?);
        step.done("done");

        let step = terminal.step("HTTP");
        let unmatched = self.requests(requests * 4, SOME, |bench| {
            bench.delivery("queued", &bench.other_job())
        });
        lines.push(self.scenario("unmatched", 200, unmatched).await?);
        let wrong = self.requests(requests * 4, SOME, |bench| {
            bench.signed("queued", &bench.matching_job(), "another secret")
        });
        lines.push(self.scenario("wrong signature", 401, wrong).await?);
        lines.push(self.empty_handler(requests * 4).await?);
        step.done("done");

        terminal.say(format_args!(
            "\n{:<18} {:>5} {:>8} {:>9} {:>9} {:>9} {:>10} {:>12} {:>8}",
            "scenario",
            "conns",
            "requests",
            "per s",
            "p50 ms",
            "p99 ms",
            "unexpected",
            "CPU s/1000",
            "RSS MiB"
        ));
        for line in &lines {
            terminal.say(line.text());
        }
        Ok(self.judge(&lines, lost, idle))
    }

    /// What was promised about the scenarios.
    fn judge(&self, lines: &[Line], lost: usize, idle: Usage) -> Figures {
        let line = |name: &str| lines.iter().find(|line| line.name == name);
        let rate = |name: &str| line(name).map_or(0.0, |line| line.load.rate());
        let p99 = |name: &str| line(name).map_or(f64::MAX, |line| count64(line.load.spread().p99) / 1_000.0);
        let (patches, empty) = (rate("plain patches"), rate("empty handler"));
        let mut figures = Figures::default();
        let folded = patches * count(MANY) / count(self.autoscalers.max(1));
        let speeds = [
            (
                "durable_64",
                "durable deliveries, 64 connections, 20 autoscalers",
                "durable pairs",
                0.7 * folded,
            ),
            (
                "durable_512",
                "the same, 512 connections",
                "durable at once",
                2_700.0,
            ),
            (
                "one_autoscaler",
                "the same on one autoscaler, 64 connections, up to 2,000 outstanding jobs",
                "one autoscaler",
                1_000.0,
            ),
            (
                "unmatched",
                "deliveries that match nothing, 16 connections",
                "unmatched",
                f64::min(13_000.0, 0.5 * empty),
            ),
            (
                "wrong_signature",
                "deliveries with a wrong signature, 16 connections",
                "wrong signature",
                f64::min(20_000.0, 0.6 * empty),
            ),
        ];
        for (name, what, scenario, bound) in speeds {
            figures.promise(name, what, rate(scenario), "/s", Bound::AtLeast(bound));
        }
        figures.add(
            "plain_patches",
            "limit: plain patches, one client for each of as many autoscalers",
            patches,
            "/s",
        );
        figures.add(
            "plain_folds",
            "limit: entries in plain patches of 64 on one autoscaler",
            rate("plain folds") * count(MANY),
            "/s",
        );
        figures.add(
            "empty_handler",
            "limit: an empty handler, 16 connections",
            empty,
            "/s",
        );
        for (name, what, scenario, bound) in [
            (
                "durable_64_p99",
                "durable, 64 connections, p99",
                "durable pairs",
                250.0,
            ),
            (
                "durable_512_p99",
                "durable, 512 connections, p99",
                "durable at once",
                500.0,
            ),
        ] {
            figures.promise(name, what, p99(scenario), "ms", Bound::AtMost(bound));
        }
        let wrong: usize = lines.iter().map(|line| line.load.unexpected(line.expected)).sum();
        figures.promise(
            "lost",
            "deliveries lost, or answered otherwise than expected",
            count(lost + wrong),
            "",
            Bound::AtMost(0.0),
        );
        figures.append(resources(lines, idle));
        figures
    }

    fn requests(&self, count: usize, connections: usize, make: impl Fn(&Self) -> Bytes) -> Vec<Vec<Bytes>> {
        (0..connections)
            .map(|_| (0..count / connections).map(|_| make(self)).collect())
            .collect()
    }

    /// As many jobs as [`OUTSTANDING`] queued for one autoscaler, then completed.
    async fn outstanding(&self) -> Result<(Line, usize)> {
        let first = self.next_job.load(Ordering::Relaxed);
        let jobs: Vec<JobPayload> = (0..OUTSTANDING).map(|_| self.job_for(&pool(0))).collect();
        let last = self.next_job.load(Ordering::Relaxed);
        let shares = |deliveries: Vec<Bytes>| -> Vec<Vec<Bytes>> {
            let size = deliveries.len().div_ceil(MANY);
            deliveries.chunks(size).map(<[Bytes]>::to_vec).collect()
        };
        let queued = jobs.iter().map(|job| self.delivery("queued", job)).collect();
        let mut line = self.scenario("one autoscaler", 200, shares(queued)).await?;
        let missing = OUTSTANDING - self.jobs_in_ledgers(first..last, true).await?;
        let over = jobs
            .into_iter()
            .map(|job| self.delivery("completed", &Self::completed(job)))
            .collect();
        let completed = self.scenario("one autoscaler", 200, shares(over)).await?;
        let left = self.jobs_in_ledgers(first..last, true).await?;
        let took = line.load.elapsed + completed.load.elapsed;
        line.load.merge(completed.load);
        line.load.elapsed = took;
        if let (Some((cpu, rss)), Some((more, later))) = (&mut line.usage, completed.usage) {
            *cpu += more;
            *rss = later.max(*rss);
        }
        Ok((line, missing + left))
    }

    /// Pairs of `queued` and `completed`. Answers also how many jobs the ledgers do not know as done although the
    /// server said 200.
    async fn durable(
        &self,
        name: &'static str,
        connections: usize,
        requests: usize,
    ) -> Result<(Line, usize)> {
        let first = self.next_job.load(Ordering::Relaxed);
        let lists: Vec<Vec<Bytes>> = (0..connections)
            .map(|_| {
                (0..requests / connections / 2)
                    .flat_map(|_| {
                        let job = self.matching_job();
                        let queued = self.delivery("queued", &job);
                        [queued, self.delivery("completed", &Self::completed(job))]
                    })
                    .collect()
            })
            .collect();
        let jobs = first..self.next_job.load(Ordering::Relaxed);
        let line = self.scenario(name, 200, lists).await?;
        // A ledger keeps its latest 500 tombstones, and no scenario makes as many.
        let wanted = usize::try_from(jobs.end - jobs.start).unwrap_or_default();
        let lost = wanted - self.jobs_in_ledgers(jobs, false).await?;
        Ok((line, lost))
    }

    /// How many of these jobs the ledgers know, as live or as over.
    async fn jobs_in_ledgers(&self, jobs: Range<u64>, live: bool) -> Result<usize> {
        let list = self
            .world
            .api::<HorizontalRunnerAutoscaler>()
            .list(&ListParams::default())
            .await
            .context("could not list the autoscalers")?;
        let entries = list
            .items
            .iter()
            .flat_map(|autoscaler| autoscaler.spec.capacity_reservations.iter().flatten());
        let wanted = entries.filter(|entry| is_live_reservation(entry) == live);
        let known: BTreeSet<u64> = wanted
            .filter_map(|entry| {
                let key = entry.name.as_deref()?.split('@').next()?;
                key.rsplit('/').next()?.parse().ok()
            })
            .collect();
        Ok(known.range(jobs).count())
    }

    async fn scenario(&self, name: &'static str, expected: u16, lists: Vec<Vec<Bytes>>) -> Result<Line> {
        let connections = lists.len();
        let before = Usage::of(self.pid)?;
        let load = wire::closed_loop(self.address, lists).await?;
        let after = Usage::of(self.pid)?;
        Ok(Line {
            name,
            connections,
            expected,
            load,
            usage: Some((after.cpu.saturating_sub(before.cpu), after.rss_kib)),
        })
    }

    /// As many autoscalers of their own, each with a client that adds one entry after the other: what is left for a writer per autoscaler.
    async fn plain_patches(&self, patches: usize) -> Result<Line> {
        let mut workers = JoinSet::new();
        let each = patches / self.autoscalers.max(1);
        let mut ledgers = Vec::new();
        for number in 0..self.autoscalers {
            ledgers.push(self.plain_ledger(&format!("loop-{number:02}")).await?);
        }
        let begun = Instant::now();
        for ledger in ledgers {
            workers.spawn(async move {
                let mut load = Load::default();
                for number in 0..each {
                    let began = Instant::now();
                    let added = [ledger.added(number)];
                    load.note(began, ledger.patch(&added).await);
                }
                load
            });
        }
        let mut load = Load::default();
        while let Some(done) = workers.join_next().await {
            load.merge(done.context("a patching task failed")?);
        }
        load.elapsed = begun.elapsed();
        Ok(Line {
            name: "plain patches",
            connections: self.autoscalers,
            expected: 200,
            load,
            usage: None,
        })
    }

    /// One autoscaler and one client, whose patches have as many entries as the scenario has connections: first all jobs are added, then all are over.
    async fn plain_folds(&self) -> Result<Line> {
        let ledger = self.plain_ledger("loop-one").await?;
        let mut load = Load::default();
        let begun = Instant::now();
        let numbers: Vec<usize> = (0..OUTSTANDING).collect();
        let changes: [&dyn Fn(usize) -> Value; 2] = [&|number| ledger.added(number), &PlainLedger::over];
        for change in changes {
            for some in numbers.chunks(MANY) {
                let operations: Vec<Value> = some.iter().map(|number| change(*number)).collect();
                let began = Instant::now();
                load.note(began, ledger.patch(&operations).await);
            }
        }
        load.elapsed = begun.elapsed();
        Ok(Line {
            name: "plain folds",
            connections: 1,
            expected: 200,
            load,
            usage: None,
        })
    }

    async fn plain_ledger(&self, name: &str) -> Result<PlainLedger> {
        let empty = |spec: &mut HorizontalRunnerAutoscalerSpec| spec.capacity_reservations = Some(Vec::new());
        self.world.autoscaler(name, "nobody", empty).await?;
        Ok(PlainLedger {
            client: self.world.client.clone(),
            path: format!(
                "/apis/actions.summerwind.dev/v1alpha1/namespaces/{}/horizontalrunnerautoscalers/{name}",
                self.world.ns
            ),
            now: self.now,
        })
    }

    /// The same requests to a handler that does nothing.
    async fn empty_handler(&self, requests: usize) -> Result<Line> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("there is no port")?;
        let address = listener.local_addr().context("the port is unknown")?;
        let router = axum::Router::new().route("/", post(|_body: Bytes| async { "ok" }));
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            // Serves until it is aborted.
            drop(axum::serve(listener, router).await);
        }));
        let lists = self.requests(requests, SOME, |bench| {
            bench.delivery("queued", &bench.other_job())
        });
        let load = wire::closed_loop(address, lists).await?;
        drop(serving);
        Ok(Line {
            name: "empty handler",
            connections: SOME,
            expected: 200,
            load,
            usage: None,
        })
    }
}

/// An autoscaler whose list is patched without any thought.
struct PlainLedger {
    client: kube::Client,
    path: String,
    now: Timestamp,
}

impl PlainLedger {
    fn added(&self, number: usize) -> Value {
        let entry = json!({"name": format!("1/{number:011}"), "replicas": 1,
            "effectiveTime": self.now, "expirationTime": self.now});
        json!({"op": "add", "path": "/spec/capacityReservations/-", "value": entry})
    }

    fn over(number: usize) -> Value {
        json!({"op": "replace", "path": format!("/spec/capacityReservations/{number}/replicas"), "value": 0})
    }

    /// The status of the answer; 0 when there is none.
    async fn patch(&self, operations: &[Value]) -> u16 {
        let request = http::Request::patch(&self.path)
            .header("content-type", "application/json-patch+json")
            .header(
                "accept",
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
            )
            .body(json!(operations).to_string().into_bytes());
        let Ok(request) = request else { return 0 };
        match self.client.request_text(request).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(_) => 0,
        }
    }
}

/// CPU and memory of the server.
fn resources(lines: &[Line], idle: Usage) -> Figures {
    let line = |name: &str| lines.iter().find(|line| line.name == name);
    let mut figures = Figures::default();
    let usage = |name: &str| line(name).and_then(|line| Some((line, line.usage?.0)));
    let cpu = |name: &str| usage(name).map_or(f64::MAX, |(line, cpu)| line.per_thousand(cpu));
    for (name, what, scenario) in [
        (
            "cpu_durable",
            "CPU per 1,000 durable deliveries",
            "durable at once",
        ),
        (
            "cpu_unmatched",
            "CPU per 1,000 deliveries that match nothing",
            "unmatched",
        ),
    ] {
        figures.promise(name, what, cpu(scenario), "s", Bound::AtMost(0.08));
    }
    let loaded = lines.iter().filter_map(|line| Some(line.usage?.1)).max();
    for (name, what, kib, bound) in [
        ("rss_idle", "RSS, idle", idle.rss_kib, 12.0),
        ("rss_loaded", "RSS, loaded", loaded.unwrap_or(u64::MAX), 25.0),
    ] {
        let mib = count64(kib) / 1_024.0;
        figures.promise(name, what, mib, "MiB", Bound::AtMost(bound));
    }
    figures
}

impl Line {
    fn text(&self) -> String {
        let spread = self.load.spread();
        let (cpu, rss) = self.usage.map_or_else(
            || ("-".to_owned(), "-".to_owned()),
            |(cpu, rss)| (format!("{:.2}", self.per_thousand(cpu)), (rss / 1024).to_string()),
        );
        format!(
            "{:<18} {:>5} {:>8} {:>9.0} {:>9} {:>9} {:>10} {:>12} {:>8}",
            self.name,
            self.connections,
            self.load.latencies.len(),
            self.load.rate(),
            milliseconds(spread.p50),
            milliseconds(spread.p99),
            self.load.unexpected(self.expected),
            cpu,
            rss
        )
    }

    fn per_thousand(&self, cpu: Duration) -> f64 {
        let requests = u32::try_from(self.load.latencies.len()).unwrap_or(u32::MAX);
        cpu.as_secs_f64() * 1_000.0 / f64::from(requests.max(1))
    }
}

fn pool(number: usize) -> String {
    format!("pool-{number:02}")
}

fn milliseconds(micros: u64) -> String {
    format!("{:.1}", Duration::from_micros(micros).as_secs_f64() * 1_000.0)
}
