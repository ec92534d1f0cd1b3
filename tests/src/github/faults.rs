//! Things that go wrong on request: error answers as GitHub words them, slow and broken transfers.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::counters::Family;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// 401 `Bad credentials`.
    Unauthorized,
    /// 403 for want of a permission.
    Forbidden,
    /// 403 with `X-RateLimit-Remaining: 0`; the limit is reset after this long.
    PrimaryRateLimit(Duration),
    /// 403 of the secondary rate limit with `Retry-After` in whole seconds.
    SecondaryRateLimit(Duration),
    /// 429 with `Retry-After` in whole seconds.
    TooManyRequests(Duration),
    /// Any status with a JSON message.
    Status(u16),
    /// 200 with something that is not JSON.
    Garbage,
    /// The answer comes this much later, otherwise unharmed.
    Slow(Duration),
    /// The connection is reset instead of an answer. The request has **no** effect.
    Reset,
    /// The request has its effect, then the connection is reset instead of the answer.
    ResetAfter,
    /// The body is cut in the middle.
    CutBody,
    /// The body comes in chunks, without `Content-Length`; otherwise unharmed.
    Chunked,
    /// The answer has an `Age` header with this many seconds: caches find it stale. Otherwise unharmed.
    Age(u64),
    /// The answer has no `Cache-Control` and no `ETag`.
    NoCacheHeaders,
}

/// A fault and where it strikes.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Which calls; `None` is every call of the REST API, but not those of runners.
    pub family: Option<Family>,
    /// Only paths that contain this.
    pub path_contains: Option<String>,
    /// How often; `None` until it is cleared.
    pub times: Option<u32>,
    /// Chance of striking, 0 to 1 (seeded).
    pub probability: f64,
}

impl Fault {
    /// Strikes every call of this family until it is cleared.
    pub fn on(family: Family, kind: FaultKind) -> Self {
        Self {
            kind,
            family: Some(family),
            path_contains: None,
            times: None,
            probability: 1.0,
        }
    }

    /// Strikes every call of the REST API until it is cleared.
    pub fn everywhere(kind: FaultKind) -> Self {
        Self {
            kind,
            family: None,
            path_contains: None,
            times: None,
            probability: 1.0,
        }
    }

    /// Ends after this many strikes.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Strikes with this chance only.
    #[must_use]
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability.clamp(0.0, 1.0);
        self
    }

    /// Strikes paths that contain this only.
    #[must_use]
    pub fn at_path(mut self, part: &str) -> Self {
        self.path_contains = Some(part.to_owned());
        self
    }
}

/// Names a fault so that it can be cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaultId(u64);

/// The faults in force.
#[derive(Debug)]
pub(crate) struct Faults {
    active: Vec<(FaultId, Fault)>,
    rng: StdRng,
    next: u64,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            active: Vec::new(),
            rng: StdRng::seed_from_u64(seed ^ 0xfa17),
            next: 0,
        }
    }

    pub(crate) fn inject(&mut self, fault: Fault) -> FaultId {
        self.next += 1;
        let id = FaultId(self.next);
        self.active.push((id, fault));
        id
    }

    pub(crate) fn clear(&mut self, id: Option<FaultId>) {
        self.active
            .retain(|(candidate, _)| id.is_some_and(|id| id != *candidate));
    }

    /// What strikes this call, in the order of injection.
    pub(crate) fn strike(&mut self, family: Family, path: &str) -> Vec<FaultKind> {
        if self.active.is_empty() {
            return Vec::new();
        }
        let mut kinds = Vec::new();
        for (_, fault) in &mut self.active {
            let meant = match fault.family {
                Some(wanted) => wanted == family,
                None => !family.is_agent(),
            };
            if !meant
                || fault
                    .path_contains
                    .as_ref()
                    .is_some_and(|part| !path.contains(part.as_str()))
            {
                continue;
            }
            if fault.probability < 1.0 && !self.rng.random_bool(fault.probability.clamp(0.0, 1.0)) {
                continue;
            }
            match &mut fault.times {
                Some(0) => continue,
                Some(times) => *times -= 1,
                None => {}
            }
            kinds.push(fault.kind.clone());
        }
        self.active.retain(|(_, fault)| fault.times != Some(0));
        kinds
    }
}
