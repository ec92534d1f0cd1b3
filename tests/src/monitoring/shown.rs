//! What a process shows at `/metrics`, in the classic text.

use std::collections::{BTreeMap, BTreeSet};

/// A metric as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Names of the labels of each series that differs in them; none while there is no series.
    pub labels: BTreeSet<BTreeSet<String>>,
}

/// Reads an exposition.
pub fn metrics(text: &str) -> BTreeMap<String, Shown> {
    let mut metrics: BTreeMap<String, Shown> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut metrics.entry(name.to_owned()).or_default().kind);
        } else if !line.starts_with('#') {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            let (name, rest) = line.split_at(end);
            if let Some(metric) = metrics.get_mut(base(name)).filter(|_| !name.is_empty()) {
                metric.labels.insert(label_names(rest));
            } else if let Some(metric) = metrics.get_mut(name) {
                metric.labels.insert(label_names(rest));
            }
        }
    }
    metrics
}

/// The name of the metric that a series belongs to, if it is one of a histogram.
pub fn base(series: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| series.strip_suffix(suffix))
        .unwrap_or(series)
}

fn label_names(series: &str) -> BTreeSet<String> {
    // Values of ours hold neither quotes nor `="`.
    let mut names: BTreeSet<String> = series
        .split("=\"")
        .filter_map(|part| part.rsplit([',', '{']).next())
        .filter(|name| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
        .map(str::to_owned)
        .collect();
    if !series.starts_with('{') {
        names.clear();
    }
    names.remove("le");
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read() {
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1,2\",y=\"\"} 3\n# TYPE b histogram\nb_sum 1.0\nb_bucket{le=\"5\"} 1\n# TYPE c gauge\n";
        let metrics = metrics(text);
        let names =
            |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        assert_eq!(metrics["a_total"].labels, BTreeSet::from([names(&["x", "y"])]));
        assert_eq!(metrics["b"].labels, BTreeSet::from([names(&[])]));
        assert_eq!(
            (metrics["c"].kind.as_str(), metrics["c"].labels.len()),
            ("gauge", 0)
        );
    }
}
