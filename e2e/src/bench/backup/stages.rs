//! Where the time of a restore goes, by the log of the container that restores.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

/// The parts of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stages {
    /// From the first byte of the backup that is asked for until every file is written.
    pub(super) unpacking: Duration,
    /// Getting all of it onto the disk, after the write-ahead log was replayed.
    pub(super) flushing: Duration,
    /// All of it, with the replay between them.
    pub(super) whole: Duration,
}

/// Finds them; nothing if the restore did not come to its end.
pub(super) fn stages(log: &str) -> Option<Stages> {
    let entries: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let first = |matches: &dyn Fn(&Value) -> bool| -> Option<Timestamp> {
        entries.iter().find(|entry| matches(&entry["fields"]))?["timestamp"].as_str()?.parse().ok()
    };
    let phase = |name: &str| {
        let says = format!("phase: {name},");
        first(&|fields| fields["progress"].as_str().is_some_and(|progress| progress.contains(&says)))
    };
    let copying = phase("Copying")?;
    let flushes = first(&|fields| fields["message"] == "flushing what was restored")?;
    let completed = phase("Completed")?;
    let between = |from: Timestamp, to: Timestamp| to.duration_since(from).unsigned_abs();
    Some(Stages {
        unpacking: between(copying, phase("Recovering")?),
        flushing: between(flushes, completed),
        whole: between(copying, completed),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(second: u32, fields: &Value) -> String {
        json!({"timestamp": format!("2026-11-26T10:00:{second:02}.500000Z"), "level": "INFO", "fields": fields})
            .to_string()
            + "\n"
    }

    fn progress(second: u32, phase: &str) -> String {
        let progress = format!("RestoreProgress {{ phase: {phase}, backup: None }}");
        entry(second, &json!({"message": "restoring", "progress": progress}))
    }

    #[test]
    fn the_stages_are_told_by_the_log() {
        let log = progress(1, "Choosing")
            + &entry(2, &json!({"message": "restoring", "repository": "a/b"}))
            + &progress(2, "Copying")
            + &progress(3, "Copying")
            + &progress(6, "Recovering")
            + "what another program said\n"
            + &entry(8, &json!({"message": "flushing what was restored"}))
            + &progress(11, "Recovering")
            + &progress(12, "Completed");
        let seconds = Duration::from_secs;
        let told = Stages { unpacking: seconds(4), flushing: seconds(4), whole: seconds(10) };
        assert_eq!(stages(&log), Some(told));
        assert_eq!(stages(&progress(2, "Copying")), None);
    }
}
