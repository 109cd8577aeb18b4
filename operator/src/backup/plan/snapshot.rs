//! The parts that only a Backup has whose data is in a VolumeSnapshot. Pure.

use proto::wire::{backup::BackupState, snapshot::SnapshotTaken};

use super::{Facts, Sight, Step, WHOLE_LIMIT, retry};

/// The instance holds still. The attempt was recorded before, with a name of its own: a VolumeSnapshot of that name was
/// not taken before.
pub(super) fn awaited(facts: &Facts<'_>, state: &BackupState, (pod, id): (String, String)) -> Step {
    match &facts.snapshot {
        Some(Sight::There(snapshot)) if snapshot.is_taken() => {
            let volume_snapshot = snapshot.metadata.name.clone().unwrap_or_default();
            let size_bytes = snapshot.size().unwrap_or_default().0;
            Step::Release { pod, id, taken: SnapshotTaken { volume_snapshot, size_bytes } }
        }
        Some(Sight::There(snapshot)) => match snapshot.error() {
            Some(error) => Step::Wait(format!("waits for the VolumeSnapshot: {error}")),
            None => Step::Follow(state.clone()),
        },
        Some(Sight::Absent(name)) => Step::TakeSnapshot { pod, id, name: name.clone() },
        // An agent that holds still for nothing ends by itself.
        Some(Sight::NotInstalled) | None => Step::Follow(state.clone()),
    }
}

/// What the store needs is there; the storage may still be at work.
pub(super) fn completed(facts: &Facts<'_>, state: &BackupState) -> Step {
    let began = facts.status.started_at.as_ref().map_or(facts.created, |at| at.0);
    let late = facts.now.duration_since(began) > WHOLE_LIMIT;
    match &facts.snapshot {
        None => Step::Complete(state.clone()),
        Some(Sight::There(snapshot)) if snapshot.is_ready() => Step::Complete(state.clone()),
        Some(Sight::There(snapshot)) => {
            let why = snapshot.error().map_or_else(String::new, |error| format!(": {error}"));
            match late {
                true => Step::Fail(format!("the VolumeSnapshot was not ready to use within 24 hours{why}")),
                false => Step::Wait(format!("waits until the VolumeSnapshot is ready to use{why}")),
            }
        }
        Some(Sight::Absent(_) | Sight::NotInstalled) => retry(facts, "its VolumeSnapshot was deleted"),
    }
}

/// The agent knows only how long it held still.
pub(super) fn why_failed(facts: &Facts<'_>, state: &BackupState) -> String {
    let said = state.error.as_deref().unwrap_or("the instance does not say why");
    match &facts.snapshot {
        Some(Sight::There(snapshot)) if !snapshot.is_taken() => match snapshot.error() {
            Some(error) => format!("{said}: {error}"),
            None => said.to_owned(),
        },
        Some(Sight::Absent(_)) => match &facts.status.message {
            Some(message) => format!("{said} ({message})"),
            None => said.to_owned(),
        },
        _ => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proto::{api::backup::BackupStatus, wire::backup::BackupPhase as Stage};
    use serde_json::{Value, json};

    use super::{
        super::{
            plan,
            tests::{at, facts, running, says},
        },
        *,
    };
    use crate::volume_snapshot::tests::observed;

    fn there(status: &Value) -> Sight {
        Sight::There(Box::new(observed(status)))
    }

    fn absent() -> Sight {
        Sight::Absent("db-b".to_owned())
    }

    fn taken() -> Value {
        json!({"creationTime": "2026-03-01T03:00:10Z", "readyToUse": false, "restoreSize": "1Gi"})
    }

    fn step(status: &BackupStatus, stage: Stage, snapshot: Sight) -> Step {
        plan(&Facts { answer: says(stage, 0), snapshot: Some(snapshot), ..facts(status) })
    }

    #[test]
    fn the_instance_holds_still_until_the_snapshot_is_taken_and_no_longer() {
        let status = running();
        let (pod, id) = ("db-1".to_owned(), "b".to_owned());
        let of = |snapshot| step(&status, Stage::AwaitingSnapshot, snapshot);
        assert_eq!(
            of(absent()),
            Step::TakeSnapshot { pod: pod.clone(), id: id.clone(), name: "db-b".to_owned() },
            "once it holds still"
        );
        assert!(matches!(step(&status, Stage::Starting, absent()), Step::Follow(_)), "not before");
        assert!(matches!(of(there(&json!({}))), Step::Follow(_)));
        let refused = of(there(&json!({"error": {"message": "no class"}})));
        assert_eq!(refused, Step::Wait("waits for the VolumeSnapshot: no class".to_owned()));
        let volume_snapshot = "orders-db-20260301t030000z-4bd1a2c3-1".to_owned();
        let taken_of = SnapshotTaken { volume_snapshot, size_bytes: 1 << 30 };
        assert_eq!(of(there(&taken())), Step::Release { pod, id, taken: taken_of });
    }

    #[test]
    fn it_is_complete_once_the_store_and_the_storage_are() {
        let status = running();
        let of = |snapshot| step(&status, Stage::Completed, snapshot);
        assert!(matches!(of(there(&json!({"readyToUse": true}))), Step::Complete(_)));
        assert!(matches!(of(there(&taken())), Step::Wait(_)));
        assert!(matches!(of(absent()), Step::Retry { .. }), "without its data it is none");
        let late = Facts { now: at(90_000), answer: says(Stage::Completed, 0), ..facts(&status) };
        let late = Facts { snapshot: Some(there(&taken())), ..late };
        assert!(matches!(plan(&late), Step::Fail(_)));
    }

    #[test]
    fn a_cluster_without_snapshots_is_told_so_at_once() {
        let status = BackupStatus::default();
        let step = plan(&Facts { snapshot: Some(Sight::NotInstalled), ..facts(&status) });
        assert!(matches!(&step, Step::Fail(why) if why.contains("no VolumeSnapshots")), "{step:?}");
    }

    #[test]
    fn a_failed_attempt_says_what_the_storage_said() {
        let status = running();
        let refused = there(&json!({"error": {"message": "no class"}}));
        let step = step(&status, Stage::Failed, refused);
        assert!(matches!(&step, Step::Retry { error, .. } if error.ends_with("no class")), "{step:?}");
    }
}
