//! Who waits for the next free call, in order. Without it all that wait would come back in the same moment, one would get
//! through, and some might never.

use jiff::{SignedDuration, Timestamp};

/// How long after its time a place is kept.
const GRACE: SignedDuration = SignedDuration::from_secs(15);

/// Places that are kept; who comes then is served after them without a place.
const MOST_PLACES: usize = 1024;

/// The line of one lane.
#[derive(Debug, Default)]
pub(crate) struct Line(Vec<Place>);

#[derive(Debug)]
struct Place {
    /// What is asked: equal questions share a place, as they share the answer.
    question: String,
    until: Timestamp,
}

impl Line {
    /// How many are to be served before this question.
    pub(crate) fn ahead(&self, question: &str, now: Timestamp) -> u64 {
        let before = self.0.iter().take_while(|place| place.question != question);
        let living = before.filter(|place| is_kept(place, now)).count();
        u64::try_from(living).unwrap_or(u64::MAX)
    }

    /// The question is to come back at `until`.
    pub(crate) fn join(&mut self, question: &str, until: Timestamp, now: Timestamp) {
        self.0.retain(|place| is_kept(place, now));
        if let Some(place) = self.0.iter_mut().find(|place| place.question == question) {
            place.until = until;
        } else if self.0.len() < MOST_PLACES {
            self.0.push(Place {
                question: question.to_owned(),
                until,
            });
        }
    }

    /// The question is being answered.
    pub(crate) fn leave(&mut self, question: &str) {
        self.0.retain(|place| place.question != question);
    }
}

fn is_kept(place: &Place, now: Timestamp) -> bool {
    place.until.checked_add(GRACE).is_ok_and(|end| end > now)
}
