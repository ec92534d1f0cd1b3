//! Points in time that keep the offset they were written with: what "at eight in the evening" means depends on it.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, fmt::temporal::Pieces, tz::Offset};

use crate::time::as_rfc3339_text;

/// An instant and the offset from UTC that its writer had in mind.
///
/// Read from any RFC 3339 text, written back with the same offset, so that a recurrence can follow the writer's clock (spec 01 §14.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// The instant.
    pub at: Timestamp,
    /// The offset from UTC as written; `Z` is zero.
    pub offset: Offset,
}

impl FromStr for LocalTime {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = text.parse()?;
        let offset = Pieces::parse(text)?.to_numeric_offset().unwrap_or(Offset::UTC);
        Ok(Self { at, offset })
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.offset.is_zero() {
            self.at.fmt(f)
        } else {
            self.at.display_with_offset(self.offset).fmt(f)
        }
    }
}

as_rfc3339_text!(LocalTime);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_offset_survives() {
        for (read, written, offset) in [
            ("2026-01-31T00:00:00+09:00", "2026-01-31T00:00:00+09:00", 9 * 3600),
            ("2026-01-31T00:00:00Z", "2026-01-31T00:00:00Z", 0),
            ("2026-01-31t00:00:00z", "2026-01-31T00:00:00Z", 0),
            ("2026-01-31T00:00:00+00:00", "2026-01-31T00:00:00Z", 0),
            (
                "2026-01-31T00:00:00.5-03:30",
                "2026-01-31T00:00:00.5-03:30",
                -12_600,
            ),
        ] {
            let time: LocalTime = serde_json::from_value(json!(read)).unwrap();
            assert_eq!(time.offset.seconds(), offset, "{read}");
            assert_eq!(time.at, read.parse::<Timestamp>().unwrap(), "{read}");
            assert_eq!(serde_json::to_value(time).unwrap(), json!(written), "{read}");
        }
        for text in ["", "2026-01-31", "2026-01-31T00:00:00", "soon"] {
            assert!(text.parse::<LocalTime>().is_err(), "{text}");
        }
    }
}
