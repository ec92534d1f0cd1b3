//! Jobs' `queued` deliveries by the thousand, against several replicas behind a balancer, while replicas are killed, writes fail and
//! an autoscaler is deleted: what was answered `scaled` is in the ledger, once.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use tokio::{sync::watch, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    github::{Delivery, JobPayload, OwnerType, RepositoryInfo, SignedDelivery},
    proxy::{ApiFault, FaultProxy},
    world::{ORGANIZATION, SECRET, World},
};

const MINUTE: Duration = Duration::from_mins(1);
/// Who was not answered 2xx sends again after this long, and waits twice as long each time, up to a second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// HTTP clients that the deliveries go round; each opens as many connections as it has deliveries under way.
const CLIENTS: usize = 100;
/// Id of the first job; those before are for probes.
const FIRST: u64 = 10_000;

/// One attempt at a delivery.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began.
    pub begun: Instant,
    /// How long it took.
    pub took: Duration,
    /// Status code of the answer; 0: there was none.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// The answer's body, or what went wrong.
    pub body: String,
}

impl Attempt {
    /// Whether it was answered 2xx.
    pub fn is_accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A job's `queued` delivery.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Number of the pool that it is for.
    pub pool: usize,
    /// The job's key in ledgers.
    pub key: String,
    signed: SignedDelivery,
}

impl Queued {
    /// A job for a pool.
    pub fn new(world: &World, pool: usize, job_id: u64) -> Self {
        let repository = RepositoryInfo::new(ORGANIZATION, OwnerType::Organization, "demo", None);
        let key = format!("{}/{job_id}", repository.id);
        let labels = vec!["self-hosted".to_owned(), label(pool)];
        let job = JobPayload::new(Arc::new(repository), job_id, labels, world.github.now());
        Self {
            pool,
            key,
            signed: Delivery::workflow_job("queued", &job).sign(SECRET),
        }
    }

    async fn attempt(&self, client: &reqwest::Client, url: &str) -> Attempt {
        let begun = Instant::now();
        let request = client
            .post(url)
            .headers(self.signed.headers())
            .body(self.signed.delivery.body.clone());
        let answer = async {
            let answer = request.send().await?;
            let retry_after = answer.headers().get("retry-after");
            let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            Ok::<_, reqwest::Error>((answer.status().as_u16(), retry_after, answer.text().await?))
        };
        let (status, retry_after, body) = match answer.await {
            Ok(answer) => answer,
            Err(error) => (0, None, format!("{error:?}")),
        };
        Attempt {
            begun,
            took: begun.elapsed(),
            status,
            retry_after,
            body,
        }
    }

