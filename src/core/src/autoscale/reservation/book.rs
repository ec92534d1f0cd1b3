//! A ledger with its positions known by key, so that a batch of events costs what it changes and not what the
//! ledger holds.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;
use muster_crds::time::MicroTime;

use super::key::JobKey;
use super::{
    EventRef, JobAction, JobEvent, Kind, MAX_TOMBSTONES, TOMBSTONE_LIFETIME, TriggerEvent, after, classify,
    is_expired, is_tombstone, micros, positive, rearm,
};

/// A later expiry that gains less than this is not worth a write.
const REARM_GRAIN: SignedDuration = SignedDuration::from_secs(1);

/// What one event did to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A live entry is new: one more runner is wanted.
    Added,
    /// A live entry learnt its runner or lives longer.
    Updated,
    /// The job is counted already.
    Unchanged,
    /// A live entry became a tombstone: one runner less is wanted.
    Finished,
    /// One of upstream's anonymous entries became this job's: what is wanted stays as it was.
    Adopted,
    /// One of upstream's anonymous entries went, and the job is remembered as finished.
    Consumed,
    /// A job that was never counted is remembered as finished.
    Remembered,
    /// The job was known to have finished.
    AlreadyFinished,
    /// The ledger is as large as an object may become: nothing was written.
    Full,
}

/// What a batch of events changes in a ledger.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// New entries, to be appended in this order.
    pub appended: Vec<CapacityReservation>,
    /// New values of entries, by position, ascending.
    pub changed: Vec<(usize, CapacityReservation)>,
    /// Positions to be removed, after the changes.
    pub removed: BTreeSet<usize>,
    /// What became of each event, in the order of the events.
    pub outcomes: Vec<Outcome>,
}

