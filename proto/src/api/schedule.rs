//! A schedule of five fields, as a CronJob takes it: minute, hour, day of the month, month, day of the week.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

/// A schedule that Kubernetes accepts, in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(String);

/// The text is not a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a schedule: write five fields such as \"0 3 * * *\" (minute hour day month weekday)")]
pub struct InvalidSchedule(String);

/// Names that stand for months and weekdays.
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What one field may hold.
struct Field {
    range: RangeInclusive<u8>,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { range: 0..=59, names: &[] },
    Field { range: 0..=23, names: &[] },
    Field { range: 1..=31, names: &[] },
    Field { range: 1..=12, names: &MONTHS },
    Field { range: 0..=6, names: &WEEKDAYS },
];

/// Days in which every date comes once: the 29th of February stays away for eight years around 2100.
const LONGEST_PAUSE_DAYS: usize = 8 * 366;

impl Schedule {
    /// The first time after `time`; `None` for a day that does not exist, such as the 30th of February.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let times = Times::of(&self.0)?;
        let begin = time.to_zoned(TimeZone::UTC).date();
        let mut days = begin.series(1.day()).take(LONGEST_PAUSE_DAYS).filter(|day| times.on(*day));
        days.find_map(|day| times.of_day(day).find(|at| *at > time))
    }
}

/// The times that the fields allow, each a set of bits.
struct Times {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Days of the month and of the week are both restricted: one of them is enough, as in every cron.
    either_day: bool,
}

impl Times {
    fn of(text: &str) -> Option<Self> {
        let texts: Vec<_> = text.split_ascii_whitespace().collect();
        let mut sets = FIELDS.iter().zip(&texts).map(|(field, text)| field.set(text));
        Some(Self {
            minutes: sets.next()?,
            hours: sets.next()?,
            days: sets.next()?,
            months: sets.next()?,
            weekdays: sets.next()?,
            either_day: !takes_any(texts.get(2)?) && !takes_any(texts.get(4)?),
        })
    }

    fn on(&self, date: Date) -> bool {
        let day = holds(self.days, date.day());
        let weekday = holds(self.weekdays, date.weekday().to_sunday_zero_offset());
        let either = if self.either_day { day || weekday } else { day && weekday };
        either && holds(self.months, date.month())
    }

    fn of_day(&self, date: Date) -> impl Iterator<Item = Timestamp> {
        let all = (0..24).flat_map(|hour| (0..60).map(move |minute| (hour, minute)));
        let taken = all.filter(|(hour, minute)| holds(self.hours, *hour) && holds(self.minutes, *minute));
        taken.filter_map(move |(hour, minute)| {
            Some(date.at(hour, minute, 0, 0).to_zoned(TimeZone::UTC).ok()?.timestamp())
        })
    }
}

fn holds(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| set >> value & 1 == 1)
}

/// Whether a field leaves the other field of days alone; `*/2` does not.
fn takes_any(text: &str) -> bool {
    text.split(',').any(|item| matches!(item, "*" | "*/1"))
}

impl Field {
    /// The values of a text that [`Self::takes`] takes.
    fn set(&self, text: &str) -> u64 {
        text.split(',').flat_map(|item| self.values(item)).fold(0, |set, value| set | 1 << value)
    }

    /// One item; `5/10` goes on to the end.
    fn values(&self, item: &str) -> impl Iterator<Item = u8> {
        let (values, step) = item.split_once('/').unwrap_or((item, "1"));
        let (first, last) = match (values, values.split_once('-')) {
            ("*", _) => (None, None),
            (_, Some((first, last))) => (self.value(first), self.value(last)),
            (one, None) if item.contains('/') => (self.value(one), None),
            (one, None) => (self.value(one), self.value(one)),
        };
        let (first, last) = (first.unwrap_or(*self.range.start()), last.unwrap_or(*self.range.end()));
        (first..=last).step_by(number(step).map_or(1, |step| usize::from(step.max(1))))
    }

