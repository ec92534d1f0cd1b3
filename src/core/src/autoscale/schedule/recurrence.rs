//! One override's occurrences. The rules are the four of RFC 5545 without BY parts: the start's wall clock, a whole number of units later; a day that a month or
//! year lacks is skipped, not moved. A wall-clock time that does not exist on a day counts by the offset before the gap, one that exists twice is the first.

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};

/// From when (inclusive) to when (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// First instant inside.
    pub start: Timestamp,
    /// First instant after it.
    pub end: Timestamp,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frequency {
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Frequency {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "Daily" => Self::Daily,
            "Weekly" => Self::Weekly,
            "Monthly" => Self::Monthly,
            "Yearly" => Self::Yearly,
            _ => return None,
        })
    }

    /// The longest unit, in days.
    const fn longest(self) -> i64 {
        match self {
            Self::Daily => 1,
            Self::Weekly => 7,
            Self::Monthly => 31,
            Self::Yearly => 366,
        }
    }

    /// The day so many units after `first`, if there is such a day.
    fn day(self, first: Date, units: i64) -> Option<Date> {
        let months = |months: i64| {
            let month = i64::from(first.year()) * 12 + i64::from(first.month()) - 1 + months;
            let year = i16::try_from(month.div_euclid(12)).ok()?;
            let month = i8::try_from(month.rem_euclid(12) + 1).ok()?;
            Date::new(year, month, first.day()).ok()
        };
        match self {
            Self::Daily => first.checked_add(days(units)?).ok(),
            Self::Weekly => first.checked_add(days(units.checked_mul(7)?)?).ok(),
            Self::Monthly => months(units),
            Self::Yearly => months(units.checked_mul(12)?),
        }
    }

    /// About how many units lie between two days: one too many or too few at most.
    fn units(self, first: Date, day: Date) -> i64 {
        let days = (day.duration_since(first)).as_hours().div_euclid(24);
        let years = i64::from(day.year()) - i64::from(first.year());
        match self {
            Self::Daily => days,
            Self::Weekly => days.div_euclid(7),
            Self::Monthly => years * 12 + i64::from(day.month()) - i64::from(first.month()),
            Self::Yearly => years,
        }
    }
}

fn days(days: i64) -> Option<SignedDuration> {
    Some(SignedDuration::from_hours(days.checked_mul(24)?))
}

/// Days that a month or year lacks: the longest row of units without an occurrence is seven years (29 February around 1900 and 2100), and the estimate
/// may be off by one on either side.
const MOST_STEPS: i64 = 12;

/// An override's occurrences.
#[derive(Clone, Debug)]
pub(super) struct Recurrence {
    once: Period,
    zone: TimeZone,
    /// Wall clock of the first start, in whole seconds as upstream has it, and of its length.
    first: DateTime,
    length: SignedDuration,
    frequency: Option<Frequency>,
    until: Option<Timestamp>,
}

impl Recurrence {
    pub(super) fn new(
        start: Timestamp,
        end: Timestamp,
        zone: TimeZone,
        frequency: Option<Frequency>,
        until: Option<Timestamp>,
    ) -> Self {
        let first = zone.to_datetime(start);
        let length = zone.to_datetime(end).duration_since(first);
        let fraction = SignedDuration::from_nanos(i64::from(first.subsec_nanosecond()));
        Self {
            once: Period { start, end },
            zone,
            first: first.checked_sub(fraction).unwrap_or(first),
            length,
            frequency,
            until,
        }
    }

    /// Whether an occurrence is longer than any unit: never before the next begins it ends.
    pub(super) fn exceeds(&self) -> Option<&'static str> {
        let frequency = self.frequency?;
        let longest = days(frequency.longest())?;
        (self.length > longest).then_some(match frequency {
            Frequency::Daily => "a day",
            Frequency::Weekly => "7 days",
            Frequency::Monthly => "31 days",
            Frequency::Yearly => "366 days",
        })
    }

    /// The occurrence that is under way. Of two that overlap, which takes a month shorter than the override, the later.
    pub(super) fn active(&self, now: Timestamp) -> Option<Period> {
        let last = match self.frequency {
            None => self.once,
            Some(frequency) => {
                let limit = self.until.map_or(now, |until| until.min(now));
                let near = frequency.units(self.first.date(), self.zone.to_datetime(limit).date()) + 1;
                (0..MOST_STEPS)
                    .map(|step| near - step)
                    .take_while(|units| *units >= 0)
                    .filter_map(|units| self.start(frequency, units))
                    .find(|(_, start)| *start <= limit)
                    .and_then(|start| self.period(start))?
            }
        };
        (last.start <= now && now < last.end).then_some(last)
    }

    /// The occurrence that begins next.
    pub(super) fn next(&self, now: Timestamp) -> Option<Period> {
        let Some(frequency) = self.frequency else {
            return Some(self.once).filter(|once| once.start > now);
        };
        let near = frequency.units(self.first.date(), self.zone.to_datetime(now).date());
        let from = (near - 1).max(0);
        (from..from + MOST_STEPS)
            .filter_map(|units| self.start(frequency, units))
            .find(|(_, start)| *start > now)
            .filter(|(_, start)| self.until.is_none_or(|until| *start <= until))
            .and_then(|start| self.period(start))
    }

    /// One unit from now by the calendar: upstream reports nothing that begins later.
    pub(super) fn horizon(&self, now: Timestamp) -> Timestamp {
        let Some(frequency) = self.frequency else {
            return Timestamp::MAX;
        };
        let wall = self.zone.to_datetime(now);
        // A day beyond the month's end runs over into the next month, as in Go.
        let first_of_month = wall.date().first_of_month();
        let day = match frequency {
            Frequency::Daily | Frequency::Weekly => frequency.day(wall.date(), 1),
            Frequency::Monthly | Frequency::Yearly => frequency
                .day(first_of_month, 1)
                .and_then(|month| month.checked_add(days(i64::from(wall.day()) - 1)?).ok()),
        };
        day.and_then(|day| self.instant(day.to_datetime(wall.time())))
            .unwrap_or(Timestamp::MAX)
    }

    /// Where an occurrence begins, by the clock and in time.
    fn start(&self, frequency: Frequency, units: i64) -> Option<(DateTime, Timestamp)> {
        let day = frequency.day(self.first.date(), units)?;
        let wall = day.to_datetime(self.first.time());
        Some((wall, self.instant(wall)?))
    }

    fn period(&self, (wall, start): (DateTime, Timestamp)) -> Option<Period> {
        let end = self.instant(wall.checked_add(self.length).ok()?)?;
        Some(Period { start, end })
    }

    fn instant(&self, wall: DateTime) -> Option<Timestamp> {
        self.zone.to_timestamp(wall).ok()
    }
}
