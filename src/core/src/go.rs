//! Durations as Go writes and reads them: command lines, `scaleUpTriggers[].duration` and chart values carry them (spec 02 §2.2, 03 §1.12).
//!
//! Reading and writing agree with Go's `time.ParseDuration` and `Duration.String` to the nanosecond, so a value that ARC accepted means the
//! same time here and one that it refused is refused.

use std::fmt::Write as _;

use jiff::SignedDuration;

/// Why a text is not a Go duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoDurationError {
    /// Empty, a bare sign, a stray character or a number without digits.
    #[error("{0:?} is not a duration: write a number and a unit, such as 90s, 10m or 1h30m")]
    Syntax(String),
    /// A number other than a lone `0` without a unit.
    #[error("the duration {0:?} lacks a unit: use one of ns, us, ms, s, m, h")]
    MissingUnit(String),
    /// A unit that Go does not know; days and weeks are among them.
    #[error("the duration {text:?} has the unknown unit {unit:?}: use one of ns, us, ms, s, m, h")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The part that was taken for a unit.
        unit: String,
    },
    /// More than 2^63-1 nanoseconds, about 292 years.
    #[error("the duration {0:?} is too long: the limit is about 292 years")]
    Overflow(String),
}

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// Reads a Go duration: an optional sign and one or more numbers with units (`1h30m`, `-1.5h`, `300ms`), or a lone `0`.
///
/// # Errors
/// [`GoDurationError`] for whatever Go's `time.ParseDuration` refuses.
pub fn parse_duration(text: &str) -> Result<SignedDuration, GoDurationError> {
    let syntax = || GoDurationError::Syntax(text.to_owned());
    let overflow = || GoDurationError::Overflow(text.to_owned());
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if body == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if body.is_empty() {
        return Err(syntax());
    }
    let mut rest = body;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole_digits, after_whole) = split_digits(rest);
        let (fraction_digits, after_number) = match after_whole.strip_prefix('.') {
            Some(after_point) => split_digits(after_point),
            None => ("", after_whole),
        };
        if whole_digits.is_empty() && fraction_digits.is_empty() {
            return Err(syntax());
        }
        let unit_end = after_number
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after_number.len());
        let (unit_name, after_unit) = after_number.split_at(unit_end);
        if unit_name.is_empty() {
            return Err(GoDurationError::MissingUnit(text.to_owned()));
        }
        let unit = unit_nanoseconds(unit_name).ok_or_else(|| GoDurationError::UnknownUnit {
            text: text.to_owned(),
            unit: unit_name.to_owned(),
        })?;
        let whole = whole_digits.bytes().try_fold(0_u64, |sum, digit| {
            sum.checked_mul(10)?
                .checked_add(u64::from(digit - b'0'))
                .filter(|sum| *sum <= MAX_MAGNITUDE)
        });
        total = whole
            .and_then(|whole| whole.checked_mul(unit))
            .and_then(|nanoseconds| nanoseconds.checked_add(fraction_nanoseconds(fraction_digits, unit)))
            .and_then(|nanoseconds| nanoseconds.checked_add(total))
            .filter(|sum| *sum <= MAX_MAGNITUDE)
            .ok_or_else(overflow)?;
        rest = after_unit;
    }
    // The magnitude 2^63 exists only below zero, as in Go.
    let signed = if negative {
        0_i64.checked_sub_unsigned(total)
    } else {
        0_i64.checked_add_unsigned(total)
    };
    signed.map(SignedDuration::from_nanos).ok_or_else(overflow)
}

