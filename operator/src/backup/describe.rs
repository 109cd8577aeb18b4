//! The status of a Backup after a step. Pure. The state of a run is kept here and nowhere else, so that an
//! operator that takes over goes on where the last one stopped.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::{
    api::{
        backup::{BackupPhase, BackupStatus},
        quantity::Bytes,
    },
    wire::backup::{BackupKind, BackupPhase as Stage, BackupState, BackupSummary},
};

use super::plan::Step;

/// Being heard of is written down this often: more would only be writes.
const HEARD_STEP: SignedDuration = SignedDuration::from_secs(15);

/// The status that `step` leads to.
pub(super) fn describe(step: &Step, before: &BackupStatus, now: Timestamp) -> BackupStatus {
    let status = before.clone();
    match step {
        Step::Nothing | Step::Ask { .. } | Step::Release { .. } => status,
        Step::Wait(why) | Step::Hope(why) => BackupStatus { message: Some(why.clone()), ..status },
        Step::Begin { pod, id } => BackupStatus {
            phase: BackupPhase::Running,
            message: Some("begins".to_owned()),
            attempts: before.attempts + 1,
            instance: Some(pod.clone()),
            backup_id: Some(id.clone()),
            started_at: Some(whole(now)),
            error: before.error.clone(),
            ..BackupStatus::default()
        },
        // From here on it cannot begin anew under this name: the VolumeSnapshot would be older.
        Step::TakeSnapshot { name, .. } => BackupStatus {
            heard_at: before.heard_at.clone().or_else(|| Some(whole(now))),
            volume_snapshot: Some(name.clone()),
            ..status
        },
        Step::Follow(state) => follow(state, status, now),
        Step::Retry { error, at } => BackupStatus {
            phase: BackupPhase::Pending,
            error: Some(error.clone()),
            retry_at: Some(whole(*at)),
            message: Some("the last attempt failed".to_owned()),
            attempts: before.attempts,
            ..BackupStatus::default()
        },
        Step::Complete(state) => complete(state, status, now),
        Step::Fail(error) => BackupStatus {
            phase: BackupPhase::Failed,
            error: Some(error.clone()),
            message: None,
            progress: None,
            remaining: None,
            completed_at: Some(whole(now)),
            ..status
        },
    }
}

fn follow(state: &BackupState, before: BackupStatus, now: Timestamp) -> BackupStatus {
    let read = amount(state.bytes_done);
    let advanced = before.read_bytes != Some(read) || before.advanced_at.is_none();
    let heard = before.heard_at.clone();
    let heard = heard.filter(|heard| now.duration_since(heard.0) < HEARD_STEP);
    BackupStatus {
        message: Some(stage(state.phase).to_owned()),
        progress: progress(state),
        remaining: remaining(state, now),
        heard_at: heard.or_else(|| Some(whole(now))),
        advanced_at: if advanced { Some(whole(now)) } else { before.advanced_at.clone() },
        read_bytes: Some(read),
        kind: (state.phase != Stage::Starting).then_some(state.kind),
        ..positions(state, before)
    }
}

fn complete(state: &BackupState, before: BackupStatus, now: Timestamp) -> BackupStatus {
    let summary = state.summary.as_ref();
    let began = before.started_at.as_ref().map_or(now, |at| at.0);
    BackupStatus {
        phase: BackupPhase::Completed,
        message: summary.and_then(|summary| summary.damage.clone()),
        error: None,
        progress: Some("100%".to_owned()),
        remaining: None,
        completed_at: Some(whole(now)),
        duration: Some(rounded(now.duration_since(began))),
        kind: Some(state.kind),
        parent: summary.and_then(|summary| summary.parent.clone()),
        depth: summary.and_then(|summary| i32::try_from(summary.depth).ok()),
        fallback: summary.and_then(|summary| summary.fallback.clone()),
        size: summary.map(size),
        data_bytes: summary.map(|summary| amount(summary.size_bytes)),
        stored_bytes: summary.map(|summary| amount(summary.stored_bytes)),
        ..positions(state, before)
    }
}

