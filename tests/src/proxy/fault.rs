//! What goes wrong at the API server: which calls, how often, and how. Every draw depends on the seed, the fault, the
//! kind of call and how many of that kind came before: other calls in between change nothing.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::call::{Target, Verb};

/// Names a fault, to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApiFaultId(u64);

#[derive(Clone, Debug)]
enum What {
    Statuses(Vec<u16>),
    NoAnswer,
    Latency(Duration),
    EndWatch { after: Duration, is_cut: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Writes,
    Watches,
    Everything,
    Verb(Verb),
}

/// Something that goes wrong from its [injection](super::FaultProxy::inject) on.
#[derive(Clone, Debug)]
pub struct ApiFault {
    what: What,
    which: Which,
    resource: Option<String>,
    share: f64,
    lost: f64,
    times: Option<u64>,
}

impl ApiFault {
    fn new(what: What, which: Which) -> Self {
        Self {
            what,
            which,
            resource: None,
            share: 1.0,
            lost: 0.0,
            times: None,
        }
    }

    /// Writes are answered with one of these status codes, drawn anew each time: 409 (a conflict; for a create whose
    /// answer is lost, `AlreadyExists`), 429 (with `Retry-After: 1`), 500, 503 (with `Retry-After: 1`), or any other.
    pub fn statuses(codes: &[u16]) -> Self {
        Self::new(What::Statuses(codes.to_vec()), Which::Writes)
    }

    /// Writes are not answered: the connection is reset.
    pub fn no_answer() -> Self {
        Self::new(What::NoAnswer, Which::Writes)
    }

    /// Every call waits before it is passed on, by a time drawn up to this one.
    pub fn latency(up_to: Duration) -> Self {
        Self::new(What::Latency(up_to), Which::Everything)
    }

    /// Watches are reset when they are this old.
    pub fn cut_watches(after: Duration) -> Self {
        Self::new(What::EndWatch { after, is_cut: true }, Which::Watches)
    }

    /// Watches end in order when they are this old, as the API server ends them from time to time.
    pub fn end_watches(after: Duration) -> Self {
        Self::new(What::EndWatch { after, is_cut: false }, Which::Watches)
    }

    /// Concerns this share of the calls (0 to 1) instead of all.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// In this share of the cases (0 to 1) the API server does the work before the fault hides its answer. A 429 is
    /// always honest: it says that nothing was done, and clients rely on it.
    #[must_use]
    pub fn lost_answers(mut self, share: f64) -> Self {
        self.lost = share;
        self
    }

    /// Concerns only calls of this verb.
    #[must_use]
    pub fn on_verb(mut self, verb: Verb) -> Self {
        self.which = Which::Verb(verb);
        self
    }

    /// Concerns only this resource: `pods`, or `runners/status`.
    #[must_use]
    pub fn on_resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Happens so many times, then no more.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    fn concerns(&self, target: &Target) -> bool {
        let verb = match self.which {
            Which::Writes => target.verb.is_write(),
            Which::Watches => target.verb == Verb::Watch,
            Which::Everything => true,
            Which::Verb(verb) => target.verb == verb,
        };
        verb && self.times != Some(0)
            && self
                .resource
                .as_ref()
                .is_none_or(|resource| *resource == target.path())
    }
}

/// When a faulty answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Instead of passing the call on.
    Before,
    /// After the API server has answered.
    After,
}

/// What becomes of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) delay: Duration,
    /// `None` as the status: the connection is reset.
    pub(super) answer: Option<(When, Option<u16>)>,
    /// When the watch ends, and whether it is reset.
    pub(super) end: Option<(Duration, bool)>,
}

