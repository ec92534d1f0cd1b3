//! Points in time as they stand on the wire, where whole seconds are too coarse.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
const NANOS_PER_MICRO: i32 = 1_000;

/// Serde and schema of a time that stands as RFC 3339 text on the wire.
macro_rules! as_rfc3339_text {
    ($time:ident) => {
        impl serde::Serialize for $time {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $time {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $time {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($time).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "format": "date-time"})
            }
        }
    };
}
pub(crate) use as_rfc3339_text;

/// An instant with microsecond precision.
///
/// Written in UTC as RFC 3339 with exactly six fraction digits and `Z`; read from any RFC 3339 text (any offset, any
/// fraction, `t` and `z` in lower case too). Two reservations made within one second keep their order this way, and
/// readers that expect whole seconds still understand the text (spec 01 §8.4, spec 20).
///
/// Digits below the microsecond are dropped when a value is made by [`MicroTime::new`], `From` or reading, so that a
/// value equals what is read back after writing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroTime(pub Timestamp);

impl MicroTime {
    /// The instant, cut to whole microseconds (towards the past).
    pub fn new(at: Timestamp) -> Self {
        let below = at.subsec_nanosecond().rem_euclid(NANOS_PER_MICRO);
        let cut = jiff::SignedDuration::from_nanos(i64::from(below));
        // Only the very first representable instant could fail, and it has no digits to drop.
        Self(at.checked_sub(cut).unwrap_or(at))
    }

    /// The instant as a timestamp.
    pub const fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl From<Timestamp> for MicroTime {
    fn from(at: Timestamp) -> Self {
        Self::new(at)
    }
}

impl From<MicroTime> for Timestamp {
    fn from(at: MicroTime) -> Self {
        at.0
    }
}

impl FromStr for MicroTime {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::new)
    }
}

impl fmt::Display for MicroTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&PRINTER.timestamp_to_string(&Self::new(self.0).0))
    }
}

as_rfc3339_text!(MicroTime);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn time(text: &str) -> MicroTime {
        text.parse().unwrap()
    }

    #[test]
    fn writes_utc_with_six_digits() {
        for (read, written) in [
            ("2026-05-04T11:22:33Z", "2026-05-04T11:22:33.000000Z"),
            ("2026-05-04T11:22:33.5Z", "2026-05-04T11:22:33.500000Z"),
            ("2026-05-04T11:22:33.123456789Z", "2026-05-04T11:22:33.123456Z"),
            ("2026-05-04T11:22:33+02:00", "2026-05-04T09:22:33.000000Z"),
            ("2026-05-04t11:22:33z", "2026-05-04T11:22:33.000000Z"),
            ("1969-12-31T23:59:59.9999999Z", "1969-12-31T23:59:59.999999Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(time(read).to_string(), written);
            assert_eq!(serde_json::to_value(time(read)).unwrap(), json!(written));
            assert_eq!(
                serde_json::from_value::<MicroTime>(json!(written)).unwrap(),
                time(read)
            );
        }
    }

    #[test]
    fn refuses_what_is_no_instant() {
        for text in [
            "",
            "soon",
            "2026-05-04",
            "2026-05-04T11:22:33",
            "2026-13-04T11:22:33Z",
        ] {
            assert!(
                serde_json::from_value::<MicroTime>(json!(text)).is_err(),
                "{text}"
            );
        }
        assert!(serde_json::from_value::<MicroTime>(json!(1_700_000_000)).is_err());
        assert!(serde_json::from_value::<MicroTime>(json!(null)).is_err());
    }

    #[test]
    fn keeps_its_digits_when_read_through_a_generic_value() {
        let value: serde_json::Value = serde_json::from_str(r#""2026-05-04T11:22:33.000001Z""#).unwrap();
        assert_eq!(
            serde_json::from_value::<MicroTime>(value).unwrap(),
            time("2026-05-04T11:22:33.000001Z")
        );
    }

    #[test]
    fn orders_by_instant_not_by_text() {
        assert!(time("2026-05-04T11:00:00+02:00") < time("2026-05-04T09:30:00Z"));
    }

    proptest! {
        #[test]
        fn reading_what_was_written_gives_the_same(nanos in any::<i64>()) {
            let at = Timestamp::from_nanosecond(i128::from(nanos)).unwrap();
            let time = MicroTime::new(at);
            let text = serde_json::to_string(&time).unwrap();
            prop_assert_eq!(text.len(), r#""2026-05-04T11:22:33.000000Z""#.len());
            prop_assert_eq!(serde_json::from_str::<MicroTime>(&text).unwrap(), time);
            let lost = at.duration_since(time.timestamp());
            prop_assert!(lost.as_nanos() >= 0 && lost.as_nanos() < 1_000);
        }

        #[test]
        fn texts_of_one_length_sort_as_their_instants(one in any::<i64>(), other in any::<i64>()) {
            let [one, other] = [one, other]
                .map(|nanos| MicroTime::new(Timestamp::from_nanosecond(i128::from(nanos)).unwrap()));
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
        }

        #[test]
        fn any_offset_gives_the_same_instant(seconds in -2_000_000_000_i64..4_000_000_000, minutes in -1439_i32..1439) {
            let at = Timestamp::from_second(seconds).unwrap();
            let offset = jiff::tz::Offset::from_seconds(minutes * 60).unwrap();
            let text = at.display_with_offset(offset).to_string();
            prop_assert_eq!(text.parse::<MicroTime>().unwrap(), MicroTime(at));
            prop_assert_eq!(text.to_lowercase().parse::<MicroTime>().unwrap(), MicroTime(at));
        }
    }
}
