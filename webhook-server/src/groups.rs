//! Which runner groups a repository may use, asked of GitHub (spec 03 §1.9). The client shares answers for a
//! minute and among all who ask at the same time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use muster_core::routing::{ListedGroup, Place, VisibleGroups};
use muster_github::{Error, ErrorClass, GitHub};
use muster_runtime::clock::Clock;
use muster_runtime::telemetry::chain;
use tokio::time::Instant;

use crate::answer::{Answer, Outcome};

/// A failure that lasts is told this often.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Longest wait that is asked of the sender.
const LONGEST_WAIT: u64 = 3_600;

/// Asks GitHub about runner groups.
#[derive(Debug)]
pub struct Groups {
    github: GitHub,
    clock: Clock,
    told_at: Mutex<Option<Instant>>,
}

impl Groups {
    /// Asks through this client.
    pub fn new(github: GitHub, clock: Clock) -> Self {
        Self {
            github,
            clock,
            told_at: Mutex::default(),
        }
    }

    /// The groups that the repository may use.
    ///
    /// # Errors
    /// The answer to a delivery whose target depends on them and cannot be told: 503, for this delivery only.
    pub async fn visible(&self, place: &Place<'_>, deadline: Instant) -> Result<VisibleGroups, Answer> {
        let call = self.github.visible_runner_groups(place.owner, place.repository);
        let error = match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(groups)) => {
                return Ok(VisibleGroups::of(groups.iter().map(|group| ListedGroup {
                    name: &group.name,
                    is_default: group.default,
                    is_inherited: group.inherited,
                })));
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        self.tell(place, error.as_ref());
        let text = "which runner groups the repository may use is not known: GitHub did not say; send the delivery again";
        let mut answer = Answer::new(Outcome::GroupsUnknown, text);
        answer.retry_after = error.as_ref().and_then(|error| wait(error, self.clock.now()));
        Err(answer)
    }

    fn tell(&self, place: &Place<'_>, error: Option<&Error>) {
        {
            let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
            if told_at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
                return;
            }
            *told_at = Some(Instant::now());
        }
        tracing::warn!(
            owner = place.owner,
            repository = place.repository,
            error = %error.map_or_else(|| "no answer before the delivery's deadline".to_owned(), |error| chain(error)),
            "Could not ask which runner groups a repository may use; its deliveries for organization and enterprise runners are answered 503"
        );
    }
}

fn wait(error: &Error, now: Timestamp) -> Option<u64> {
    match error.class() {
        ErrorClass::Throttled { until: Some(until) } => {
            let seconds = until.duration_since(now).as_secs().saturating_add(1);
            Some(u64::try_from(seconds).unwrap_or(1).clamp(1, LONGEST_WAIT))
        }
        _ => None,
    }
}
