//! The tables of `docs/monitoring.md`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use muster_core::job_metrics::JobLabel;

/// The labels that `H7` stands for.
const H7: [&str; 7] = [
    "horizontalrunnerautoscaler",
    "namespace",
    "enterprise",
    "organization",
    "repository",
    "kind",
    "name",
];

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documented {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Names of its labels.
    pub labels: BTreeSet<String>,
    /// Whether its series may have fewer labels than these.
    pub may_lack: bool,
}

/// The metrics of each section (by its heading), by name.
pub type Sections = BTreeMap<String, BTreeMap<String, Documented>>;

/// Reads the tables of metrics.
pub fn sections(text: &str) -> Result<Sections> {
    let mut sections = Sections::new();
    let mut heading = "";
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            heading = title;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [
            "",
            name,
            kind @ ("counter" | "gauge" | "histogram"),
            labels,
            meaning,
            "",
        ] = cells.as_slice()
        else {
            continue;
        };
        if meaning.is_empty() {
            bail!("{name} has no meaning");
        }
        let row = Documented {
            kind: (*kind).to_owned(),
            labels: label_names(labels).with_context(|| format!("labels of {name}"))?,
            may_lack: labels.contains("J8"),
        };
        let name = quoted(name).context("a metric's name stands between backquotes")?;
        let section = sections.entry(heading.to_owned()).or_default();
        if section.insert(name.to_owned(), row).is_some() {
            bail!("{name} stands twice under {heading}");
        }
    }
    Ok(sections)
}

fn label_names(cell: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for part in cell.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part {
            "H7" => names.extend(H7.map(str::to_owned)),
            "J8" => names.extend(JobLabel::ALL.map(|label| label.as_str().to_owned())),
            name => {
                let name = quoted(name).with_context(|| format!("{name} is no label"))?;
                names.insert(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('`')?.strip_suffix('`')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let text = "### One\n| metric | type | labels | meaning |\n|---|---|---|---|\n| `a_total` | counter | J8, `x` | what |\n| `b` | gauge | | why |\n";
        let sections = sections(text).unwrap();
        let one = &sections["One"];
        assert_eq!(one["a_total"].labels.len(), 9);
        assert!(one["a_total"].may_lack && one["a_total"].labels.contains("head_branch"));
        assert_eq!((one["b"].kind.as_str(), one["b"].labels.len()), ("gauge", 0));
        for bad in [
            "| a | gauge | | x |",
            "| `a` | gauge | b | x |",
            "| `a` | gauge | | |",
        ] {
            assert!(super::sections(bad).is_err(), "{bad}");
        }
    }
}
