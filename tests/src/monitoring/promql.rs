//! Names in a query: of metrics, of labels, of functions. Not a parser of the whole language, but one that stumbles over what it does not know.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// Functions and aggregations that our queries may use.
const FUNCTIONS: [&str; 12] = [
    "avg",
    "count",
    "delta",
    "histogram_quantile",
    "increase",
    "label_values",
    "max",
    "min",
    "rate",
    "sum",
    "time",
    "topk",
];
/// Words before a list of labels.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// The names in one query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Metrics, with the suffixes of histograms.
    pub metrics: BTreeSet<String>,
    /// Labels that are selected or grouped by.
    pub labels: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// A number, a string, a duration.
    Value,
    Sign(char),
}

/// Reads a query.
pub fn names(query: &str) -> Result<Names> {
    let tokens = tokens(query)?;
    let mut names = Names::default();
    let mut open: Vec<char> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let next = tokens.get(at);
        match token {
            Token::Sign('{') => at = labels(&tokens, at, '}', &mut names)?,
            Token::Sign(sign @ ('(' | '[')) => open.push(*sign),
            Token::Sign(sign @ (')' | ']')) => {
                let expected = if *sign == ')' { '(' } else { '[' };
                if open.pop() != Some(expected) {
                    bail!("{sign} closes nothing in {query}");
                }
            }
            Token::Sign('}') => bail!("}} closes nothing in {query}"),
            Token::Sign(_) | Token::Value => {}
            Token::Word(word) if LISTS.contains(&word.as_str()) => {
                if next != Some(&Token::Sign('(')) {
                    bail!("{word} has no list of labels in {query}");
                }
                at = labels(&tokens, at + 1, ')', &mut names)?;
            }
            Token::Word(word) if OPERATORS.contains(&word.as_str()) => {}
            Token::Word(word) => {
                let is_call = next == Some(&Token::Sign('('));
                let is_grouped = matches!(next, Some(Token::Word(word)) if word == "by" || word == "without");
                if is_call || is_grouped {
                    if !FUNCTIONS.contains(&word.as_str()) {
                        bail!("{word} is no function that is known, in {query}");
                    }
                } else {
                    names.metrics.insert(word.clone());
                }
            }
        }
    }
    if !open.is_empty() {
        bail!("{open:?} is not closed in {query}");
    }
    Ok(names)
}

/// Takes the labels until `end`; where it goes on.
fn labels(tokens: &[Token], mut at: usize, end: char, names: &mut Names) -> Result<usize> {
    loop {
        match tokens.get(at) {
            Some(Token::Word(label)) => {
                names.labels.insert(label.clone());
            }
            Some(Token::Sign(sign)) if *sign == end => return Ok(at + 1),
            Some(Token::Sign(',' | '=' | '!' | '~') | Token::Value) => {}
            other => bail!("{other:?} stands among labels"),
        }
        at += 1;
    }
}

fn tokens(query: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        let starts_word = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
        let length = if first == '"' || first == '\'' {
            let Some(end) = rest.get(1..).and_then(|text| text.find(first)) else {
                bail!("a string does not end in {query}");
            };
            tokens.push(Token::Value);
            end + 2
        } else if starts_word(first) {
            let end = rest
                .find(|c: char| !starts_word(c) && !c.is_ascii_digit())
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest.get(..end).unwrap_or_default().to_owned()));
            end
        } else if first.is_ascii_digit() || first == '$' || first == '.' {
            // Also durations and Grafana's variables.
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '$'))
                .unwrap_or(rest.len());
            tokens.push(Token::Value);
            end
        } else if "(){}[],=!~<>+-*/%^".contains(first) {
            tokens.push(Token::Sign(first));
            1
        } else {
            bail!("{first:?} is not expected in {query}");
        };
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let query = "histogram_quantile(0.9, sum by (le, runs_on) (rate(a_bucket{x=~\"b|c\", y!=\"sum\"}[15m]))) > 600 and on (z) b_total == bool 1";
        let names = names(query).unwrap();
        assert_eq!(
            names.metrics.into_iter().collect::<Vec<_>>(),
            ["a_bucket", "b_total"]
        );
        assert_eq!(
            names.labels.into_iter().collect::<Vec<_>>(),
            ["le", "runs_on", "x", "y", "z"]
        );
        let query = "a * on (i, job) group_left (component) b / 0.5 * sum(rate(c[$__rate_interval]))";
        assert_eq!(super::names(query).unwrap().metrics.len(), 3);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        for query in [
            "sum(a",
            "sum(a))",
            "a[5m",
            "a{x=\"1\"",
            "a{x=\"1}",
            "summ(a)",
            "sum by a",
            "a § b",
            "rate(a[5m)]",
        ] {
            assert!(names(query).is_err(), "{query}");
        }
    }
}