impl Delta {
    /// True when there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.appended.is_empty() && self.is_additive()
    }

    /// True when nothing that exists is touched, so that the patch needs no precondition.
    pub fn is_additive(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// A ledger and where the entries of each job stand in it.
#[derive(Clone, Debug, Default)]
pub struct Book {
    entries: Vec<CapacityReservation>,
    /// First position of each job.
    positions: HashMap<JobKey, usize>,
    /// Further positions of jobs that stand in it more than once, which two writers at one moment can cause.
    doubles: HashMap<JobKey, Vec<usize>>,
    /// Names of the triggers' entries.
    triggers: HashSet<Box<str>>,
    latest: Option<Timestamp>,
    has_upstream: bool,
    bytes: usize,
}

/// How far a job is, for the transitions.
#[derive(Clone, Debug)]
enum State {
    Absent,
    Live(CapacityReservation),
    Tombstone(CapacityReservation),
}

/// A job that a fold has looked at.
#[derive(Debug)]
struct Touched {
    /// Position in the ledger; none when the entry is new.
    at: Option<usize>,
    state: State,
}

impl Book {
    /// Reads a ledger. Entries that are not a job's are kept as they are.
    pub fn new(entries: Vec<CapacityReservation>) -> Self {
        let mut book = Self {
            positions: HashMap::with_capacity(entries.len()),
            ..Self::default()
        };
        for (position, entry) in entries.iter().enumerate() {
            book.note(position, entry);
        }
        book.entries = entries;
        book
    }

    fn note(&mut self, position: usize, entry: &CapacityReservation) {
        self.latest = self.latest.max(entry.effective_time.map(|time| time.0));
        self.bytes += entry_bytes(entry);
        match classify(entry) {
            Kind::Job { key, .. } => match self.positions.entry(key) {
                std::collections::hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(position);
                }
                std::collections::hash_map::Entry::Occupied(occupied) => {
                    self.doubles
                        .entry(occupied.key().clone())
                        .or_default()
                        .push(position);
                }
            },
            Kind::Upstream => self.has_upstream = true,
            Kind::Trigger => {
                self.triggers.extend(entry.name.as_deref().map(Box::from));
            }
            Kind::Foreign => {}
        }
    }

    /// The entries, in the order of the object.
    pub fn entries(&self) -> &[CapacityReservation] {
        &self.entries
    }

    /// The entries, in the order of the object.
    pub fn into_entries(self) -> Vec<CapacityReservation> {
        self.entries
    }

    /// Jobs that have an entry, live or not.
    pub fn keys(&self) -> impl Iterator<Item = &JobKey> {
        self.positions.keys()
    }

    /// True when the job has an entry, live or not.
    pub fn holds(&self, key: &JobKey) -> bool {
        self.positions.contains_key(key)
    }

    /// True when an event cannot take effect by adding to the ledger alone: one of upstream's entries may have to
    /// go, or to get the job's name.
    pub fn must_remove_for<'e>(&self, event: impl Into<EventRef<'e>>) -> bool {
        match event.into() {
            EventRef::Job(event) => {
                self.has_upstream
                    && matches!(event.action, JobAction::InProgress | JobAction::Completed)
                    && event.runner.is_some()
                    && !self.holds(&event.key)
            }
            EventRef::Trigger(_) => false,
        }
    }

    /// About how many bytes of JSON the entries are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the events change, in their order. The book itself stays as it is.
    pub fn fold<'e>(
        &self,
        events: impl IntoIterator<Item: Into<EventRef<'e>>>,
        duration: SignedDuration,
        now: Timestamp,
    ) -> Delta {
        Fold::new(self, duration, now, true).run(events)
    }

    /// As [`Book::fold`], for a ledger that must not pass `limit` bytes: expired entries and then the oldest
    /// tombstones make room; where that is not enough, jobs that would be new are refused and finished ones
    /// that were never counted are not remembered (spec 20 "Intake").
    pub fn fold_within<'e, I>(
        &self,
        events: I,
        duration: SignedDuration,
        now: Timestamp,
        limit: usize,
    ) -> Delta
    where
        I: IntoIterator<Item: Into<EventRef<'e>>> + Clone,
    {
        let mut delta = self.fold(events.clone(), duration, now);
        if self.bytes_after(&delta) <= limit {
            return delta;
        }
        self.make_room(&mut delta, now, limit);
        if self.bytes_after(&delta) <= limit {
            return delta;
        }
        let mut delta = Fold::new(self, duration, now, false).run(events);
        self.make_room(&mut delta, now, limit);
        delta
    }

    /// As [`Book::fold`], but the change adds and touches nothing that exists: what would be changed in place is
    /// appended as a second entry of its job, which counts with the first as one (a tombstone wins, a runner's
    /// name and the later expiry hold). Nothing can refuse such a change. Give it no event for which
    /// [`Book::must_remove_for`] holds: it would be counted or remembered, and one of upstream's entries would stay. What would only let an entry live a
    /// little longer, such as a repeated delivery, is not worth a second one.
    pub fn fold_appending<'e>(
        &self,
        events: impl IntoIterator<Item: Into<EventRef<'e>>>,
        duration: SignedDuration,
        now: Timestamp,
    ) -> Delta {
        let mut delta = self.fold(events, duration, now);
        let mut changed = std::mem::take(&mut delta.changed);
        changed.retain(|(position, entry)| {
            let known = self.entries.get(*position);
            known.is_none_or(|known| !only_lives_a_little_longer(known, entry, now))
        });
        delta.appended.extend(changed.into_iter().map(|(_, entry)| entry));
        delta.removed.clear();
        delta
    }

    /// Adds to a change what the ledger can do without: expired entries, a job's superfluous ones and
    /// tombstones beyond [`MAX_TOMBSTONES`]. Order is left to the autoscaler's [`super::compact`].
    pub fn prune(&self, delta: &mut Delta, now: Timestamp) {
        let touched: BTreeSet<usize> = delta.changed.iter().map(|(position, _)| *position).collect();
        let mut tombstones = Vec::new();
        for (position, entry) in self.entries.iter().enumerate() {
            if touched.contains(&position) {
                continue;
            }
            if is_expired(entry, now) {
                delta.removed.insert(position);
            } else if is_tombstone(entry) {
                tombstones.push((entry.expiration_time, position));
            }
        }
        for (key, others) in &self.doubles {
            let all: Vec<usize> = self
                .positions
                .get(key)
                .into_iter()
                .chain(others)
                .copied()
                .collect();
            if all.iter().any(|position| touched.contains(position)) {
                continue;
            }
            let alive: Vec<usize> = all
                .into_iter()
                .filter(|position| !delta.removed.contains(position))
                .collect();
            let entry_is_tombstone = |position: &usize| self.entries.get(*position).is_some_and(is_tombstone);
            let keep = alive
                .iter()
                .copied()
                .find(entry_is_tombstone)
                .or_else(|| alive.first().copied());
            delta
                .removed
                .extend(alive.into_iter().filter(|position| Some(*position) != keep));
        }
        tombstones.retain(|(_, position)| !delta.removed.contains(position));
        tombstones.sort_unstable();
        let surplus = tombstones.len().saturating_sub(MAX_TOMBSTONES);
        delta
            .removed
            .extend(tombstones.into_iter().take(surplus).map(|(_, position)| position));
    }

    /// How many entries [`Book::prune`] could drop that have expired, without working it out in full.
    pub fn expired(&self, now: Timestamp) -> usize {
        self.entries.iter().filter(|entry| is_expired(entry, now)).count()
    }

    fn make_room(&self, delta: &mut Delta, now: Timestamp, limit: usize) {
        self.prune(delta, now);
        let touched: BTreeSet<usize> = delta.changed.iter().map(|(position, _)| *position).collect();
        let mut tombstones: Vec<_> = self
            .entries
            .iter()
            .enumerate()
            .filter(|(position, entry)| {
                is_tombstone(entry) && !touched.contains(position) && !delta.removed.contains(position)
            })
            .map(|(position, entry)| (entry.expiration_time, position))
            .collect();
        tombstones.sort_unstable();
        let mut size = self.bytes_after(delta);
        for (_, position) in tombstones {
            if size <= limit {
                break;
            }
            size = size.saturating_sub(self.entries.get(position).map_or(0, entry_bytes));
            delta.removed.insert(position);
        }
    }

    /// About how many bytes of JSON the entries are once the change is made.
    pub fn bytes_after(&self, delta: &Delta) -> usize {
        let old = |position: &usize| self.entries.get(*position).map_or(0, entry_bytes);
        let grown: usize = delta.appended.iter().map(entry_bytes).sum::<usize>()
            + delta
                .changed
                .iter()
                .map(|(_, entry)| entry_bytes(entry))
                .sum::<usize>();
        let gone: usize = delta
            .changed
            .iter()
            .map(|(position, _)| old(position))
            .sum::<usize>()
            + delta.removed.iter().map(old).sum::<usize>();
        (self.bytes + grown).saturating_sub(gone)
    }

    /// Takes a change over, once it has been written. Returns the jobs that are new and those that are gone.
    pub fn commit(&mut self, delta: Delta) -> (Vec<JobKey>, Vec<JobKey>) {
        let key_of = |entry: &CapacityReservation| match classify(entry) {
            Kind::Job { key, .. } => Some(key),
            _ => None,
        };
        let (mut added, mut gone) = (Vec::new(), Vec::new());
        let mut adopts = false;
        for (position, entry) in delta.changed {
            if let Some(slot) = self.entries.get_mut(position) {
                self.bytes = (self.bytes + entry_bytes(&entry)).saturating_sub(entry_bytes(slot));
                self.latest = self.latest.max(entry.effective_time.map(|time| time.0));
                // One of upstream's that got a job's name.
                adopts |= classify(slot) == Kind::Upstream;
                if let Some(key) = key_of(&entry).filter(|key| !self.positions.contains_key(key)) {
                    self.positions.insert(key.clone(), position);
                    added.push(key);
                }
                *slot = entry;
            }
        }
        if adopts {
            self.has_upstream = self.entries.iter().any(|entry| classify(entry) == Kind::Upstream);
        }
        if !delta.removed.is_empty() {
            let mut position = 0;
            let entries: Vec<_> = std::mem::take(&mut self.entries)
                .into_iter()
                .filter(|entry| {
                    let keep = !delta.removed.contains(&position);
                    position += 1;
                    if !keep {
                        gone.extend(key_of(entry));
                    }
                    keep
                })
                .collect();
            *self = Self::new(entries);
            gone.retain(|key| !self.positions.contains_key(key));
        }
        added.reserve(delta.appended.len());
        for entry in delta.appended {
            added.extend(key_of(&entry));
            self.note(self.entries.len(), &entry);
            self.entries.push(entry);
        }
        gone.retain(|key| !self.positions.contains_key(key));
        (added, gone)
    }
}

