//! The model of an API server: so many writes a second, one after the other, and so long for each.

use jiff::{SignedDuration, Timestamp};

/// The API server.
#[derive(Debug)]
pub(super) struct Server {
    each: SignedDuration,
    latency: SignedDuration,
    free_at: Timestamp,
    pub(super) writes: u64,
}

impl Server {
    pub(super) fn new(per_second: u32, latency: SignedDuration, now: Timestamp) -> Self {
        let nanos = 1_000_000_000 / i64::from(per_second.max(1));
        Self {
            each: SignedDuration::from_nanos(nanos),
            latency,
            free_at: now,
            writes: 0,
        }
    }

    /// When a write that is asked for now has been answered.
    pub(super) fn write(&mut self, now: Timestamp) -> Timestamp {
        self.writes += 1;
        self.free_at = self.free_at.max(now) + self.each;
        self.free_at.max(now + self.latency)
    }

    /// When the last of several that are asked for one after the other has been answered.
    pub(super) fn sequence(&mut self, count: usize, now: Timestamp) -> Timestamp {
        (0..count).fold(now, |at, _| self.write(at))
    }

    /// Writes that nobody here waits for.
    pub(super) fn others(&mut self, count: usize, now: Timestamp) {
        for _ in 0..count {
            self.write(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_take_their_time_and_their_turn() {
        let now = Timestamp::UNIX_EPOCH;
        let millis = SignedDuration::from_millis;
        let mut server = Server::new(100, millis(25), now);
        assert_eq!(server.write(now), now + millis(25));
        assert_eq!(server.write(now), now + millis(25));
        assert_eq!(server.write(now), now + millis(30));
        let later = now + millis(1_000);
        assert_eq!(server.sequence(2, later), later + millis(50));
        assert_eq!(server.writes, 5);
    }
}
