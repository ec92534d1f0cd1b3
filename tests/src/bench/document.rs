//! `docs/performance.md`: made of the figures that were kept, so that no number in it is typed by hand.

use std::{fmt::Write, fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::keeper::workspace_dir;

use super::{
    Subject,
    figures::{Book, Bound, Entry},
    simulate,
};

/// The document, and the figures that it is made of.
const DOCUMENT: &str = "performance.md";
const FIGURES: &str = "performance.json";

const INTRODUCTION: &str = "\
# Performance

What Muster costs and how fast it is, measured by `make bench BENCH=…` on real parts: the optimized binaries as processes, a real etcd and API
server on loopback, and a simulated GitHub, kubelet and runner agent that take no time of their own. Nothing here is written by hand: each run of a
benchmark replaces its part.

**Read the ratios.** Everything runs on one small machine, API server and simulation included, which is shared and noisy. So each benchmark also measures
what that machine can do at best in the same minutes, with a plain loop or an empty handler (*limit* in the tables), and where a promise depends on the
machine it is a part of that limit. In real clusters API servers are larger and farther away, nodes take seconds to start a pod and GitHub answers in tens
of milliseconds; what stays the same are the counts: writes, calls, pods.

A promise in the third column that was not kept says **missed**.
";

/// What the figures of a benchmark mean.
fn about(subject: Subject) -> (&'static str, &'static str) {
    match subject {
        Subject::Webhook => (
            "Webhooks",
            "Signed `workflow_job` deliveries of about 8 KB over keep-alive connections, each sent after the answer to the one before. *Durable* \
             deliveries are pairs of `queued` and `completed` that are answered after the API server has the write; many deliveries for one autoscaler \
             share a patch, so their rate is that of the patches times the connections per autoscaler. A patch costs the API server as much as the whole list \
             that is patched: it is read, validated, written and sent to watchers, however little changes. With 2,000 jobs on *one* autoscaler that takes about a \
             tenth of a second on this machine, and what 64 connections can have then is the plain folds beside it. Deliveries that match nothing and wrong \
             signatures cost no write: what they can be compared with is a handler that reads the body and answers. Of the memory of an idle server two thirds \
             are pages of its program.",
        ),
        Subject::Latency => (
            "A cold job",
            "One job after the other, each for another of 20 pools without runners, on an otherwise idle system. Between webhook and pod are \
             five writes that need each other (ledger, RunnerDeployment, RunnerReplicaSet, Runner, pod); the limit is a loop that does just that.",
        ),
        Subject::Burst => (
            "A burst",
            "Jobs of 30 s queued at one moment. The limit is a loop that creates the same number of Runners and pods, 32 at a time, without anything \
             else; during the burst the same API server also serves the kubelet, which makes three writes per pod, and the ledger.",
        ),
        Subject::Churn => (
            "A stream of short jobs",
            "Jobs of 3 s with exponentially distributed pauses: 300 at 5 a second, then 1,500 at 25 a second, which is more than the API server has \
             writes for. The limit divides the writes per second of a plain loop (create, annotate, write status, delete) by all writes per job, \
             whoever makes them. The busiest shared object is the ledger: each event is answered after its write, and one that waited a second for others would be a \
             job that waits a second.",
        ),
        Subject::Steady => (
            "Idle runners",
            "Runners that wait for jobs. Writes are counted by the API server's audit log, without the Lease.",
        ),
        Subject::Lossy => (
            "Lost webhooks",
            "200 jobs; a fifth of the webhooks never arrive, and half of them are sent while nothing listens. Queue reconciliation and delivery \
             replay run every 30 s; the times are from the end of the outage on.",
        ),
        Subject::Growth => (
            "From 100 to 1,000 runners",
            "The same measurement with ten times as many idle runners, divided by ten: 1 is linear, less is better.",
        ),
        Subject::Simulate => (
            "The decisions alone",
            "`muster-core` with a virtual clock: 100,000 jobs on 1,000 pools whose 100,000 runners stand at once, and an API server with the given \
             latency and limit. No process and no socket is involved: what is measured is what deciding costs, and how that grows. The same simulation makes the \
             decisions of the real processes: a test plays one trace on both.",
        ),
    }
}

/// The folder of the documents.
pub(super) fn folder() -> PathBuf {
    workspace_dir().join("docs")
}

/// Day and hour, UTC.
pub(super) fn hour() -> String {
    crate::kubelet::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// Replaces the figures of a benchmark, and writes the document anew.
pub(super) fn keep(subject: Subject, entry: &Entry) -> Result<()> {
    let path = folder().join(FIGURES);
    let mut book = read()?;
    book.insert(subject.name().to_owned(), entry.clone());
    let text = serde_json::to_string_pretty(&book).context("could not write the figures")?;
    fs::write(&path, format!("{text}\n")).with_context(|| format!("could not write {}", path.display()))?;
    let path = folder().join(DOCUMENT);
    fs::write(&path, render(&book)).with_context(|| format!("could not write {}", path.display()))
}

fn read() -> Result<Book> {
    let path = folder().join(FIGURES);
    if !path.exists() {
        return Ok(Book::default());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
}

fn render(book: &Book) -> String {
    let mut text = INTRODUCTION.to_owned();
    for subject in Subject::value_variants() {
        if let Some(entry) = book.get(subject.name()) {
            // Writing to a string does not fail.
            let _infallible = section(&mut text, *subject, entry);
        }
    }
    text
}

fn section(text: &mut String, subject: Subject, entry: &Entry) -> std::fmt::Result {
    let (title, meaning) = about(subject);
    writeln!(text, "\n## {title}\n\n{meaning}\n")?;
    writeln!(text, "| what | figure | promise |\n|---|---|---|")?;
    for (_, figure) in entry.figures.iter() {
        let promise = match (figure.bound.map(Bound::text), figure.is_met()) {
            (Some(bound), Some(false)) => format!("{bound} **missed**"),
            (Some(bound), _) => bound,
            (None, _) => String::new(),
        };
        writeln!(text, "| {} | {} | {promise} |", figure.what, figure.text())?;
    }
    if subject == Subject::Simulate {
        writeln!(text, "\n![How the cost of decisions grows]({})", simulate::PLOT)?;
    }
    let runs = match entry.runs {
        1 => "one run".to_owned(),
        runs => format!("median of {runs} runs"),
    };
    write!(
        text,
        "\n`make bench BENCH={}`, {runs}, {} build, {}.",
        subject.name(),
        entry.profile,
        entry.at
    )?;
    if !entry.note.is_empty() {
        write!(text, " {}", entry.note)?;
    }
    writeln!(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_what_the_figures_say() {
        let text = fs::read_to_string(folder().join(DOCUMENT)).unwrap();
        assert_eq!(
            text,
            render(&read().unwrap()),
            "docs/performance.md was changed by hand; `make bench` writes it"
        );
    }
}
