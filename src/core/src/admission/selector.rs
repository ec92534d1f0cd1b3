//! Label selectors of Kubernetes.

use serde_json::Value;

use super::{get, items, text};

/// Why `labels` do not match a selector; `None` when they do, when the selector is absent or asks nothing, and when it asks for a key in
/// `unknown`, whose value is given later.
pub(super) fn mismatch(selector: &Value, labels: &Value, unknown: &[&str]) -> Option<String> {
    let equal = get(selector, "matchLabels").as_object();
    for (key, value) in equal.into_iter().flatten() {
        if !unknown.contains(&key.as_str()) && get(labels, key) != value {
            return Some(format!(
                "there is no {key}: {}",
                value.as_str().unwrap_or_default()
            ));
        }
    }
    items(selector, "matchExpressions")
        .iter()
        .filter(|rule| !unknown.contains(&text(rule, "key")))
        .find_map(|rule| expression(rule, labels))
}

fn expression(rule: &Value, labels: &Value) -> Option<String> {
    let key = text(rule, "key");
    let value = get(labels, key);
    let is_listed = items(rule, "values").contains(value);
    match text(rule, "operator") {
        "In" if !is_listed => Some(format!("{key} has none of the wanted values")),
        "NotIn" if is_listed => Some(format!("{key} has an excluded value")),
        "Exists" if value.is_null() => Some(format!("there is no {key}")),
        "DoesNotExist" if !value.is_null() => Some(format!("there is an unwanted {key}")),
        // What is no operator, the API server says elsewhere.
        _ => None,
    }
}
