//! The chart's values: which there are, which a values file sets, and what rendering makes of a file without one of them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{control_plane::manifests, helm::chart, keeper::workspace_dir};

/// The path of a value, from the outside in.
pub type Segments = Vec<String>;

/// Every value that `values.schema.json` knows: what has no parts of its own.
pub fn known() -> Result<BTreeSet<Segments>> {
    let path = chart().join("values.schema.json");
    let text = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
    let schema: Value = serde_json::from_slice(&text).context("the schema is no JSON")?;
    let mut found = BTreeSet::new();
    collect(&schema, &mut Vec::new(), &mut found);
    Ok(found)
}

fn collect(schema: &Value, path: &mut Segments, found: &mut BTreeSet<Segments>) {
    let Some(parts) = schema.get("properties").and_then(Value::as_object) else {
        found.insert(path.clone());
        return;
    };
    for (name, part) in parts {
        path.push(name.clone());
        collect(part, path, found);
        path.pop();
    }
}

/// The values of `values.yaml` itself.
pub fn defaults() -> Result<Value> {
    read(&chart().join("values.yaml"))
}

/// The project's own values files: name and path.
pub fn files() -> Result<Vec<(String, PathBuf)>> {
    let folders = [chart().join("ci"), workspace_dir().join("tests/fixtures/values")];
    let mut paths = Vec::new();
    for folder in folders {
        let found = manifests::yaml_files(&folder)?;
        paths.extend(found.into_iter().map(|(path, _)| PathBuf::from(path)));
    }
    let named = |path: PathBuf| {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        (name, path)
    };
    Ok(paths.into_iter().map(named).collect())
}

/// A values file.
pub fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let documents = manifests::parse(&text).with_context(|| format!("in {}", path.display()))?;
    Ok(documents.into_iter().next().unwrap_or(Value::Null))
}

/// Whether a file sets the value, be it to nothing.
pub fn sets(values: &Value, path: &[String]) -> bool {
    path.iter()
        .try_fold(values, |part, name| part.get(name))
        .is_some()
}

/// The file without the value.
#[must_use]
pub fn without(values: &Value, path: &[String]) -> Value {
    let mut rest = values.clone();
    if let Some((last, parents)) = path.split_last() {
        let mut part = Some(&mut rest);
        for name in parents {
            part = part.and_then(|part| part.get_mut(name));
        }
        if let Some(fields) = part.and_then(Value::as_object_mut) {
            fields.remove(last);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_taken_out_and_its_neighbours_stay() {
        let values = json!({"a": {"b": 1, "c": null}});
        let path = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(sets(&values, &path(&["a", "c"])));
        assert!(!sets(&values, &path(&["a", "b", "c"])));
        assert_eq!(without(&values, &path(&["a", "b"])), json!({"a": {"c": null}}));
        assert_eq!(without(&values, &path(&["x", "y"])), values);
    }
}
