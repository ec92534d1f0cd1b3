//! Asks GitHub for the logs of jobs, a few at a time and the least urgent of all calls: nothing waits for the answers but numbers.

use std::{sync::Arc, time::Duration};

use muster_core::job_metrics::{JobLog, LabelSet, LogReader, Pending};
use muster_github::{Error, ErrorClass, GitHub, Lane, RepositoryName};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::metrics::Metrics;

/// Jobs that may wait for their log at the same time; further ones are counted without it.
const MOST_WAITING: usize = 1_024;

/// Logs that are read at the same time.
const AT_A_TIME: usize = 4;

/// When a log is asked for: it is there some seconds after the job ended, and a busy GitHub needs longer.
const DELAYS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(3),
];

/// What is asked about a job.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) owner: String,
    pub(crate) repository: String,
    pub(crate) job: Option<u64>,
    pub(crate) labels: LabelSet,
    pub(crate) pending: Pending,
}

impl Question {
    /// Notes what the log says, or that nobody will ever know.
    pub(crate) fn conclude(self, log: Option<&JobLog>, metrics: &Metrics) {
        metrics.note(&self.labels, &self.pending.conclude(log));
    }
}

/// Reads logs.
#[derive(Debug)]
pub(crate) struct Logs {
    reader: Arc<Reader>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    quit: CancellationToken,
}

#[derive(Debug)]
struct Reader {
    github: GitHub,
    limit: u64,
    turns: Semaphore,
}

/// What came of one attempt.
enum Attempt {
    Read(JobLog),
    /// Worth another one.
    NotYet,
    /// Not worth another one.
    Never(&'static str),
}

impl Logs {
    pub(crate) fn new(github: &GitHub, limit: u64, tasks: TaskTracker, quit: CancellationToken) -> Self {
        Self {
            reader: Arc::new(Reader {
                github: github.in_lane(Lane::Cosmetic),
                limit,
                turns: Semaphore::new(AT_A_TIME),
            }),
            places: Arc::new(Semaphore::new(MOST_WAITING)),
            tasks,
            quit,
        }
    }

    /// Finds out about a job, some time.
    pub(crate) fn ask(&self, question: Question, metrics: &Metrics) {
        let (Some(job), Ok(place)) = (question.job, Arc::clone(&self.places).try_acquire_owned()) else {
            metrics.log("no_room");
            question.conclude(None, metrics);
            return;
        };
        let (reader, quit, metrics) = (Arc::clone(&self.reader), self.quit.clone(), metrics.clone());
        metrics.waiting(1);
        self.tasks.spawn(async move {
            let repository = RepositoryName {
                owner: question.owner.clone(),
                name: question.repository.clone(),
            };
            let (log, outcome) = tokio::select! {
                () = quit.cancelled() => (None, "stopped"),
                read = reader.read(&repository, job) => match read {
                    Ok(log) => (Some(log), "read"),
                    Err(outcome) => (None, outcome),
                },
            };
            metrics.log(outcome);
            metrics.waiting(-1);
            question.conclude(log.as_ref(), &metrics);
            drop(place);
        });
    }
}

impl Reader {
    async fn read(&self, repository: &RepositoryName, job: u64) -> Result<JobLog, &'static str> {
        for delay in DELAYS {
            tokio::time::sleep(delay).await;
            // Nobody closes the semaphore.
            let _turn = self.turns.acquire().await.map_err(|_| "stopped")?;
            match self.attempt(repository, job).await {
                Attempt::Read(log) => return Ok(log),
                Attempt::NotYet => {}
                Attempt::Never(why) => return Err(why),
            }
        }
        Err("unavailable")
    }

    async fn attempt(&self, repository: &RepositoryName, job: u64) -> Attempt {
        let mut reader = LogReader::default();
        let take = |piece: &[u8]| reader.feed(piece);
        let read = self.github.read_job_log(repository, job, self.limit, take).await;
        match read {
            Ok(true) => Attempt::Read(reader.finish()),
            // What stands behind the limit may be another exit code than what was found before it.
            Ok(false) => Attempt::Never("too_long"),
            Err(error) => {
                tracing::debug!(%error, %repository, job, "Could not read the log of a job");
                if is_passing(&error) {
                    Attempt::NotYet
                } else {
                    Attempt::Never("unavailable")
                }
            }
        }
    }
}

/// Whether the same call may succeed later.
fn is_passing(error: &Error) -> bool {
    match error.class() {
        ErrorClass::NotFound | ErrorClass::Unavailable | ErrorClass::Throttled { .. } => true,
        ErrorClass::Unauthorized | ErrorClass::Forbidden | ErrorClass::Rejected | ErrorClass::Bug => false,
    }
}
