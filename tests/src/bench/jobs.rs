//! Jobs on the real processes: how soon a pod comes, what a burst, a stream and idle runners cost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{control_plane::ControlPlane, github::Family, scenarios::recovery, terminal::Terminal};

use super::{
    figures::{Bound, Figures, count, count64, seconds},
    loops::Bare,
    rig::{self, Rig},
};

/// Longest wait of any measurement.
const LONG: Duration = Duration::from_mins(10);
/// Pools of the latency measurement; the first round meets each for the first time.
const POOLS: usize = 20;
/// Rounds over them.
const ROUNDS: usize = 5;
/// Writes that plain loops have under way.
const AT_A_TIME: usize = 16;

/// Prints what Muster wrote, for whoever wants to write less.
fn explain(terminal: Terminal, writes: &rig::Writes) {
    let kinds: Vec<String> = writes
        .kinds()
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let (rate, object) = writes.busiest_shared();
    terminal.say(format_args!(
        "  Muster's writes: {}; busiest shared object: {object}, {rate:.2}/s",
        kinds.join(", ")
    ));
}

/// One cold job after the other, each for another pool.
pub(super) async fn latency(plane: &Arc<ControlPlane>, terminal: Terminal) -> Result<Figures> {
    let mut rig = Rig::start(plane, rig::builder("bench-latency")).await?;
    let pools: Vec<String> = (0..POOLS).map(|number| format!("cold-{number:02}")).collect();
    rig.pools(&pools, |_| {}).await?;
    rig.audit.forget().await?;
    for pool in pools.iter().cycle().take(POOLS * ROUNDS) {
        rig.queue(pool, Duration::from_millis(50));
        rig.finish(LONG).await?;
        // Status writes wait for their second: an idle system has none outstanding.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
    let jobs = rig.jobs().len();
    let writes = rig.writes().await?;
    explain(terminal, &writes);
    let spread = rig.queued_to_pod();
    let bare = Bare::make(plane).await?;
    let chain = bare.chains(jobs).await?;
    bare.clear().await?;

    let mut figures = Figures::default();
    figures.promise(
        "queued_to_pod_p99",
        "queued webhook → pod created, cold, p99",
        count64(spread.p99),
        "ms",
        Bound::AtMost(150.0),
    );
    figures.add("queued_to_pod_p50", "the same, p50", count64(spread.p50), "ms");
    figures.add(
        "chain_p50",
        "limit: five plain writes one after the other, the last one a pod, p50",
        count64(chain.latency.p50) / 1_000.0,
        "ms",
    );
    figures.add(
        "chain_p99",
        "the same, p99",
        count64(chain.latency.p99) / 1_000.0,
        "ms",
    );
    let created = count(rig.world.kubelet.counters().pods_created);
    figures.promise(
        "pods_for_20",
        "pods for 20 cold jobs",
        created * 20.0 / count(jobs),
        "",
        Bound::AtMost(20.0),
    );
    figures.promise(
        "writes_cold",
        "writes by Muster for a cold job",
        count(writes.muster()) / count(jobs),
        "",
        Bound::AtMost(20.0),
    );
    let per_runner = count(writes.per_runner()) / count(jobs);
    figures.promise(
        "writes_per_runner",
        "of these on Runner and pod",
        per_runner,
        "",
        Bound::AtMost(8.0),
    );
    Ok(figures)
}

/// Many jobs at once, longer than it takes to start them.
pub(super) async fn burst(plane: &Arc<ControlPlane>, jobs: usize, terminal: Terminal) -> Result<Figures> {
    let bare = Bare::make(plane).await?;
    let plain = bare.runners_with_pods(jobs, AT_A_TIME * 2).await?;
    bare.clear().await?;
    let builder = rig::builder("bench-burst").manager_flag("--default-scale-down-delay=5s");
    let mut rig = Rig::start(plane, builder).await?;
    rig.pools(&["burst".to_owned()], |spec| {
        spec.max_replicas = Some(i64::try_from(jobs).unwrap_or(i64::MAX));
    })
    .await?;
    rig.audit.forget().await?;
    let work = async {
        for _ in 0..jobs {
            rig.queue("burst", Duration::from_secs(30));
        }
        rig.finish(LONG).await
    };
    let ((), cpu, _) = rig::cpu_of(&rig, work).await?;
    let rss = rig.usage()?.rss_kib;
    let writes = rig.writes().await?;
    explain(terminal, &writes);
    let last_pod = rig.last(&rig.pods(), |pod| Some(pod.created));
    let last_start = rig.last(&rig.jobs(), |job| job.started_at);

    let mut figures = Figures::default();
    figures.promise(
        "last_pod",
        &format!("{jobs} jobs at once: last pod created"),
        last_pod,
        "s",
        Bound::AtMost(2.0 * seconds(plain.took)),
    );
    figures.add(
        "plain_loop",
        "limit: a plain loop that creates as many Runners and pods",
        seconds(plain.took),
        "s",
    );
    figures.add("last_start", "last job started", last_start, "s");
    writes.figures(jobs, &mut figures);
    figures.promise(
        "idle_pods",
        "pods that never ran a job",
        rig.idle_share(),
        "%",
        Bound::AtMost(2.0),
    );
    figures.add("cpu", "CPU of the manager for the whole burst", cpu, "s");
    figures.add(
        "rss",
        "RSS of the manager afterwards",
        count64(rss) / 1_024.0,
        "MiB",
    );
    Ok(figures)
}

/// A stream of jobs, of 3 s each, at a moderate rate and at one that the API server cannot keep up with.
pub(super) async fn churn(plane: &Arc<ControlPlane>, terminal: Terminal) -> Result<Figures> {
    let mut figures = Figures::default();
    let moderate = stream(plane, 5.0, 300, terminal).await?;
    figures.promise(
        "started_p99_at_5",
        "5 jobs/s: queued → started, p99",
        moderate.started_p99 / 1_000.0,
        "s",
        Bound::AtMost(1.0),
    );
    figures.promise(
        "idle_pods_at_5",
        "5 jobs/s: pods that never ran a job",
        moderate.idle_share,
        "%",
        Bound::AtMost(2.0),
    );
    let bare = Bare::make(plane).await?;
    let raw = bare.lives(500, AT_A_TIME).await?;
    let heavy = stream(plane, 25.0, 1_500, terminal).await?;
    let limit = raw.per_second() / heavy.all_per_job.max(1e-9);
    figures.promise(
        "finished",
        "25 jobs/s offered: jobs finished per second",
        heavy.finished,
        "/s",
        Bound::AtLeast(f64::min(15.0, 0.6 * limit)),
    );
    figures.add(
        "raw_writes",
        "limit: plain writes per second on pods, 16 at a time",
        raw.per_second(),
        "/s",
    );
    figures.add(
        "jobs_limit",
        "limit: jobs per second that these writes would be enough for",
        limit,
        "/s",
    );
    figures.add(
        "started_p99_at_25",
        "25 jobs/s: queued → started, p99",
        heavy.started_p99 / 1_000.0,
        "s",
    );
    figures.promise(
        "idle_pods",
        "25 jobs/s: pods that never ran a job",
        heavy.idle_share,
        "%",
        Bound::AtMost(2.0),
    );
    figures.append(heavy.costs);
    figures.add(
        "cpu_per_job",
        "CPU of the manager per 1,000 jobs",
        heavy.cpu * 1_000.0,
        "s",
    );
    Ok(figures)
}

struct Stream {
    started_p99: f64,
    idle_share: f64,
    finished: f64,
    all_per_job: f64,
    cpu: f64,
    costs: Figures,
}

/// Jobs with exponential pauses between them.
async fn stream(
    plane: &Arc<ControlPlane>,
    per_second: f64,
    jobs: usize,
    terminal: Terminal,
) -> Result<Stream> {
    let builder = rig::builder("bench-churn").manager_flag("--default-scale-down-delay=5s");
    let mut rig = Rig::start(plane, builder).await?;
    rig.pools(&["churn".to_owned()], |spec| spec.max_replicas = Some(300))
        .await?;
    rig.audit.forget().await?;
    let mut random = StdRng::seed_from_u64(25);
    let work = async {
        let mut due = Instant::now();
        for _ in 0..jobs {
            let pause = -(1.0 - random.random::<f64>()).ln() / per_second;
            due += Duration::from_secs_f64(pause);
            tokio::time::sleep_until(due.into()).await;
            rig.queue("churn", Duration::from_secs(3));
        }
        rig.finish(LONG).await
    };
    let ((), cpu, _) = rig::cpu_of(&rig, work).await?;
    let writes = rig.writes().await?;
    explain(terminal, &writes);
    let finished: Vec<_> = rig.jobs();
    let took = rig.last(&finished, |job| job.completed_at) - 3.0;
    let mut costs = Figures::default();
    writes.figures(jobs, &mut costs);
    let stream = Stream {
        started_p99: count64(rig.queued_to_started().p99),
        idle_share: rig.idle_share(),
        finished: count(finished.len()) / took.max(1e-9),
        all_per_job: count(writes.all()) / count(jobs),
        cpu: cpu / count(jobs),
        costs,
    };
    terminal.say(format_args!(
        "  {jobs} jobs at {per_second}/s: {:.1}/s finished, started p99 {} ms, {:.1} % unused pods",
        stream.finished, stream.started_p99, stream.idle_share
    ));
    Ok(stream)
}

/// Idle runners: what they cost while nothing happens.
pub(super) async fn steady(plane: &Arc<ControlPlane>, runners: usize, terminal: Terminal) -> Result<Figures> {
    let idle = idle(plane, runners, Duration::from_mins(2), terminal).await?;
    let mut figures = Figures::default();
    figures.promise(
        "writes",
        &format!("{runners} idle runners: API writes by Muster in two minutes"),
        idle.writes,
        "",
        Bound::AtMost(0.0),
    );
    figures.promise(
        "list_calls",
        "list calls to GitHub per scope and minute",
        idle.listings,
        "",
        Bound::AtMost(2.0),
    );
    figures.promise(
        "cpu",
        "CPU of the manager",
        idle.cpu_percent,
        "%",
        Bound::AtMost(0.3),
    );
    figures.promise(
        "rss",
        "RSS of the manager",
        idle.rss_mib,
        "MiB",
        Bound::AtMost(40.0),
    );
    figures.add("fill", "time until all of them were registered", idle.fill, "s");
    figures.add("fill_cpu", "CPU of the manager until then", idle.fill_cpu, "s");
    Ok(figures)
}

struct Idle {
    writes: f64,
    listings: f64,
    cpu_percent: f64,
    rss_mib: f64,
    fill: f64,
    fill_cpu: f64,
    fill_writes: f64,
}

async fn idle(
    plane: &Arc<ControlPlane>,
    runners: usize,
    length: Duration,
    terminal: Terminal,
) -> Result<Idle> {
    let mut rig = Rig::start(plane, rig::builder("bench-steady")).await?;
    rig.audit.forget().await?;
    let fill = async {
        rig.world
            .deployment("idle", |spec| spec.replicas = i64::try_from(runners).ok())
            .await?;
        rig.world
            .until("all runners are registered", LONG, async |world| {
                Ok(world.github.runners().len() >= runners)
            })
            .await
    };
    let ((), fill_cpu, took) = rig::cpu_of(&rig, fill).await?;
    // Ids are looked up, statuses are written and listings are a minute old before it is quiet.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let filled = rig.writes().await?;
    explain(terminal, &filled);
    rig.audit.forget().await?;
    rig.world.github.reset_counters();
    let quiet = async {
        tokio::time::sleep(length).await;
        Ok(())
    };
    let ((), cpu, span) = rig::cpu_of(&rig, quiet).await?;
    let writes = rig.writes().await?;
    explain(terminal, &writes);
    let listings = rig.world.github.calls_per_minute(Family::ListRunners);
    let pages = runners.div_ceil(100);
    Ok(Idle {
        writes: count(writes.muster()),
        // A list call has a request per page of 100.
        listings: count64(listings.into_iter().max().unwrap_or_default()) / count(pages),
        cpu_percent: cpu * 100.0 / span.as_secs_f64(),
        rss_mib: count64(rig.usage()?.rss_kib) / 1_024.0,
        fill: took.as_secs_f64(),
        fill_cpu,
        fill_writes: count(filled.muster()),
    })
}

/// How much dearer a runner is among 1,000 than among 100.
pub(super) async fn growth(plane: &Arc<ControlPlane>, terminal: Terminal) -> Result<Figures> {
    let (few, many) = (100_usize, 1_000_usize);
    let small = idle(plane, few, Duration::from_mins(1), terminal).await?;
    let large = idle(plane, many, Duration::from_mins(1), terminal).await?;
    let factor = count(many) / count(few);
    let mut figures = Figures::default();
    let mut compare = |name: &str, what: &str, small: f64, large: f64, least: f64| {
        let what = format!("{what}: {few} → {many} runners, divided by {factor}");
        // Below what the machine can tell apart both are the same.
        let ratio = large.max(least) / small.max(least) / factor;
        figures.promise(name, &what, ratio, "×", Bound::AtMost(1.25));
    };
    compare("fill", "time to fill", small.fill, large.fill, 0.1);
    compare("fill_cpu", "CPU to fill", small.fill_cpu, large.fill_cpu, 0.05);
    compare(
        "fill_writes",
        "writes to fill",
        small.fill_writes,
        large.fill_writes,
        1.0,
    );
    compare("cpu", "CPU when idle", small.cpu_percent, large.cpu_percent, 0.05);
    compare("rss", "RSS", small.rss_mib, large.rss_mib, 1.0);
    figures.add("fill_1000", "time to fill 1,000", large.fill, "s");
    figures.add("rss_1000", "RSS with 1,000 runners", large.rss_mib, "MiB");
    Ok(figures)
}

/// Webhooks that get lost: how soon their jobs start all the same.
pub(super) async fn lossy(terminal: Terminal) -> Result<Figures> {
    let wanted = recovery::Losses {
        jobs: 200,
        length: Duration::from_secs(2),
        lose: 0.1,
        forget: 0.1,
        outage: Duration::from_secs(30),
        period: Duration::from_secs(30),
        untold: 10,
    };
    let found = recovery::losses("bench-lossy", &wanted).await?;
    terminal.say(format_args!("  {found:?}"));
    let period = seconds(wanted.period);
    let [queued, completed] = found.lost;
    let mut figures = Figures::default();
    figures.add(
        "lost_queued",
        "queued webhooks that were lost",
        count(queued),
        "%",
    );
    figures.add(
        "lost_completed",
        "completed webhooks that were lost",
        count(completed),
        "%",
    );
    figures.promise(
        "started",
        "the last job starts after the outage, with a period of 30 s",
        seconds(found.started),
        "s",
        Bound::AtMost(period + 5.0),
    );
    figures.promise(
        "gone",
        "nothing is left of the runners after it",
        seconds(found.gone),
        "s",
        Bound::AtMost(2.0 * period + 5.0),
    );
    figures.promise(
        "harmed",
        "runners deleted at work",
        count(found.harmed),
        "",
        Bound::AtMost(0.0),
    );
    Ok(figures)
}
