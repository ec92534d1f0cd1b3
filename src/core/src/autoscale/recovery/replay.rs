//! Which deliveries nobody took, from GitHub's log of them.
//!
//! The log is read newest first, back to where the last scan began. A delivery is missed when none of its attempts was answered 2xx:
//! ours says 2xx only after the write. GitHub notes an attempt when it has ended, so one that hung shows up below newer ones; a scan
//! therefore looks a little further back than it must, and what was dealt with is known by its GUID.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A `queued` that is older is fed to the intake only when its job is queued still; an event that triggers wait for is too late then.
pub const STALE_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// How long github.com keeps its log.
pub const WINDOW: SignedDuration = SignedDuration::from_hours(3 * 24);

/// How long a GitHub Enterprise Server keeps its log.
pub const ENTERPRISE_WINDOW: SignedDuration = SignedDuration::from_hours(7 * 24);

/// GUIDs that a [`Seen`] remembers.
const REMEMBERED: usize = 50_000;

/// One attempt as GitHub's log lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Id of the attempt; later ones are larger.
    pub id: u64,
    /// The delivery's GUID, the same for every attempt.
    pub guid: String,
    /// When it began.
    pub delivered_at: Option<Timestamp>,
    /// The receiver's status code, or what GitHub writes where there was none.
    pub status_code: u16,
    /// Event.
    pub event: String,
    /// `action` of the payload.
    pub action: Option<String>,
}

impl Attempt {
    fn is_accepted(&self) -> bool {
        (200..300).contains(&self.status_code)
    }
}

/// Where a scan of a hook's log begins: at the newest attempt that the last one saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Id of the attempt.
    pub id: u64,
    /// When it began.
    pub at: Timestamp,
}

/// A delivery that nobody took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Id of its newest attempt.
    pub id: u64,
    /// GUID.
    pub guid: String,
    /// When that attempt began.
    pub delivered_at: Option<Timestamp>,
    /// Event.
    pub event: String,
    /// `action` of the payload.
    pub action: Option<String>,
}

impl Missed {
    /// Whether the intake could do anything with it.
    pub fn is_useful(&self) -> bool {
        match self.event.as_str() {
            "workflow_job" => matches!(
                self.action.as_deref(),
                Some("queued" | "in_progress" | "completed")
            ),
            _ => self.is_trigger(),
        }
    }

    /// Whether it is an event that triggers may wait for: it adds capacity for a time, whatever becomes of it.
    pub fn is_trigger(&self) -> bool {
        matches!(self.event.as_str(), "check_run" | "push" | "pull_request")
    }

    /// Whether it is so old that it may be about what is over: a `queued`, whose job must be looked at first, or an event that triggers
    /// wait for.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let ages = self.is_trigger() || self.action.as_deref() == Some("queued");
        let is_old = |at: Timestamp| now.duration_since(at) > STALE_AFTER;
        ages && self.delivered_at.is_none_or(is_old)
    }
}

/// GUIDs that were dealt with, the newest of them; 128 bits of each are kept, under a key of this process.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    keys: [RandomState; 2],
    guids: HashSet<u128>,
    order: VecDeque<u128>,
}

impl Seen {
    /// Whether this GUID was noted.
    pub fn contains(&self, guid: &str) -> bool {
        self.guids.contains(&self.digest(guid))
    }

    /// Notes a GUID; false when it was known.
    pub fn insert(&mut self, guid: &str) -> bool {
        let digest = self.digest(guid);
        if !self.guids.insert(digest) {
            return false;
        }
        self.order.push_back(digest);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.guids.remove(&oldest);
        }
        true
    }

    fn digest(&self, guid: &str) -> u128 {
        let [high, low] = self.keys.each_ref().map(|key| u128::from(key.hash_one(guid)));
        (high << 64) | low
    }
}

/// One reading of a hook's log, page by page.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Reading ends at attempts that began before; they say nothing.
    until: Timestamp,
    newest: Option<Cursor>,
    attempts: Vec<Attempt>,
}

impl Scan {
    /// A scan back to `cursor`, or through the whole `window` without one. `overlap` is how much further back it looks.
    pub fn new(
        cursor: Option<Cursor>,
        window: SignedDuration,
        overlap: SignedDuration,
        now: Timestamp,
    ) -> Self {
        let before = |at: Timestamp, by| at.checked_sub(by).unwrap_or(Timestamp::MIN);
        let start = before(now, window);
        let until = cursor.map_or(start, |cursor| start.max(before(cursor.at, overlap)));
        Self {
            until,
            newest: cursor,
            attempts: Vec::new(),
        }
    }

