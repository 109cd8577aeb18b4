//! The results as markdown, for `docs/figures.md`.

use std::fmt::Write;

use super::{
    FAULTS,
    record::{Run, Seconds},
};

/// Makes the tables: outages beside their targets, then where the time goes.
pub(super) fn page(runs: &[Run]) -> String {
    let mut text = String::from(
        "## Outage of a writer through `-rw`, in seconds\n\n\
         | fault | profile | runs | p50 | p95 | p99 | target p50 | target p99 |\n|---|---|---|---|---|---|---|---|\n",
    );
    each_series(runs, |fault, profile, runs| {
        let outages: Vec<f64> = runs.iter().map(|run| run.outage).collect();
        let (half, worst) = fault.targets(profile);
        let [p50, p95, p99] = percentiles(&outages);
        let _ = writeln!(
            text,
            "| {} | {profile} | {} | {} | {p95:.2} | {} | {half} | {worst} |",
            fault.name,
            outages.len(),
            judged(p50, half),
            judged(p99, worst)
        );
    });
    text.push_str(
        "\n## Where the time goes (p50 / p95, in seconds)\n\n\
         | fault | profile | runs | detect | elect | promote | route | whole again |\n|---|---|---|---|---|---|---|---|\n",
    );
    each_series(runs, |fault, profile, runs| {
        let stages: Vec<Seconds> = runs.iter().filter_map(|run| run.stages).collect();
        if stages.is_empty() {
            return;
        }
        let of = |part: fn(&Seconds) -> f64| pair(&stages.iter().map(part).collect::<Vec<_>>());
        let (detect, elect) = (of(|s| s.detect), of(|s| s.elect));
        let (promote, route) = (of(|s| s.promote), of(|s| s.route));
        let whole = pair(&runs.iter().map(|run| run.whole).collect::<Vec<_>>());
        let (name, count) = (fault.name, stages.len());
        let _ = writeln!(
            text,
            "| {name} | {profile} | {count} | {detect} | {elect} | {promote} | {route} | {whole} |"
        );
    });
    text
}

fn each_series(runs: &[Run], mut each: impl FnMut(&super::Fault, &str, &[&Run])) {
    for fault in FAULTS {
        for profile in ["Standard", "Fast", "Tolerant"] {
            let series: Vec<&Run> =
                runs.iter().filter(|run| run.fault == fault.name && run.profile == profile).collect();
            if !series.is_empty() {
                each(fault, profile, &series);
            }
        }
    }
}

/// Bold where a target is missed.
fn judged(seconds: f64, target: f64) -> String {
    match seconds <= target {
        true => format!("{seconds:.2}"),
        false => format!("**{seconds:.2}**"),
    }
}

fn pair(values: &[f64]) -> String {
    let [p50, p95, _] = percentiles(values);
    format!("{p50:.2} / {p95:.2}")
}

/// p50, p95, p99 by nearest rank: with fewer than a hundred runs the last one is the worst run.
fn percentiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [50, 95, 99].map(|percent| {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_runs_that_were_made() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(percentiles(&values).map(|value| value.to_string()), ["10", "19", "20"]);
        assert_eq!(percentiles(&[3.0]).map(|value| value.to_string()), ["3", "3", "3"]);
    }

    #[test]
    fn a_missed_target_stands_out() {
        let run = |outage| Run {
            profile: "Standard".to_owned(),
            fault: "postmaster killed".to_owned(),
            outage,
            whole: 9.0,
            stages: Some(Seconds { detect: 0.1, elect: 0.2, promote: 0.3, route: 0.4 }),
        };
        let text = page(&[run(1.0), run(1.2), run(9.0)]);
        assert!(
            text.contains("| postmaster killed | Standard | 3 | 1.20 | 9.00 | **9.00** | 1.5 | 4 |"),
            "{text}"
        );
        assert!(text.contains("| 3 | 0.10 / 0.10 | 0.20 / 0.20 |"), "{text}");
    }
}
