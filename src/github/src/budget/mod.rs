//! The budget of one credential: which call may be made now, and which not before when. Pure: facts and a time in, a decision out.
//!
//! ```text
//! ask (lane, family) -> secondary limit? -> points of this minute? -> window of its bucket? -> cap? -> ticket | not before T
//! answer (headers)   -> settle the ticket: the window that the answer names, as it states it
//! ```
//!
//! GitHub counts by host, credential and bucket (`x-ratelimit-resource`), so a budget belongs to one credential at one host and has a
//! window per bucket (spec 90 PAIN-12, FEATURE 7). A server that states no limits has none here either, but for the configured cap.

mod line;
mod points;
#[cfg(test)]
mod tests;
mod window;

use std::{collections::HashMap, fmt};

use jiff::Timestamp;

pub(crate) use self::window::Seen;
use self::{
    line::Line,
    points::{Points, READ, WRITE},
    window::Window,
};
use crate::{
    error::LimitKind,
    observer::{CallFamily, Identity},
};

/// Names of buckets that are remembered per credential; GitHub has about a dozen.
const MOST_BUCKETS: usize = 32;

/// How urgent a call is. Later ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Refines what would also be right without: which runners to keep, exit codes of failed jobs.
    Cosmetic,
    /// What decisions are made from: listings of runners, runs and jobs, deliveries that failed.
    Reconcile,
    /// Without it jobs wait or pods cannot go: logins, registration tokens, removals.
    Critical,
}

impl Lane {
    /// All lanes, the least urgent first.
    pub const ALL: [Self; 3] = [Self::Cosmetic, Self::Reconcile, Self::Critical];

    /// The lane's name as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cosmetic => "cosmetic",
            Self::Reconcile => "reconcile",
            Self::Critical => "critical",
        }
    }

    /// The lane of a call that does not say its own.
    pub(crate) fn of(family: CallFamily) -> Self {
        match family {
            CallFamily::InstallationToken | CallFamily::RegistrationToken | CallFamily::RemoveRunner => {
                Self::Critical
            }
            CallFamily::ListDeliveries
            | CallFamily::GetDelivery
            | CallFamily::ListHooks
            | CallFamily::ListRunners
            | CallFamily::RunnerGroups
            | CallFamily::ListRuns
            | CallFamily::ListJobs
            | CallFamily::GetJob
            | CallFamily::GetRepository => Self::Reconcile,
            CallFamily::JobLog | CallFamily::DownloadLog => Self::Cosmetic,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a call has to wait although GitHub would (probably) answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The rest of the hour's calls is kept for more urgent ones, or for later in the hour.
    Reserve,
    /// As many calls in a minute as GitHub bears have been made.
    Burst,
    /// The configured calls per hour have been made.
    Cap,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserve => {
                "what is left of GitHub's rate limit is kept for later and for more urgent calls"
            }
            Self::Burst => "GitHub would refuse more calls in this minute",
            Self::Cap => "the configured number of calls per hour has been made",
        })
    }
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// GitHub would refuse it.
    Limit(LimitKind),
    /// We hold it back.
    Hold(Hold),
}

/// Not before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) until: Timestamp,
    pub(crate) why: Why,
}

/// A call that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) identity: Identity,
    pub(crate) family: CallFamily,
    pub(crate) lane: Lane,
    /// What is asked, in words: equal questions wait in one place.
    pub(crate) question: &'a str,
}

/// The right to make one call; it is settled when the call has ended.
#[derive(Debug)]
pub(crate) struct Ticket {
    identity: Identity,
    family: CallFamily,
    bucket: String,
    is_counted: bool,
    is_capped: bool,
}

/// How a call ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The bucket that the answer named (or `core`), and what it said about it.
    pub(crate) seen: Option<(String, Seen)>,
    /// 304: GitHub does not charge it.
    pub(crate) is_free: bool,
}

/// What has been counted, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Calls that had to wait, by lane (as in [`Lane::ALL`]).
    pub(crate) waits: [u64; 3],
    /// Calls that GitHub refused for its primary limit.
    pub(crate) primary: u64,
    /// Calls that GitHub refused for a secondary limit.
    pub(crate) secondary: u64,
}

