//! Which autoscalers a job's event concerns (spec 03 §1.7-1.10 with the changes of spec 20 "Transitions").
//!
//! An event follows its job: every autoscaler whose ledger holds the key gets it, `in_progress` and
//! `completed` also those whose target's runner has the job, and only a key that nobody holds is matched by
//! scope and labels. Lookups cost what they find: the [`Index`] knows autoscalers by scope key, by the jobs
//! they hold and by the name of their target.

mod glob;
mod groups;
mod index;
#[cfg(test)]
mod tests;
mod triggers;

pub use glob::fits;
pub use groups::{ListedGroup, Visibility, VisibleGroups};
pub use index::Index;
pub use triggers::{EventFacts, EventKind, EventTrigger, Triggered, route_event};

use groups::Tier;

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::{ScaleTargetRef, ScaleUpTrigger};

use crate::autoscale::reservation::{DEFAULT_DURATION, JobKey};
use crate::go::parse_duration;
use crate::target::TargetKind;

/// Namespace and name of an autoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AutoscalerId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl AutoscalerId {
    /// An id of its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for AutoscalerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where the runners of a scale target register, from `spec.template.spec` of a RunnerDeployment or `spec` of
/// a RunnerSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetKeys {
    /// `owner/name`.
    pub repository: Option<String>,
    /// Login of an organization.
    pub organization: Option<String>,
    /// Slug of an enterprise.
    pub enterprise: Option<String>,
    /// Name of a runner group of the organization or enterprise.
    pub group: Option<String>,
}

impl TargetKeys {
    /// The keys under which events find the target (spec 03 §1.8), in lower case: GitHub's names do not tell
    /// case apart. A grouped target has only its group's key, whatever its kind.
    pub fn keys(&self) -> Vec<String> {
        let set = |field: &Option<String>| {
            field
                .as_deref()
                .filter(|value| !value.is_empty())
                .map(str::to_lowercase)
        };
        let group = set(&self.group);
        let grouped = |scope: String| match &group {
            Some(group) => format!("{scope}/group/{group}"),
            None => scope,
        };
        let organization = set(&self.organization).map(grouped);
        let enterprise = set(&self.enterprise).map(|slug| grouped(format!("enterprises/{slug}")));
        [set(&self.repository), organization, enterprise]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Why events do not reach an autoscaler that scope and labels would lead them to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotConsidered {
    /// It is being deleted.
    #[error("the autoscaler is being deleted")]
    Deleting,
    /// It has no trigger.
    #[error("spec.scaleUpTriggers is empty: write one entry with githubEvent.workflowJob: {{}}")]
    NoTrigger,
    /// It has more than one trigger.
    #[error("spec.scaleUpTriggers has {0} entries: exactly one is supported")]
    SeveralTriggers(usize),
    /// Its one trigger is for other events.
    #[error(
        "spec.scaleUpTriggers[0].githubEvent.workflowJob is missing: write it as an empty object, workflowJob: {{}}"
    )]
    NotWorkflowJob,
    /// It names no target.
    #[error("spec.scaleTargetRef.name is empty")]
    NoTarget,
    /// Its target is of a kind that cannot be scaled.
    #[error("spec.scaleTargetRef.kind {0:?} is neither RunnerDeployment nor RunnerSet")]
    UnsupportedKind(String),
    /// Its target does not exist or cannot be read.
    #[error("the scale target {0} does not exist or cannot be read")]
    TargetMissing(String),
}

/// Facts of an autoscaler from which a view is made.
#[derive(Clone, Copy, Debug)]
pub struct AutoscalerInput<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Identity across re-creations.
    pub uid: &'a str,
    /// Creation time.
    pub created_at: Option<Timestamp>,
    /// True once a deletion timestamp is set.
    pub is_deleting: bool,
    /// `spec.scaleTargetRef`.
    pub target_ref: Option<&'a ScaleTargetRef>,
    /// `spec.scaleUpTriggers`.
    pub triggers: &'a [ScaleUpTrigger],
    /// The target where it exists: where its runners register, and their labels.
    pub target: Option<(&'a TargetKeys, &'a [String])>,
}

