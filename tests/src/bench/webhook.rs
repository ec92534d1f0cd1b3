//! The webhook server's speed: durable pairs, deliveries for nobody, wrong signatures; and beside them what the API
//! server and an empty HTTP handler do at best on this machine.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
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
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    control_plane::ControlPlane,
    demo::{metric_value, rounded},
    github::{Delivery, JobPayload, OwnerType, RepositoryInfo, RunnerRef},
    terminal::Terminal,
    world::{ORGANIZATION, SECRET, World, is_live_reservation},
};

use super::{
    Options,
    process::Usage,
    wire::{self, Load},
};

/// Connections of the durable scenario and of the plain patches.
const MANY: usize = 64;
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
        let id = self.next_job.fetch_add(1, Ordering::Relaxed);
        let number = usize::try_from(id).unwrap_or_default() % self.autoscalers.max(1);
        let labels = vec!["self-hosted".to_owned(), pool(number)];
        JobPayload::new(self.repository.clone(), id, labels, self.now)
    }

    /// A new job for none of them.
    pub(super) fn other_job(&self) -> JobPayload {
        let id = self.next_job.fetch_add(1, Ordering::Relaxed);
        let labels = vec!["ubuntu-latest".to_owned()];
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
    pub(super) async fn run(&self, requests: usize, terminal: Terminal) -> Result<Value> {
        let mut lines = Vec::new();
        let step = terminal.step("durable pairs");
        let (line, lost) = self.durable(requests).await?;
        step.done(format_args!("{lost} lost"));
        lines.push(line);

        let step = terminal.step("plain patches");
        lines.push(self.plain_patches(requests / 2).await?);
        step.done("done");

        let step = terminal.step("HTTP");
        let unmatched = self.requests(requests, SOME, |bench| {
            bench.delivery("queued", &bench.other_job())
        });
        lines.push(self.scenario("unmatched", 200, unmatched).await?);
        let wrong = self.requests(requests, SOME, |bench| {
            bench.signed("queued", &bench.matching_job(), "another secret")
        });
        lines.push(self.scenario("wrong signature", 401, wrong).await?);
        lines.push(self.empty_handler(requests).await?);
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
        let rate = |name: &str| {
            let line = lines.iter().find(|line| line.name == name);
            line.map_or(f64::NAN, |line| line.load.rate())
        };
        let (patches, http) = (
            rate("durable pairs") / rate("plain patches"),
            rate("unmatched") / rate("empty handler"),
        );
        terminal.say(format_args!(
            "\ndurable deliveries per plain patch: {patches:.2}; unmatched deliveries per request to an empty handler: {http:.2}"
        ));
        let scenarios: serde_json::Map<String, Value> = lines
            .iter()
            .map(|line| (line.name.replace(' ', "_"), line.json()))
            .collect();
        Ok(json!({
            "scenarios": scenarios,
            "lost": lost,
            "durable_per_patch": hundredths(patches),
            "unmatched_per_empty": hundredths(http),
        }))
    }

    fn requests(&self, count: usize, connections: usize, make: impl Fn(&Self) -> Bytes) -> Vec<Vec<Bytes>> {
        (0..connections)
            .map(|_| (0..count / connections).map(|_| make(self)).collect())
            .collect()
    }

    /// Pairs of `queued` and `completed`. Answers also how many jobs the ledgers do not know although the server
    /// said 200.
    async fn durable(&self, requests: usize) -> Result<(Line, usize)> {
        let first = self.next_job.load(Ordering::Relaxed);
        let lists: Vec<Vec<Bytes>> = (0..MANY)
            .map(|_| {
                (0..requests / MANY / 2)
                    .flat_map(|_| {
                        let job = self.matching_job();
                        let queued = self.delivery("queued", &job);
                        [queued, self.delivery("completed", &Self::completed(job))]
                    })
                    .collect()
            })
            .collect();
        let last = self.next_job.load(Ordering::Relaxed);
        let line = self.scenario("durable pairs", 200, lists).await?;
        let done = self.finished_jobs().await?;
        let lost = (first..last).filter(|job| !done.contains(job)).count();
        Ok((line, lost))
    }

    /// Jobs that the ledgers say are over.
    async fn finished_jobs(&self) -> Result<BTreeSet<u64>> {
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
        let over = entries.filter(|entry| !is_live_reservation(entry));
        Ok(over
            .filter_map(|entry| {
                let key = entry.name.as_deref()?.split('@').next()?;
                key.rsplit('/').next()?.parse().ok()
            })
            .collect())
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

    /// Appends an entry to the same objects, as often as the API server lets the same number of clients.
    async fn plain_patches(&self, patches: usize) -> Result<Line> {
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..MANY {
            let (client, ns) = (self.world.client.clone(), self.world.ns.clone());
            let path = format!(
                "/apis/actions.summerwind.dev/v1alpha1/namespaces/{ns}/horizontalrunnerautoscalers/{}",
                pool(worker % self.autoscalers.max(1))
            );
            let now = self.now;
            workers.spawn(async move {
                let mut load = Load::default();
                for number in 0..patches / MANY {
                    let entry = json!({"name": format!("1/{worker}{number:06}"), "replicas": 1,
                        "effectiveTime": now, "expirationTime": now});
                    let body = json!([{"op": "add", "path": "/spec/capacityReservations/-", "value": entry}]);
                    let request = http::Request::patch(&path)
                        .header("content-type", "application/json-patch+json")
                        .header(
                            "accept",
                            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                        )
                        .body(body.to_string().into_bytes());
                    let began = Instant::now();
                    let status = match request {
                        Ok(request) => match client.request_text(request).await {
                            Ok(_) => 200,
                            Err(kube::Error::Api(status)) => status.code,
                            Err(_) => 0,
                        },
                        Err(_) => 0,
                    };
                    load.note(began, status);
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
            connections: MANY,
            expected: 200,
            load,
            usage: None,
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

    fn json(&self) -> Value {
        let spread = self.load.spread();
        let mut line = json!({
            "connections": self.connections,
            "requests": self.load.latencies.len(),
            "per_second": hundredths(self.load.rate()),
            "latency_us": spread,
            "statuses": self.load.statuses,
            "unexpected": self.load.unexpected(self.expected),
        });
        if let (Some((cpu, rss)), Some(members)) = (self.usage, line.as_object_mut()) {
            members.insert(
                "cpu_s_per_1000".to_owned(),
                json!(hundredths(self.per_thousand(cpu))),
            );
            members.insert("rss_kib".to_owned(), json!(rss));
        }
        line
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

/// Two decimals.
fn hundredths(number: f64) -> f64 {
    if number.is_finite() && number >= 0.0 {
        rounded(Duration::from_secs_f64(number.min(1e12)))
    } else {
        0.0
    }
}