    /// Sends it until it is answered 2xx, for a minute at most.
    pub async fn deliver(&self, client: &reqwest::Client, url: &str) -> Result<Vec<Attempt>> {
        let begun = Instant::now();
        let (mut pause, longest) = AGAIN;
        let mut attempts = Vec::new();
        loop {
            let attempt = self.attempt(client, url).await;
            let is_accepted = attempt.is_accepted();
            attempts.push(attempt);
            if is_accepted {
                return Ok(attempts);
            }
            ensure!(
                begun.elapsed() < MINUTE,
                "{} was never accepted: {attempts:#?}",
                self.key
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Whether the attempt was answered that the job counts.
    pub fn is_scaled(&self, attempt: &Attempt) -> bool {
        attempt.body == format!("scaled {} by 1", label(self.pool))
    }
}

/// Label, and name of deployment and autoscaler, of a pool.
pub fn label(pool: usize) -> String {
    format!("load-{pool}")
}

/// An HTTP client that goes straight to the server.
pub fn client() -> Result<reqwest::Client> {
    let client = reqwest::Client::builder().no_proxy().build();
    client.context("could not make an HTTP client")
}

/// Makes so many deployments and autoscalers, of at most one runner each.
pub async fn pools(world: &World, count: usize) -> Result<()> {
    for pool in 0..count {
        let name = label(pool);
        world
            .deployment(&name, |spec| {
                spec.template.spec.config.labels = Some(vec![name.clone()]);
            })
            .await?;
        world
            .autoscaler(&name, &name, |spec| spec.max_replicas = Some(1))
            .await?;
    }
    Ok(())
}

/// Sends a job to each server for each pool until that server knows the pool; those jobs count too.
pub async fn until_known(world: &World, pools: usize) -> Result<Vec<Queued>> {
    let (client, begun) = (client()?, Instant::now());
    let mut probes = Vec::new();
    let pairs = world
        .webhook_urls
        .iter()
        .flat_map(|url| (0..pools).map(move |pool| (url, pool)));
    for (job, (url, pool)) in (1_u64..).zip(pairs) {
        loop {
            let probe = Queued::new(world, pool, job);
            let attempt = probe.attempt(&client, url).await;
            if probe.is_scaled(&attempt) {
                probes.push(probe);
                break;
            }
            ensure!(
                begun.elapsed() < MINUTE,
                "{url} does not know pool {pool}: {attempt:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(probes)
}

/// What ledgers lack or have too much of.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Jobs that were answered `scaled` and have no entry.
    pub missing: Vec<String>,
    /// Jobs with more entries than one, and nobody to excuse it.
    pub doubled: Vec<String>,
    /// Entries of nobody who was sent.
    pub unexpected: Vec<String>,
    /// Jobs with a second entry, which counts no more: a server died or could not tell whether its write was done, and the next one had
    /// not seen the entry yet.
    pub excused: usize,
}

impl Faults {
    /// Whether each job counts once.
    pub fn is_none(&self) -> bool {
        self.missing.is_empty() && self.doubled.is_empty() && self.unexpected.is_empty()
    }
}

/// Compares the ledgers of these pools with the jobs that must be in them; the second value of a job says that two entries of it are
/// excused.
pub async fn compare<'a>(
    world: &World,
    pools: impl IntoIterator<Item = usize>,
    expected: impl IntoIterator<Item = (&'a Queued, bool)>,
) -> Result<Faults> {
    let mut faults = Faults::default();
    let mut of_pool: BTreeMap<usize, Vec<(&Queued, bool)>> = BTreeMap::new();
    for (queued, may_repeat) in expected {
        of_pool.entry(queued.pool).or_default().push((queued, may_repeat));
    }
    for pool in pools {
        let mut found = ledger(world, pool).await?;
        for (queued, may_repeat) in of_pool.remove(&pool).unwrap_or_default() {
            match found.remove(&queued.key).unwrap_or_default() {
                0 => faults.missing.push(queued.key.clone()),
                1 => {}
                2 if may_repeat => faults.excused += 1,
                _ => faults.doubled.push(queued.key.clone()),
            }
        }
        faults.unexpected.extend(found.into_keys());
    }
    Ok(faults)
}

/// How often each key is in a pool's ledger.
async fn ledger(world: &World, pool: usize) -> Result<BTreeMap<String, usize>> {
    let autoscaler = world.get_autoscaler(&label(pool)).await?;
    let mut keys = BTreeMap::new();
    for entry in autoscaler.spec.capacity_reservations.into_iter().flatten() {
        let name = entry.name.unwrap_or_default();
        let key = name.split('@').next().unwrap_or_default().to_owned();
        *keys.entry(key).or_default() += 1;
    }
    Ok(keys)
}

/// The time that so many percent of the attempts did not exceed.
pub fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(index).copied().unwrap_or_default()
}

/// A burst of jobs, with its mishaps.
#[derive(Clone, Debug)]
pub struct Burst {
    /// Autoscalers.
    pub pools: usize,
    /// Distinct jobs.
    pub jobs: usize,
    /// Deliveries that begin per second.
    pub per_second: u32,
    /// Webhook servers.
    pub replicas: usize,
    /// One of them is killed this often, and started again.
    pub kill_every: Duration,
    /// Share of writes that the API server answers 409 or 500, half of them after it has done them.
    pub faulty: f64,
    /// Decides what is left to chance.
    pub seed: u64,
    /// The webhook server's executable; `None` is the one beside this program.
    pub program: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct BurstFigures {
    /// Deliveries that began per second.
    pub per_second: f64,
    /// From the first delivery to the last 2xx.
    pub took: Duration,
    /// Attempts, repetitions included.
    pub attempts: usize,
    /// Attempts without an answer: the connection broke.
    pub unanswered: usize,
    /// Writes that were answered by a fault.
    pub faults: usize,
    /// Replicas that were killed.
    pub kills: usize,
    /// Times of all answers: median, 99th percentile, longest.
    pub answers: [Duration; 3],
    /// 99th percentile and longest of what began after the autoscaler was deleted, for the others.
    pub others: [Duration; 2],
    /// Deliveries whose 2xx was neither `scaled` nor, for the deleted autoscaler, that nobody is concerned.
    pub wrong: Vec<String>,
    /// Ledgers against answers.
    pub ledgers: Faults,
    /// The same after some deliveries were sent again to a server that does not remember them.
    pub repeated: Faults,
}

/// Runs the burst.
pub async fn burst(name: &str, burst: &Burst) -> Result<BurstFigures> {
    let deleted = burst.pools / 2;
    let mut builder = World::builder(name);
    if let Some(program) = &burst.program {
        builder = builder.webhook_program(program);
    }
    let world = builder
        .seed(burst.seed)
        .webhook_replicas(burst.replicas)
        // The fake GitHub does not know these jobs.
        .manager_flag("--queue-reconciliation-period=0")
        .through_proxy()
        .start()
        .await?;
    pools(&world, burst.pools).await?;
    let probes = until_known(&world, burst.pools).await?;
    // The probes' runners, which nobody gives a job: the API server has no other work when the burst begins.
    world.until_known(burst.pools, MINUTE).await?;
    for proxy in world.webhook_proxies() {
        // One of each kind for certain.
        proxy.inject(ApiFault::statuses(&[500]).lost_answers(1.0).times(1));
        proxy.inject(ApiFault::statuses(&[409]).times(1));
        proxy.inject(
            ApiFault::statuses(&[409, 500])
                .share(burst.faulty)
                .lost_answers(0.5),
        );
    }
    let jobs: Vec<Queued> = (0..burst.jobs)
        .zip(FIRST..)
        .map(|(index, job)| Queued::new(&world, index % burst.pools, job))
        .collect();
    let calm = CancellationToken::new();
    let killing = kill(&world, burst, calm.clone());
    let sending = async {
        let sent = send(&world, &jobs, burst.per_second, deleted).await;
        calm.cancel();
        sent
    };
    let (kills, sent) = tokio::try_join!(killing, sending)?;
    let faults = world.webhook_proxies().map(FaultProxy::injected).sum();
    let live = || (0..burst.pools).filter(|pool| *pool != deleted);
    let expected = || {
        let sent = jobs.iter().zip(&sent.attempts);
        sent.map(|(queued, attempts)| (queued, attempts.len() > 1))
            .chain(probes.iter().map(|probe| (probe, false)))
    };
    let ledgers = compare(&world, live(), expected()).await?;
    // The same deliveries again where nobody remembers them: the same answers, and no effect.
    world.restart_webhook_replica(0).await?;
    let mut figures = judge(&jobs, &sent, deleted);
    let (client, url) = (
        client()?,
        world.webhook_urls.first().context("there is no server")?,
    );
    for queued in jobs.iter().filter(|queued| queued.pool != deleted).take(20) {
        let again = queued.deliver(&client, url).await?;
        if !again.last().is_some_and(|last| queued.is_scaled(last)) {
            figures.wrong.push(format!("repeated: {again:?}"));
        }
    }
    figures.repeated = compare(&world, live(), expected()).await?;
    (figures.kills, figures.faults, figures.ledgers) = (kills, faults, ledgers);
    Ok(figures)
}

/// Kills one replica after the other, until it is `calm`.
async fn kill(world: &World, burst: &Burst, calm: CancellationToken) -> Result<usize> {
    let mut every = tokio::time::interval(burst.kill_every);
    // Where a start takes longer than that, one replica is down at a time all the same.
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every.tick().await;
    for kills in 0.. {
        tokio::select! {
            _ = every.tick() => {}
            () = calm.cancelled() => return Ok(kills),
        }
        let replica = (kills + 1) % burst.replicas.max(1);
        world.kill_webhook_replica(replica).await?;
        world.restart_webhook_replica(replica).await?;
    }
    Ok(0)
}

/// Every delivery's attempts, in the order of the jobs.
struct Sent {
    begun: Instant,
    /// When the last delivery began.
    offered: Instant,
    /// When the autoscaler was deleted.
    deleted: Instant,
    attempts: Vec<Vec<Attempt>>,
}

/// Begins deliveries at a fixed rate, whatever becomes of those before; half way the autoscaler is deleted.
async fn send(world: &World, jobs: &[Queued], per_second: u32, deleted: usize) -> Result<Sent> {
    let clients: Vec<_> = (0..CLIENTS).map(|_| client()).collect::<Result<_>>()?;
    let begun = Instant::now();
    let (half, is_half) = watch::channel(false);
    let deleting = async {
        let mut is_half = is_half;
        is_half
            .wait_for(|half| *half)
            .await
            .context("the deliveries ended early")?;
        let api = world.api::<HorizontalRunnerAutoscaler>();
        api.delete(&label(deleted), &DeleteParams::default())
            .await
            .context("could not delete an autoscaler")?;
        Ok::<_, anyhow::Error>(Instant::now())
    };
    let sending = async {
        let mut all = JoinSet::new();
        for ((index, queued), client) in jobs.iter().enumerate().zip(clients.iter().cycle()) {
            let due = Duration::from_secs(1) * u32::try_from(index)? / per_second.max(1);
            tokio::time::sleep_until((begun + due).into()).await;
            if index == jobs.len() / 2 {
                half.send_replace(true);
            }
            let (queued, client, url) = (queued.clone(), client.clone(), world.webhook_url.clone());
            all.spawn(async move { (index, queued.deliver(&client, &url).await) });
        }
        let offered = Instant::now();
        let mut attempts = vec![Vec::new(); jobs.len()];
        while let Some(done) = all.join_next().await {
            let (index, made) = done.context("a delivery's task failed")?;
            if let Some(slot) = attempts.get_mut(index) {
                *slot = made?;
            }
        }
        Ok::<_, anyhow::Error>((offered, attempts))
    };
    let (deleted, (offered, attempts)) = tokio::try_join!(deleting, sending)?;
    Ok(Sent {
        begun,
        offered,
        deleted,
        attempts,
    })
}

fn judge(jobs: &[Queued], sent: &Sent, deleted: usize) -> BurstFigures {
    let all = || sent.attempts.iter().flatten();
    let mut times: Vec<Duration> = all().filter(|a| a.status != 0).map(|a| a.took).collect();
    let of_others = jobs
        .iter()
        .zip(&sent.attempts)
        .filter(|(queued, _)| queued.pool != deleted);
    let mut others: Vec<Duration> = of_others
        .flat_map(|(_, attempts)| attempts)
        .filter(|attempt| attempt.status != 0 && attempt.begun >= sent.deleted)
        .map(|attempt| attempt.took)
        .collect();
    let wrong = jobs.iter().zip(&sent.attempts).filter(|(queued, attempts)| {
        !attempts.last().is_some_and(|last| {
            queued.is_scaled(last)
                || queued.pool == deleted && last.body.starts_with("no horizontalrunnerautoscaler")
        })
    });
    let ended = all().map(|attempt| attempt.begun + attempt.took).max();
    let offered = sent.offered.duration_since(sent.begun).as_secs_f64();
    let count = u32::try_from(jobs.len()).map_or(f64::MAX, f64::from);
    BurstFigures {
        per_second: count / offered.max(1e-9),
        took: ended.map_or(Duration::ZERO, |ended| ended.duration_since(sent.begun)),
        attempts: all().count(),
        unanswered: all().filter(|attempt| attempt.status == 0).count(),
        faults: 0,
        kills: 0,
        answers: [50, 99, 100].map(|percent| percentile(&mut times, percent)),
        others: [99, 100].map(|percent| percentile(&mut others, percent)),
        wrong: wrong
            .map(|(queued, attempts)| format!("{}: {attempts:?}", queued.key))
            .collect(),
        ledgers: Faults::default(),
        repeated: Faults::default(),
    }
}