/// Something that the ledger did not have.
enum Fresh {
    Job(JobKey),
    Trigger(CapacityReservation),
}

/// One pass over a batch of events.
struct Fold<'b> {
    book: &'b Book,
    duration: SignedDuration,
    now: Timestamp,
    admit: bool,
    touched: HashMap<JobKey, Touched>,
    /// What is new, in the order of the events.
    fresh: Vec<Fresh>,
    triggered: HashSet<Box<str>>,
    removed: BTreeSet<usize>,
    /// Positions of upstream's entries that got a job's name.
    adopted: BTreeSet<usize>,
    latest: Option<Timestamp>,
}

impl<'b> Fold<'b> {
    fn new(book: &'b Book, duration: SignedDuration, now: Timestamp, admit: bool) -> Self {
        Self {
            book,
            duration: positive(duration),
            now: micros(now),
            admit,
            touched: HashMap::new(),
            fresh: Vec::new(),
            triggered: HashSet::new(),
            removed: BTreeSet::new(),
            adopted: BTreeSet::new(),
            latest: book.latest,
        }
    }

    fn run<'e>(mut self, events: impl IntoIterator<Item: Into<EventRef<'e>>>) -> Delta {
        let outcomes = events
            .into_iter()
            .map(|event| match event.into() {
                EventRef::Job(event) => self.step(event),
                EventRef::Trigger(event) => self.trigger(event),
            })
            .collect();
        let mut changed = Vec::new();
        let mut appended: HashMap<JobKey, CapacityReservation> = HashMap::new();
        for (key, Touched { at, state }) in self.touched {
            let (State::Live(entry) | State::Tombstone(entry)) = state else {
                continue;
            };
            match at {
                Some(position) if self.book.entries.get(position) != Some(&entry) => {
                    changed.push((position, entry));
                }
                Some(_) => {}
                None => {
                    appended.insert(key, entry);
                }
            }
        }
        changed.sort_unstable_by_key(|(position, _)| *position);
        let fresh = self.fresh.into_iter().filter_map(|fresh| match fresh {
            Fresh::Job(key) => appended.remove(&key),
            Fresh::Trigger(entry) => Some(entry),
        });
        Delta {
            appended: fresh.collect(),
            changed,
            removed: self.removed,
            outcomes,
        }
    }

    /// The table of spec 20 "Transitions".
    fn step(&mut self, event: &JobEvent) -> Outcome {
        let Touched { mut at, state } = self
            .touched
            .remove(&event.key)
            .unwrap_or_else(|| self.load(&event.key));
        let runner = event.runner.as_deref().filter(|runner| !runner.is_empty());
        let (state, outcome) = match (event.action, state) {
            (_, State::Tombstone(entry)) => (State::Tombstone(entry), Outcome::AlreadyFinished),
            (JobAction::Queued | JobAction::InProgress, State::Absent) if !self.admit => {
                (State::Absent, Outcome::Full)
            }
            (JobAction::Queued, State::Absent) => (State::Live(self.born(event, None)), Outcome::Added),
            (JobAction::InProgress, State::Absent) => match self.adopt_upstream(event, runner) {
                Some((position, entry)) => {
                    // What an expired tombstone of the job leaves behind goes: its place is taken.
                    self.removed.extend(at.replace(position));
                    (State::Live(entry), Outcome::Adopted)
                }
                None => (State::Live(self.born(event, runner)), Outcome::Added),
            },
            (JobAction::Queued, State::Live(entry)) => self.proven(entry, event, None),
            (JobAction::InProgress, State::Live(entry)) => self.proven(entry, event, runner),
            (JobAction::InProgressElsewhere | JobAction::Completed, State::Live(entry)) => {
                self.drop_doubles(&event.key, at);
                let runner = runner.filter(|_| event.action == JobAction::Completed);
                (
                    State::Tombstone(self.buried(entry, event, runner)),
                    Outcome::Finished,
                )
            }
            (JobAction::InProgressElsewhere, State::Absent) if self.admit => {
                (State::Tombstone(self.stillborn(event, None)), Outcome::Remembered)
            }
            (JobAction::Completed, State::Absent) => {
                let consumed = runner.is_some() && self.consume_upstream(event.created_at);
                let outcome = if consumed {
                    Outcome::Consumed
                } else {
                    Outcome::Remembered
                };
                // A full ledger has no room to remember what it never counted.
                let state = if self.admit {
                    State::Tombstone(self.stillborn(event, runner))
                } else {
                    State::Absent
                };
                (state, outcome)
            }
            (JobAction::InProgressElsewhere, State::Absent) => (State::Absent, Outcome::Remembered),
        };
        if at.is_none() && matches!(outcome, Outcome::Added | Outcome::Remembered | Outcome::Consumed) {
            self.fresh.push(Fresh::Job(event.key.clone()));
        }
        self.touched.insert(event.key.clone(), Touched { at, state });
        outcome
    }

    /// What the ledger says of a job: a tombstone wins over a live entry, and an expired tombstone says
    /// nothing. A live entry that has expired is live: the event at hand proves more than the clock.
    fn load(&self, key: &JobKey) -> Touched {
        let Some(&first) = self.book.positions.get(key) else {
            return Touched {
                at: None,
                state: State::Absent,
            };
        };
        let others = self.book.doubles.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut live: Option<(usize, &CapacityReservation)> = None;
        // Of several live ones the one that says most, so that what was appended is not appended again.
        let says = |entry: &CapacityReservation| {
            let is_named = matches!(classify(entry), Kind::Job { runner: Some(_), .. });
            (is_named, entry.expiration_time)
        };
        for position in std::iter::once(first).chain(others.iter().copied()) {
            let Some(entry) = self.book.entries.get(position) else {
                continue;
            };
            if !is_tombstone(entry) {
                if live.is_none_or(|(_, known)| says(known) < says(entry)) {
                    live = Some((position, entry));
                }
            } else if !is_expired(entry, self.now) {
                return Touched {
                    at: Some(position),
                    state: State::Tombstone(entry.clone()),
                };
            }
        }
        match live {
            Some((position, entry)) => Touched {
                at: Some(position),
                state: State::Live(entry.clone()),
            },
            None => Touched {
                at: Some(first),
                state: State::Absent,
            },
        }
    }

    fn drop_doubles(&mut self, key: &JobKey, kept: Option<usize>) {
        if let Some(others) = self.book.doubles.get(key) {
            let all = self.book.positions.get(key).into_iter().chain(others).copied();
            self.removed
                .extend(all.filter(|position| Some(*position) != kept));
        }
    }

    /// Capacity that only expires; a name that is known has been counted, even if it has expired since.
    fn trigger(&mut self, event: &TriggerEvent) -> Outcome {
        let name = event.name.as_str();
        if self.book.triggers.contains(name) || self.triggered.contains(name) {
            return Outcome::Unchanged;
        }
        if !self.admit {
            return Outcome::Full;
        }
        self.triggered.insert(name.into());
        let entry = CapacityReservation {
            name: Some(event.name.clone()),
            replicas: Some(event.replicas),
            effective_time: Some(MicroTime(self.stamp())),
            expiration_time: Some(MicroTime(after(self.now, positive(event.duration)))),
        };
        self.fresh.push(Fresh::Trigger(entry));
        Outcome::Added
    }

    /// Now, but later than every effective time so far.
    fn stamp(&mut self) -> Timestamp {
        let now = self.now;
        let next = |latest: Timestamp| {
            let later = latest
                .checked_add(SignedDuration::from_micros(1))
                .map_or(Timestamp::MAX, micros);
            now.max(later)
        };
        let effective = self.latest.map_or(now, next);
        self.latest = Some(effective);
        effective
    }

    fn born(&mut self, event: &JobEvent, runner: Option<&str>) -> CapacityReservation {
        CapacityReservation {
            name: Some(event.key.entry_name(runner)),
            replicas: Some(1),
            effective_time: Some(MicroTime(self.stamp())),
            expiration_time: Some(MicroTime(after(self.now, self.duration))),
        }
    }

    fn stillborn(&self, event: &JobEvent, runner: Option<&str>) -> CapacityReservation {
        CapacityReservation {
            name: Some(event.key.entry_name(runner)),
            replicas: Some(0),
            effective_time: Some(MicroTime(event.created_at.map_or(self.now, micros))),
            expiration_time: Some(MicroTime(after(self.now, TOMBSTONE_LIFETIME))),
        }
    }

    fn buried(
        &self,
        entry: CapacityReservation,
        event: &JobEvent,
        runner: Option<&str>,
    ) -> CapacityReservation {
        CapacityReservation {
            name: if runner.is_some() {
                Some(event.key.entry_name(runner))
            } else {
                entry.name
            },
            replicas: Some(0),
            effective_time: entry
                .effective_time
                .or_else(|| Some(MicroTime(event.created_at.map_or(self.now, micros)))),
            expiration_time: Some(MicroTime(after(self.now, TOMBSTONE_LIFETIME))),
        }
    }

    /// A live entry whose job has been seen alive.
    fn proven(&self, entry: CapacityReservation, event: &JobEvent, runner: Option<&str>) -> (State, Outcome) {
        let name = runner.map(|runner| event.key.entry_name(Some(runner)));
        let renamed = name.is_some() && name != entry.name;
        let armed = rearm(&entry, self.now, self.duration);
        let gain = match (entry.expiration_time, armed.expiration_time) {
            (Some(old), Some(new)) => new.0.duration_since(old.0) >= REARM_GRAIN,
            (old, new) => old != new,
        };
        if !renamed && !gain {
            return (State::Live(entry), Outcome::Unchanged);
        }
        let name = if renamed { name } else { armed.name.clone() };
        (
            State::Live(CapacityReservation { name, ..armed }),
            Outcome::Updated,
        )
    }

    /// Removes upstream's entry for this job.
    fn consume_upstream(&mut self, created_at: Option<Timestamp>) -> bool {
        let oldest = self.upstreams(created_at).map(|(position, _)| position);
        oldest.is_some_and(|position| self.removed.insert(position))
    }

    /// Makes upstream's entry for this job the job's own. It would count beside a new one until it expires: this job's `completed` will find
    /// its own. The effective time stays, no further runner is asked for.
    fn adopt_upstream(
        &mut self,
        event: &JobEvent,
        runner: Option<&str>,
    ) -> Option<(usize, CapacityReservation)> {
        let name = event.key.entry_name(Some(runner?));
        let (position, entry) = self.upstreams(event.created_at)?;
        let entry = CapacityReservation {
            name: Some(name),
            ..rearm(entry, self.now, self.duration)
        };
        self.adopted.insert(position);
        Some((position, entry))
    }

    /// Upstream's oldest entry that can have been made for a job of this age: none that is older than the job.
    fn upstreams(&self, created_at: Option<Timestamp>) -> Option<(usize, &'b CapacityReservation)> {
        let created_at = created_at.filter(|_| self.book.has_upstream)?;
        let entries = self.book.entries.iter().enumerate();
        entries
            .filter(|(position, entry)| {
                classify(entry) == Kind::Upstream
                    && !self.removed.contains(position)
                    && !self.adopted.contains(position)
                    && !is_expired(entry, self.now)
                    && entry.effective_time.is_some_and(|time| time.0 >= created_at)
            })
            .min_by_key(|(_, entry)| entry.effective_time)
    }
}

/// About how long an entry is as JSON.
fn entry_bytes(entry: &CapacityReservation) -> usize {
    let time = |time: Option<MicroTime>, name: usize| if time.is_some() { name + 34 } else { 0 };
    3 + entry.name.as_deref().map_or(0, |name| name.len() + 10)
        + entry.replicas.map_or(0, |_| 14)
        + time(entry.effective_time, 13)
        + time(entry.expiration_time, 14)
}

/// Whether the new entry says what the known one says, and that one has half of the new one's time left at least.
fn only_lives_a_little_longer(
    known: &CapacityReservation,
    new: &CapacityReservation,
    now: Timestamp,
) -> bool {
    let left = |entry: &CapacityReservation| {
        let expires = entry.expiration_time.map_or(now, |time| time.0);
        expires.duration_since(now).max(SignedDuration::ZERO).as_secs()
    };
    let same =
        (&known.name, known.replicas, known.effective_time) == (&new.name, new.replicas, new.effective_time);
    same && left(known).saturating_mul(2) >= left(new)
}
