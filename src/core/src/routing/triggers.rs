//! Triggers other than jobs: `check_run`, `push` and `pull_request` events that add capacity for a time
//! (spec 03 §1.15, spec 20 "Expiry").
//!
//! They are looked up as jobs are, key by key, but without labels, which these events do not have, and every
//! trigger of an autoscaler counts. Upstream, while it had them, ignored an event that more than one trigger
//! matched; here the order that decides about jobs decides: fewest labels, oldest, name, and in one autoscaler
//! the first trigger that fits.

use std::sync::Arc;

use jiff::SignedDuration;
use muster_crds::legacy::{CheckRunSpec, PullRequestSpec, ScaleUpTrigger};

use super::glob::fits;
use super::groups::Visibility;
use super::index::Index;
use super::{AutoscalerView, Place, rank};
use crate::autoscale::reservation::DEFAULT_DURATION;
use crate::go::parse_duration;

/// A trigger of an autoscaler for other events than jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTrigger {
    filter: Filter,
    /// Runners that an event adds, at least one.
    pub amount: i64,
    /// For how long.
    pub duration: SignedDuration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    Push,
    PullRequest {
        types: Vec<String>,
        branches: Vec<String>,
    },
    CheckRun {
        types: Vec<String>,
        status: String,
        names: Vec<String>,
        repositories: Vec<String>,
    },
}

impl From<CheckRunSpec> for Filter {
    fn from(spec: CheckRunSpec) -> Self {
        Self::CheckRun {
            types: spec.types.unwrap_or_default(),
            status: spec.status.unwrap_or_default(),
            names: spec.names.unwrap_or_default(),
            repositories: spec.repositories.unwrap_or_default(),
        }
    }
}

impl From<PullRequestSpec> for Filter {
    fn from(spec: PullRequestSpec) -> Self {
        Self::PullRequest {
            types: spec.types.unwrap_or_default(),
            branches: spec.branches.unwrap_or_default(),
        }
    }
}

impl EventTrigger {
    /// The triggers that one entry of `scaleUpTriggers` stands for: one for each event that it names.
    pub(super) fn of(trigger: &ScaleUpTrigger) -> impl Iterator<Item = Self> {
        let filters = trigger.github_event.as_ref().map(|event| {
            [
                event.check_run.clone().map(Filter::from),
                event.pull_request.clone().map(Filter::from),
                event.push.as_ref().map(|_| Filter::Push),
            ]
        });
        let amount = trigger.amount.unwrap_or_default().max(1);
        let duration = trigger
            .duration
            .as_deref()
            .and_then(|text| parse_duration(text).ok())
            .filter(SignedDuration::is_positive)
            .unwrap_or(DEFAULT_DURATION);
        filters.into_iter().flatten().flatten().map(move |filter| Self {
            filter,
            amount,
            duration,
        })
    }

    fn fits(&self, event: &EventFacts<'_>) -> bool {
        match (&self.filter, event.kind) {
            (Filter::Push, EventKind::Push) => true,
            (Filter::PullRequest { types, branches }, EventKind::PullRequest { action, base }) => {
                is_among(types, action) && any_fits(branches, base)
            }
            (
                Filter::CheckRun {
                    types,
                    status,
                    names,
                    repositories,
                },
                EventKind::CheckRun {
                    action,
                    name,
                    status: is,
                },
            ) => {
                let is_named = if names.is_empty() {
                    let here = event.place.repository;
                    repositories.is_empty() || repositories.iter().any(|name| name.eq_ignore_ascii_case(here))
                } else {
                    // Where names are given, repositories are not looked at.
                    any_fits(names, name)
                };
                is_among(types, action) && (status.is_empty() || status == is) && is_named
            }
            _ => false,
        }
    }
}

fn is_among(wanted: &[String], value: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == value)
}

fn any_fits(patterns: &[String], value: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| fits(pattern, value))
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind<'a> {
    /// Commits, a branch or a tag were pushed.
    Push,
    /// Something about a pull request.
    PullRequest {
        /// `opened`, `synchronize`, …
        action: &'a str,
        /// The branch that it is to be merged into.
        base: &'a str,
    },
    /// Something about a check run.
    CheckRun {
        /// `created`, `completed`, `rerequested`, …
        action: &'a str,
        /// Its name.
        name: &'a str,
        /// `queued`, `in_progress`, `completed`, …
        status: &'a str,
    },
}

impl EventKind<'_> {
    /// The event's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::PullRequest { .. } => "pull_request",
            Self::CheckRun { .. } => "check_run",
        }
    }

    /// The action; empty for an event that has none.
    pub fn action(&self) -> &str {
        match self {
            Self::Push => "",
            Self::PullRequest { action, .. } | Self::CheckRun { action, .. } => action,
        }
    }
}

/// An event that triggers may wait for.
#[derive(Clone, Copy, Debug)]
pub struct EventFacts<'a> {
    /// Where.
    pub place: Place<'a>,
    /// What.
    pub kind: EventKind<'a>,
}

/// Where an event goes that triggers may wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Triggered {
    /// To the autoscaler, for this trigger of it.
    To {
        /// The autoscaler.
        autoscaler: Arc<AutoscalerView>,
        /// Which of its triggers fits.
        trigger: EventTrigger,
        /// How many autoscalers with the same key fit.
        candidates: usize,
    },
    /// No trigger fits.
    Nowhere,
    /// The groups that the repository may use decide, and they are not known.
    NeedsGroups,
}

/// Decides where an event goes that triggers may wait for.
pub fn route_event(event: &EventFacts<'_>, index: &Index, visibility: Visibility<'_>) -> Triggered {
    if !index.has_event_triggers() {
        return Triggered::Nowhere;
    }
    for (tier, views) in index.tiers(&event.place) {
        let mut best: Option<(&Arc<AutoscalerView>, &EventTrigger)> = None;
        let mut candidates = 0;
        for (view, group) in views {
            let Some(trigger) = view
                .event_triggers
                .iter()
                .find(|trigger| trigger.fits(event))
                .filter(|_| view.is_available)
            else {
                continue;
            };
            match super::allowed(visibility, tier, group) {
                None => return Triggered::NeedsGroups,
                Some(false) => continue,
                Some(true) => {}
            }
            candidates += 1;
            if best.is_none_or(|(other, _)| rank(view.labels.len(), view) < rank(other.labels.len(), other)) {
                best = Some((view, trigger));
            }
        }
        if let Some((autoscaler, trigger)) = best {
            return Triggered::To {
                autoscaler: Arc::clone(autoscaler),
                trigger: trigger.clone(),
                candidates,
            };
        }
    }
    Triggered::Nowhere
}