/// What routing knows of an autoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoscalerView {
    /// Namespace and name.
    pub id: AutoscalerId,
    /// Identity across re-creations.
    pub uid: String,
    /// Creation time: the older of two equal matches wins.
    pub created_at: Option<Timestamp>,
    /// [`TargetKeys::keys`] of its target; empty without one.
    pub keys: Vec<String>,
    /// Labels of its target's runners in lower case, without `self-hosted`.
    pub labels: Vec<String>,
    /// Name of its target: with `-` it begins the names of the target's runners.
    pub target_name: Option<String>,
    /// How long an entry lives without a proof that its job is alive.
    pub duration: SignedDuration,
    /// Why it is not matched by scope and labels; none when it is.
    pub not_considered: Option<NotConsidered>,
    /// It is not being deleted and its target exists: its triggers for other events than jobs count.
    pub is_available: bool,
    /// Those triggers, in the order of the object.
    pub event_triggers: Vec<EventTrigger>,
}

impl AutoscalerView {
    /// The view of an autoscaler. `common_labels` are those that the manager adds to every runner (its
    /// `--common-runner-labels`). A trigger's duration that cannot be read counts as absent; saying so is the
    /// autoscaler's condition, not this view's.
    pub fn new(input: &AutoscalerInput<'_>, common_labels: &[String]) -> Self {
        let reference = input.target_ref;
        let target_name = reference
            .and_then(|target| target.name.clone())
            .filter(|name| !name.is_empty());
        let kind = reference
            .and_then(|target| target.kind.as_deref())
            .unwrap_or_default();
        let not_considered = match (input.triggers, &target_name, input.target) {
            _ if input.is_deleting => Some(NotConsidered::Deleting),
            ([], ..) => Some(NotConsidered::NoTrigger),
            ([_, _, ..], ..) => Some(NotConsidered::SeveralTriggers(input.triggers.len())),
            ([trigger], ..)
                if trigger
                    .github_event
                    .as_ref()
                    .is_none_or(|event| event.workflow_job.is_none()) =>
            {
                Some(NotConsidered::NotWorkflowJob)
            }
            (_, None, _) => Some(NotConsidered::NoTarget),
            _ if TargetKind::of(Some(kind)).is_none() => {
                Some(NotConsidered::UnsupportedKind(kind.to_owned()))
            }
            (_, Some(name), None) => Some(NotConsidered::TargetMissing(name.clone())),
            (_, Some(_), Some(_)) => None,
        };
        let is_available =
            !input.is_deleting && input.target.is_some() && TargetKind::of(Some(kind)).is_some();
        let duration = match input.triggers {
            [trigger] => trigger
                .duration
                .as_deref()
                .and_then(|text| parse_duration(text).ok()),
            _ => None,
        };
        let mut labels: Vec<String> = input
            .target
            .map_or(&[][..], |(_, labels)| labels)
            .iter()
            .chain(common_labels)
            .map(|label| label.to_lowercase())
            .filter(|label| label != SELF_HOSTED)
            .collect();
        labels.sort_unstable();
        labels.dedup();
        Self {
            id: AutoscalerId::new(input.namespace, input.name),
            uid: input.uid.to_owned(),
            created_at: input.created_at,
            keys: input.target.map(|(keys, _)| keys.keys()).unwrap_or_default(),
            labels,
            target_name,
            duration: duration
                .filter(SignedDuration::is_positive)
                .unwrap_or(DEFAULT_DURATION),
            not_considered,
            is_available,
            event_triggers: input.triggers.iter().flat_map(EventTrigger::of).collect(),
        }
    }

    /// The first label of the job that the target's runners lack.
    fn missing_label<'l>(&self, labels: &[&'l str]) -> Option<&'l str> {
        labels.iter().copied().find(|wanted| {
            !is_self_hosted(wanted) && !self.labels.iter().any(|label| same_label(label, wanted))
        })
    }

    /// How many labels of the target's runners the job did not ask for.
    fn surplus_labels(&self, labels: &[&str]) -> usize {
        self.labels
            .iter()
            .filter(|label| !labels.iter().any(|wanted| same_label(label, wanted)))
            .count()
    }
}

/// Every self-hosted runner has this label, and a job may ask for it in any case.
const SELF_HOSTED: &str = "self-hosted";

fn is_self_hosted(label: &str) -> bool {
    label.eq_ignore_ascii_case(SELF_HOSTED)
}

/// `lowered` is in lower case already.
fn same_label(lowered: &str, label: &str) -> bool {
    if label.is_ascii() {
        lowered.eq_ignore_ascii_case(label)
    } else {
        label.to_lowercase() == lowered
    }
}

/// `action` of a `workflow_job` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkflowAction {
    /// The job waits for a runner.
    Queued,
    /// A runner has it.
    InProgress,
    /// It ended.
    Completed,
    /// It waits for an approval: no demand.
    Waiting,
    /// None that is known.
    Other,
}

