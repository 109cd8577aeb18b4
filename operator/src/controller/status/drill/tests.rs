//! What people read of restore drills: world in, condition out.

use proto::api::status::RESTORE_PROVEN;
use serde_json::json;

use super::*;
use crate::{
    controller::status::tests::{World, reason},
    fixtures,
};

fn time(second: i64) -> Time {
    Time(jiff::Timestamp::from_second(second).unwrap())
}

fn drill(job: &str, result: DrillResult, ended: i64) -> RestoreDrill {
    RestoreDrill {
        job: job.to_owned(),
        result,
        message: "words".to_owned(),
        ended_at: Some(time(ended)),
        ..RestoreDrill::default()
    }
}

fn drilled() -> World {
    let mut world = World::at_rest();
    let backup = json!({"destination": "s3://bucket/folder", "drillSchedule": "0 6 * * 0"});
    world.cluster = fixtures::cluster_with(&json!({"backup": backup}));
    world
}

#[test]
fn a_database_without_drills_says_nothing_of_them() {
    let mut world = World::at_rest();
    world.drill = Some(drill("a", DrillResult::Proven, 100));
    let status = world.status();
    assert!(status.conditions.iter().all(|told| told.type_ != RESTORE_PROVEN));
    assert_eq!((status.restore_drill, status.last_proven_restore_time), (None, None));
}

#[test]
fn a_failure_leaves_the_time_of_the_last_proof() {
    let mut world = drilled();
    let none = world.status();
    assert_eq!(reason(&none, RESTORE_PROVEN), ("Unknown", "NoDrillYet"));
    world.drill = Some(drill("a", DrillResult::Proven, 100));
    let proven = world.status_after(Some(&none), 110);
    assert_eq!(reason(&proven, RESTORE_PROVEN), ("True", "Proven"));
    assert_eq!(proven.last_proven_restore_time, Some(time(100)));
    world.drill = Some(drill("b", DrillResult::Failed, 200));
    let failed = world.status_after(Some(&proven), 210);
    assert_eq!(reason(&failed, RESTORE_PROVEN), ("False", "DrillFailed"));
    assert_eq!(failed.last_proven_restore_time, Some(time(100)));
}

#[test]
fn what_was_recorded_stays_when_the_pod_or_the_job_is_gone() {
    let mut world = drilled();
    world.drill = Some(drill("b", DrillResult::Failed, 200));
    let told = world.status();
    // Without its pod it reads differently, and an older one may be left alone.
    for left in [Some(drill("b", DrillResult::Failed, 201)), Some(drill("a", DrillResult::Proven, 100)), None]
    {
        world.drill = left;
        assert_eq!(world.status_after(Some(&told), 300), told);
    }
}
