//! The webhook server's memory under a steady load: mostly deliveries for nobody, and jobs that come and go.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::MissedTickBehavior,
};

use crate::terminal::Terminal;

use super::{
    process::Usage,
    webhook::Bench,
    wire::{Connection, Load},
};

/// Requests that are on their way or wait for a connection, at most.
const OUTSTANDING: usize = 500;
/// Connections.
const CONNECTIONS: usize = 128;
/// Requests go out in groups, this often.
const TICK: Duration = Duration::from_millis(10);
/// Of ten deliveries, one queues a job and one completes the job that was queued so many jobs ago.
const JOBS_OPEN: usize = 200;

/// Sends `rate` requests a second for `length` and looks at the server's memory every second.
pub(super) async fn watch(bench: &Bench, length: Duration, rate: u32, terminal: Terminal) -> Result<Value> {
    let step = terminal.step("memory");
    let idle = Usage::of(bench.pid)?;
    let (sender, receiver) = mpsc::channel(OUTSTANDING);
    let receiver = Arc::new(Mutex::new(receiver));
    let mut workers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        workers.spawn(work(bench.address, receiver.clone()));
    }
    let samples = std::cell::RefCell::new(vec![idle.rss_kib]);
    let begun = Instant::now();
    let sampling = async {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        every.tick().await;
        loop {
            every.tick().await;
            if let Ok(usage) = Usage::of(bench.pid) {
                samples.borrow_mut().push(usage.rss_kib);
            }
        }
    };
    let late = tokio::select! {
        late = send(bench, length, rate, sender) => late,
        () = sampling => 0,
    };
    let mut load = Load::default();
    while let Some(done) = workers.join_next().await {
        load.merge(done.context("a connection's task failed")?);
    }
    load.elapsed = begun.elapsed();
    let end = Usage::of(bench.pid)?;
    let samples = samples.into_inner();
    let (first, last) = (idle.rss_kib, end.rss_kib);
    let highest = samples.iter().copied().max().unwrap_or(last).max(last);
    // The first two thirds fill what is bounded: 500 tombstones for each autoscaler, the ids of deliveries, pools.
    let settled = samples.get(samples.len() / 3 * 2..).unwrap_or_default();
    let slope = slope_per_minute(settled);
    let cpu = end.cpu.saturating_sub(idle.cpu).as_secs_f64() / load.elapsed.as_secs_f64().max(1e-9);
    step.done(format_args!(
        "RSS {} KiB idle, {last} KiB at the end, {highest} KiB at most, slope {slope} KiB/min; {:.0} requests/s, {} not 2xx, {:.2} CPUs",
        first,
        load.rate(),
        load.unexpected(200),
        cpu
    ));
    Ok(json!({
        "rss_first_kib": first,
        "rss_last_kib": last,
        "rss_max_kib": highest,
        "rss_slope_kib_per_min": slope,
        "settled_seconds": settled.len(),
        "rss_kib": samples,
        "requests": load.latencies.len(),
        "per_second": (load.rate() * 10.0).round() / 10.0,
        "unexpected": load.unexpected(200),
        "late_ticks": late,
        "latency_us": load.spread(),
        "cpus": (cpu * 100.0).round() / 100.0,
    }))
}

/// Takes requests as they come; ends with the sender.
async fn work(address: std::net::SocketAddr, requests: Arc<Mutex<mpsc::Receiver<Bytes>>>) -> Load {
    let (mut connection, mut load) = (Connection::new(address), Load::default());
    loop {
        let next = requests.lock().await.recv().await;
        let Some(request) = next else { return load };
        let began = Instant::now();
        let status = connection.exchange(&request).await.unwrap_or(0);
        load.note(began, status);
    }
}

/// Answers how often the server was so far behind that requests had to wait.
async fn send(bench: &Bench, length: Duration, rate: u32, requests: mpsc::Sender<Bytes>) -> usize {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let each = (rate / 100).max(1);
    let (mut open, mut number, mut late) = (VecDeque::new(), 0_u64, 0);
    let end = Instant::now() + length;
    while Instant::now() < end {
        ticks.tick().await;
        for _ in 0..each {
            let request = match number % 10 {
                0 => {
                    let job = bench.matching_job();
                    let request = bench.delivery("queued", &job);
                    open.push_back(job);
                    request
                }
                5 if open.len() > JOBS_OPEN => match open.pop_front() {
                    Some(job) => bench.delivery("completed", &Bench::completed(job)),
                    None => continue,
                },
                _ => bench.delivery("queued", &bench.other_job()),
            };
            number += 1;
            let request = match requests.try_send(request) {
                Ok(()) => continue,
                Err(mpsc::error::TrySendError::Full(request)) => request,
                Err(mpsc::error::TrySendError::Closed(_)) => return late,
            };
            late += 1;
            if requests.send(request).await.is_err() {
                return late;
            }
        }
    }
    late
}

/// Least squares over values a second apart: KiB per minute.
fn slope_per_minute(samples: &[u64]) -> i64 {
    let count = i128::try_from(samples.len()).unwrap_or_default();
    let (mut x, mut y, mut xy, mut xx) = (0_i128, 0_i128, 0_i128, 0_i128);
    for (at, value) in (0_i128..).zip(samples) {
        let value = i128::from(*value);
        x += at;
        y += value;
        xy += at * value;
        xx += at * at;
    }
    let divisor = count * xx - x * x;
    if divisor == 0 {
        return 0;
    }
    i64::try_from((count * xy - x * y) * 60 / divisor).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slope_is_per_minute() {
        assert_eq!(slope_per_minute(&[10, 12, 14, 16]), 120);
        assert_eq!(slope_per_minute(&[7, 7, 7]), 0);
        assert_eq!(slope_per_minute(&[7]), 0);
    }
}