impl WorkflowAction {
    /// Reads the payload's word.
    pub fn parse(action: &str) -> Self {
        match action {
            "queued" => Self::Queued,
            "in_progress" => Self::InProgress,
            "completed" => Self::Completed,
            "waiting" => Self::Waiting,
            _ => Self::Other,
        }
    }

    /// The payload's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Waiting => "waiting",
            Self::Other => "other",
        }
    }
}

/// Where an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Login of the repository's owner.
    pub owner: &'a str,
    /// True when the owner's type is `User`: it has no organization runners.
    pub owner_is_user: bool,
    /// Name of the repository without its owner.
    pub repository: &'a str,
    /// Slug of the enterprise, where the payload names one.
    pub enterprise: Option<&'a str>,
}

/// Facts of a `workflow_job` event that decide where it goes.
#[derive(Clone, Debug)]
pub struct JobFacts<'a> {
    /// The job.
    pub key: JobKey,
    /// What happened.
    pub action: WorkflowAction,
    /// Login of the repository's owner.
    pub owner: &'a str,
    /// True when the owner's type is `User`: it has no organization runners.
    pub owner_is_user: bool,
    /// Name of the repository without its owner.
    pub repository: &'a str,
    /// Slug of the enterprise, where the payload names one.
    pub enterprise: Option<&'a str>,
    /// Labels that the job asks for.
    pub labels: Vec<&'a str>,
    /// Name of the runner that has or had the job.
    pub runner: Option<&'a str>,
    /// True when the payload has a `runner_id` that is not null; 0 counts.
    pub has_runner_id: bool,
    /// How a completed job ended.
    pub conclusion: Option<&'a str>,
}

impl<'a> JobFacts<'a> {
    /// Where it happened.
    pub fn place(&self) -> Place<'a> {
        Place {
            owner: self.owner,
            owner_is_user: self.owner_is_user,
            repository: self.repository,
            enterprise: self.enterprise,
        }
    }

    /// A job that concerns nobody who does not hold it: skipped, or a check run in the guise of a job, which ended
    /// well without a runner (spec 03 §1.7).
    fn is_idle_end(&self) -> Option<Ignored> {
        match (self.action, self.conclusion) {
            (WorkflowAction::Completed, Some("skipped")) => Some(Ignored::Skipped),
            (WorkflowAction::Completed, Some("success")) if !self.has_runner_id => Some(Ignored::NoRunner),
            _ => None,
        }
    }
}

/// Why an event was led to an autoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its ledger has an entry of the job.
    HoldsJob,
    /// The runner is named after its target.
    RunnerName,
    /// Scope and labels.
    Labels,
}

impl Reason {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HoldsJob => "holds-job",
            Self::RunnerName => "runner-name",
            Self::Labels => "labels",
        }
    }
}

/// An autoscaler that an event concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The autoscaler.
    pub autoscaler: Arc<AutoscalerView>,
    /// Why.
    pub reason: Reason,
    /// How many autoscalers with the same key have the labels; it is the best of them. 1 for the other reasons.
    pub candidates: usize,
}

/// What kept the best of the autoscalers of an event's scope from being matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The autoscaler.
    pub autoscaler: Arc<AutoscalerView>,
    /// Why it was not chosen.
    pub obstacle: Obstacle,
}

/// See [`Nearest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Its target's runners lack this label.
    #[error("its runners lack the label {0:?}")]
    MissingLabel(String),
    /// It takes no such events at all.
    #[error("{0}")]
    NotConsidered(NotConsidered),
    /// GitHub says that the repository may not use its target's runner group.
    #[error("its runner group is not visible to the repository")]
    GroupNotVisible,
}

/// Why an event concerns nobody although it is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Ignored {
    /// It waits for an approval.
    #[error("a job that waits for an approval is no demand")]
    Waiting,
    /// The action is none that changes demand.
    #[error("the action changes no demand")]
    Action,
    /// A job that was never counted was skipped.
    #[error("the job was skipped and had not been counted")]
    Skipped,
    /// A check run in the guise of a job: it ended well without a runner.
    #[error("the job had no runner and had not been counted")]
    NoRunner,
}

/// Where an event goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// To these, at least one.
    To(Vec<Chosen>),
    /// Nobody is concerned; the autoscaler that comes nearest, if there is one of the same scope.
    Unmatched(Option<Nearest>),
    /// It changes no demand.
    Ignored(Ignored),
    /// The groups that the repository may use decide, and they are not known: ask, and route again.
    NeedsGroups,
}

/// Decides where an event goes, with all groups visible: see [`route_in`].
pub fn route(event: &JobFacts<'_>, index: &Index) -> Routing {
    route_in(event, index, Visibility::Unchecked)
}

