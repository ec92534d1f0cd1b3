//! `kubectl muster explain`.

use anyhow::{Context as _, Result};
use console::Term;
use jiff::Timestamp;
use muster_core::explain::{Code, JobQuery, Question, explain};
use muster_runtime::clock::Clock;

use crate::{
    args::{ClusterArgs, ExplainArgs, Format, What},
    cluster::{Cluster, Events},
    output, render,
};

/// Answers; false when there is nothing of that name.
pub(crate) async fn run(cluster: &ClusterArgs, asked: &ExplainArgs) -> Result<bool> {
    let question = question(asked)?;
    let anywhere = matches!(question, Question::Job(_)) && cluster.namespace.is_none();
    let mut cluster = Cluster::of(cluster).await?;
    let observed = if anywhere {
        cluster.observe_widely().await?
    } else {
        cluster.observe(Events::Read).await?
    };
    let explained = explain(&question, cluster.namespace.as_deref(), &observed, now());
    match asked.output {
        Format::Json => output::print_json(&explained)?,
        Format::Text => output::print(&render::explanation(&explained, width())),
    }
    let is_missing = explained
        .reasons
        .first()
        .is_some_and(|reason| reason.code == Code::NotFound);
    Ok(!is_missing)
}

fn question(asked: &ExplainArgs) -> Result<Question> {
    // kubectl users write kind/name, too.
    let name = asked.name.trim();
    Ok(match asked.what {
        What::Pool => Question::Pool(name.to_owned()),
        What::Runner => Question::Runner(name.to_owned()),
        What::Job => Question::Job(JobQuery::parse(name).with_context(|| {
            format!(
                "{name:?} is no job: give <repository id>/<job id>, a job id, or the job's address on GitHub"
            )
        })?),
    })
}

/// Columns of the terminal.
fn width() -> usize {
    let (_, columns) = Term::stdout().size();
    usize::from(columns).clamp(60, 120)
}

/// The program's clock is that of the person who asks.
pub(crate) fn now() -> Timestamp {
    Clock::system().now()
}
