//! Explanations and tables as text: functions of values, so that tests read what people read.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use muster_core::explain::{Existing, Explanation, Line, Reason, Subject, Wanted};

use crate::budget::Budget;

/// Column of what stands behind `wanted`, `until`, `do`.
const INDENT: &str = "   ";

/// An explanation for people, wrapped at `width`.
pub(crate) fn explanation(explained: &Explanation, width: usize) -> String {
    let mut text = title(explained);
    text.push('\n');
    if let Some(wanted) = &explained.wanted {
        line(&mut text, "  wanted  ", &want(wanted), width);
    }
    if let Some(existing) = &explained.existing {
        line(&mut text, "  there   ", &there(existing), width);
    }
    for (number, reason) in explained.reasons.iter().enumerate() {
        text.push('\n');
        numbered(&mut text, number + 1, reason, explained.at, width);
    }
    text
}

fn title(explained: &Explanation) -> String {
    let scaled = explained
        .autoscaler
        .as_ref()
        .map_or_else(String::new, |name| format!(", scaled by {name}"));
    format!("{}{scaled}", subject(&explained.subject))
}

/// Kind, namespace and name in a line.
pub(crate) fn subject(subject: &Subject) -> String {
    if subject.namespace.is_empty() {
        format!("{} {}", subject.kind, subject.name)
    } else {
        format!("{} {}/{}", subject.kind, subject.namespace, subject.name)
    }
}

fn want(wanted: &Wanted) -> String {
    let replicas = wanted
        .replicas
        .map_or_else(|| "nobody has decided yet".to_owned(), runners);
    let mut facts = Vec::new();
    if let (Some(min), Some(max)) = (wanted.min, wanted.max) {
        facts.push(format!("{min} to {max}"));
    }
    if wanted.demand > 0 {
        facts.push(format!(
            "{} jobs count, {} of them wait",
            wanted.demand, wanted.queued
        ));
    }
    if facts.is_empty() {
        replicas
    } else {
        format!("{replicas} ({})", facts.join("; "))
    }
}

fn runners(count: i64) -> String {
    if count == 1 {
        "1 runner".to_owned()
    } else {
        format!("{count} runners")
    }
}

fn there(existing: &Existing) -> String {
    let counts = [
        (existing.busy, "busy"),
        (existing.idle, "idle"),
        (existing.registering, "registering"),
        (existing.starting, "starting"),
    ];
    let named: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let mut text = runners(i64::try_from(existing.runners).unwrap_or(i64::MAX));
    if !named.is_empty() {
        text.push_str(": ");
        text.push_str(&named.join(", "));
    }
    if existing.stopping > 0 {
        let _infallible = write!(text, "; {} on their way out", existing.stopping);
    }
    text
}

