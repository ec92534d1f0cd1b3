use proptest::prelude::*;
use serde_json::json;

use super::*;

fn t(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// An override from `start` to `end`; `rule` is a frequency, with `/` and untilTime if there is one.
fn entry(start: &str, end: &str, rule: &str) -> ScheduledOverride {
    let (frequency, until) = rule.split_once('/').unwrap_or((rule, ""));
    let mut recurrence = json!({});
    for (field, value) in [("frequency", frequency), ("untilTime", until)] {
        if !value.is_empty() {
            recurrence[field] = json!(value);
        }
    }
    serde_json::from_value(
        json!({"startTime": start, "endTime": end, "minReplicas": 0, "recurrenceRule": recurrence}),
    )
    .unwrap()
}

fn tokyo() -> Clock {
    Clock::Zone(TimeZone::fixed(jiff::tz::Offset::constant(9)))
}

/// `active | upcoming` as `start → end`, `-` where there is none; a problem is `problem`.
fn outcome(entry: &ScheduledOverride, clock: &Clock, now: &str) -> String {
    let schedule = evaluate(std::slice::from_ref(entry), clock, t(now));
    if !schedule.problems.is_empty() {
        return "problem".to_owned();
    }
    let print = |window: &Option<Window>| {
        window.as_ref().map_or_else(
            || "-".to_owned(),
            |window| {
                let zone = clock.printed();
                let text = |at: Timestamp| {
                    at.to_zoned(zone.clone())
                        .strftime("%y-%m-%d %H:%M:%S")
                        .to_string()
                };
                format!("{} → {}", text(window.period.start), text(window.period.end))
            },
        )
    };
    format!("{} | {}", print(&schedule.active), print(&schedule.upcoming))
}

/// Spec 01 §15.2 row by row. Where we do better than upstream on purpose (spec 01 §14.6, 02 Q25) the row has what upstream did, too.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn vectors_of_upstream() {
    let night = ("2026-03-02T22:00:00Z", "2026-03-03T06:00:00Z");
    let jan = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let tokyo_month_end = ("2026-01-31T00:00:00+09:00", "2026-01-31T12:00:00+09:00");
    let utc = Clock::named("UTC").unwrap();
    let rows = [
        (
            "2026-03-02T21:59:59Z",
            night,
            "",
            "- | 26-03-02 22:00:00 → 26-03-03 06:00:00",
        ),
        (
            "2026-03-02T22:00:00Z",
            night,
            "",
            "26-03-02 22:00:00 → 26-03-03 06:00:00 | -",
        ),
        ("2026-03-03T06:00:00Z", night, "", "- | -"),
        (
            "2026-03-05T23:30:00Z",
            night,
            "Daily",
            "26-03-05 22:00:00 → 26-03-06 06:00:00 | 26-03-06 22:00:00 → 26-03-07 06:00:00",
        ),
        (
            "2026-03-06T05:59:59Z",
            night,
            "Daily",
            "26-03-05 22:00:00 → 26-03-06 06:00:00 | 26-03-06 22:00:00 → 26-03-07 06:00:00",
        ),
        (
            "2026-03-06T06:00:00Z",
            night,
            "Daily",
            "- | 26-03-06 22:00:00 → 26-03-07 06:00:00",
        ),
        (
            "2026-03-04T23:00:00Z",
            night,
            "Daily/2026-03-04T22:00:00Z",
            "26-03-04 22:00:00 → 26-03-05 06:00:00 | -",
        ),
        (
            "2026-03-04T23:00:00Z",
            night,
            "Daily/2026-03-04T21:59:59Z",
            "- | -",
        ),
        (
            "2026-03-05T23:00:00Z",
            night,
            "Daily/2026-03-04T22:00:00Z",
            "- | -",
        ),
        (
            "2026-03-14T12:00:00Z",
            ("2026-03-07T00:00:00Z", "2026-03-09T00:00:00Z"),
            "Weekly",
            "26-03-14 00:00:00 → 26-03-16 00:00:00 | 26-03-21 00:00:00 → 26-03-23 00:00:00",
        ),
        (
            "2026-03-01T12:00:00Z",
            ("2026-03-21T00:00:00Z", "2026-03-23T00:00:00Z"),
            "Weekly",
            "- | -",
        ),
        ("2026-02-28T16:00:00Z", tokyo_month_end, "Monthly", "- | -"),
        (
            "2026-03-30T16:00:00Z",
            tokyo_month_end,
            "Monthly",
            "26-03-30 15:00:00 → 26-03-31 03:00:00 | 26-04-30 15:00:00 → 26-05-01 03:00:00",
        ),
        // Upstream: an error in February, since 29 days are longer than 28; scaling stopped.
        (
            "2026-02-10T00:00:00Z",
            ("2026-01-01T00:00:00Z", "2026-01-30T00:00:00Z"),
            "Monthly",
            "26-02-01 00:00:00 → 26-03-02 00:00:00 | 26-03-01 00:00:00 → 26-03-30 00:00:00",
        ),
        (
            "2026-01-31T12:00:00Z",
            jan,
            "Monthly",
            "26-01-01 00:00:00 → 26-02-01 00:00:00 | 26-02-01 00:00:00 → 26-03-04 00:00:00",
        ),
        // Upstream: an error, since two occurrences are active; scaling stopped.
        (
            "2026-03-01T06:00:00Z",
            jan,
            "Monthly",
            "26-03-01 00:00:00 → 26-04-01 00:00:00 | 26-04-01 00:00:00 → 26-05-02 00:00:00",
        ),
        (
            "2027-02-28T12:00:00Z",
            ("2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
            "Yearly",
            "- | -",
        ),
        (
            "2026-03-05T00:00:00Z",
            ("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            "Daily",
            "26-03-05 00:00:00 → 26-03-06 00:00:00 | 26-03-06 00:00:00 → 26-03-07 00:00:00",
        ),
        (
            "2026-03-05T00:00:00Z",
            ("2026-03-01T00:00:00Z", "2026-03-02T00:00:01Z"),
            "Daily",
            "problem",
        ),
        // Upstream: announced as upcoming and never active.
        (
            "2026-03-05T00:00:00Z",
            ("2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z"),
            "Daily",
            "problem",
        ),
    ];
    for (now, (start, end), rule, expected) in rows {
        assert_eq!(
            outcome(&entry(start, end, rule), &utc, now),
            expected,
            "{now} {start} {rule}"
        );
    }
}

/// Spec 02 §19, with the controller's zone at +09:00; it is the same by the offset that is written.
#[test]
fn vectors_of_upstream_in_another_zone() {
    let (start, end) = ("2021-05-01T00:00:00+09:00", "2021-05-03T00:00:00+09:00");
    let rows = [
        (
            "",
            "2021-04-30T23:59:59+09:00",
            "- | 21-05-01 00:00:00 → 21-05-03 00:00:00",
        ),
        (
            "",
            "2021-05-01T00:00:00+09:00",
            "21-05-01 00:00:00 → 21-05-03 00:00:00 | -",
        ),
        ("", "2021-05-03T00:00:00+09:00", "- | -"),
        (
            "Weekly/2022-05-01T00:00:00+09:00",
            "2021-05-01T00:00:00+09:00",
            "21-05-01 00:00:00 → 21-05-03 00:00:00 | 21-05-08 00:00:00 → 21-05-10 00:00:00",
        ),
        (
            "Weekly/2022-05-01T00:00:00+09:00",
            "2021-05-03T00:00:00+09:00",
            "- | 21-05-08 00:00:00 → 21-05-10 00:00:00",
        ),
        (
            "Weekly/2022-05-01T00:00:00+09:00",
            "2021-05-09T23:59:59+09:00",
            "21-05-08 00:00:00 → 21-05-10 00:00:00 | 21-05-15 00:00:00 → 21-05-17 00:00:00",
        ),
        (
            "Weekly/2022-05-01T00:00:00+09:00",
            "2022-04-29T23:59:59+09:00",
            "- | 22-04-30 00:00:00 → 22-05-02 00:00:00",
        ),
        (
            "Weekly/2022-05-01T00:00:00+09:00",
            "2022-04-30T00:00:00+09:00",
            "22-04-30 00:00:00 → 22-05-02 00:00:00 | -",
        ),
        (
            "Weekly",
            "2021-05-08T00:00:00+09:00",
            "21-05-08 00:00:00 → 21-05-10 00:00:00 | 21-05-15 00:00:00 → 21-05-17 00:00:00",
        ),
        (
            "Monthly/2022-05-01T00:00:00+09:00",
            "2021-06-01T00:00:00+09:00",
            "21-06-01 00:00:00 → 21-06-03 00:00:00 | 21-07-01 00:00:00 → 21-07-03 00:00:00",
        ),
        (
            "Monthly/2022-05-01T00:00:00+09:00",
            "2022-05-01T00:00:01+09:00",
            "22-05-01 00:00:00 → 22-05-03 00:00:00 | -",
        ),
        (
            "Yearly/2023-05-01T00:00:00+09:00",
            "2022-05-01T00:00:00+09:00",
            "22-05-01 00:00:00 → 22-05-03 00:00:00 | 23-05-01 00:00:00 → 23-05-03 00:00:00",
        ),
        (
            "Yearly/2023-05-01T00:00:00+09:00",
            "2023-05-03T00:00:00+09:00",
            "- | -",
        ),
    ];
    for (rule, now, expected) in rows {
        let entry = entry(start, end, rule);
        assert_eq!(outcome(&entry, &tokyo(), now), expected, "{rule} {now}");
        let (here, there) = (
            evaluate(std::slice::from_ref(&entry), &tokyo(), t(now)),
            evaluate(&[entry], &Clock::Written, t(now)),
        );
        assert_eq!(here, there, "{rule} {now}");
    }
    let halves = entry(
        "2021-05-01T00:00:00.5+09:00",
        "2021-05-03T00:00:00.5+09:00",
        "Weekly",
    );
    assert_eq!(
        outcome(&halves, &tokyo(), "2021-05-01T00:00:00.3+09:00"),
        "21-05-01 00:00:00 → 21-05-03 00:00:00 | 21-05-08 00:00:00 → 21-05-10 00:00:00",
        "a recurrence drops the fraction"
    );
}

#[test]
fn the_written_offset_decides_the_day() {
    // The 31st in Tokyo is the 30th in UTC: upstream skips February and then starts on the 30th.
    let entry = entry(
        "2026-01-31T00:00:00+09:00",
        "2026-01-31T12:00:00+09:00",
        "Monthly",
    );
    for (now, active) in [
        ("2026-03-30T14:59:59Z", false),
        ("2026-03-30T15:00:00Z", true),
        ("2026-04-30T04:00:00Z", false),
        ("2026-05-30T16:00:00Z", true),
    ] {
        let schedule = evaluate(std::slice::from_ref(&entry), &Clock::Written, t(now));
        assert_eq!(schedule.active.is_some(), active, "{now}");
    }
    let in_april = evaluate(&[entry], &Clock::Written, t("2026-04-01T00:00:00Z"));
    assert_eq!(in_april.upcoming, None, "more than a month away");
    assert_eq!(
        in_april.next_edge,
        Some(t("2026-05-30T15:00:00Z")),
        "and known all the same"
    );
}

#[test]
fn a_named_zone_follows_summer_time() {
    let mut night = entry("2026-03-01T22:00:00+01:00", "2026-03-02T06:00:00+01:00", "Daily");
    night.time_zone = Some("Europe/Berlin".to_owned());
    let berlin = |now: &str| {
        evaluate(&[night.clone()], &Clock::Written, t(now))
            .active
            .map(|window| window.period)
    };
    // The night of 29 March is an hour shorter, by the clock it is the same.
    let short = berlin("2026-03-29T00:00:00Z").unwrap();
    assert_eq!(
        (short.start, short.end),
        (t("2026-03-28T21:00:00Z"), t("2026-03-29T04:00:00Z"))
    );
    let summer = berlin("2026-06-30T23:00:00Z").unwrap();
    assert_eq!(
        (summer.start, summer.end),
        (t("2026-06-30T20:00:00Z"), t("2026-07-01T04:00:00Z"))
    );
    // By the offset alone nothing moves.
    night.time_zone = None;
    let fixed = evaluate(&[night.clone()], &Clock::Written, t("2026-06-30T21:00:00Z"))
        .active
        .unwrap();
    assert_eq!(fixed.period.start, t("2026-06-30T21:00:00Z"));
    // The manager's zone counts for all that name none.
    let all = Clock::named("Europe/Berlin").unwrap();
    let summer = evaluate(&[night], &all, t("2026-06-30T23:00:00Z"))
        .active
        .unwrap();
    assert_eq!(summer.period.start, t("2026-06-30T20:00:00Z"));
}

#[test]
fn a_time_that_is_skipped_or_comes_twice() {
    let mut entry = entry("2026-03-01T02:30:00+01:00", "2026-03-01T05:00:00+01:00", "Daily");
    entry.time_zone = Some("Europe/Berlin".to_owned());
    let start = |now: &str| {
        evaluate(&[entry.clone()], &Clock::Written, t(now))
            .active
            .unwrap()
            .period
            .start
    };
    assert_eq!(
        start("2026-03-29T02:00:00Z"),
        t("2026-03-29T01:30:00Z"),
        "03:30 that day"
    );
    assert_eq!(
        start("2026-10-25T02:00:00Z"),
        t("2026-10-25T00:30:00Z"),
        "the first of the two"
    );
}

#[test]
fn the_first_entry_that_sets_a_bound_wins() {
    let all_day = |bounds: serde_json::Value| -> ScheduledOverride {
        let mut entry = json!({"startTime": "2026-03-01T00:00:00Z", "endTime": "2026-03-02T00:00:00Z"});
        entry
            .as_object_mut()
            .unwrap()
            .extend(bounds.as_object().unwrap().clone());
        serde_json::from_value(entry).unwrap()
    };
    let (min, max, none) = (json!({"minReplicas": 3}), json!({"maxReplicas": 9}), json!({}));
    let other = json!({"minReplicas": 5, "maxReplicas": 7});
    for (entries, expected) in [
        (vec![&min, &other], (Some(3), Some(7))),
        (vec![&max, &min], (Some(3), Some(9))),
        (vec![&other, &min, &max], (Some(5), Some(7))),
        (vec![&none, &other], (None, None)),
        (vec![&min, &none, &other], (Some(3), None)),
        (vec![], (None, None)),
    ] {
        let entries: Vec<_> = entries.into_iter().cloned().map(all_day).collect();
        let schedule = evaluate(&entries, &Clock::Written, t("2026-03-01T12:00:00Z"));
        assert_eq!((schedule.min, schedule.max), expected);
    }
}

#[test]
fn a_bad_override_is_reported_and_leaves_the_others_alone() {
    let good = entry("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "");
    let mut lost = good.clone();
    lost.time_zone = Some("Europe/Atlantis".to_owned());
    let mut odd = good.clone();
    odd.recurrence_rule = Some(muster_crds::legacy::RecurrenceRule {
        frequency: Some("Hourly".to_owned()),
        until_time: None,
    });
    let reversed = entry("2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z", "");
    let endless = entry("2026-03-01T00:00:00Z", "2026-03-09T00:00:00Z", "Weekly");
    let schedule = evaluate(
        &[lost, odd, reversed, endless, good],
        &Clock::Written,
        t("2026-03-01T12:00:00Z"),
    );
    assert_eq!(
        (schedule.min, schedule.active.map(|window| window.index)),
        (Some(0), Some(4))
    );
    let named: Vec<_> = schedule
        .problems
        .iter()
        .filter_map(|problem| problem.split(':').next())
        .collect();
    assert_eq!(
        named,
        [
            "spec.scheduledOverrides[0].timeZone",
            "spec.scheduledOverrides[1].recurrenceRule.frequency",
            "spec.scheduledOverrides[2].endTime",
            "spec.scheduledOverrides[3].endTime"
        ]
    );
    assert!(
        schedule.problems[2].contains("2026-03-01T00:00:00Z"),
        "{}",
        schedule.problems[2]
    );
}

#[test]
fn gos_zero_time_means_for_ever() {
    let entry = entry(
        "2026-03-01T00:00:00Z",
        "2026-03-01T06:00:00Z",
        "Daily/0001-01-01T00:00:00Z",
    );
    assert!(
        evaluate(&[entry], &Clock::Written, t("2030-01-01T01:00:00Z"))
            .active
            .is_some()
    );
}

/// Spec 01 §15.3.
#[test]
fn summaries_are_upstreams() {
    let once = entry("2026-03-07T00:00:00Z", "2026-03-09T00:00:00Z", "");
    let summary = |entries: &[ScheduledOverride], clock: &Clock, now: &str| {
        evaluate(entries, clock, t(now)).summary(2, 8, clock)
    };
    let at = |now: &str| summary(std::slice::from_ref(&once), &Clock::Written, now);
    assert_eq!(
        at("2026-03-06T00:00:00Z").as_deref(),
        Some("min=0 time=2026-03-07 00:00:00 +0000 UTC")
    );
    assert_eq!(
        at("2026-03-08T00:00:00Z").as_deref(),
        Some("min=2 time=2026-03-09 00:00:00 +0000 UTC")
    );
    assert_eq!(at("2026-03-09T00:00:00Z"), None);
    let back_to_back = entry("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "Daily");
    assert_eq!(
        summary(&[back_to_back], &Clock::Written, "2026-03-05T06:00:00Z"),
        None
    );
    let mut silent = once.clone();
    silent.min_replicas = None;
    assert_eq!(
        summary(&[silent.clone()], &Clock::Written, "2026-03-06T00:00:00Z"),
        None
    );
    silent.max_replicas = Some(3);
    assert_eq!(
        summary(&[silent], &Clock::Written, "2026-03-06T00:00:00Z").as_deref(),
        Some("min=2 max=3 time=2026-03-07 00:00:00 +0000 UTC")
    );
    assert_eq!(
        summary(
            &[once],
            &Clock::named("Asia/Tokyo").unwrap(),
            "2026-03-06T00:00:00Z"
        )
        .as_deref(),
        Some("min=0 time=2026-03-07 09:00:00 +0900 JST")
    );
    // What begins before the active one ends is the next change.
    let long = entry("2026-03-01T00:00:00Z", "2026-03-20T00:00:00Z", "");
    let soon = entry("2026-03-07T00:00:00.25Z", "2026-03-09T00:00:00Z", "");
    assert_eq!(
        summary(&[long, soon], &Clock::Written, "2026-03-06T00:00:00Z").as_deref(),
        Some("min=0 time=2026-03-07 00:00:00.25 +0000 UTC")
    );
}

/// The same, counted out day by day: slow, and of another kind.
fn count_out(entry: &ScheduledOverride, zone: &TimeZone, now: Timestamp) -> (Option<Period>, Option<Period>) {
    let rule = entry.recurrence_rule.clone().unwrap();
    let first = zone.to_datetime(entry.start_time.at);
    let length = zone.to_datetime(entry.end_time.at).duration_since(first);
    let (mut active, mut next) = (None, None);
    let recent = zone.to_datetime(now).date() - jiff::ToSpan::days(40);
    let days = first.date().max(recent).series(jiff::ToSpan::days(1));
    for day in days.take(366 * 9) {
        let matches = match rule.frequency.as_deref().unwrap() {
            "Daily" => true,
            "Weekly" => day.weekday() == first.date().weekday(),
            "Monthly" => day.day() == first.day(),
            _ => (day.month(), day.day()) == (first.month(), first.day()),
        };
        if !matches {
            continue;
        }
        let wall = day.to_datetime(first.time());
        let start = zone.to_timestamp(wall).unwrap();
        if rule.until_time.is_some_and(|until| start > until.at) {
            break;
        }
        let end = zone.to_timestamp(wall.checked_add(length).unwrap()).unwrap();
        if start > now {
            next = Some(Period { start, end });
            break;
        }
        active = (now < end).then_some(Period { start, end });
    }
    (active, next)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]
    #[test]
    fn occurrences_are_those_that_one_can_count(
        start in 1_700_000_000_i64..1_830_000_000,
        minutes in 1_i64..1_440,
        frequency in prop::sample::select(vec!["Daily", "Weekly", "Monthly", "Yearly"]),
        until in prop::option::of(0_i64..400),
        after in -40_i64..1_500,
        second in 0_i64..86_400,
        zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
    ) {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let text = |seconds: i64| at(seconds).to_string();
        let mut entry = entry(&text(start), &text(start + minutes * 60), frequency);
        if let Some(days) = until {
            let until = text(start + days * 86_400 + 7).parse().unwrap();
            entry.recurrence_rule.as_mut().unwrap().until_time = Some(until);
        }
        entry.time_zone = Some(zone.to_owned());
        let now = at(start + after * 86_400 + second);
        let zone = super::zone(zone).unwrap();
        let (active, next) = count_out(&entry, &zone, now);
        let schedule = evaluate(&[entry.clone()], &Clock::Written, now);
        prop_assume!(schedule.problems.is_empty());
        prop_assert_eq!(schedule.active.map(|window| window.period), active);
        let edges = [active.map(|period| period.end), next.map(|period| period.start)];
        prop_assert_eq!(schedule.next_edge, edges.into_iter().flatten().min());
    }
}
