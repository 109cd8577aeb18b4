//! Figures beside targets. Pure.

use std::time::Duration;

use proto::api::quantity::Bytes;

use crate::bench::Line;

/// What one way of doing it took, round by round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Series {
    /// Bytes of files that each round read or wrote.
    pub(super) bytes: u64,
    /// How long each took.
    pub(super) times: Vec<Duration>,
}

impl Series {
    /// The round in the middle, in seconds; none if nothing was measured.
    fn median(&self) -> Option<f64> {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        Some(sorted.get(sorted.len() / 2)?.as_secs_f64())
    }

    /// Bytes a second of the round in the middle.
    #[allow(clippy::cast_precision_loss)] // a throughput has three digits that count
    fn rate(&self) -> Option<f64> {
        Some(self.bytes as f64 / self.median()?)
    }
}

/// How much of another's throughput this is.
pub(super) fn share(what: &str, ours: &Series, theirs: &Series, target_percent: f64) -> Line {
    let percent = ours.rate().zip(theirs.rate()).map(|(ours, theirs)| 100.0 * ours / theirs);
    let measured =
        percent.map(|percent| format!("{percent:.0} %: {} beside {}", throughput(ours), throughput(theirs)));
    Line {
        what: what.to_owned(),
        measured: measured.unwrap_or_else(|| "nothing".to_owned()),
        target: format!("{target_percent:.0} %"),
        met: percent.is_some_and(|percent| percent >= target_percent),
    }
}

/// Whether it takes less time than another, for the same data.
pub(super) fn faster(what: &str, ours: &Series, theirs: &Series) -> Line {
    let medians = ours.median().zip(theirs.median());
    let measured = medians.map(|(ours, theirs)| format!("{ours:.2} s beside {theirs:.2} s"));
    Line {
        what: what.to_owned(),
        measured: measured.unwrap_or_else(|| "nothing".to_owned()),
        target: "less".to_owned(),
        met: medians.is_some_and(|(ours, theirs)| ours < theirs),
    }
}

/// An amount that must not be exceeded.
pub(super) fn at_most(what: &str, bytes: Bytes, target: Bytes) -> Line {
    Line {
        what: what.to_owned(),
        measured: bytes.to_string(),
        target: target.to_string(),
        met: bytes <= target,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // shown with one decimal
fn throughput(series: &Series) -> String {
    let (rate, seconds) = (series.rate().unwrap_or_default(), series.median().unwrap_or_default());
    format!("{}/s ({seconds:.2} s)", Bytes(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(bytes: u64, seconds: &[u64]) -> Series {
        Series { bytes, times: seconds.iter().copied().map(Duration::from_secs).collect() }
    }

    #[test]
    fn the_median_decides_over_throughput_and_not_time() {
        let theirs = series(2 << 30, &[1, 2, 9]);
        let line = share("x", &series(1 << 30, &[9, 1, 1]), &theirs, 70.0);
        assert!(line.met, "{}", line.measured);
        assert_eq!(line.measured, "100 %: 1 GiB/s (1.00 s) beside 1 GiB/s (2.00 s)");
        assert!(!share("x", &series(1 << 30, &[2, 2, 2]), &theirs, 70.0).met);
        assert!(!share("x", &Series::default(), &theirs, 70.0).met, "nothing measured is nothing met");
    }

    #[test]
    fn as_fast_is_not_faster() {
        assert!(faster("x", &series(1, &[1, 2, 3]), &series(1, &[3, 3, 3])).met);
        assert!(!faster("x", &series(1, &[3, 3, 3]), &series(1, &[3, 3, 3])).met);
        assert!(!faster("x", &series(1, &[1]), &Series::default()).met);
    }

    #[test]
    fn the_bound_itself_is_within() {
        assert!(at_most("x", Bytes(5), Bytes(5)).met);
        assert!(!at_most("x", Bytes(6), Bytes(5)).met);
    }
}
