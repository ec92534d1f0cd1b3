//! GitHub's own clock: the system's, set off by as much as a test wants. It is another machine's clock on
//! purpose, not the one of the programs under test.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A clock that can be wrong.
#[derive(Debug)]
pub(crate) struct ServerClock {
    offset_millis: AtomicI64,
    started: Instant,
}

impl ServerClock {
    pub(crate) fn new(offset: SignedDuration) -> Self {
        Self {
            offset_millis: AtomicI64::new(millis(offset)),
            started: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the clock of another machine")]
        let now = Timestamp::now();
        let offset = SignedDuration::from_millis(self.offset_millis.load(Ordering::Relaxed));
        now.checked_add(offset).unwrap_or(now)
    }

    pub(crate) fn set_offset(&self, offset: SignedDuration) {
        self.offset_millis.store(millis(offset), Ordering::Relaxed);
    }

    /// Whole minutes since the start, whatever the offset.
    pub(crate) fn minute(&self) -> usize {
        usize::try_from(self.started.elapsed().as_secs() / 60).unwrap_or(usize::MAX)
    }
}

fn millis(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(0)
}
