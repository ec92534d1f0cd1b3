//! Scheduled overrides + now → bounds in force, the next edge, and what status says (spec 01 §7.5, 02 §5.4).
//!
//! Recurrences follow the clock of `timeZone`, else of the offset that startTime is written with, else of a zone that the manager was told: upstream's
//! was always the controller's own. An override that cannot be is a problem to report and otherwise as if it was not there: it never stops scaling
//! (spec 01 §14.6, 90 PAIN-21).

mod recurrence;

use std::sync::LazyLock;

use jiff::{
    SignedDuration, Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};
use muster_crds::{legacy::ScheduledOverride, local_time::LocalTime};

pub use self::recurrence::Period;
use self::recurrence::{Frequency, Recurrence};

/// Whose clock recurrences follow where the override names no zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// That of the offset in `startTime`.
    #[default]
    Written,
    /// That of one zone for all, as upstream has it with the controller's own.
    Zone(TimeZone),
}

impl Clock {
    /// Reads the name of a zone; nothing means [`Clock::Written`]. Knows the IANA names only.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the name.
    pub fn named(name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Ok(Self::Written);
        }
        zone(name).map(Self::Zone)
    }

    /// The zone in which times are printed for people: UTC unless there is one for all.
    fn printed(&self) -> TimeZone {
        match self {
            Self::Written => TimeZone::UTC,
            Self::Zone(zone) => zone.clone(),
        }
    }
}

/// What the overrides say at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Minimum in force instead of `spec.minReplicas`.
    pub min: Option<i64>,
    /// Maximum in force instead of `spec.maxReplicas`.
    pub max: Option<i64>,
    /// The first active override in the list.
    pub active: Option<Window>,
    /// The override that begins next, within one period of its own from now (upstream looks no further).
    pub upcoming: Option<Window>,
    /// When an override begins or ends next, however far away.
    pub next_edge: Option<Timestamp>,
    /// Overrides that are ignored, each a sentence with field, value and remedy.
    pub problems: Vec<String>,
}

/// One occurrence of an override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Place in `spec.scheduledOverrides`.
    pub index: usize,
    /// From when to when.
    pub period: Period,
    /// Its minReplicas.
    pub min: Option<i64>,
    /// Its maxReplicas.
    pub max: Option<i64>,
}

/// What the overrides say now. For each bound the first active override that sets it counts; an active one that sets neither hides
/// those after it, as upstream's does (an exception from later entries can be written that way).
pub fn evaluate(overrides: &[ScheduledOverride], clock: &Clock, now: Timestamp) -> Schedule {
    let mut schedule = Schedule::default();
    let mut is_hidden = false;
    for (index, entry) in overrides.iter().enumerate() {
        let recurrence = match read(index, entry, clock) {
            Ok(recurrence) => recurrence,
            Err(problem) => {
                schedule.problems.push(problem);
                continue;
            }
        };
        let window = |period| Window {
            index,
            period,
            min: entry.min_replicas,
            max: entry.max_replicas,
        };
        let (active, next) = (recurrence.active(now), recurrence.next(now));
        if let Some(period) = active {
            if !is_hidden {
                schedule.min = schedule.min.or(entry.min_replicas);
                schedule.max = schedule.max.or(entry.max_replicas);
                is_hidden = entry.min_replicas.is_none() && entry.max_replicas.is_none();
            }
            if schedule.active.is_none() {
                schedule.active = Some(window(period));
            }
        }
        let edges = [active.map(|period| period.end), next.map(|period| period.start)];
        schedule.next_edge = edges
            .into_iter()
            .flatten()
            .chain(schedule.next_edge)
            .filter(|edge| *edge > now)
            .min();
        if let Some(period) = next.filter(|next| next.start <= recurrence.horizon(now))
            && schedule
                .upcoming
                .as_ref()
                .is_none_or(|known| period.start < known.period.start)
        {
            schedule.upcoming = Some(window(period));
        }
    }
    schedule
}

