//! What happens to the volume of a new instance, as tables.

use serde_json::{Value, json};

use super::*;
use crate::{fixtures, volume_snapshot};

const NOW: &str = "2026-03-02T03:00:00Z";
const BACKUP: &str = "20260301T030000Z-4bd1a2c3-1";

fn cluster() -> Cluster {
    fixtures::cluster_with(&json!({"replicas": 4, "backup": {"destination": "s3://b/f"}}))
}

/// Of the volume of `orders-db-<source>`, taken so many hours ago.
fn snapshot(source: u8, hours: i64, changes: &Value) -> VolumeSnapshot {
    let taken = NOW.parse::<Timestamp>().unwrap() - SignedDuration::from_hours(hours);
    let made = volume_snapshot::volume_snapshot(&cluster(), Ordinal(source), BACKUP);
    let mut status = json!({"creationTime": taken.to_string(), "readyToUse": true, "restoreSize": "50Gi"});
    status.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    VolumeSnapshot { status: serde_json::from_value(status).unwrap(), ..made }
}

fn of_snapshots(cluster: &Cluster, snapshots: Vec<VolumeSnapshot>) -> Option<Newcomer> {
    let live = LiveNewcomers { snapshots, jobs: Vec::new() };
    newcomers(cluster, Ordinal(3), &[], &live, NOW.parse().unwrap()).remove(&Ordinal(3))
}

/// The volume with the mark, made an hour ago.
fn volume() -> PersistentVolumeClaim {
    let mut volume = build::standby_volume(&cluster(), Ordinal(3), "snapshot", BACKUP);
    volume.metadata.uid = Some("volume".to_owned());
    volume
}

fn job(volume: &str, condition: Option<&str>) -> Job {
    let mut job = build::standby_job(&cluster(), Ordinal(3), volume, "agent");
    job.metadata.uid = Some("job".to_owned());
    let conditions: Vec<_> = condition
        .map(|told| json!({"type": told, "status": "True", "message": "said so"}))
        .into_iter()
        .collect();
    job.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
    job
}

fn of_volume(volume: Option<PersistentVolumeClaim>, job: Option<Job>) -> Option<Newcomer> {
    let live = LiveNewcomers { snapshots: vec![snapshot(1, 1, &json!({}))], jobs: job.into_iter().collect() };
    let volumes: Vec<_> = volume.into_iter().collect();
    newcomers(&cluster(), Ordinal(3), &volumes, &live, NOW.parse().unwrap()).remove(&Ordinal(3))
}

#[test]
fn the_newest_snapshot_that_can_be_used_is_used() {
    let named = |source, hours| {
        let mut snapshot = snapshot(source, hours, &json!({}));
        snapshot.metadata.name = Some(format!("{hours} hours old"));
        snapshot
    };
    let found = of_snapshots(&cluster(), vec![named(1, 9), named(2, 2), named(1, 5)]);
    let Some(Newcomer::Begin { snapshot, backup }) = found else { panic!("{found:?}") };
    assert_eq!((snapshot.as_str(), backup.as_str()), ("2 hours old", BACKUP));
}

#[test]
fn what_cannot_be_used_is_left_alone() {
    let with = |snapshot| of_snapshots(&cluster(), vec![snapshot]);
    assert!(with(snapshot(1, 36, &json!({}))).is_some());
    assert_eq!(with(snapshot(1, 37, &json!({}))), None, "too old");
    assert_eq!(with(snapshot(3, 1, &json!({}))), None, "of this very instance");
    assert_eq!(with(snapshot(1, 1, &json!({"readyToUse": false}))), None, "not ready");
    assert_eq!(with(snapshot(1, 1, &json!({"restoreSize": "51Gi"}))), None, "too large");
    let mut others = snapshot(1, 1, &json!({}));
    others.metadata.annotations = None;
    assert_eq!(with(others), None, "of another repository");
    let mut leaving = snapshot(1, 1, &json!({}));
    leaving.metadata.deletion_timestamp = Some(serde_json::from_value(json!(NOW)).unwrap());
    assert_eq!(with(leaving), None, "on its way out");
    let earlier = volume_snapshot::volume_snapshot(&fixtures::cluster(), Ordinal(1), BACKUP);
    assert_eq!(with(earlier), None, "taken where nothing is known of it");
    let without = fixtures::cluster_with(&json!({"replicas": 4}));
    assert_eq!(of_snapshots(&without, vec![snapshot(1, 1, &json!({}))]), None, "no archive");
}

#[test]
fn a_volume_becomes_an_instances_only_when_its_job_is_done() {
    let making = |job| {
        let (backup, volume_uid) = (BACKUP.to_owned(), "volume".to_owned());
        Some(Newcomer::Making { backup, volume_uid, job })
    };
    assert_eq!(of_volume(Some(volume()), None), making(None));
    let running = Some("job".to_owned());
    assert_eq!(of_volume(Some(volume()), Some(job("volume", None))), making(running));
    let made = Some(Newcomer::Made { job: "job".to_owned() });
    assert_eq!(of_volume(Some(volume()), Some(job("volume", Some("Complete")))), made);
    let mut finished = volume();
    finished.metadata.annotations = None;
    assert_eq!(of_volume(Some(finished), None), None, "an instance's volume");
}

#[test]
fn a_job_of_an_earlier_volume_says_nothing_of_this_one() {
    for condition in [None, Some("Complete"), Some("Failed")] {
        let found = of_volume(Some(volume()), Some(job("earlier", condition)));
        assert_eq!(found, Some(Newcomer::Stale { job: "job".to_owned() }), "{condition:?}");
    }
}

#[test]
fn what_fails_is_thrown_away_and_not_tried_again_at_once() {
    let found = of_volume(Some(volume()), Some(job("volume", Some("Failed"))));
    let Some(Newcomer::Failed { volume_uid, why }) = found else { panic!("{found:?}") };
    assert_eq!((volume_uid.as_str(), why.as_str()), ("volume", "Job orders-db-standby-3: said so"));
    let mut leaving = volume();
    leaving.metadata.deletion_timestamp = Some(serde_json::from_value(json!(NOW)).unwrap());
    assert_eq!(of_volume(Some(leaving), Some(job("volume", Some("Failed")))), Some(Newcomer::Leaving));
    assert_eq!(of_volume(None, Some(job("volume", Some("Failed")))), None);
    assert!(of_volume(None, Some(job("volume", Some("Complete")))).is_some());
}

#[test]
fn a_volume_that_does_not_come_is_not_waited_for_without_end() {
    let made = |minutes: i64, phase: &str| {
        let made = NOW.parse::<Timestamp>().unwrap() - SignedDuration::from_mins(minutes);
        let mut volume = volume();
        volume.metadata.creation_timestamp = Some(serde_json::from_value(json!(made.to_string())).unwrap());
        volume.status = serde_json::from_value(json!({"phase": phase})).unwrap();
        of_volume(Some(volume), Some(job("volume", None)))
    };
    assert_eq!(made(16, "Pending"), Some(Newcomer::Hopeless));
    assert!(matches!(made(15, "Pending"), Some(Newcomer::Making { .. })));
    assert!(matches!(made(300, "Bound"), Some(Newcomer::Making { .. })), "a long log");
}
