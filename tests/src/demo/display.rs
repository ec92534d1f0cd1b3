//! The live view: a progress bar and two lines on a terminal, else a line per change, twice a second at most.

use std::{
    fmt,
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use muster_crds::keys;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    terminal::{Show, Terminal},
    world::World,
};

use super::Options;

/// Time between two looks on a terminal.
const LOOK: Duration = Duration::from_millis(100);
/// Time between two lines.
const LINE: Duration = Duration::from_millis(500);

/// Where everything stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    jobs: usize,
    /// Wait, and no pod is there for them yet.
    queued: u64,
    /// Wait, and a pod is there that has no job yet.
    with_pod: u64,
    running: u64,
    done: u64,
    pods: usize,
    registered: usize,
    desired: i64,
    kills: usize,
}

impl Standing {
    fn of(world: &World, jobs: usize, desired: i64, kills: usize) -> Self {
        let (stats, counters) = (world.github.job_stats(), world.kubelet.counters());
        let waiting = counters
            .pods_created
            .saturating_sub(counters.jobs_started + counters.idle_gone);
        let with_pod = stats.queued.min(u64::try_from(waiting).unwrap_or(u64::MAX));
        Self {
            jobs,
            queued: stats.queued - with_pod,
            with_pod,
            running: stats.in_progress,
            done: stats.completed,
            pods: counters.alive,
            registered: world.github.runners().len(),
            desired,
            kills,
        }
    }

    fn stages(&self) -> String {
        format!(
            "jobs: {} queued → {} with a pod → {} running → {} done",
            self.queued, self.with_pod, self.running, self.done
        )
    }

    fn supply(&self) -> String {
        let kills = match self.kills {
            0 => String::new(),
            kills => format!(", processes killed {kills}"),
        };
        format!(
            "desired replicas {}, runner pods {}, registered {}{kills}",
            self.desired, self.pods, self.registered
        )
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}; {}", self.stages(), self.jobs, self.supply())
    }
}

/// Shows the demo until `over`.
pub(super) async fn show(
    world: &World,
    options: &Options,
    terminal: Terminal,
    kills: &tokio::sync::watch::Sender<usize>,
    over: &CancellationToken,
) {
    let desired = tokio::sync::watch::Sender::new(0);
    let jobs = options.job_count();
    let standing = || Standing::of(world, jobs, *desired.borrow(), *kills.borrow());
    let showing = async {
        match terminal.shows() {
            Show::Nothing => std::future::pending().await,
            Show::Lines => lines(terminal, &standing).await,
            Show::Live => live(jobs, &standing).await,
        }
    };
    let both = async {
        tokio::select! {
            () = showing => {}
            () = follow(world, &desired) => {}
        }
    };
    over.run_until_cancelled(both).await;
    if terminal.shows() == Show::Lines {
        terminal.say(standing());
    }
}

async fn lines(terminal: Terminal, standing: &impl Fn() -> Standing) {
    let mut last = None;
    loop {
        let now = standing();
        if last != Some(now) {
            terminal.say(now);
            last = Some(now);
        }
        tokio::time::sleep(LINE).await;
    }
}

/// Clears what it has drawn when it is dropped.
struct Drawing {
    all: MultiProgress,
    bar: ProgressBar,
    stages: ProgressBar,
    supply: ProgressBar,
}

impl Drawing {
    fn new(jobs: usize) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let add = |template: &str, length: Option<u64>| {
            let bar = all.add(ProgressBar::with_draw_target(
                length,
                ProgressDrawTarget::hidden(),
            ));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            bar
        };
        let length = u64::try_from(jobs).unwrap_or(u64::MAX);
        Self {
            bar: add("{bar:50} {pos} of {len} jobs done, {msg}", Some(length)),
            stages: add("{msg}", None),
            supply: add("{msg}", None),
            all,
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        for bar in [&self.bar, &self.stages, &self.supply] {
            bar.finish_and_clear();
        }
        // Nothing to do about a terminal that is gone.
        drop(self.all.clear());
    }
}

async fn live(jobs: usize, standing: &impl Fn() -> Standing) {
    let (drawing, begun) = (Drawing::new(jobs), Instant::now());
    loop {
        let now = standing();
        drawing.bar.set_position(now.done);
        drawing
            .bar
            .set_message(format!("{:.1} s", begun.elapsed().as_secs_f32()));
        drawing.stages.set_message(now.stages());
        drawing.supply.set_message(now.supply());
        tokio::time::sleep(LOOK).await;
    }
}

/// Keeps `desired` at what the pools of the world ask for.
async fn follow(world: &World, desired: &tokio::sync::watch::Sender<i64>) {
    let kind = GroupVersionKind::gvk(keys::GROUP, keys::VERSION, world.kind.name());
    let resource = ApiResource::from_gvk(&kind);
    let pools: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), &world.ns, &resource);
    let events = watcher(pools, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        if let Ok(pool) = event {
            let replicas = pool.data.pointer("/spec/replicas").and_then(Value::as_i64);
            desired.send_replace(replicas.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_all() {
        let standing = Standing {
            jobs: 20,
            queued: 3,
            with_pod: 2,
            running: 8,
            done: 7,
            pods: 10,
            registered: 9,
            desired: 13,
            kills: 0,
        };
        assert_eq!(
            standing.to_string(),
            "jobs: 3 queued → 2 with a pod → 8 running → 7 done of 20; desired replicas 13, runner pods 10, registered 9"
        );
    }
}
