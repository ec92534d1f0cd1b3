//! The list of speed: every promise about time, memory and writes, as the median of three runs beside the limit of the same
//! runs. It wants a machine for itself.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::bench::Figure;

use super::{Item, Running, Verdict, item, main_job};

/// What is measured, and what measures.
const PROGRAMS: [&str; 3] = ["github-webhook-server", "manager", "bench"];
/// Runs of each benchmark.
const RUNS: &str = "3";
/// Seconds for which the webhook server's memory is watched.
const MEMORY_SECONDS: &str = "120";

/// Reports of benchmarks that several items need, by name.
static REPORTS: Mutex<Vec<(&str, Value)>> = Mutex::const_new(Vec::new());

/// The list, in the order in which it is run.
pub(super) const ITEMS: &[Item] = &[
    item(
        "durable",
        "signed deliveries, durable, 20 autoscalers: 64 and 512 connections, none lost",
        |running| {
            let names = [
                "durable_64",
                "durable_64_p99",
                "durable_512",
                "durable_512_p99",
                "lost",
            ];
            Box::pin(async move { figures(running, "webhook", &names).await })
        },
    ),
    item(
        "one",
        "the same on one autoscaler, up to 2,000 outstanding jobs",
        |running| Box::pin(figures(running, "webhook", &["one_autoscaler"])),
    ),
    item("unmatched", "deliveries that match nothing", |running| {
        Box::pin(figures(running, "webhook", &["unmatched"]))
    }),
    item("signature", "deliveries with a wrong signature", |running| {
        Box::pin(figures(running, "webhook", &["wrong_signature"]))
    }),
    item("cpu", "CPU per 1,000 deliveries", |running| {
        Box::pin(figures(running, "webhook", &["cpu_durable", "cpu_unmatched"]))
    }),
    item(
        "memory",
        "memory of the webhook server, idle and after minutes of load; of the manager with 500 runners",
        |running| Box::pin(memory(running)),
    ),
    item("latency", "queued webhook → pod created, cold", |running| {
        Box::pin(figures(running, "latency", &["queued_to_pod_p99"]))
    }),
    item("pods", "pods for 20 sequential cold jobs", |running| {
        Box::pin(figures(running, "latency", &["pods_for_20"]))
    }),
    item("burst", "300 jobs at once: last pod created", |running| {
        Box::pin(figures(running, "burst", &["last_pod"]))
    }),
    item("churn", "25 jobs/s offered: jobs finished", |running| {
        Box::pin(figures(running, "churn", &["finished"]))
    }),
    item("started", "queued → started at 5 jobs/s", |running| {
        Box::pin(figures(running, "churn", &["started_p99_at_5"]))
    }),
    item(
        "writes",
        "API writes: per runner's life, on shared objects, for a cold job",
        |running| Box::pin(writes(running)),
    ),
    item(
        "unused",
        "pods that never ran a job, in churn and burst",
        |running| Box::pin(unused(running)),
    ),
    item(
        "steady",
        "500 idle runners: writes, calls to GitHub, CPU",
        |running| Box::pin(figures(running, "steady", &["writes", "list_calls", "cpu"])),
    ),
    item(
        "growth",
        "from 100 to 1,000 runners nothing grows faster than they do",
        |running| {
            let names = ["fill", "fill_cpu", "fill_writes", "cpu", "rss"];
            Box::pin(async move { figures(running, "growth", &names).await })
        },
    ),
    item("lossy", "a fifth of the webhooks lost", |running| {
        Box::pin(figures(running, "lossy", &["started", "gone", "harmed"]))
    }),
    item(
        "simulate",
        "100,000 jobs on 1,000 pools with a virtual clock",
        |running| Box::pin(figures(running, "simulate", &["all", "done", "runners"])),
    ),
    super::TRACES,
];

