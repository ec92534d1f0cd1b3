//! `kubectl muster top`: all pools, once or again and again.

use std::time::Duration;

use anyhow::{Context as _, Result};
use console::Term;
use muster_core::explain::{Line, totals};
use serde::Serialize;

use crate::{
    args::{ClusterArgs, Format, TopArgs},
    budget::{self, Budget},
    cluster::{Cluster, Events},
    explain::now,
    output, render,
};

/// What JSON has.
#[derive(Debug, Serialize)]
struct Report {
    at: jiff::Timestamp,
    pools: Vec<Line>,
    budgets: Vec<Budget>,
}

/// Shows pools, runners, queue and budgets.
pub(crate) async fn run(cluster: &ClusterArgs, asked: &TopArgs) -> Result<()> {
    let cluster = Cluster::of(cluster).await?;
    let terminal = Term::stdout();
    if asked.output == Format::Json {
        return output::print_json(&look(&cluster, asked).await?);
    }
    if asked.once || !terminal.features().is_attended() {
        let report = look(&cluster, asked).await?;
        output::print(&render::top(&report.pools, &report.budgets, width(&terminal)));
        return Ok(());
    }
    live(&cluster, asked, &terminal).await
}

async fn look(cluster: &Cluster, asked: &TopArgs) -> Result<Report> {
    let observed = cluster.observe(Events::Leave).await?;
    let at = now();
    let budgets = match &asked.manager_metrics {
        Some(url) => budget::read(url).await?,
        None => Vec::new(),
    };
    Ok(Report {
        at,
        pools: totals(&observed, cluster.namespace.as_deref(), at),
        budgets,
    })
}

/// Draws until Ctrl-C. A look that fails is told below what was there last.
async fn live(cluster: &Cluster, asked: &TopArgs, terminal: &Term) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(asked.interval));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut last = String::new();
    terminal.hide_cursor().context("could not draw")?;
    let drawn = loop {
        tokio::select! {
            _ = &mut interrupted => break Ok(()),
            _ = tick.tick() => {}
        }
        let looked = tokio::select! {
            _ = &mut interrupted => break Ok(()),
            looked = look(cluster, asked) => looked,
        };
        let trouble = match looked {
            Ok(report) => {
                last = render::top(&report.pools, &report.budgets, width(terminal));
                String::new()
            }
            Err(error) => format!("\n{error:#}\n"),
        };
        let title = format!(
            "{}  every {} s, Ctrl-C ends\n\n",
            now().strftime("%Y-%m-%d %H:%M:%SZ"),
            asked.interval
        );
        let screen = format!("{title}{last}{trouble}");
        let (rows, _) = terminal.size();
        let fits: Vec<&str> = screen.lines().take(usize::from(rows).saturating_sub(1)).collect();
        let shown = terminal
            .clear_screen()
            .and_then(|()| terminal.write_line(&fits.join("\n")));
        if let Err(error) = shown {
            break Err(error);
        }
    };
    terminal.show_cursor().and(drawn).context("could not draw")
}

fn width(terminal: &Term) -> usize {
    usize::from(terminal.size().1).clamp(80, 200)
}