    /// Takes a page in; true when the next, older one is needed.
    pub fn page(&mut self, page: Vec<Attempt>) -> bool {
        let oldest = page.iter().filter_map(|attempt| attempt.delivered_at).min();
        for attempt in &page {
            if let Some(at) = attempt.delivered_at
                && self.newest.is_none_or(|newest| newest.id < attempt.id)
            {
                self.newest = Some(Cursor { id: attempt.id, at });
            }
        }
        let more = !page.is_empty() && oldest.is_none_or(|oldest| oldest >= self.until);
        self.attempts.extend(page);
        more
    }

    /// Where the next scan begins.
    pub fn cursor(&self) -> Option<Cursor> {
        self.newest
    }

    /// The deliveries without an accepted attempt whose GUID is not known to be dealt with.
    pub fn missed(&self, is_known: impl Fn(&str) -> bool) -> Vec<Missed> {
        let mut accepted = HashSet::new();
        let mut newest: BTreeMap<&str, &Attempt> = BTreeMap::new();
        for attempt in &self.attempts {
            if attempt.is_accepted() {
                accepted.insert(attempt.guid.as_str());
            } else if attempt.delivered_at.is_none_or(|at| at >= self.until) && !attempt.guid.is_empty() {
                let known = newest.entry(&attempt.guid).or_insert(attempt);
                if known.id < attempt.id {
                    *known = attempt;
                }
            }
        }
        newest
            .into_values()
            .filter(|attempt| !accepted.contains(attempt.guid.as_str()) && !is_known(&attempt.guid))
            .map(|attempt| Missed {
                id: attempt.id,
                guid: attempt.guid.clone(),
                delivered_at: attempt.delivered_at,
                event: attempt.event.clone(),
                action: attempt.action.clone(),
            })
            .collect()
    }
}