    /// `*`, `1`, `1-5`, `*/10`, `1-30/2`, and lists of those.
    fn takes(&self, text: &str) -> bool {
        text.split(',').all(|item| {
            let (values, step) =
                item.split_once('/').map_or((item, None), |(values, step)| (values, Some(step)));
            let step_fits = step.is_none_or(|step| number(step).is_some_and(|step| step > 0));
            step_fits && (values == "*" || self.takes_range(values))
        })
    }

    fn takes_range(&self, text: &str) -> bool {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ends = self.value(first).zip(self.value(last));
        ends.is_some_and(|(first, last)| first <= last)
    }

    fn value(&self, text: &str) -> Option<u8> {
        let name = self.names.iter().position(|name| text.eq_ignore_ascii_case(name));
        let named = name.and_then(|index| u8::try_from(index).ok()).map(|index| index + self.range.start());
        named.or_else(|| number(text).filter(|number| self.range.contains(number)))
    }
}

fn number(text: &str) -> Option<u8> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fields: Vec<_> = text.split_ascii_whitespace().collect();
        let fits =
            fields.len() == FIELDS.len() && FIELDS.iter().zip(&fields).all(|(field, text)| field.takes(text));
        fits.then(|| Self(fields.join(" "))).ok_or_else(|| InvalidSchedule(text.to_owned()))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_that_kubernetes_takes() {
        for text in ["0 3 * * *", "*/15 * * * *", "0 0-6/2 1,15 * mon-fri", "5  4 * JAN,dec 0"] {
            assert!(text.parse::<Schedule>().is_ok(), "{text}");
        }
        assert_eq!("5  4 * * 0".parse::<Schedule>().unwrap().to_string(), "5 4 * * 0");
    }

    #[test]
    fn the_next_time_is_the_one_that_a_cron_job_runs_at() {
        for (schedule, after, next) in [
            ("0 3 * * *", "2026-03-01T02:59:59Z", Some("2026-03-01T03:00:00Z")),
            ("0 3 * * *", "2026-03-01T03:00:00Z", Some("2026-03-02T03:00:00Z")),
            ("*/15 * * * *", "2026-12-31T23:50:00Z", Some("2027-01-01T00:00:00Z")),
            ("5/20 8-9 * * *", "2026-03-01T08:26:00Z", Some("2026-03-01T08:45:00Z")),
            ("0 6 * * sun", "2026-03-02T00:00:00Z", Some("2026-03-08T06:00:00Z")),
            // Friday the 13th or any 13th or any Friday: cron takes the latter two.
            ("0 0 13 * 5", "2026-03-07T00:00:00Z", Some("2026-03-13T00:00:00Z")),
            ("0 0 13 * 5", "2026-03-13T00:00:00Z", Some("2026-03-20T00:00:00Z")),
            ("0 0 */2 * 5", "2026-03-01T00:00:00Z", Some("2026-03-03T00:00:00Z")),
            ("0 0 29 feb *", "2026-03-01T00:00:00Z", Some("2028-02-29T00:00:00Z")),
            ("0 0 29 2 *", "2097-01-01T00:00:00Z", Some("2104-02-29T00:00:00Z")),
            ("0 0 30 2 *", "2026-03-01T00:00:00Z", None),
        ] {
            let found = schedule.parse::<Schedule>().unwrap().next_after(after.parse().unwrap());
            assert_eq!(found, next.map(|next| next.parse().unwrap()), "{schedule} after {after}");
        }
    }

    #[test]
    fn schedules_that_it_does_not() {
        for text in [
            "",
            "0 3 * *",
            "0 0 3 * * *",
            "60 3 * * *",
            "0 24 * * *",
            "0 3 0 * *",
            "0 3 * 13 *",
            "0 3 * * 7",
            "0 3 * * mon-",
            "*/0 * * * *",
            "5-3 * * * *",
            "@daily",
            "daily",
            "+5 3 * * *",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
