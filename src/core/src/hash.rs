//! Template hashes and structural comparison of templates.
//!
//! Upstream hashes a Go-specific memory dump, which cannot be reproduced (spec 02 §6.3, Q8). We hash canonical JSON instead, and decide whether two
//! templates differ by comparing them structurally, so that an owner written by upstream keeps its hash label as long as its template is the same.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::quantity;

const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// The value as JSON with everything that means "absent" taken out: nulls, empty objects and empty strings in objects, recursively. Go writers store zero
/// values (`image: ""`, `resources: {}`) where we store nothing (spec 01 §8.7). Object keys are sorted; list items are kept as they are, since their positions matter.
pub fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut kept = Map::new();
            for (key, value) in map {
                let value = canonical(value);
                let absent = match &value {
                    Value::Null => true,
                    Value::Object(inner) => inner.is_empty(),
                    Value::Array(items) => items.is_empty(),
                    Value::String(text) => text.is_empty(),
                    Value::Bool(_) | Value::Number(_) => false,
                };
                if !absent {
                    kept.insert(key.clone(), value);
                }
            }
            Value::Object(kept)
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

/// What the API server fills into a pod's spec where nothing stands, as far as runners use it. Taking it out makes what was stored and what was asked for comparable.
const DEFAULTS: [(&str, &str); 16] = [
    ("apiVersion", "v1"),
    ("defaultMode", "420"),
    ("dnsPolicy", "ClusterFirst"),
    ("enableServiceLinks", "true"),
    ("failureThreshold", "3"),
    ("periodSeconds", "10"),
    ("protocol", "TCP"),
    ("restartPolicy", "Always"),
    ("schedulerName", "default-scheduler"),
    ("scheme", "HTTP"),
    ("successThreshold", "1"),
    ("terminationGracePeriodSeconds", "30"),
    ("terminationMessagePath", "/dev/termination-log"),
    ("terminationMessagePolicy", "File"),
    ("timeoutSeconds", "1"),
    ("volumeMode", "Filesystem"),
];
/// Maps of quantities; the API server stores another notation than it was given.
const QUANTITY_MAPS: [&str; 2] = ["limits", "requests"];

/// [`canonical`] JSON of a pod's spec, without what the API server fills in and with quantities by value: the same for a spec that was stored and for one that was not.
pub fn without_defaults(spec: &Value) -> Value {
    canonical(&strip(&canonical(spec)))
}

fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map
                .iter()
                .filter(|(key, value)| !is_default(key, value, map))
                .map(|(key, value)| match value {
                    Value::Object(quantities) if QUANTITY_MAPS.contains(&key.as_str()) => {
                        let by_value = quantities
                            .iter()
                            .map(|(name, text)| (name.clone(), quantity(text)));
                        (key.clone(), Value::Object(by_value.collect()))
                    }
                    value if key == "sizeLimit" => (key.clone(), quantity(value)),
                    value => (key.clone(), strip(value)),
                });
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(strip).collect()),
        other => other.clone(),
    }
}

fn is_default(key: &str, value: &Value, object: &Map<String, Value>) -> bool {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return false,
    };
    match key {
        // The older name of `serviceAccountName`, kept in step with it.
        "serviceAccount" => true,
        "imagePullPolicy" => {
            let image = object.get("image").and_then(Value::as_str).unwrap_or_default();
            text == default_pull_policy(image)
        }
        _ => DEFAULTS
            .iter()
            .any(|(name, default)| *name == key && *default == text),
    }
}

/// `Always` for an image without a tag or with `latest`, as the API server decides.
fn default_pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn quantity(value: &Value) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    quantity::milli(&Quantity(text)).map_or_else(|| value.clone(), |milli| Value::String(format!("{milli}m")))
}

/// FNV-1a (32 bits) of the canonical JSON of `value`, safe-encoded: the value of label `runner-template-hash`. Matches `^[4-9bcdf]{1,10}$`.
///
/// # Errors
/// When the value cannot be written as JSON (a map with keys that are not strings).
pub fn template_hash(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let text = canonical(&serde_json::to_value(value)?).to_string();
    let hash = text.bytes().fold(FNV_OFFSET, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(FNV_PRIME)
    });
    Ok(safe_encode(hash))
}

/// Whether two templates mean the same, whoever wrote them.
///
/// # Errors
/// When one of them cannot be written as JSON.
pub fn same(left: &impl Serialize, right: &impl Serialize) -> Result<bool, serde_json::Error> {
    Ok(canonical(&serde_json::to_value(left)?) == canonical(&serde_json::to_value(right)?))
}

/// Decimal text with each digit replaced by a character that cannot form a word or look like a number (spec 02 §6.3).
fn safe_encode(hash: u32) -> String {
    hash.to_string()
        .chars()
        .map(|digit| match digit {
            '0' => '4',
            '1' => '5',
            '2' => '6',
            '3' => '7',
            '4' => '8',
            '5' => '9',
            '6' => 'b',
            '7' => 'c',
            '8' => 'd',
            _ => 'f',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zero_values_written_by_go_do_not_change_the_hash() {
        let ours = json!({"spec": {"repository": "acme/api", "env": [{"name": "A", "value": ""}]}});
        let theirs = json!({"spec": {"repository": "acme/api", "image": "", "resources": {}, "effectiveTime": null, "env": [{"name": "A", "value": ""}]}, "metadata": {"labels": {}}});
        assert_eq!(template_hash(&ours).unwrap(), template_hash(&theirs).unwrap());
        assert!(same(&ours, &theirs).unwrap());
        assert!(!same(&ours, &json!({"spec": {"repository": "acme/web"}})).unwrap());
    }

    #[test]
    fn the_encoding_uses_the_safe_alphabet() {
        assert_eq!(safe_encode(1_234_567_890), "56789bcdf4");
        let hash = template_hash(&json!({"a": 1})).unwrap();
        assert!(hash.chars().all(|c| "456789bcdf".contains(c)), "{hash}");
    }
}
