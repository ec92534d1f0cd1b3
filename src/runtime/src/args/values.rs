//! Values as Go's `strconv` and `time` packages read them.

use std::{fmt, str::FromStr, time::Duration};

use jiff::SignedDuration;
use muster_core::go::{GoDurationError, format_duration, parse_duration};
use secrecy::SecretString;

/// A value that does not parse; `what` says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not one of Go's spellings of a boolean.
    #[error("expected a boolean: true, false, t, f, 1 or 0")]
    Bool,
    /// Not an integer in any of Go's bases.
    #[error("expected an integer")]
    Int,
    /// An integer beyond 64 bits.
    #[error("integer out of range")]
    IntRange,
}

/// Go's `strconv.ParseBool`.
///
/// # Errors
/// [`ValueError::Bool`].
pub fn parse_bool(text: &str) -> Result<bool, ValueError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ValueError::Bool),
    }
}

/// Go's `strconv.ParseInt(text, 0, 64)`: decimal, `0x`, `0o`, `0b`, a leading `0` for octal, single underscores between digits.
///
/// # Errors
/// [`ValueError::Int`] and [`ValueError::IntRange`]; the empty text is an error.
pub fn parse_int(text: &str) -> Result<i64, ValueError> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = |lower, upper| digits.strip_prefix(lower).or_else(|| digits.strip_prefix(upper));
    let (radix, digits, after_prefix) = if let Some(rest) = prefixed("0x", "0X") {
        (16, rest, true)
    } else if let Some(rest) = prefixed("0b", "0B") {
        (2, rest, true)
    } else if let Some(rest) = prefixed("0o", "0O") {
        (8, rest, true)
    } else if let Some(rest) = digits.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        (8, rest, true)
    } else {
        (10, digits, false)
    };
    // An underscore must stand behind a digit or the base prefix and before a digit.
    let misplaced =
        (digits.starts_with('_') && !after_prefix) || digits.ends_with('_') || digits.contains("__");
    if misplaced || digits.starts_with(['+', '-']) {
        return Err(ValueError::Int);
    }
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    if plain.is_empty() || !plain.chars().all(|c| c.is_digit(radix)) {
        return Err(ValueError::Int);
    }
    let magnitude = u64::from_str_radix(&plain, radix).map_err(|_| ValueError::IntRange)?;
    let value = if negative {
        0_i64.checked_sub_unsigned(magnitude)
    } else {
        0_i64.checked_add_unsigned(magnitude)
    };
    value.ok_or(ValueError::IntRange)
}

/// A secret on the command line or in the environment.
///
/// # Errors
/// Never; the signature is the one of a clap value parser.
pub fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

/// A duration on the command line, in Go's syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub SignedDuration);

impl GoDuration {
    /// The duration for timers; zero when it is negative.
    pub fn as_std(self) -> Duration {
        Duration::try_from(self.0).unwrap_or(Duration::ZERO)
    }
}

impl FromStr for GoDuration {
    type Err = GoDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_duration(text).map(Self)
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_booleans() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "tRUE", " true", "2"] {
            assert_eq!(parse_bool(text), Err(ValueError::Bool), "{text:?}");
        }
    }

    #[test]
    fn go_integers() {
        let table: &[(&str, i64)] = &[
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("42", 42),
            ("0x1F", 31),
            ("0X1f", 31),
            ("-0b101", -5),
            ("0o17", 15),
            ("017", 15),
            ("1_000_000", 1_000_000),
            ("0x_ff", 255),
            ("0_7", 7),
            ("00", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ];
        for (text, expected) in table {
            assert_eq!(parse_int(text), Ok(*expected), "{text}");
        }
        for text in [
            "", "-", "x", "08", "0x", "1__0", "_1", "1_", "1.0", "1e3", " 1", "1 ", "--1", "0x+1", "\u{661}",
        ] {
            assert_eq!(parse_int(text), Err(ValueError::Int), "{text:?}");
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "0xffffffffffffffffff",
        ] {
            assert_eq!(parse_int(text), Err(ValueError::IntRange), "{text}");
        }
    }

    #[test]
    fn durations_for_timers_are_never_negative() {
        assert_eq!("-5s".parse::<GoDuration>().unwrap().as_std(), Duration::ZERO);
        assert_eq!(
            "1.5s".parse::<GoDuration>().unwrap().as_std(),
            Duration::from_millis(1500)
        );
    }
}