/// 2^63, the largest magnitude that a Go duration can have (only with a minus sign).
const MAX_MAGNITUDE: u64 = 1 << 63;

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_nanoseconds(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        // U+00B5 (micro sign) and U+03BC (Greek mu) both occur in the wild.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// The part of `unit` that the digits behind the point stand for. Go computes it in binary floating point and ignores digits that no
/// longer fit; so do we, because `0.3333333333333333333h` is exactly 20 minutes only that way.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "Go's float arithmetic is the specification; the result lies in 0..=unit"
)]
fn fraction_nanoseconds(digits: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale: f64 = 1.0;
    for digit in digits.bytes() {
        let next = (value <= (MAX_MAGNITUDE - 1) / 10)
            .then(|| value * 10 + u64::from(digit - b'0'))
            .filter(|next| *next <= MAX_MAGNITUDE);
        let Some(next) = next else { break };
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

/// Writes a duration as Go prints it: `1h0m0s`, `1.5s`, `100ms`, `0s`. Sub-second values use one small unit (`1.5µs`).
/// A duration outside Go's range (about ±292 years) is printed at the limit.
pub fn format_duration(duration: SignedDuration) -> String {
    let limit = if duration.is_negative() {
        i64::MIN
    } else {
        i64::MAX
    };
    let nanoseconds = i64::try_from(duration.as_nanos()).unwrap_or(limit);
    let magnitude = nanoseconds.unsigned_abs();
    let mut out = String::with_capacity(24);
    if nanoseconds < 0 {
        out.push('-');
    }
    match magnitude {
        0 => out.push_str("0s"),
        1..MICROSECOND => push(&mut out, magnitude, 1, "ns"),
        MICROSECOND..MILLISECOND => push(&mut out, magnitude, MICROSECOND, "\u{b5}s"),
        MILLISECOND..SECOND => push(&mut out, magnitude, MILLISECOND, "ms"),
        _ => {
            let (hours, minutes) = (magnitude / HOUR, magnitude / MINUTE % 60);
            if hours > 0 {
                push(&mut out, hours, 1, "h");
            }
            if hours > 0 || minutes > 0 {
                push(&mut out, minutes, 1, "m");
            }
            push(&mut out, magnitude % MINUTE, SECOND, "s");
        }
    }
    out
}

/// Appends `value / unit` with as many decimals as it needs, and the unit's name.
fn push(out: &mut String, value: u64, unit: u64, name: &str) {
    let (whole, remainder) = (value / unit, value % unit);
    // Writing to a String cannot fail.
    write!(out, "{whole}").unwrap_or_default();
    if remainder > 0 {
        let width = usize::try_from(unit.ilog10()).unwrap_or(0);
        let digits = format!("{remainder:0width$}");
        out.push('.');
        out.push_str(digits.trim_end_matches('0'));
    }
    out.push_str(name);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> i128 {
        parse_duration(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .as_nanos()
    }

    #[test]
    fn go_durations_are_read_with_every_unit() {
        let table: &[(&str, i128)] = &[
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("30s", 30_000_000_000),
            ("1478s", 1_478_000_000_000),
            ("-5s", -5_000_000_000),
            ("+5s", 5_000_000_000),
            ("5.0s", 5_000_000_000),
            ("5.6s", 5_600_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.0s", 1_000_000_000),
            ("1.004s", 1_004_000_000),
            ("1.0040s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("13ms", 13_000_000),
            ("14s", 14_000_000_000),
            ("15m", 900_000_000_000),
            ("16h", 57_600_000_000_000),
            ("3h30m", 12_600_000_000_000),
            ("10.5s4m", 250_500_000_000),
            ("-2m3.4s", -123_400_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("39h9m14.425s", 140_954_425_000_000),
            ("52763797000ns", 52_763_797_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
            ("9223372036854775.807us", 9_223_372_036_854_775_807),
            ("9223372036s854ms775us807ns", 9_223_372_036_854_775_807),
            ("-9223372036854775808ns", -9_223_372_036_854_775_808),
            ("0.100000000000000000000h", 360_000_000_000),
            ("0.830103483285477580700h", 2_988_372_539_827),
            ("1.9ns", 1),
            ("1m1m", 120_000_000_000),
        ];
        for (text, expected) in table {
            assert_eq!(nanos(text), *expected, "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        let syntax = [
            "", "-", "+", "s", ".", "-.", ".s", "+.s", " 5s", "\u{663}s", "--5s", "h1", "five",
        ];
        for text in syntax {
            assert_eq!(
                parse_duration(text),
                Err(GoDurationError::Syntax(text.to_owned())),
                "{text:?}"
            );
        }
        for text in ["3", "10", "1.5", "1h30", "00", "-7"] {
            assert_eq!(
                parse_duration(text),
                Err(GoDurationError::MissingUnit(text.to_owned())),
                "{text:?}"
            );
        }
        for (text, unit) in [
            ("1d", "d"),
            ("2w", "w"),
            ("5 s", " s"),
            ("5s ", "s "),
            ("1H", "H"),
            ("1h-2m", "h-"),
        ] {
            assert_eq!(
                parse_duration(text),
                Err(GoDurationError::UnknownUnit {
                    text: text.to_owned(),
                    unit: unit.to_owned()
                }),
                "{text:?}"
            );
        }
        let overflow = [
            "3000000h",
            "9223372036854775808ns",
            "9223372036854775.808us",
            "9223372036854ms775us808ns",
            "-9223372036854775809ns",
            "99999999999999999999s",
        ];
        for text in overflow {
            assert_eq!(
                parse_duration(text),
                Err(GoDurationError::Overflow(text.to_owned())),
                "{text:?}"
            );
        }
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        let table: &[(i64, &str)] = &[
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (100_000_000, "100ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (3_600_000_000_000, "1h0m0s"),
            (600_000_000_000, "10m0s"),
            (-5_400_000_000_000, "-1h30m0s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (value, expected) in table {
            assert_eq!(format_duration(SignedDuration::from_nanos(*value)), *expected);
        }
        assert_eq!(format_duration(SignedDuration::MAX), "2562047h47m16.854775807s");
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(value in any::<i64>()) {
            let duration = SignedDuration::from_nanos(value);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,24}") {
            drop(parse_duration(&text));
        }

        #[test]
        fn number_like_text_never_panics(text in "[-+]?([0-9]{0,22}\\.?[0-9]{0,22}(ns|us|ms|s|m|h|d)?){0,4}") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert!(i64::try_from(duration.as_nanos()).is_ok());
            }
        }
    }
}