/// Decides where an event goes. One autoscaler wins among several that match by scope and labels: by part
/// 03's order of keys, then fewest labels that the job did not ask for, then the oldest, then by name. Groups are
/// asked for only where an autoscaler beyond the repository's own has the labels.
pub fn route_in(event: &JobFacts<'_>, index: &Index, visibility: Visibility<'_>) -> Routing {
    match event.action {
        WorkflowAction::Waiting => return Routing::Ignored(Ignored::Waiting),
        WorkflowAction::Other => return Routing::Ignored(Ignored::Action),
        WorkflowAction::Queued | WorkflowAction::InProgress | WorkflowAction::Completed => {}
    }
    let to = |view: &Arc<AutoscalerView>, reason| Chosen {
        autoscaler: Arc::clone(view),
        reason,
        candidates: 1,
    };
    let mut chosen: Vec<Chosen> = index
        .holders(&event.key)
        .filter(|view| view.not_considered != Some(NotConsidered::Deleting))
        .map(|view| to(view, Reason::HoldsJob))
        .collect();
    if matches!(
        event.action,
        WorkflowAction::InProgress | WorkflowAction::Completed
    ) {
        for view in index.owners_of_runner(event.runner.unwrap_or_default()) {
            if view.not_considered.is_none() && !chosen.iter().any(|other| other.autoscaler.id == view.id) {
                chosen.push(to(view, Reason::RunnerName));
            }
        }
    }
    if !chosen.is_empty() {
        return Routing::To(chosen);
    }
    // The lookup comes first, as upstream's does: a job that concerns nobody is unmatched however it ended. But
    // nobody is asked about groups only to ignore the event.
    let idle_end = event.is_idle_end();
    let visibility = if idle_end.is_some() {
        Visibility::Unchecked
    } else {
        visibility
    };
    match (match_labels(event, index, visibility), idle_end) {
        (Match::Found(_), Some(reason)) => Routing::Ignored(reason),
        (Match::Found(winner), None) => Routing::To(vec![winner]),
        (Match::None(nearest), _) => Routing::Unmatched(nearest),
        (Match::NeedsGroups, _) => Routing::NeedsGroups,
    }
}

enum Match {
    Found(Chosen),
    None(Option<Nearest>),
    NeedsGroups,
}

/// Whether the repository may use runners of this tier and group; none when that is not known.
fn allowed(visibility: Visibility<'_>, tier: Tier, group: &str) -> Option<bool> {
    match (tier, visibility) {
        (Tier::Repository, _) | (_, Visibility::Unchecked) => Some(true),
        (_, Visibility::Unknown) => None,
        (_, Visibility::Known(visible)) => Some(visible.allows(tier, group)),
    }
}

fn match_labels(event: &JobFacts<'_>, index: &Index, visibility: Visibility<'_>) -> Match {
    let mut nearest: Option<(usize, Nearest)> = None;
    for (tier, views) in index.tiers(&event.place()) {
        let mut best: Option<(usize, &Arc<AutoscalerView>)> = None;
        let mut candidates = 0;
        for (view, group) in views {
            let missing = view.missing_label(&event.labels);
            let surplus = view.surplus_labels(&event.labels);
            let (obstacle, distance) = match (&view.not_considered, missing) {
                (None, None) => match allowed(visibility, tier, group) {
                    Some(true) => {
                        candidates += 1;
                        if best.is_none_or(|(least, other)| rank(surplus, view) < rank(least, other)) {
                            best = Some((surplus, view));
                        }
                        continue;
                    }
                    Some(false) => (Obstacle::GroupNotVisible, 0),
                    None => return Match::NeedsGroups,
                },
                (None, Some(label)) => (
                    Obstacle::MissingLabel(label.to_owned()),
                    surplus.saturating_add(1),
                ),
                (Some(reason), None) => (Obstacle::NotConsidered(reason.clone()), 0),
                // Neither its labels nor its trigger fit: nothing to learn from it.
                (Some(_), Some(_)) => continue,
            };
            if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
                let autoscaler = Arc::clone(view);
                nearest = Some((distance, Nearest { autoscaler, obstacle }));
            }
        }
        if let Some((_, winner)) = best {
            return Match::Found(Chosen {
                autoscaler: Arc::clone(winner),
                reason: Reason::Labels,
                candidates,
            });
        }
    }
    Match::None(nearest.map(|(_, nearest)| nearest))
}

/// Smaller is better.
fn rank(surplus: usize, view: &AutoscalerView) -> (usize, Timestamp, &AutoscalerId) {
    (surplus, view.created_at.unwrap_or(Timestamp::MAX), &view.id)
}
