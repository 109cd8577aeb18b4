//! Results of single runs, one JSON document a line: a series that was interrupted goes on where it was, and the page
//! is made from what is there.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::stages::Stages;

/// One run, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    /// `spec.failover.profile`.
    pub(super) profile: String,
    /// Name of the fault.
    pub(super) fault: String,
    /// Longest time without an acknowledged write.
    pub(super) outage: f64,
    /// From the end of the fault until all instances served.
    pub(super) whole: f64,
    /// Where the time went, if somebody took over.
    pub(super) stages: Option<Seconds>,
}

/// [`Stages`] in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Seconds {
    /// [`Stages::detect`]
    pub(super) detect: f64,
    /// [`Stages::elect`]
    pub(super) elect: f64,
    /// [`Stages::promote`]
    pub(super) promote: f64,
    /// [`Stages::route`]
    pub(super) route: f64,
}

impl From<Stages> for Seconds {
    fn from(stages: Stages) -> Self {
        Self {
            detect: stages.detect.as_secs_f64(),
            elect: stages.elect.as_secs_f64(),
            promote: stages.promote.as_secs_f64(),
            route: stages.route.as_secs_f64(),
        }
    }
}

/// All runs in `file`; none if it does not exist.
pub(super) fn read(file: &Path) -> Result<Vec<Run>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", file.display()))?,
    };
    let parse =
        |line| serde_json::from_str(line).with_context(|| format!("{} has a bad line", file.display()));
    text.lines().map(parse).collect()
}

/// Adds one.
pub(super) fn add(file: &Path, run: &Run) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut open = OpenOptions::new().create(true).append(true).open(file)?;
    let line = serde_json::to_string(run)? + "\n";
    open.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("below/figures.jsonl");
        assert_eq!(read(&file).unwrap(), []);
        let run = Run {
            profile: "Fast".to_owned(),
            fault: "node lost".to_owned(),
            outage: 6.5,
            whole: 20.0,
            stages: Some(Seconds { detect: 6.0, elect: 0.2, promote: 0.2, route: 0.1 }),
        };
        add(&file, &run).unwrap();
        add(&file, &Run { stages: None, ..run.clone() }).unwrap();
        assert_eq!(read(&file).unwrap(), [run.clone(), Run { stages: None, ..run }]);
    }
}
