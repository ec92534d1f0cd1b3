//! Several credentials for the same places: each question goes to the one that has most left, and stays there while it may ask
//! (its copy of the answer is there, and confirming it is free), spec 90 FEATURE 7.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::auth::Credential;

/// How long a credential is passed over at a place that it may not see: an installation may be extended meanwhile.
const UNSUITED: SignedDuration = SignedDuration::from_mins(10);

/// Places that are remembered; beyond them the choice begins anew.
const MOST_PLACES: usize = 4096;

/// A credential as a choice for one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its position in the pool.
    pub(crate) member: usize,
    /// It has a copy of the answer that is recent enough: no call is needed.
    pub(crate) has_answer: bool,
    /// It answered this question's place last.
    pub(crate) is_current: bool,
    /// It may not see the place, or GitHub does not accept it.
    pub(crate) is_passed_over: bool,
    /// When it may ask; `None` is now.
    pub(crate) opens: Option<Timestamp>,
    /// Calls left, in thousandths of its limit.
    pub(crate) left: u64,
    /// Places that it serves.
    pub(crate) places: usize,
}

/// The members to ask, the best first. Those that are passed over come in only when there is nobody else.
pub(crate) fn order(mut candidates: Vec<Candidate>) -> Vec<usize> {
    if candidates.iter().any(|candidate| !candidate.is_passed_over) {
        candidates.retain(|candidate| !candidate.is_passed_over);
    }
    candidates.sort_by_key(|candidate| {
        (
            !candidate.has_answer,
            candidate.opens,
            !candidate.is_current,
            Reverse(candidate.left),
            candidate.places,
            candidate.member,
        )
    });
    candidates.iter().map(|candidate| candidate.member).collect()
}

/// Credentials that may be used for each other.
#[derive(Debug)]
pub(crate) struct Pool {
    members: Vec<Arc<Credential>>,
    places: Mutex<HashMap<String, Place>>,
}

/// What is known of a place: a scope or a repository.
#[derive(Debug, Default)]
struct Place {
    current: Option<usize>,
    /// Who has seen it.
    proven: Vec<usize>,
    /// Who may not see it, and until when that is believed.
    unsuited: HashMap<usize, Timestamp>,
}

impl Pool {
    pub(crate) fn new(members: Vec<Arc<Credential>>) -> Self {
        Self {
            members,
            places: Mutex::default(),
        }
    }

    pub(crate) fn members(&self) -> &[Arc<Credential>] {
        &self.members
    }

    /// Whether there is no choice.
    pub(crate) fn is_single(&self) -> bool {
        self.members.len() < 2
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members to ask about `place`, the best first; `look` says what cannot be known here.
    pub(crate) fn order(
        &self,
        place: &str,
        now: Timestamp,
        look: impl Fn(&Arc<Credential>) -> (bool, Option<Timestamp>, u64),
    ) -> Vec<usize> {
        let (mut known, mut loads) = ((None, Vec::new()), vec![0; self.members.len()]);
        {
            let places = self.lock();
            for current in places.values().filter_map(|place| place.current) {
                if let Some(load) = loads.get_mut(current) {
                    *load += 1;
                }
            }
            if let Some(place) = places.get(place) {
                let unsuited = place.unsuited.iter().filter(|(_, until)| **until > now);
                known = (place.current, unsuited.map(|(member, _)| *member).collect());
            }
        }
        let (current, unsuited) = known;
        let candidates = self.members.iter().zip(loads).enumerate();
        let candidates = candidates.map(|(member, (credential, places))| {
            let (has_answer, opens, left) = look(credential);
            Candidate {
                member,
                has_answer,
                is_current: current == Some(member),
                is_passed_over: unsuited.contains(&member) || credential.is_refused(now),
                opens,
                left,
                places,
            }
        });
        order(candidates.collect())
    }

    /// The member answered about the place.
    pub(crate) fn proved(&self, place: &str, member: usize) {
        let mut places = self.lock();
        if places.len() >= MOST_PLACES && !places.contains_key(place) {
            places.clear();
        }
        let place = places.entry(place.to_owned()).or_default();
        place.current = Some(member);
        place.unsuited.remove(&member);
        if !place.proven.contains(&member) {
            place.proven.push(member);
        }
    }

    /// Whether the member has seen the place: only then its "not found" means that a thing is gone.
    pub(crate) fn has_proved(&self, place: &str, member: usize) -> bool {
        let places = self.lock();
        places
            .get(place)
            .is_some_and(|place| place.proven.contains(&member))
    }

    /// The member may not see the place.
    pub(crate) fn unsuited(&self, place: &str, member: usize, now: Timestamp) {
        let mut places = self.lock();
        let place = places.entry(place.to_owned()).or_default();
        place.proven.retain(|proven| *proven != member);
        if place.current == Some(member) {
            place.current = None;
        }
        if let Ok(until) = now.checked_add(UNSUITED) {
            place.unsuited.insert(member, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn candidate(member: usize, left: u64) -> Candidate {
        Candidate {
            member,
            has_answer: false,
            is_current: false,
            is_passed_over: false,
            opens: None,
            left,
            places: 0,
        }
    }

    #[test]
    fn the_best_is_asked_first() {
        let base = || vec![candidate(0, 500), candidate(1, 900), candidate(2, 700)];
        let change = |member: usize, change: fn(&mut Candidate)| {
            let mut all = base();
            change(&mut all[member]);
            order(all)
        };
        assert_eq!(order(base()), [1, 2, 0], "by what is left");
        assert_eq!(
            change(0, |c| c.is_current = true),
            [0, 1, 2],
            "who has the answer's copy"
        );
        assert_eq!(change(2, |c| c.has_answer = true), [2, 1, 0], "who need not ask");
        assert_eq!(change(1, |c| c.opens = Some(t(1))), [2, 0, 1], "who may ask now");
        assert_eq!(change(1, |c| c.is_passed_over = true), [2, 0], "who may see it");
        assert_eq!(change(1, |c| c.left = 700), [1, 2, 0], "in their order");
        let mut busy = base();
        busy[1].left = 700;
        busy[1].places = 3;
        assert_eq!(order(busy), [2, 1, 0], "who serves fewer");
    }

    #[test]
    fn who_waits_least_is_asked_when_all_wait_and_everybody_when_nobody_is_good() {
        let mut all = vec![candidate(0, 0), candidate(1, 0)];
        all[0].opens = Some(t(9));
        all[1].opens = Some(t(5));
        assert_eq!(order(all.clone()), [1, 0]);
        for candidate in &mut all {
            candidate.is_passed_over = true;
        }
        assert_eq!(order(all), [1, 0]);
        assert_eq!(order(Vec::new()), [0; 0]);
    }
}
