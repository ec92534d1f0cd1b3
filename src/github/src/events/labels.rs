//! Names of events and actions as labels of metrics: from closed sets, whatever a sender writes.

use http::HeaderMap;

use super::EVENT_HEADER;

/// The event's name as a metrics label: from GitHub's documented ones, or `other`.
pub fn event_label(headers: &HeaderMap) -> &'static str {
    let Some(event) = headers.get(EVENT_HEADER).and_then(|event| event.to_str().ok()) else {
        return "";
    };
    KNOWN_EVENTS
        .binary_search(&event)
        .ok()
        .and_then(|at| KNOWN_EVENTS.get(at).copied())
        .unwrap_or("other")
}

/// An action as a metrics label: from the documented ones of the events that triggers wait for, or `other`.
pub fn action_label(action: &str) -> &'static str {
    const ACTIONS: [&str; 25] = [
        "assigned",
        "auto_merge_disabled",
        "auto_merge_enabled",
        "closed",
        "completed",
        "converted_to_draft",
        "created",
        "demilestoned",
        "dequeued",
        "edited",
        "enqueued",
        "labeled",
        "locked",
        "milestoned",
        "opened",
        "ready_for_review",
        "reopened",
        "requested_action",
        "rerequested",
        "review_request_removed",
        "review_requested",
        "synchronize",
        "unassigned",
        "unlabeled",
        "unlocked",
    ];
    if action.is_empty() {
        return "";
    }
    ACTIONS
        .binary_search(&action)
        .ok()
        .and_then(|at| ACTIONS.get(at).copied())
        .unwrap_or("other")
}

/// Events that GitHub documents, sorted.
const KNOWN_EVENTS: [&str; 72] = [
    "branch_protection_configuration",
    "branch_protection_rule",
    "check_run",
    "check_suite",
    "code_scanning_alert",
    "commit_comment",
    "content_reference",
    "create",
    "custom_property",
    "custom_property_values",
    "delete",
    "dependabot_alert",
    "deploy_key",
    "deployment",
    "deployment_protection_rule",
    "deployment_review",
    "deployment_status",
    "discussion",
    "discussion_comment",
    "fork",
    "github_app_authorization",
    "gollum",
    "installation",
    "installation_repositories",
    "installation_target",
    "issue_comment",
    "issues",
    "label",
    "marketplace_purchase",
    "member",
    "membership",
    "merge_group",
    "meta",
    "milestone",
    "org_block",
    "organization",
    "package",
    "page_build",
    "personal_access_token_request",
    "ping",
    "project",
    "project_card",
    "project_column",
    "projects_v2",
    "projects_v2_item",
    "public",
    "pull_request",
    "pull_request_review",
    "pull_request_review_comment",
    "pull_request_review_thread",
    "pull_request_target",
    "push",
    "registry_package",
    "release",
    "repository",
    "repository_advisory",
    "repository_dispatch",
    "repository_import",
    "repository_ruleset",
    "repository_vulnerability_alert",
    "secret_scanning_alert",
    "security_advisory",
    "sponsorship",
    "star",
    "status",
    "team",
    "team_add",
    "user",
    "watch",
    "workflow_dispatch",
    "workflow_job",
    "workflow_run",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_labels_from_a_closed_set() {
        assert!(KNOWN_EVENTS.is_sorted());
        let label = |event: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(EVENT_HEADER, event.parse().unwrap());
            event_label(&headers)
        };
        for event in KNOWN_EVENTS {
            assert_eq!(label(event), event);
        }
        assert_eq!(label("made_up"), "other");
        for action in [
            "assigned",
            "synchronize",
            "requested_action",
            "unlocked",
            "created",
        ] {
            assert_eq!(action_label(action), action);
        }
        assert_eq!((action_label("made_up"), action_label("")), ("other", ""));
        assert_eq!(event_label(&HeaderMap::new()), "");
    }
}
