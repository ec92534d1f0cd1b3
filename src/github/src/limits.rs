//! The guard: what is known of a credential's rate limits, so that a call that GitHub would refuse is not made (spec 02 §3.3).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use http::HeaderMap;
use jiff::Timestamp;

use crate::{
    error::{LimitKind, bounded, number, reset_at},
    observer::{CallFamily, Identity, RateLimit},
};

/// Names of budgets that are remembered per credential; GitHub has about a dozen.
const MOST_BUDGETS: usize = 32;

/// What one credential may not do at present.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// End of a secondary limit; it holds for every call.
    blocked_until: Option<Timestamp>,
    /// The budgets by name.
    budgets: HashMap<String, Budget>,
    /// The budget that a family's last answer named.
    families: HashMap<(Identity, CallFamily), String>,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    remaining: u64,
    reset_at: Timestamp,
}

/// The budget that github.com charges such calls to, for as long as no answer has named one.
fn usual_budget(identity: Identity, family: CallFamily) -> &'static str {
    match (identity, family) {
        (Identity::App, _) => "app/core",
        (Identity::Credential, CallFamily::RegistrationToken) => "actions_runner_registration",
        (Identity::Credential, _) => "core",
    }
}

impl Limits {
    /// The limit that stands in the way of such a call now, and its end.
    pub(crate) fn hold(
        &self,
        identity: Identity,
        family: CallFamily,
        now: Timestamp,
    ) -> Option<(LimitKind, Timestamp)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = state.blocked_until.filter(|until| *until > now) {
            return Some((LimitKind::Secondary, until));
        }
        let name = state
            .families
            .get(&(identity, family))
            .map_or_else(|| usual_budget(identity, family), String::as_str);
        let budget = state.budgets.get(name)?;
        (budget.remaining == 0 && budget.reset_at > now).then_some((LimitKind::Primary, budget.reset_at))
    }

    /// Remembers what a live answer said about its budget, and returns it.
    pub(crate) fn learn(
        &self,
        identity: Identity,
        family: CallFamily,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Option<RateLimit> {
        let remaining = number(headers, "x-ratelimit-remaining")?;
        let resource = headers
            .get("x-ratelimit-resource")
            .and_then(|value| value.to_str().ok());
        let reset = reset_at(headers);
        if let Some(reset) = reset {
            // What is asked with an app's JWT is charged to the app, everything else to the installation.
            let owner = match identity {
                Identity::App => "app/",
                Identity::Credential => "",
            };
            let name = format!("{owner}{}", resource.unwrap_or("core"));
            self.remember(
                (identity, family),
                name,
                Budget {
                    remaining,
                    reset_at: bounded(reset, now),
                },
                now,
            );
        }
        Some(RateLimit {
            limit: number(headers, "x-ratelimit-limit").unwrap_or(remaining),
            remaining,
            reset_at: reset,
            resource: resource.map(str::to_owned),
        })
    }

    fn remember(&self, call: (Identity, CallFamily), name: String, seen: Budget, now: Timestamp) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.budgets.len() >= MOST_BUDGETS {
            state.budgets.retain(|_, budget| budget.reset_at > now);
        }
        if state.budgets.len() < MOST_BUDGETS || state.budgets.contains_key(&name) {
            let budget = state.budgets.entry(name.clone()).or_insert(seen);
            // Answers may overtake each other: within a window the budget only shrinks.
            if budget.reset_at <= now || seen.reset_at > budget.reset_at {
                *budget = seen;
            } else if seen.reset_at == budget.reset_at {
                budget.remaining = budget.remaining.min(seen.remaining);
            }
            state.families.insert(call, name);
        }
    }

    /// Remembers a limit that an answer announced by its status.
    pub(crate) fn block(&self, limit: LimitKind, until: Timestamp) {
        // A primary limit came with its budget's headers and holds for that budget only.
        if limit == LimitKind::Secondary {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.blocked_until = state.blocked_until.max(Some(until));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn headers(remaining: u64, reset: Timestamp, resource: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-limit", "5000".parse().unwrap());
        headers.insert("x-ratelimit-remaining", remaining.into());
        headers.insert("x-ratelimit-reset", reset.as_second().into());
        headers.insert("x-ratelimit-resource", http::HeaderValue::from_static(resource));
        headers
    }

    use CallFamily::{InstallationToken, ListDeliveries, ListRunners, RegistrationToken, RemoveRunner};
    use Identity::{App, Credential};

    #[test]
    fn a_used_up_budget_holds_its_own_calls_until_the_reset() {
        let limits = Limits::default();
        limits
            .learn(Credential, ListRunners, &headers(0, t(100), "core"), t(0))
            .unwrap();
        assert!(limits.hold(Credential, RegistrationToken, t(1)).is_none());
        limits
            .learn(
                Credential,
                RegistrationToken,
                &headers(9, t(100), "actions_runner_registration"),
                t(0),
            )
            .unwrap();
        assert_eq!(
            limits.hold(Credential, ListRunners, t(99)),
            Some((LimitKind::Primary, t(100)))
        );
        assert_eq!(
            limits.hold(Credential, RemoveRunner, t(99)),
            Some((LimitKind::Primary, t(100)))
        );
        assert_eq!(limits.hold(Credential, RegistrationToken, t(99)), None);
        assert_eq!(limits.hold(App, InstallationToken, t(99)), None);
        assert_eq!(limits.hold(Credential, ListRunners, t(100)), None);
    }

    #[test]
    fn the_apps_own_budget_is_not_the_installations() {
        let limits = Limits::default();
        limits
            .learn(App, InstallationToken, &headers(0, t(100), "core"), t(0))
            .unwrap();
        limits
            .learn(Credential, ListRunners, &headers(5, t(100), "core"), t(0))
            .unwrap();
        assert_eq!(limits.hold(Credential, ListRunners, t(1)), None);
        assert!(limits.hold(App, InstallationToken, t(1)).is_some());
        assert!(limits.hold(App, ListDeliveries, t(1)).is_some());
        assert_eq!(limits.hold(Credential, ListDeliveries, t(1)), None);
    }

    #[test]
    fn an_older_answer_does_not_give_budget_back_but_a_new_window_does() {
        let limits = Limits::default();
        limits
            .learn(Credential, ListRunners, &headers(0, t(100), "core"), t(0))
            .unwrap();
        limits
            .learn(Credential, ListRunners, &headers(3, t(100), "core"), t(1))
            .unwrap();
        assert!(limits.hold(Credential, ListRunners, t(2)).is_some());
        limits
            .learn(Credential, ListRunners, &headers(4999, t(3700), "core"), t(3))
            .unwrap();
        assert_eq!(limits.hold(Credential, ListRunners, t(4)), None);
    }

    #[test]
    fn a_secondary_limit_holds_everything_and_no_header_can_do_so_for_long() {
        let limits = Limits::default();
        limits.block(LimitKind::Secondary, t(60));
        limits.block(LimitKind::Secondary, t(30));
        assert_eq!(
            limits.hold(Credential, RegistrationToken, t(59)),
            Some((LimitKind::Secondary, t(60)))
        );
        assert_eq!(limits.hold(Credential, RegistrationToken, t(60)), None);
        let limits = Limits::default();
        limits
            .learn(
                Credential,
                ListRunners,
                &headers(0, t(0) + SignedDuration::from_hours(90_000), "core"),
                t(0),
            )
            .unwrap();
        assert_eq!(
            limits.hold(Credential, ListRunners, t(0)),
            Some((LimitKind::Primary, t(3600)))
        );
    }
}