/// What one credential may do at present.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// End of a secondary limit; it holds for every call.
    blocked_until: Option<Timestamp>,
    /// Windows by bucket.
    windows: HashMap<String, Window>,
    /// The bucket that a family's last answer named.
    families: HashMap<(Identity, CallFamily), String>,
    points: Points,
    lines: [Line; 2],
    /// Calls per hour that the configuration allows, and what is left of them.
    cap: Option<(u64, Option<Window>)>,
    counts: Counts,
}

/// The bucket that github.com charges such calls to, for as long as no answer has named one.
fn usual_bucket(identity: Identity, family: CallFamily) -> &'static str {
    match (identity, family) {
        (Identity::App, _) => "app/core",
        (Identity::Credential, CallFamily::RegistrationToken) => "actions_runner_registration",
        (Identity::Credential, _) => "core",
    }
}

/// What is asked with an app's JWT is charged to the app, everything else to the installation.
fn owned_bucket(identity: Identity, resource: &str) -> String {
    match identity {
        Identity::App => format!("app/{resource}"),
        Identity::Credential => resource.to_owned(),
    }
}

fn cost(family: CallFamily) -> u32 {
    match family {
        CallFamily::InstallationToken | CallFamily::RegistrationToken | CallFamily::RemoveRunner => WRITE,
        _ => READ,
    }
}

impl Budget {
    /// A budget of which nothing is known but how many calls per hour the configuration allows.
    pub(crate) fn new(calls_per_hour: Option<u64>) -> Self {
        Self {
            cap: calls_per_hour.map(|cap| (cap, None)),
            ..Self::default()
        }
    }

    fn bucket(&self, identity: Identity, family: CallFamily) -> &str {
        self.families
            .get(&(identity, family))
            .map_or_else(|| usual_bucket(identity, family), String::as_str)
    }

    /// The line of a lane; what is critical does not stand in line.
    fn line(&mut self, lane: Lane) -> Option<&mut Line> {
        let [cosmetic, reconcile] = &mut self.lines;
        match lane {
            Lane::Cosmetic => Some(cosmetic),
            Lane::Reconcile => Some(reconcile),
            Lane::Critical => None,
        }
    }

    fn ahead(&self, ask: &Ask<'_>, now: Timestamp) -> u64 {
        let [cosmetic, reconcile] = &self.lines;
        match ask.lane {
            Lane::Cosmetic => cosmetic.ahead(ask.question, now),
            Lane::Reconcile => reconcile.ahead(ask.question, now),
            Lane::Critical => 0,
        }
    }

    /// Why such a call may not be made now, and until when.
    pub(crate) fn wait(&self, ask: &Ask<'_>, now: Timestamp) -> Option<Wait> {
        let wait = |until, why| Wait { until, why };
        let blocked = self.blocked_until.filter(|until| *until > now);
        let blocked = blocked.map(|until| wait(until, Why::Limit(LimitKind::Secondary)));
        // A server that states no limits bears what it bears.
        let burst = (!self.windows.is_empty())
            .then(|| self.points.opens(ask.lane, cost(ask.family), now))
            .flatten()
            .map(|until| wait(until, Why::Hold(Hold::Burst)));
        let ahead = self.ahead(ask, now);
        let window = self.windows.get(self.bucket(ask.identity, ask.family));
        let spent = window.map(|window| window.at(now)).and_then(|window| {
            let until = window.opens(ask.lane, ahead, now)?;
            let why = if window.is_used_up() {
                Why::Limit(LimitKind::Primary)
            } else {
                Why::Hold(Hold::Reserve)
            };
            Some(wait(until, why))
        });
        let cap = self.capped(ask.identity, now).and_then(|window| {
            let until = window.opens(ask.lane, ahead, now)?;
            Some(wait(until, Why::Hold(Hold::Cap)))
        });
        [blocked, spent, burst, cap]
            .into_iter()
            .flatten()
            .max_by_key(|wait| wait.until)
    }

    fn capped(&self, identity: Identity, now: Timestamp) -> Option<Window> {
        let (limit, window) = self.cap.as_ref()?;
        (identity == Identity::Credential)
            .then(|| window.map_or_else(|| Window::begin(*limit, now), |window| window.at(now)))
    }

