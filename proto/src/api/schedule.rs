//! A schedule of five fields, as a CronJob takes it: minute, hour, day of the month, month, day of the week.

use std::{fmt, ops::RangeInclusive, str::FromStr};

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

impl Field {
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