fn positions(state: &BackupState, before: BackupStatus) -> BackupStatus {
    BackupStatus {
        timeline: state.start.map(|start| i64::from(start.timeline.0.get())).or(before.timeline),
        begin_lsn: state.start.map(|start| start.lsn.to_string()).or(before.begin_lsn.clone()),
        end_lsn: state.stop.map(|stop| stop.lsn.to_string()).or(before.end_lsn.clone()),
        ..before
    }
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Starting => "waits for a checkpoint",
        Stage::Copying => "copies",
        Stage::AwaitingSnapshot => "waits for a VolumeSnapshot of its volume",
        Stage::WaitingForWal => "waits until the write-ahead log that it needs is archived",
        Stage::Completed => "complete",
        Stage::Failed => "failed",
    }
}

fn size(summary: &BackupSummary) -> String {
    match summary.kind {
        BackupKind::Snapshot => format!("{} (VolumeSnapshot)", Bytes(summary.size_bytes)),
        BackupKind::Full | BackupKind::Incremental => {
            format!("{} ({} stored)", Bytes(summary.size_bytes), Bytes(summary.stored_bytes))
        }
    }
}

/// Never 100 before the end: the total is an estimate.
fn progress(state: &BackupState) -> Option<String> {
    let total = state.bytes_total.filter(|total| *total > 0)?;
    let share = u128::from(state.bytes_done) * 100 / u128::from(total);
    Some(format!("{}%", share.min(99)))
}

/// At the pace so far, once a tenth is done: before that the guess would be wild.
fn remaining(state: &BackupState, now: Timestamp) -> Option<String> {
    let (done, total) = (state.bytes_done, state.bytes_total?);
    let left = total.saturating_sub(done);
    if state.phase != Stage::Copying || done < total / 10 || done == 0 {
        return None;
    }
    let spent = u64::try_from(now.duration_since(state.started_at).as_secs()).ok()?;
    let seconds = u128::from(spent) * u128::from(left) / u128::from(done);
    // To ten seconds: nobody needs it better, and the status would change with every look.
    let seconds = i64::try_from(seconds.div_ceil(10) * 10).ok()?;
    Some(rounded(SignedDuration::from_secs(seconds)))
}

