//! Runner groups: which of them a repository may use is GitHub's to say (spec 03 §1.9).

use std::collections::BTreeSet;

/// A runner group as GitHub lists it for a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedGroup<'a> {
    /// Its name; of a default group it does not matter.
    pub name: &'a str,
    /// The group that runners without one are in.
    pub is_default: bool,
    /// The enterprise's, shown in the organization's list.
    pub is_inherited: bool,
}

/// The runner groups that a repository may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisibleGroups {
    organization_default: bool,
    enterprise_default: bool,
    /// Names in lower case.
    organization: BTreeSet<String>,
    enterprise: BTreeSet<String>,
}

impl VisibleGroups {
    /// What a list of groups allows.
    pub fn of<'a>(groups: impl IntoIterator<Item = ListedGroup<'a>>) -> Self {
        let mut visible = Self::default();
        for group in groups {
            match (group.is_inherited, group.is_default) {
                (false, true) => visible.organization_default = true,
                (true, true) => visible.enterprise_default = true,
                (false, false) => {
                    visible.organization.insert(group.name.to_lowercase());
                }
                (true, false) => {
                    visible.enterprise.insert(group.name.to_lowercase());
                }
            }
        }
        visible
    }

    pub(super) fn allows(&self, tier: Tier, group: &str) -> bool {
        match tier {
            Tier::Repository => true,
            Tier::Organization => self.organization_default,
            Tier::Enterprise => self.enterprise_default,
            Tier::OrganizationGroups => self.organization.contains(group),
            Tier::EnterpriseGroups => self.enterprise.contains(group),
        }
    }
}

/// What is known of the groups that an event's repository may use.
#[derive(Clone, Copy, Debug)]
pub enum Visibility<'v> {
    /// Nobody can be asked: all groups count as visible.
    Unchecked,
    /// It must be asked for as soon as the answer matters.
    Unknown,
    /// This.
    Known(&'v VisibleGroups),
}

/// The keys of an event, in part 03's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Repository,
    Organization,
    Enterprise,
    OrganizationGroups,
    EnterpriseGroups,
}

impl Tier {
    pub(super) fn is_grouped(self) -> bool {
        matches!(self, Self::OrganizationGroups | Self::EnterpriseGroups)
    }
}
