//! What a benchmark found: figures beside what they are measured against, for people, for programs and for
//! `docs/performance.md`.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::demo::rounded;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Bound {
    /// Whether a figure keeps it.
    pub fn is_kept_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::AtLeast(bound) | Self::AtMost(bound) => bound,
        }
    }

    fn with(self, value: f64) -> Self {
        match self {
            Self::AtLeast(_) => Self::AtLeast(value),
            Self::AtMost(_) => Self::AtMost(value),
        }
    }

    /// `≥ 700` or `≤ 12`.
    pub fn text(self) -> String {
        let sign = match self {
            Self::AtLeast(_) => '≥',
            Self::AtMost(_) => '≤',
        };
        format!("{sign} {}", show(self.value()))
    }
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is, in words.
    pub what: String,
    /// The figure; of several runs, the median.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it must be, where something was promised; of several runs, the median.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bound: Option<Bound>,
    /// The figures of the single runs.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub runs: Vec<f64>,
}

impl Figure {
    /// Whether it is as promised; `None` where nothing was.
    pub fn is_met(&self) -> Option<bool> {
        self.bound.map(|bound| bound.is_kept_by(self.value))
    }

    /// The figure with its unit.
    pub fn text(&self) -> String {
        format!("{} {}", show(self.value), self.unit)
            .trim_end()
            .to_owned()
    }
}

/// The figures of one run, or the medians of several, by name and in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(Vec<(String, Figure)>);

impl Figures {
    /// Adds a figure that nothing was promised about.
    pub fn add(&mut self, name: &str, what: &str, value: f64, unit: &str) {
        self.push(name, what, value, unit, None);
    }

    /// Adds a figure that must keep a bound.
    pub fn promise(&mut self, name: &str, what: &str, value: f64, unit: &str, bound: Bound) {
        self.push(name, what, value, unit, Some(bound));
    }

    fn push(&mut self, name: &str, what: &str, value: f64, unit: &str, bound: Option<Bound>) {
        // What could not be computed keeps no promise.
        let value = match bound {
            Some(Bound::AtMost(_)) if !value.is_finite() => f64::MAX,
            _ => value,
        };
        let figure = Figure {
            what: what.to_owned(),
            value: short(value),
            unit: unit.to_owned(),
            bound: bound.map(|bound| bound.with(short(bound.value()))),
            runs: Vec::new(),
        };
        self.0.push((name.to_owned(), figure));
    }

    /// A figure by its name.
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, figure)| figure)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Figure)> {
        self.0.iter().map(|(name, figure)| (name.as_str(), figure))
    }

    /// Adds those of another part of the same run.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The medians of several runs, of figures and bounds alike.
    pub fn median(runs: &[Self]) -> Self {
        let Some(first) = runs.first() else {
            return Self::default();
        };
        let of = |name: &str| runs.iter().filter_map(|run| run.get(name)).collect::<Vec<_>>();
        let merged = first.0.iter().map(|(name, figure)| {
            let all = of(name);
            let values: Vec<f64> = all.iter().map(|figure| figure.value).collect();
            let bounds = all.iter().filter_map(|figure| Some(figure.bound?.value()));
            let bound = figure
                .bound
                .map(|bound| bound.with(middle(bounds.collect()).unwrap_or_else(|| bound.value())));
            let merged = Figure {
                value: middle(values.clone()).unwrap_or(figure.value),
                bound,
                runs: if runs.len() > 1 { values } else { Vec::new() },
                ..figure.clone()
            };
            (name.clone(), merged)
        });
        Self(merged.collect())
    }

    /// The table, for people.
    pub fn table(&self) -> Vec<String> {
        let texts: Vec<[String; 4]> = self
            .iter()
            .map(|(_, figure)| {
                let verdict = match figure.is_met() {
                    None => "",
                    Some(true) => "ok",
                    Some(false) => "MISSED",
                };
                let bound = figure.bound.map(Bound::text).unwrap_or_default();
                [figure.what.clone(), figure.text(), bound, verdict.to_owned()]
            })
            .collect();
        let width = |column: usize| {
            let widths = texts.iter().filter_map(|row| row.get(column));
            widths.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let [a, b, c] = [width(0), width(1), width(2)];
        texts
            .iter()
            .map(|[what, figure, bound, verdict]| {
                format!("{what:<a$}  {figure:>b$}  {bound:<c$}  {verdict}")
                    .trim_end()
                    .to_owned()
            })
            .collect()
    }
}

/// The figures of all benchmarks, as they are kept beside `docs/performance.md`.
pub type Book = BTreeMap<String, Entry>;

/// The figures of one benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Day and hour of the runs, UTC.
    pub at: String,
    /// How the binaries were built.
    pub profile: String,
    /// How many runs the figures are the medians of.
    pub runs: usize,
    /// What must be known about these runs.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
    /// The figures.
    pub figures: Figures,
}

/// The one in the middle; of an even number, the lower one.
fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// Seconds, as a number.
pub(super) fn seconds(time: Duration) -> f64 {
    rounded(time)
}

/// A count, as a number.
pub(super) fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// A count, as a number.
pub(super) fn count64(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// Four digits that count are more than machines repeat.
fn short(value: f64) -> f64 {
    if !value.is_finite() {
        return 0.0;
    }
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}").parse().unwrap_or(value)
}

fn show(value: f64) -> String {
    let text = format!("{value}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |(a, b)| (a, b));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 && digit.is_ascii_digit() {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if rest.is_empty() {
        grouped
    } else {
        format!("{grouped}.{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(value: f64, bound: f64) -> Figures {
        let mut figures = Figures::default();
        figures.promise("a", "deliveries", value, "/s", Bound::AtLeast(bound));
        figures
    }

    #[test]
    fn medians_are_judged_by_the_median_of_their_bounds() {
        let median = Figures::median(&[run(10.0, 5.0), run(3.0, 4.0), run(4.5, 4.4)]);
        let figure = median.get("a").unwrap();
        assert_eq!((figure.value, figure.bound), (4.5, Some(Bound::AtLeast(4.4))));
        assert_eq!(figure.is_met(), Some(true));
        assert_eq!(figure.runs, [10.0, 3.0, 4.5]);
        assert_eq!(run(3.0, 4.0).get("a").unwrap().is_met(), Some(false));
    }

    #[test]
    fn what_is_no_number_keeps_no_promise() {
        let mut figures = Figures::default();
        for value in [f64::NAN, f64::INFINITY] {
            figures.promise("least", "x", value, "", Bound::AtLeast(1.0));
            figures.promise("most", "x", value, "", Bound::AtMost(1.0));
        }
        assert!(figures.iter().all(|(_, figure)| figure.is_met() == Some(false)));
    }

    #[test]
    fn numbers_are_short_and_tables_are_even() {
        assert_eq!(show(short(1_234.567)), "1,235");
        assert_eq!(show(short(0.123_45)), "0.123");
        assert_eq!(show(short(12.34)), "12.3");
        assert_eq!(show(short(f64::NAN)), "0");
        assert_eq!(run(12_345.0, 9.0).table(), ["deliveries  12,345 /s  ≥ 9  ok"]);
    }

    #[test]
    fn a_book_is_read_as_it_was_written() {
        let entry = Entry {
            at: "2026-11-21 16 h".into(),
            profile: "release".into(),
            runs: 1,
            note: String::new(),
            figures: run(1.0, 2.0),
        };
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }
}
