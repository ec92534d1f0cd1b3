//! The decisions of `muster-core` at the scale of a large company, with a virtual clock: no process, no socket, no wait.
//!
//! Everything that decides is the real code: routing, the ledger, the desired number, the plan of each set. What surrounds it is
//! a model with few parameters: an API server that takes so many writes a second and so long for each, nodes that start a
//! pod in so long, a GitHub that gives any waiting job to any idle runner of its pool.

mod cost;
mod events;
mod pool;
mod run;
mod server;

use std::time::Duration;

use jiff::Timestamp;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::demo::Spread;

pub use self::cost::{Cost, Costs};
pub use self::run::simulate;

/// The world around the decisions.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Pools of runners, each with an autoscaler.
    pub pools: usize,
    /// Organizations that the pools are spread over.
    pub scopes: usize,
    /// `maxReplicas` of each.
    pub max_per_pool: usize,
    /// Time for one write to the API server.
    pub write: Duration,
    /// Writes that the API server carries out in a second.
    pub writes_per_second: u32,
    /// From a pod's creation until its runner is registered.
    pub start: Duration,
    /// From an event on GitHub until the webhook server has it.
    pub webhook: Duration,
    /// For how long surplus idle runners are kept.
    pub scale_down_delay: Duration,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            pools: 1,
            scopes: 1,
            max_per_pool: 100,
            write: Duration::from_millis(5),
            writes_per_second: 330,
            start: Duration::from_millis(500),
            webhook: Duration::from_millis(20),
            scale_down_delay: Duration::from_mins(10),
        }
    }
}

/// A job of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it is queued, since the beginning.
    pub at: Duration,
    /// Number of its pool.
    pub pool: usize,
    /// How long it runs.
    pub length: Duration,
}

/// A trace of `jobs` that come evenly over `span`, by chance, and take `length` on average.
pub fn trace(jobs: usize, pools: usize, span: Duration, length: Duration, seed: u64) -> Vec<Job> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut all: Vec<Job> = (0..jobs)
        .map(|number| Job {
            at: span.mul_f64(random.random()),
            // Each pool has its share, whatever chance says.
            pool: number % pools.max(1),
            length: length.mul_f64(random.random_range(0.5..1.5)),
        })
        .collect();
    all.sort_by_key(|job| job.at);
    all
}

/// What a number of replicas was changed to, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// When.
    pub at: Timestamp,
    /// Number of the pool.
    pub pool: usize,
    /// The new number.
    pub replicas: i64,
}

/// What came of a trace.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Jobs that ran to their end.
    pub done: usize,
    /// Runners that were created.
    pub runners: usize,
    /// Runners that never had a job.
    pub unused: usize,
    /// The most runners that existed at one moment.
    pub most: usize,
    /// Writes to the API server, everybody's.
    pub writes: u64,
    /// Milliseconds from a job's queueing until a runner had it.
    pub waits: Spread,
    /// When everything was over, since the beginning.
    pub length: Duration,
    /// Every change of a number of replicas.
    pub scaled: Vec<Scaled>,
    /// What the decisions cost on this machine.
    pub costs: Costs,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_same_trace_is_decided_the_same_way_every_time() {
        let parameters = Parameters {
            pools: 5,
            scopes: 2,
            ..Parameters::default()
        };
        let jobs = trace(300, 5, SECOND * 60, SECOND * 20, 7);
        let (first, second) = (simulate(&parameters, &jobs), simulate(&parameters, &jobs));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.scaled, second.scaled);
        assert_eq!(
            (first.done, first.runners, first.writes, first.waits),
            (300, second.runners, second.writes, second.waits)
        );
    }

    #[test]
    fn every_job_runs_and_costs_a_runner() {
        let parameters = Parameters {
            max_per_pool: 10,
            ..Parameters::default()
        };
        let jobs = trace(200, 1, SECOND * 30, SECOND * 5, 1);
        let outcome = simulate(&parameters, &jobs).unwrap();
        assert_eq!((outcome.done, outcome.runners), (200, 200));
        assert!(outcome.most <= 10, "{} at a time", outcome.most);
    }

    #[test]
    fn a_lone_job_starts_as_soon_as_its_writes_and_its_pod_allow() {
        let parameters = Parameters::default();
        let jobs = [Job {
            at: SECOND,
            pool: 0,
            length: SECOND,
        }];
        let outcome = simulate(&parameters, &jobs).unwrap();
        let least = parameters.webhook + parameters.write * 5 + parameters.start;
        let waited = Duration::from_millis(outcome.waits.max);
        assert!(
            waited >= least && waited < least + parameters.write * 5,
            "{waited:?}"
        );
        let replicas: Vec<i64> = outcome.scaled.iter().map(|scaled| scaled.replicas).collect();
        assert_eq!(replicas, [1, 0]);
    }
}