/// `1h4m`, `4m12s` or `12s`.
pub(crate) fn rounded(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

fn amount(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whole seconds, as the API server stores them: otherwise every comparison would see a change.
fn whole(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use proto::{
        postgres::{Lsn, Timeline, WalPosition},
        wire::backup::BackupKind,
    };

    use super::*;
    use crate::fixtures;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn position(lsn: u64) -> WalPosition {
        WalPosition { timeline: Timeline::new(3).unwrap(), lsn: Lsn(lsn) }
    }

    fn state(phase: Stage, bytes_done: u64) -> BackupState {
        BackupState {
            phase,
            bytes_done,
            bytes_total: Some(1_000),
            stored_bytes: 300,
            start: Some(position(0x100_0028)),
            ..BackupState::begun("b".to_owned(), BackupKind::Full, at(0))
        }
    }

    fn begun() -> BackupStatus {
        let step = Step::Begin { pod: "db-1".to_owned(), id: "b".to_owned() };
        describe(&step, &BackupStatus::default(), at(0))
    }

    #[test]
    fn progress_and_the_rest_are_told_in_steps() {
        let status = describe(&Step::Follow(state(Stage::Copying, 250)), &begun(), at(100));
        assert_eq!(status.progress.as_deref(), Some("25%"));
        assert_eq!(status.remaining.as_deref(), Some("5m0s"));
        assert_eq!((status.timeline, status.begin_lsn.as_deref()), (Some(3), Some("0/1000028")));
        let over = describe(&Step::Follow(state(Stage::Copying, 5_000)), &status, at(101));
        assert_eq!(over.progress.as_deref(), Some("99%"));
    }

    #[test]
    fn an_unchanged_run_is_written_down_four_times_a_minute() {
        let first = describe(&Step::Follow(state(Stage::WaitingForWal, 250)), &begun(), at(100));
        let soon = describe(&Step::Follow(state(Stage::WaitingForWal, 250)), &first, at(110));
        assert_eq!(soon, first);
        let later = describe(&Step::Follow(state(Stage::WaitingForWal, 250)), &first, at(120));
        assert_eq!(later.heard_at, Some(Time(at(120))));
        assert_eq!(later.advanced_at, first.advanced_at);
    }

    #[test]
    fn a_snapshot_is_written_down_before_it_is_made() {
        let (pod, id) = ("db-1".to_owned(), "b".to_owned());
        let step = Step::TakeSnapshot { pod, id, name: "db-b".to_owned() };
        let status = describe(&step, &begun(), at(100));
        assert_eq!(status.volume_snapshot.as_deref(), Some("db-b"));
        assert!(status.heard_at.is_some(), "an instance that forgets it then does not begin it anew");
        let failed = describe(&Step::Retry { error: "late".to_owned(), at: at(120) }, &status, at(110));
        assert_eq!(failed.volume_snapshot, None);
    }

    #[test]
    fn a_failed_attempt_leaves_its_reason_and_nothing_of_its_progress() {
        let running = describe(&Step::Follow(state(Stage::Copying, 250)), &begun(), at(100));
        let step = Step::Retry { error: "full".to_owned(), at: at(120) };
        let status = describe(&step, &running, at(100));
        assert_eq!((status.phase, status.attempts), (BackupPhase::Pending, 1));
        assert_eq!((status.error.as_deref(), status.progress), (Some("full"), None));
        let again = Step::Begin { pod: "db-2".to_owned(), id: "c".to_owned() };
        let again = describe(&again, &BackupStatus { retry_at: None, ..running }, at(130));
        assert_eq!((again.attempts, again.heard_at), (2, None));
    }

    fn summary() -> BackupSummary {
        BackupSummary {
            stopped_at: at(250),
            start: position(0x100_0028),
            stop: position(0x200_0000),
            size_bytes: 3 << 30,
            stored_bytes: 1 << 30,
            pod: "db-1".to_owned(),
            ..fixtures::backup_summary("b", at(0))
        }
    }

    fn done(summary: BackupSummary) -> BackupState {
        BackupState {
            kind: summary.kind,
            stop: Some(summary.stop),
            summary: Some(summary),
            ..state(Stage::Completed, 1_000)
        }
    }

    #[test]
    fn the_end_says_how_long_and_how_much() {
        let status = describe(&Step::Complete(done(summary())), &begun(), at(252));
        assert_eq!(status.phase, BackupPhase::Completed);
        assert_eq!(status.duration.as_deref(), Some("4m12s"));
        assert_eq!(status.size.as_deref(), Some("3 GiB (1 GiB stored)"));
        assert_eq!(status.end_lsn.as_deref(), Some("0/2000000"));
        assert_eq!((status.kind, status.parent, status.depth), (Some(BackupKind::Full), None, Some(0)));
    }

    #[test]
    fn an_incremental_backup_names_what_it_builds_on_and_a_full_one_why_it_is_none() {
        let increment = BackupSummary {
            kind: BackupKind::Incremental,
            parent: Some("a".to_owned()),
            depth: 2,
            ..summary()
        };
        let status = describe(&Step::Complete(done(increment)), &begun(), at(252));
        assert_eq!(status.kind, Some(BackupKind::Incremental));
        assert_eq!((status.parent.as_deref(), status.depth), (Some("a"), Some(2)));
        let snapshot = BackupSummary { kind: BackupKind::Snapshot, ..summary() };
        let status = describe(&Step::Complete(done(snapshot)), &begun(), at(252));
        assert_eq!(status.size.as_deref(), Some("3 GiB (VolumeSnapshot)"));
        let full = BackupSummary { fallback: Some("summaries are gone".to_owned()), ..summary() };
        let status = describe(&Step::Complete(done(full)), &begun(), at(252));
        assert_eq!(status.fallback.as_deref(), Some("summaries are gone"));
        assert_eq!(status.error, None);
    }
}