/// Puts deliveries into the order in which the intake gets them: ends first, so that nothing is started for a job that is over, then
/// the newest first, because old ones are the likeliest to be over.
pub fn order(missed: &mut [Missed]) {
    missed.sort_by_key(|missed| {
        let rank = match missed.action.as_deref() {
            Some("completed") => 0,
            Some("in_progress") => 1,
            _ => 2,
        };
        (rank, Reverse(missed.id))
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn t(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const HOUR: SignedDuration = SignedDuration::from_hours(1);
    const OVERLAP: SignedDuration = SignedDuration::from_secs(15);

    fn attempt(id: u64, guid: &str, at: i64, status_code: u16, action: &str) -> Attempt {
        Attempt {
            id,
            guid: guid.to_owned(),
            delivered_at: Some(t(at)),
            status_code,
            event: "workflow_job".to_owned(),
            action: Some(action.to_owned()),
        }
    }

    fn guids(missed: &[Missed]) -> Vec<&str> {
        missed.iter().map(|missed| missed.guid.as_str()).collect()
    }

    #[test]
    fn what_nobody_took_is_missed_once() {
        let mut scan = Scan::new(None, HOUR, OVERLAP, t(10_000));
        let more = scan.page(vec![
            attempt(9, "late-ok", 9_990, 200, "queued"),
            attempt(8, "lost", 9_980, 502, "queued"),
            attempt(7, "refused", 9_970, 401, "completed"),
            attempt(6, "lost", 9_960, 504, "queued"),
            attempt(5, "late-ok", 9_950, 503, "queued"),
            attempt(4, "ours", 9_940, 504, "completed"),
        ]);
        assert!(more, "the window is not over");
        assert!(!scan.page(vec![attempt(1, "too-old", 6_000, 502, "queued")]));
        let missed = scan.missed(|guid| guid == "ours");
        assert_eq!(guids(&missed), ["lost", "refused"]);
        assert_eq!(missed[0].id, 8, "the newest attempt");
        assert_eq!(scan.cursor(), Some(Cursor { id: 9, at: t(9_990) }));
    }

    #[test]
    fn a_scan_ends_a_little_before_the_last_one_began() {
        let cursor = Cursor { id: 50, at: t(9_000) };
        let mut scan = Scan::new(Some(cursor), HOUR, OVERLAP, t(10_000));
        assert!(scan.page(vec![attempt(60, "a", 9_100, 200, "queued")]));
        assert!(scan.page(vec![attempt(51, "hung", 8_990, 504, "queued")]));
        assert!(!scan.page(vec![
            attempt(50, "b", 8_985, 502, "queued"),
            attempt(49, "before", 8_984, 502, "queued"),
        ]));
        assert_eq!(guids(&scan.missed(|_| false)), ["b", "hung"]);
        assert_eq!(scan.cursor().map(|cursor| cursor.id), Some(60));
        // Nothing new: the cursor stays.
        let mut scan = Scan::new(Some(cursor), HOUR, OVERLAP, t(10_000));
        assert!(!scan.page(Vec::new()));
        assert_eq!(scan.cursor(), Some(cursor));
        // GitHub forgets what is older than the window, and so does a cursor.
        let scan = Scan::new(Some(cursor), SignedDuration::from_secs(100), OVERLAP, t(10_000));
        assert_eq!(scan.until, t(9_900));
    }

    #[test]
    fn ends_come_first_and_only_old_queued_ones_are_doubted() {
        let missed = |id, action: &str, at| Missed {
            id,
            guid: id.to_string(),
            delivered_at: Some(t(at)),
            event: "workflow_job".to_owned(),
            action: Some(action.to_owned()),
        };
        let mut all = vec![
            missed(1, "queued", 0),
            missed(2, "completed", 0),
            missed(3, "in_progress", 0),
            missed(4, "queued", 900),
            missed(5, "completed", 900),
        ];
        order(&mut all);
        assert_eq!(guids(&all), ["5", "2", "3", "4", "1"]);
        let stale: Vec<bool> = all.iter().map(|missed| missed.is_stale(t(1_000))).collect();
        assert_eq!(stale, [false, false, false, false, true]);
        assert!(all.iter().all(Missed::is_useful));
        assert!(!missed(6, "waiting", 0).is_useful());
        let event = |event: &str, at| Missed {
            event: event.to_owned(),
            action: None,
            ..missed(7, "", at)
        };
        assert!(event("push", 900).is_useful() && !event("push", 900).is_stale(t(1_000)));
        assert!(event("pull_request", 0).is_stale(t(1_000)) && !event("star", 0).is_useful());
    }

    #[test]
    fn guids_are_remembered_within_bounds() {
        let mut seen = Seen::default();
        assert!(seen.insert("a") && !seen.insert("a") && seen.contains("a"));
        for number in 0..REMEMBERED {
            seen.insert(&number.to_string());
        }
        assert!(!seen.contains("a") && seen.contains("0"));
        assert_eq!(seen.guids.len(), seen.order.len());
    }

    proptest! {
        /// However the log is cut into pages and scans, every missed delivery is found exactly once, as long as attempts appear in
        /// the log within the overlap.
        #[test]
        fn every_missed_delivery_is_found_exactly_once(
            codes in proptest::collection::vec(prop_oneof![Just(200_u16), Just(502)], 1..60),
            late in proptest::collection::vec(0_i64..10, 60),
            page in 1_usize..20,
            scans in proptest::collection::vec(1_i64..30, 1..10),
        ) {
            let log: Vec<(i64, Attempt)> = codes
                .iter()
                .enumerate()
                .map(|(index, code)| {
                    let begun = 1_000 + i64::try_from(index).unwrap();
                    let id = u64::try_from(index).unwrap() + 1;
                    (begun + late[index], attempt(id, &format!("g{index}"), begun, *code, "queued"))
                })
                .collect();
            let mut cursor = None;
            let mut seen = Seen::default();
            let mut now = 1_000;
            for step in scans.into_iter().chain([100]) {
                now += step;
                let mut visible: Vec<Attempt> =
                    log.iter().filter(|(at, _)| *at <= now).map(|(_, attempt)| attempt.clone()).collect();
                visible.reverse();
                let mut scan = Scan::new(cursor, HOUR, OVERLAP, t(now));
                for page in visible.chunks(page) {
                    if !scan.page(page.to_vec()) {
                        break;
                    }
                }
                for missed in scan.missed(|guid| seen.contains(guid)) {
                    prop_assert!(seen.insert(&missed.guid));
                }
                cursor = scan.cursor();
            }
            let expected = codes.iter().filter(|code| **code != 200).count();
            prop_assert_eq!(seen.guids.len(), expected);
        }
    }
}