impl Schedule {
    /// `status.scheduledOverridesSummary`: the next change, as upstream prints it (spec 01 §7.7, 02 §5.7). `min` and `max` are those of the spec, which
    /// hold when no override is active; maxima are named only by overrides that have one.
    pub fn summary(&self, min: i64, max: i64, clock: &Clock) -> Option<String> {
        let print = |min: i64, max: Option<i64>, at: Timestamp| {
            let max = max.map_or_else(String::new, |max| format!(" max={max}"));
            let at = at.to_zoned(clock.printed());
            format!(
                "min={min}{max} time={}",
                at.strftime("%Y-%m-%d %H:%M:%S%.f %z %Z")
            )
        };
        match (&self.active, &self.upcoming) {
            (Some(active), upcoming)
                if upcoming
                    .as_ref()
                    .is_none_or(|upcoming| active.period.end < upcoming.period.start) =>
            {
                Some(print(min, active.max.map(|_| max), active.period.end))
            }
            (active, Some(upcoming))
                if active
                    .as_ref()
                    .is_none_or(|active| active.period.end > upcoming.period.start) =>
            {
                let known = upcoming.min.or_else(|| upcoming.max.map(|_| min))?;
                Some(print(known, upcoming.max, upcoming.period.start))
            }
            _ => None,
        }
    }
}

/// What is wrong with an override, if anything. Its place in the list is `index`.
///
/// # Errors
/// A sentence with field, value and remedy.
pub fn check(index: usize, entry: &ScheduledOverride) -> Result<(), String> {
    read(index, entry, &Clock::Written).map(drop)
}

fn read(index: usize, entry: &ScheduledOverride, clock: &Clock) -> Result<Recurrence, String> {
    let path = |field: &str| format!("spec.scheduledOverrides[{index}].{field}");
    let (start, end) = (entry.start_time, entry.end_time);
    if end.at <= start.at {
        return Err(format!(
            "{}: {end} is not after startTime {start}, so the override is never active: correct one of the two",
            path("endTime")
        ));
    }
    let rule = entry.recurrence_rule.as_ref();
    let frequency = rule.and_then(|rule| rule.frequency.as_deref());
    let frequency = match frequency.filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => Some(Frequency::parse(name).ok_or_else(|| {
            format!(
                "{}: {name} is unknown: write Daily, Weekly, Monthly or Yearly",
                path("recurrenceRule.frequency")
            )
        })?),
    };
    let zone = match entry.time_zone.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => zone(name).map_err(|problem| format!("{}: {problem}", path("timeZone")))?,
        None => match clock {
            Clock::Written => TimeZone::fixed(start.offset),
            Clock::Zone(zone) => zone.clone(),
        },
    };
    let recurrence = Recurrence::new(
        start.at,
        end.at,
        zone,
        frequency,
        until(rule.and_then(|rule| rule.until_time)),
    );
    if let Some(longest) = recurrence.exceeds() {
        return Err(format!(
            "{}: {end} is more than {longest} after startTime {start}, so an occurrence would never end before the next begins: correct one of the two",
            path("endTime")
        ));
    }
    Ok(recurrence)
}

/// Go writes an absent time as that of the year 1.
fn until(time: Option<LocalTime>) -> Option<Timestamp> {
    const YEAR_ONE: Timestamp = Timestamp::constant(-62_135_596_800, 0);
    time.map(|time| time.at)
        .filter(|at| at.duration_since(YEAR_ONE) > SignedDuration::from_hours(24))
}

/// Part of the program, so that the same names work wherever it runs; each zone is decoded once.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

fn zone(name: &str) -> Result<TimeZone, String> {
    ZONES.get(name).map_err(|_| {
        format!(
            "{name} is no time zone of the IANA database: write for example Europe/Berlin, or leave it out"
        )
    })
}

#[cfg(test)]
mod tests;
