//! What the demo can be told.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use crate::world::Kind;

/// Jobs of a demo that was told nothing.
const DEFAULT_JOBS: usize = 20;
/// Jobs of one wave of a demo that was told nothing.
const DEFAULT_WAVE: usize = 10;

/// The command line of the demo.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "demo",
    about = "The main job, end to end: jobs come, runners come, jobs finish, runners go.",
    after_help = "Exit code 0: every job ran, no busy runner was deleted and nothing is left over; 1 otherwise; \
                  130 after Ctrl-C."
)]
pub struct Options {
    /// Number of jobs [default: 20, in waves of 10; with a number: all at once unless --wave says otherwise].
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Queue the jobs in waves of N: a wave comes when half of the one before is done.
    #[arg(long, value_name = "N", conflicts_with = "sequential")]
    pub wave: Option<usize>,
    /// One job after the other: the next is queued when the one before is completed.
    #[arg(long)]
    pub sequential: bool,
    /// How long each job runs.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub job_seconds: Duration,
    /// End with one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Leave everything running until Ctrl-C, and say how to use it.
    #[arg(long)]
    pub keep: bool,
    /// Use the cluster of KUBECONFIG (its current context) instead of a control plane of our own.
    #[arg(long)]
    pub existing_cluster: bool,
    /// What scales.
    #[arg(long, value_name = "KIND", default_value = "runnerdeployment")]
    pub kind: Kind,
    /// The autoscaler's maxReplicas instead of the sample's.
    #[arg(long, value_name = "N")]
    pub max_replicas: Option<u32>,
    /// The manager's --default-scale-down-delay, for example 10s.
    #[arg(long, value_name = "DURATION")]
    pub scale_down_delay: Option<String>,
    /// Decides everything that is left to chance.
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Kill (SIGKILL) the manager or the webhook server, by chance, about every MS milliseconds, and start it again.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub kill_every: Option<Duration>,
    /// Start the binaries of target/release instead of those beside this program.
    #[arg(long)]
    pub release_bins: bool,
    /// Give up when no job makes a step for so long.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub patience: Duration,
    /// Copy the logs of the processes to this folder at the end.
    #[arg(long, value_name = "FOLDER")]
    pub logs: Option<PathBuf>,
    /// Log level of the processes.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            jobs: None,
            wave: None,
            sequential: false,
            job_seconds: Duration::from_secs(2),
            json: false,
            keep: false,
            existing_cluster: false,
            kind: Kind::default(),
            max_replicas: None,
            scale_down_delay: None,
            seed: 1,
            kill_every: None,
            release_bins: false,
            patience: Duration::from_mins(2),
            logs: None,
            log_level: None,
        }
    }
}

impl Options {
    /// How many jobs there are.
    pub fn job_count(&self) -> usize {
        self.jobs.unwrap_or(DEFAULT_JOBS)
    }

    /// How many jobs are queued at once.
    pub fn wave_size(&self) -> usize {
        let all = if self.jobs.is_some() {
            self.job_count()
        } else {
            DEFAULT_WAVE
        };
        self.wave.unwrap_or(all).max(1)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text
        .parse()
        .map_err(|_| "expected a number of milliseconds".to_owned())?;
    Ok(Duration::from_millis(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_the_command_line_are_those_of_the_library() {
        let parsed = Options::try_parse_from(["demo"]).unwrap();
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Options::default()));
        assert_eq!((parsed.job_count(), parsed.wave_size()), (20, 10));
        let parsed = Options::try_parse_from(["demo", "--jobs", "50", "--job-seconds", "0.5"]).unwrap();
        assert_eq!((parsed.job_count(), parsed.wave_size()), (50, 50));
        assert_eq!(parsed.job_seconds, Duration::from_millis(500));
        assert!(Options::try_parse_from(["demo", "--job-seconds=-1"]).is_err());
        assert!(Options::try_parse_from(["demo", "--kind=statefulset"]).is_err());
        let parsed = Options::try_parse_from(["demo", "--kind=runnerset"]).unwrap();
        assert_eq!(parsed.kind, Kind::RunnerSet);
    }
}
