//! The clock as a value: decisions take `now` from here, and tests move it by hand (part 91 B2 rule 7).

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// A source of the present instant. Clones share their source, so a test that advances its clock moves it for everybody.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Mutex<Timestamp>>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is moved.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(start))))
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "the one place where the clock is read")]
            Source::System => Timestamp::now(),
            Source::Manual(at) => *at.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a manual clock by `by` (backwards when negative), stopping at the ends of time; the system clock does not move.
    pub fn advance(&self, by: SignedDuration) {
        if let Source::Manual(at) = &self.0 {
            let mut at = at.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = if by.is_negative() {
                Timestamp::MIN
            } else {
                Timestamp::MAX
            };
            *at = at.checked_add(by).unwrap_or(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_for_all_its_clones() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let clone = clock.clone();
        clock.advance(SignedDuration::from_secs(90));
        assert_eq!(clone.now(), Timestamp::from_second(90).unwrap());
        clone.advance(SignedDuration::from_secs(-30));
        assert_eq!(clock.now(), Timestamp::from_second(60).unwrap());
        clock.advance(SignedDuration::MAX);
        assert_eq!(clock.now(), Timestamp::MAX);
    }

    #[test]
    fn the_system_clock_is_not_moved() {
        let before = Clock::system().now();
        Clock::system().advance(SignedDuration::from_hours(24));
        assert!(Clock::system().now().duration_since(before) < SignedDuration::from_hours(1));
    }
}
