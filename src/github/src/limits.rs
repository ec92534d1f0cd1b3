//! The guard: a credential's [`Budget`] behind a lock, fed with the headers of live answers (spec 02 §3.3).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

use crate::{
    auth::Credential,
    budget::{Ask, Budget, Counts, Lane, Outcome, Seen, Ticket, Wait},
    error::{Attempt, Error, LimitKind, bounded, number, reset_at},
    observer::{CallFamily, Identity, RateLimit},
    shared::Clock,
};

/// What one credential may not do at present.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<Budget>);

impl Limits {
    /// Limits of which nothing is known but how many calls per hour the configuration allows.
    pub(crate) fn new(calls_per_hour: Option<u64>) -> Self {
        Self(Mutex::new(Budget::new(calls_per_hour)))
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when such a call would have to wait.
    pub(crate) fn wait(&self, ask: &Ask<'_>, now: Timestamp) -> Option<Wait> {
        self.lock().wait(ask, now)
    }

    /// Calls left, in thousandths of the limit.
    pub(crate) fn left(&self, identity: Identity, family: CallFamily, now: Timestamp) -> u64 {
        self.lock().left(identity, family, now)
    }

    /// Remembers a limit that an answer announced by its status.
    pub(crate) fn refused(&self, limit: LimitKind, until: Option<Timestamp>) {
        self.lock().refused(limit, until);
    }

    /// Windows by bucket, the end of a secondary limit, and what has been counted.
    pub(crate) fn report(&self, now: Timestamp) -> (Vec<(String, Seen)>, Option<Timestamp>, Counts) {
        let budget = self.lock();
        (budget.windows(now), budget.blocked_until(now), budget.counts())
    }
}

/// The right to make one call. If it is dropped without an answer, the call counts: GitHub may have seen it.
pub(crate) struct Pass {
    credential: Arc<Credential>,
    clock: Clock,
    ticket: Option<Ticket>,
}

impl Pass {
    /// Asks for the right to make this call.
    pub(crate) fn take(
        credential: &Arc<Credential>,
        identity: Identity,
        lane: Lane,
        attempt: &Attempt,
        clock: &Clock,
    ) -> Result<Self, Wait> {
        let question = attempt.to_string();
        let ask = Ask {
            identity,
            family: attempt.family(),
            lane,
            question: &question,
        };
        let ticket = credential.limits.lock().admit(&ask, clock())?;
        Ok(Self {
            credential: Arc::clone(credential),
            clock: Arc::clone(clock),
            ticket: Some(ticket),
        })
    }

    /// The call was answered. Returns what the answer said about its budget.
    pub(crate) fn answered(
        mut self,
        status: StatusCode,
        headers: &HeaderMap,
        refusal: Option<&Error>,
    ) -> Option<RateLimit> {
        let now = (self.clock)();
        let rate = rate_limit(headers, now);
        let limits = &self.credential.limits;
        if let Some(ticket) = self.ticket.take() {
            let seen = rate.as_ref().and_then(|rate| {
                let seen = Seen {
                    limit: rate.limit,
                    remaining: rate.remaining,
                    reset_at: bounded(rate.reset_at?, now),
                };
                let bucket = rate.resource.clone().unwrap_or_else(|| "core".to_owned());
                Some((bucket, seen))
            });
            let is_free = status == StatusCode::NOT_MODIFIED;
            limits.lock().settle(ticket, Outcome { seen, is_free }, now);
        }
        if let Some(Error::Throttled { limit, until, .. }) = refusal {
            limits.refused(*limit, *until);
        }
        rate
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let now = (self.clock)();
            self.credential
                .limits
                .lock()
                .settle(ticket, Outcome::default(), now);
        }
    }
}

/// What an answer said about its budget. The end of its window is by our clock.
fn rate_limit(headers: &HeaderMap, now: Timestamp) -> Option<RateLimit> {
    let remaining = number(headers, "x-ratelimit-remaining")?;
    Some(RateLimit {
        limit: number(headers, "x-ratelimit-limit").unwrap_or(remaining),
        remaining,
        reset_at: reset_at(headers, now),
        resource: headers
            .get("x-ratelimit-resource")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
    })
}