/// What a benchmark found; it runs once for all items of the list.
async fn report(running: &Running<'_>, bench: &'static str) -> Result<Value> {
    let mut reports = REPORTS.lock().await;
    if let Some((_, report)) = reports.iter().find(|(name, _)| *name == bench) {
        return Ok(report.clone());
    }
    let args = [bench, "--runs", RUNS, "--no-docs"];
    let report = last_line(running, &args).await?;
    reports.push((bench, report.clone()));
    Ok(report)
}

async fn last_line(running: &Running<'_>, args: &[&str]) -> Result<Value> {
    let program = main_job::optimized(running, &PROGRAMS).await?.join("bench");
    let ran = running
        .runner
        .run(running.item, &program, args, &[], None)
        .await?;
    ensure!(ran.is_success(), "{}", ran.last_line());
    serde_json::from_str(ran.last_line()).context("the last line is no JSON")
}

/// Judges some figures of a benchmark.
async fn figures(running: &Running<'_>, bench: &'static str, names: &[&str]) -> Result<Verdict> {
    judge(&report(running, bench).await?, names)
}

fn judge(report: &Value, names: &[&str]) -> Result<Verdict> {
    let (mut ok, mut words) = (true, Vec::new());
    for name in names {
        let figure = report.pointer(&format!("/figures/{name}"));
        let figure = figure.with_context(|| format!("the benchmark has no figure {name}"))?;
        let figure: Figure = serde_json::from_value(figure.clone())
            .with_context(|| format!("the figure {name} cannot be read"))?;
        let bound = figure
            .bound
            .with_context(|| format!("nothing was promised about {name}"))?;
        ok &= bound.is_kept_by(figure.value);
        words.push(format!("{}: {} ({})", figure.what, figure.text(), bound.text()));
    }
    Ok(Verdict::new(ok, words.join("; ")))
}

fn both(one: &Verdict, other: &Verdict) -> Verdict {
    Verdict::new(one.ok && other.ok, format!("{}; {}", one.figure, other.figure))
}

/// A load of minutes shows what an allocator keeps; a benchmark of seconds does not.
async fn memory(running: &Running<'_>) -> Result<Verdict> {
    let short = figures(running, "webhook", &["rss_idle", "rss_loaded"]).await?;
    let watched = last_line(running, &["webhook", "--memory", "--seconds", MEMORY_SECONDS]).await?;
    let highest = watched.pointer("/figures/rss_max_kib").and_then(Value::as_u64);
    let highest = highest.context("the benchmark has no rss_max_kib")?;
    let long = Verdict::new(
        highest <= 25 * 1024,
        format!("after {MEMORY_SECONDS} s of load {} MiB (≤ 25)", highest / 1024),
    );
    let manager = figures(running, "steady", &["rss"]).await?;
    Ok(both(&both(&short, &long), &manager))
}

async fn writes(running: &Running<'_>) -> Result<Verdict> {
    let names = ["writes_per_runner", "shared_writes"];
    let cold = figures(running, "latency", &["writes_cold", "writes_per_runner"]).await?;
    let burst = figures(running, "burst", &names).await?;
    let churn = figures(running, "churn", &names).await?;
    Ok(both(&cold, &both(&burst, &churn)))
}

async fn unused(running: &Running<'_>) -> Result<Verdict> {
    let burst = figures(running, "burst", &["idle_pods"]).await?;
    let churn = figures(running, "churn", &["idle_pods_at_5", "idle_pods"]).await?;
    Ok(both(&burst, &churn))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_figure_is_judged_by_its_bound() {
        let report = |value: f64| {
            json!({"figures": {"a": {"what": "pods", "value": value, "unit": "s", "bound": {"at_most": 2.0}},
                "b": {"what": "x", "value": 1.0, "unit": ""}}})
        };
        let good = judge(&report(1.5), &["a"]).unwrap();
        assert!(good.ok && good.figure == "pods: 1.5 s (≤ 2)", "{}", good.figure);
        assert!(!judge(&report(2.5), &["a"]).unwrap().ok);
        assert!(judge(&report(1.0), &["b"]).is_err(), "no promise is no success");
        assert!(judge(&report(1.0), &["c"]).is_err());
    }
}