    /// Takes the right to make this call, or a place in line.
    pub(crate) fn admit(&mut self, ask: &Ask<'_>, now: Timestamp) -> Result<Ticket, Wait> {
        if let Some(wait) = self.wait(ask, now) {
            if let Some(line) = self.line(ask.lane) {
                line.join(ask.question, wait.until, now);
            }
            let [cosmetic, reconcile, critical] = &mut self.counts.waits;
            let count = match ask.lane {
                Lane::Cosmetic => cosmetic,
                Lane::Reconcile => reconcile,
                Lane::Critical => critical,
            };
            *count = count.saturating_add(1);
            return Err(wait);
        }
        if let Some(line) = self.line(ask.lane) {
            line.leave(ask.question);
        }
        let bucket = self.bucket(ask.identity, ask.family).to_owned();
        let window = self.windows.get_mut(&bucket);
        let is_counted = window.is_some();
        if let Some(window) = window {
            *window = window.at(now);
            window.take();
        }
        let capped = self.capped(ask.identity, now);
        if let (Some((_, cap)), Some(mut window)) = (&mut self.cap, capped) {
            window.take();
            *cap = Some(window);
        }
        self.points.spend(cost(ask.family), now);
        Ok(Ticket {
            identity: ask.identity,
            family: ask.family,
            bucket,
            is_counted,
            is_capped: capped.is_some(),
        })
    }

    /// A call has ended.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is good for one call")]
    pub(crate) fn settle(&mut self, ticket: Ticket, outcome: Outcome, now: Timestamp) {
        if let Some((_, Some(cap))) = self.cap.as_mut().filter(|_| ticket.is_capped) {
            cap.charge(outcome.is_free);
        }
        let Some((resource, seen)) = outcome.seen else {
            if let Some(window) = self.windows.get_mut(&ticket.bucket).filter(|_| ticket.is_counted) {
                window.charge(outcome.is_free);
            }
            return;
        };
        if let Some(window) = self.windows.get_mut(&ticket.bucket).filter(|_| ticket.is_counted) {
            window.release();
        }
        self.see(
            (ticket.identity, ticket.family),
            owned_bucket(ticket.identity, &resource),
            seen,
            now,
        );
    }

    fn see(&mut self, call: (Identity, CallFamily), bucket: String, seen: Seen, now: Timestamp) {
        if self.windows.len() >= MOST_BUCKETS {
            self.windows.retain(|_, window| window.reset_at() > now);
        }
        if self.windows.len() < MOST_BUCKETS || self.windows.contains_key(&bucket) {
            self.windows
                .entry(bucket.clone())
                .or_insert_with(|| Window::of(seen))
                .see(seen, now);
            self.families.insert(call, bucket);
        }
    }

    /// GitHub refused a call for this limit.
    pub(crate) fn refused(&mut self, limit: LimitKind, until: Option<Timestamp>) {
        match limit {
            // It came with its window's headers and holds for that window only.
            LimitKind::Primary => self.counts.primary = self.counts.primary.saturating_add(1),
            LimitKind::Secondary => {
                self.counts.secondary = self.counts.secondary.saturating_add(1);
                self.blocked_until = self.blocked_until.max(until);
            }
        }
    }

    /// Calls left for such a call, in thousandths of the limit; what is unknown counts as more than all.
    pub(crate) fn left(&self, identity: Identity, family: CallFamily, now: Timestamp) -> u64 {
        let thousandths = |window: Window| {
            let remaining = window.remaining().saturating_mul(1000);
            remaining.checked_div(window.limit()).unwrap_or(0)
        };
        let bucket = self.windows.get(self.bucket(identity, family));
        let bucket = bucket.map_or(1001, |window| thousandths(window.at(now)));
        bucket.min(self.capped(identity, now).map_or(1001, thousandths))
    }

    /// The windows as of now: bucket, limit, calls left, end.
    pub(crate) fn windows(&self, now: Timestamp) -> Vec<(String, Seen)> {
        let seen = |window: Window| Seen {
            limit: window.limit(),
            remaining: window.remaining(),
            reset_at: window.reset_at(),
        };
        let mut windows: Vec<_> = self
            .windows
            .iter()
            .map(|(bucket, window)| (bucket.clone(), seen(window.at(now))))
            .collect();
        windows.extend(
            self.capped(Identity::Credential, now)
                .map(|cap| ("cap".to_owned(), seen(cap))),
        );
        windows.sort_by(|a, b| a.0.cmp(&b.0));
        windows
    }

    /// End of a secondary limit that holds now.
    pub(crate) fn blocked_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.blocked_until.filter(|until| *until > now)
    }

    /// What has been counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }
}
