//! Nodes, and which of them a node selector means.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// Label of a node: its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// A simulated node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Node {
    /// A node in no zone.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: [("kubernetes.io/hostname", name), ("kubernetes.io/os", "linux")]
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    /// The same in a zone.
    #[must_use]
    pub fn in_zone(mut self, zone: &str) -> Self {
        self.labels.insert(ZONE.to_owned(), zone.to_owned());
        self
    }

    /// Its zone.
    pub fn zone(&self) -> Option<&str> {
        self.labels.get(ZONE).map(String::as_str)
    }

    /// Whether the pod's node selector and required node affinity allow this node.
    pub(super) fn suits(&self, spec: &PodSpec) -> bool {
        let has = |(key, value): (&String, &String)| self.labels.get(key) == Some(value);
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
        spec.node_selector.iter().flatten().all(has)
            && affinity.is_none_or(|selector| self.is_meant(selector))
    }

    /// Whether one of the selector's terms matches.
    pub(super) fn is_meant(&self, selector: &NodeSelector) -> bool {
        selector.node_selector_terms.iter().any(|term| self.matches(term))
    }

    /// A term without requirements matches nothing.
    fn matches(&self, term: &NodeSelectorTerm) -> bool {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let is_named = |field: &NodeSelectorRequirement| {
            field.key == "metadata.name" && compare(field, Some(&self.name))
        };
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|e| compare(e, self.labels.get(&e.key)))
            && fields.iter().all(is_named)
    }
}

fn compare(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = values.first().and_then(number);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value
            .and_then(number)
            .zip(bound)
            .is_some_and(|(value, bound)| value > bound),
        "Lt" => value
            .and_then(number)
            .zip(bound)
            .is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_mean_what_kubernetes_says() {
        let node = Node::new("n1").in_zone("a");
        let cases = [
            (
                json!([{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["a", "b"]}]}]),
                true,
            ),
            (
                json!([{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["b"]}]}]),
                false,
            ),
            (
                json!([{"matchExpressions": [{"key": ZONE, "operator": "NotIn", "values": ["b"]}]}]),
                true,
            ),
            (
                json!([{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]),
                false,
            ),
            (
                json!([{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]),
                true,
            ),
            (json!([{"matchExpressions": []}]), false),
            (
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]),
                true,
            ),
            (
                json!([{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]},
                    {"matchExpressions": [{"key": ZONE, "operator": "Exists"}]}]),
                true,
            ),
        ];
        for (terms, expected) in cases {
            let selector: NodeSelector = serde_json::from_value(json!({"nodeSelectorTerms": terms})).unwrap();
            assert_eq!(node.is_meant(&selector), expected, "{terms}");
        }
    }

    #[test]
    fn a_pod_goes_only_where_it_may() {
        let node = Node::new("n1").in_zone("a");
        let spec = |selector: serde_json::Value| -> PodSpec {
            serde_json::from_value(json!({"containers": [], "nodeSelector": selector})).unwrap()
        };
        assert!(node.suits(&spec(json!(null))));
        assert!(node.suits(&spec(json!({(ZONE): "a"}))));
        assert!(!node.suits(&spec(json!({(ZONE): "b"}))));
    }
}
