//! Where a pod with certain volumes can run: node selectors of volumes and pods against the labels of nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// A node that takes pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a pod asks of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodWant {
    /// `spec.nodeSelector`.
    pub labels: BTreeMap<String, String>,
    /// Required node affinity.
    pub affinity: Option<NodeSelector>,
}

impl PodWant {
    /// Reads a pod's spec.
    pub fn of(spec: &PodSpec) -> Self {
        Self {
            labels: spec.node_selector.clone().unwrap_or_default(),
            affinity: spec
                .affinity
                .as_ref()
                .and_then(|affinity| affinity.node_affinity.as_ref())
                .and_then(|affinity| {
                    affinity
                        .required_during_scheduling_ignored_during_execution
                        .clone()
                }),
        }
    }

    fn admits(&self, node: &NodeView) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| node.labels.get(key) == Some(value))
            && self
                .affinity
                .as_ref()
                .is_none_or(|selector| matches(selector, node))
    }
}

/// Whether some node takes the pod and reaches all of these volumes. Where the nodes are not known (`None`) volumes go together if at most
/// one place is asked for.
pub fn is_schedulable(
    pod: &PodWant,
    affinities: &[Option<&NodeSelector>],
    nodes: Option<&[NodeView]>,
) -> bool {
    let mut places = affinities.iter().copied().flatten();
    match nodes {
        _ if affinities.iter().all(Option::is_none) => true,
        Some(nodes) => nodes
            .iter()
            .any(|node| pod.admits(node) && places.clone().all(|selector| matches(selector, node))),
        None => places
            .next()
            .is_none_or(|first| places.all(|selector| selector == first)),
    }
}

/// Any of the terms.
fn matches(selector: &NodeSelector, node: &NodeView) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| matches_term(term, node))
}

/// All requirements; a term without any matches nothing, as in Kubernetes.
fn matches_term(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    labels
        .iter()
        .all(|rule| matches_rule(rule, node.labels.get(&rule.key)))
        && fields
            .iter()
            .all(|rule| rule.key == "metadata.name" && matches_rule(rule, Some(&node.name)))
}

fn matches_rule(rule: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = rule.values.as_deref().unwrap_or_default();
    let compare = |order| {
        let number = |text: &String| text.parse::<i64>().ok();
        match (value.and_then(number), values.first().and_then(number)) {
            (Some(value), Some(bound)) => value.cmp(&bound) == order,
            _ => false,
        }
    };
    match rule.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, zone: &str) -> NodeView {
        NodeView {
            name: name.to_owned(),
            labels: [
                ("zone".to_owned(), zone.to_owned()),
                ("cpus".to_owned(), "8".to_owned()),
            ]
            .into(),
        }
    }

    fn selector(key: &str, operator: &str, values: &[&str]) -> NodeSelector {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![NodeSelectorRequirement {
                    key: key.to_owned(),
                    operator: operator.to_owned(),
                    values: Some(values),
                }]),
                match_fields: None,
            }],
        }
    }

    #[test]
    fn operators_are_those_of_kubernetes() {
        for (key, operator, values, expected) in [
            ("zone", "In", &["a", "b"][..], true),
            ("zone", "In", &["b"], false),
            ("none", "In", &["a"], false),
            ("zone", "NotIn", &["b"], true),
            ("none", "NotIn", &["b"], true),
            ("zone", "Exists", &[], true),
            ("none", "DoesNotExist", &[], true),
            ("cpus", "Gt", &["4"], true),
            ("cpus", "Lt", &["8"], false),
            ("zone", "Gt", &["4"], false),
            ("zone", "Is", &["a"], false),
        ] {
            let selector = selector(key, operator, values);
            assert_eq!(
                matches(&selector, &node("n", "a")),
                expected,
                "{key} {operator} {values:?}"
            );
        }
        let empty = NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm::default()],
        };
        assert!(!matches(&empty, &node("n", "a")));
    }

    #[test]
    fn volumes_of_two_zones_do_not_go_together() {
        let (a, b) = (selector("zone", "In", &["a"]), selector("zone", "In", &["b"]));
        let nodes = [node("n1", "a"), node("n2", "b")];
        let any = PodWant::default();
        let only_a = PodWant {
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            affinity: None,
        };
        for nodes in [Some(&nodes[..]), None] {
            assert!(is_schedulable(&any, &[Some(&a), None], nodes));
            assert!(is_schedulable(&any, &[Some(&a), Some(&a)], nodes));
            assert!(!is_schedulable(&any, &[Some(&a), Some(&b)], nodes));
            assert!(is_schedulable(&any, &[None, None], nodes));
        }
        assert!(!is_schedulable(&only_a, &[Some(&b)], Some(&nodes)));
        assert!(
            !is_schedulable(&any, &[Some(&b)], Some(&nodes[..1])),
            "its node is gone"
        );
        assert!(
            is_schedulable(&any, &[None], Some(&[])),
            "a cluster that grows on demand"
        );
    }
}