/// The faults of one proxy.
#[derive(Debug)]
pub(super) struct Faults {
    seed: u64,
    next: u64,
    active: Vec<(ApiFaultId, ApiFault)>,
    seen: HashMap<(ApiFaultId, Verb, String), u64>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            next: 0,
            active: Vec::new(),
            seen: HashMap::new(),
        }
    }

    pub(super) fn inject(&mut self, fault: ApiFault) -> ApiFaultId {
        let id = ApiFaultId(self.next);
        self.next += 1;
        self.active.push((id, fault));
        id
    }

    pub(super) fn clear(&mut self, only: Option<ApiFaultId>) {
        self.active.retain(|(id, _)| only.is_some_and(|only| *id != only));
    }

    /// Decides about a call. The first fault that gives an answer wins; delays add up.
    pub(super) fn draw(&mut self, target: &Target) -> Fate {
        let mut fate = Fate::default();
        for (id, fault) in &mut self.active {
            if !fault.concerns(target) {
                continue;
            }
            let number = self.seen.entry((*id, target.verb, target.path())).or_default();
            *number += 1;
            let mut hasher = DefaultHasher::new();
            (self.seed, *id, target.verb, target.path(), *number).hash(&mut hasher);
            let mut random = StdRng::seed_from_u64(hasher.finish());
            let (hit, lost, part): (f64, f64, f64) = (random.random(), random.random(), random.random());
            if hit >= fault.share {
                continue;
            }
            let when = |is_honest: bool| {
                if lost < fault.lost && !is_honest {
                    When::After
                } else {
                    When::Before
                }
            };
            match &fault.what {
                What::Statuses(codes) if fate.answer.is_none() => {
                    if codes.is_empty() {
                        continue;
                    }
                    let status = codes.get(random.random_range(0..codes.len())).copied();
                    fate.answer = Some((when(status == Some(429)), status));
                }
                What::NoAnswer if fate.answer.is_none() => fate.answer = Some((when(false), None)),
                What::Latency(up_to) => fate.delay += up_to.mul_f64(part),
                What::EndWatch { after, is_cut } if fate.end.is_none() => fate.end = Some((*after, *is_cut)),
                What::Statuses(_) | What::NoAnswer | What::EndWatch { .. } => continue,
            }
            if let Some(times) = &mut fault.times {
                *times = times.saturating_sub(1);
            }
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn target(method: &Method, uri: &str) -> Target {
        Target::parse(method, &uri.parse().unwrap())
    }

    fn fates(seed: u64, noise: bool) -> Vec<Fate> {
        let mut faults = Faults::new(seed);
        faults.inject(ApiFault::statuses(&[409, 500]).share(0.3).lost_answers(0.5));
        let (write, other) = (
            target(&Method::POST, "/api/v1/namespaces/a/pods"),
            target(&Method::PUT, "/api/v1/namespaces/a/pods/p"),
        );
        (0..400)
            .map(|_| {
                if noise {
                    faults.draw(&other);
                }
                faults.draw(&write)
            })
            .collect()
    }

    #[test]
    fn draws_follow_from_the_seed_whatever_else_is_called() {
        let drawn = fates(7, false);
        assert_eq!(drawn, fates(7, true));
        assert_ne!(drawn, fates(8, false));
        let answers: Vec<_> = drawn.iter().filter_map(|fate| fate.answer).collect();
        assert!((80..160).contains(&answers.len()), "{}", answers.len());
        let lost = answers.iter().filter(|(when, _)| *when == When::After).count();
        let conflicts = answers.iter().filter(|(_, status)| *status == Some(409)).count();
        for part in [lost, conflicts] {
            assert!((30..90).contains(&part), "{part}");
        }
    }

    #[test]
    fn a_fault_concerns_what_it_names() {
        let mut faults = Faults::new(1);
        faults.inject(ApiFault::statuses(&[429]).lost_answers(1.0));
        let cut = faults.inject(ApiFault::cut_watches(Duration::from_secs(1)));
        let write = target(&Method::POST, "/api/v1/namespaces/a/pods");
        let watch = target(&Method::GET, "/api/v1/pods?watch=true");
        // A 429 never hides a write that was done.
        assert_eq!(faults.draw(&write).answer, Some((When::Before, Some(429))));
        assert_eq!(faults.draw(&watch).end, Some((Duration::from_secs(1), true)));
        faults.clear(Some(cut));
        assert_eq!(faults.draw(&watch), Fate::default());
        faults.clear(None);
        faults.inject(
            ApiFault::no_answer()
                .on_verb(Verb::Get)
                .on_resource("pods/log")
                .times(1),
        );
        let log = target(&Method::GET, "/api/v1/namespaces/a/pods/p/log");
        assert_eq!(faults.draw(&write), Fate::default());
        assert_eq!(faults.draw(&log).answer, Some((When::Before, None)));
        assert_eq!(faults.draw(&log), Fate::default());
    }
}