fn numbered(text: &mut String, number: usize, reason: &Reason, now: Timestamp, width: usize) {
    let others = match reason.others {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let _infallible = writeln!(
        text,
        "{number}. {}  {}/{}{others}",
        reason.code, reason.object.kind, reason.object.name
    );
    let mut sentence = reason.sentence.clone();
    if !sentence.ends_with(['.', '!', '?', '…']) {
        sentence.push('.');
    }
    line(text, INDENT, &sentence, width);
    if let Some(since) = reason.since {
        line(text, "   since  ", &instant(since, now), width);
    }
    if let Some(until) = reason.until {
        line(text, "   until  ", &instant(until, now), width);
    }
    if !reason.remedy.is_empty() {
        line(text, "   do     ", &reason.remedy, width);
    }
}

/// An instant, and how far it is away.
fn instant(at: Timestamp, now: Timestamp) -> String {
    let whole = at.strftime("%Y-%m-%d %H:%M:%SZ");
    let distance = at.duration_since(now);
    if distance.is_negative() {
        format!("{whole} ({} ago)", span(distance.abs()))
    } else {
        format!("{whole} (in {})", span(distance))
    }
}

fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Words behind a label, wrapped, the following lines below the first word.
fn line(text: &mut String, label: &str, words: &str, width: usize) {
    let indent = label.chars().count();
    text.push_str(label);
    let mut column = indent;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if column > indent {
            if column + 1 + length > width {
                text.push('\n');
                text.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else {
                text.push(' ');
                column += 1;
            }
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}

/// All pools, the queue and the budgets.
pub(crate) fn top(lines: &[Line], budgets: &[Budget], width: usize) -> String {
    let head = [
        "POOL", "WANTED", "BUSY", "IDLE", "STARTING", "QUEUED", "OLDEST", "REASON",
    ];
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .chain([name.len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    cells(&mut text, head.iter().map(|name| (*name).to_owned()), &widths);
    for row in rows {
        cells(&mut text, row.into_iter(), &widths);
    }
    text.push('\n');
    text.push_str(&sums(lines));
    for bad in lines.iter().filter(|line| line.is_bad()) {
        let label = format!("! {}/{}: ", bad.subject.namespace, bad.subject.name);
        let mut said = bad.reason.sentence.clone();
        if let Some(until) = bad.reason.until {
            let _infallible = write!(said, " (until {})", until.strftime("%H:%M:%SZ"));
        }
        line(&mut text, &label, &said, width);
    }
    for budget in budgets {
        let _infallible = writeln!(text, "{budget}");
    }
    text
}

fn row(line: &Line) -> Vec<String> {
    let count = |count: Option<i64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let most = line.wanted.max.map_or_else(String::new, |max| format!("/{max}"));
    vec![
        format!("{}/{}", line.subject.namespace, line.subject.name),
        format!("{}{most}", count(line.wanted.replicas)),
        line.existing.busy.to_string(),
        line.existing.idle.to_string(),
        (line.existing.starting + line.existing.registering).to_string(),
        line.wanted.queued.to_string(),
        line.oldest_queued_seconds.map_or_else(
            || "-".to_owned(),
            |seconds| span(SignedDuration::from_secs(seconds)),
        ),
        line.reason.code.to_string(),
    ]
}

fn cells(text: &mut String, row: impl Iterator<Item = String>, widths: &[usize]) {
    let last = widths.len().saturating_sub(1);
    for (column, (cell, width)) in row.zip(widths).enumerate() {
        let padding = width.saturating_sub(cell.chars().count());
        let spaces = || std::iter::repeat_n(' ', padding);
        if column > 0 {
            text.push_str("  ");
        }
        // Names to the left, numbers to the right.
        if column == 0 {
            text.push_str(&cell);
            text.extend(spaces());
        } else if column == last {
            text.push_str(&cell);
        } else {
            text.extend(spaces());
            text.push_str(&cell);
        }
    }
    text.push('\n');
}

fn sums(lines: &[Line]) -> String {
    let sum = |count: fn(&Line) -> usize| lines.iter().map(count).sum::<usize>();
    let queued: i64 = lines.iter().map(|line| line.wanted.queued).sum();
    let wait = if queued == 1 { "job waits" } else { "jobs wait" };
    format!(
        "{} pools, {} runners ({} busy, {} idle, {} starting), {queued} {wait}\n",
        lines.len(),
        sum(|line| line.existing.runners),
        sum(|line| line.existing.busy),
        sum(|line| line.existing.idle),
        sum(|line| line.existing.starting + line.existing.registering),
    )
}

#[cfg(test)]
mod tests {
    use muster_core::explain::Code;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn subject_of(kind: &str) -> Subject {
        Subject {
            kind: kind.to_owned(),
            namespace: "ci".to_owned(),
            name: "linux".to_owned(),
        }
    }

    fn reason() -> Reason {
        Reason {
            code: Code::GitHubRateLimited,
            object: subject_of("Runner"),
            sentence: "could not get a registration token: GitHub's primary rate limit is used up".to_owned(),
            since: Some(at(-30)),
            until: Some(at(600)),
            remedy: Code::GitHubRateLimited.remedy().to_owned(),
            others: 2,
        }
    }

    #[test]
    fn an_explanation_reads_like_a_text() {
        let explained = Explanation {
            subject: subject_of("RunnerDeployment"),
            autoscaler: Some("linux".to_owned()),
            at: at(0),
            wanted: Some(Wanted {
                replicas: Some(3),
                min: Some(0),
                max: Some(5),
                demand: 3,
                queued: 2,
            }),
            existing: Some(Existing {
                runners: 3,
                busy: 1,
                starting: 2,
                ..Existing::default()
            }),
            reasons: vec![reason()],
        };
        let expected = "\
RunnerDeployment ci/linux, scaled by linux
  wanted  3 runners (0 to 5; 3 jobs count, 2 of them wait)
  there   3 runners: 1 busy, 2 starting

1. GitHubRateLimited  Runner/linux and 2 more
   could not get a registration token: GitHub's primary rate
   limit is used up.
   since  2027-01-15 07:59:30Z (30 s ago)
   until  2027-01-15 08:10:00Z (in 10 min)
   do     GitHub's rate limit is used up; Muster continues
          when it resets.
";
        assert_eq!(explanation(&explained, 60), expected);
    }

    #[test]
    fn top_has_a_row_for_each_pool_and_the_sum() {
        let line = Line {
            subject: subject_of("RunnerDeployment"),
            autoscaler: None,
            wanted: Wanted {
                replicas: Some(3),
                max: Some(5),
                queued: 1,
                ..Wanted::default()
            },
            existing: Existing {
                runners: 3,
                busy: 2,
                registering: 1,
                ..Existing::default()
            },
            oldest_queued_seconds: Some(300),
            reason: reason(),
        };
        let budget = Budget {
            name: "github".to_owned(),
            limit: 5_000,
            remaining: 12,
            reset_at: None,
        };
        let expected = "\
POOL      WANTED  BUSY  IDLE  STARTING  QUEUED  OLDEST  REASON
ci/linux     3/5     2     0         1       1   5 min  GitHubRateLimited

1 pools, 3 runners (2 busy, 0 idle, 1 starting), 1 job waits
! ci/linux: could not get a registration token: GitHub's primary rate limit is used up (until
            08:10:00Z)
budget  github: 12 of 5000 calls left
";
        assert_eq!(top(&[line], &[budget], 100), expected);
    }
}
