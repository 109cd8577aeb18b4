//! What people read of backups: world in, condition out.

use proto::{
    api::status::{CONTINUOUS_ARCHIVING, DEGRADED, PROGRESSING, RESTORABLE},
    wire::{
        backup::{ArchiveFailure, BackupSummary, Repository, StoreHealth},
        supervisor::Space,
    },
};
use serde_json::json;

use super::*;
use crate::{
    backup::RepositoryFacts,
    controller::status::tests::{World, condition, reason},
    fixtures,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// An archive at rest.
fn archive() -> ArchiveStatus {
    ArchiveStatus {
        mode: ArchiveMode::Continuous,
        store: Some(StoreHealth { reachable: true, why: None, at: at(0) }),
        last_archived: None,
        waiting: Some(0),
        waiting_since: None,
        gap_free: Some(true),
        last_error: None,
        backup: None,
    }
}

fn backed_up(archive: ArchiveStatus) -> World {
    let mut world = World::at_rest();
    world.cluster = fixtures::cluster_with(&json!({"backup": {"destination": "s3://bucket/folder"}}));
    world.member(0).status.as_mut().unwrap().archive = Some(archive);
    world
}

fn summary(name: &str, damage: Option<&str>) -> BackupSummary {
    BackupSummary {
        stopped_at: at(130),
        size_bytes: 1,
        stored_bytes: 1,
        damage: damage.map(str::to_owned),
        ..fixtures::backup_summary(name, at(100))
    }
}

fn holding(backups: Vec<BackupSummary>) -> RepositoryFacts {
    let seen = Repository {
        path: "4bd1/77".to_owned(),
        backups,
        snapshots: Vec::new(),
        earliest_restorable: Some(at(130)),
        latest_restorable: Some(at(601)),
    };
    RepositoryFacts { seen: Some(seen), error: None }
}

#[test]
fn a_database_without_backups_says_nothing_of_them() {
    let status = World::at_rest().status();
    assert!(
        status
            .conditions
            .iter()
            .all(|told| ![RESTORABLE, CONTINUOUS_ARCHIVING].contains(&told.type_.as_str()))
    );
    assert_eq!(status.last_backup_time, None);
}

#[test]
fn what_keeps_the_log_from_the_store_is_told_most_telling_first() {
    let failure =
        |conflict| Some(ArchiveFailure { message: "no such bucket".to_owned(), conflict, at: at(0) });
    let unreachable = Some(StoreHealth { reachable: false, why: Some("403".to_owned()), at: at(0) });
    for (archive, expected) in [
        (archive(), ("True", "Archiving")),
        (ArchiveStatus { store: None, ..archive() }, ("Unknown", "Starting")),
        (ArchiveStatus { mode: ArchiveMode::Disabled, ..archive() }, ("Unknown", "Starting")),
        (ArchiveStatus { store: unreachable.clone(), ..archive() }, ("False", "StoreUnreachable")),
        (ArchiveStatus { last_error: failure(false), ..archive() }, ("False", "ArchivingFailed")),
        (ArchiveStatus { last_error: failure(true), store: unreachable, ..archive() }, ("False", "Conflict")),
        (ArchiveStatus { gap_free: Some(false), ..archive() }, ("False", "Incomplete")),
        (ArchiveStatus { waiting_since: Some(at(-10)), ..archive() }, ("True", "Archiving")),
        (ArchiveStatus { waiting_since: Some(at(-400)), ..archive() }, ("False", "Behind")),
    ] {
        let status = backed_up(archive).status();
        assert_eq!(reason(&status, CONTINUOUS_ARCHIVING), expected);
    }
}

#[test]
fn a_store_that_is_away_is_told_with_what_waits() {
    let store = Some(StoreHealth { reachable: false, why: Some("timed out".to_owned()), at: at(0) });
    let status = backed_up(ArchiveStatus { store, waiting_since: Some(at(-60)), ..archive() }).status();
    let message = &condition(&status, CONTINUOUS_ARCHIVING).message;
    assert!(message.contains("timed out; files of the write-ahead log wait"), "{message}");
}

#[test]
fn a_volume_that_is_full_while_the_log_waits_is_told_with_the_store() {
    let away = StoreHealth { reachable: false, why: None, at: at(0) };
    let failed = ArchiveFailure { message: "no such bucket".to_owned(), conflict: false, at: at(0) };
    for (archive, names_the_store) in [
        (archive(), false),
        (ArchiveStatus { waiting: Some(2), ..archive() }, false),
        // As a standby tells it that was a primary once.
        (ArchiveStatus { waiting: None, last_error: Some(failed.clone()), ..archive() }, false),
        (ArchiveStatus { waiting: Some(2), last_error: Some(failed), ..archive() }, true),
        (ArchiveStatus { waiting: Some(MUCH), ..archive() }, true),
        // When all servers have ended nobody counts what waits.
        (ArchiveStatus { waiting: None, store: Some(away), ..archive() }, true),
    ] {
        let mut world = backed_up(archive.clone());
        world.member(1).status.as_mut().unwrap().disk =
            Some(Space { total_bytes: 1 << 30, available_bytes: 12 << 20 });
        let status = world.status();
        let degraded = condition(&status, DEGRADED);
        assert_eq!(degraded.reason, "DiskFull");
        assert!(degraded.message.contains("raise spec.storage.size"), "{}", degraded.message);
        assert_eq!(degraded.message.contains("give the store back"), names_the_store, "{archive:?}");
    }
}

#[test]
fn restorable_is_what_was_seen_in_the_repository() {
    let mut world = backed_up(archive());
    let of = |world: &World| {
        let status = world.status();
        let (told, reason) = reason(&status, RESTORABLE);
        (told.to_owned(), reason.to_owned())
    };
    let is = |told: &str, reason: &str| (told.to_owned(), reason.to_owned());
    assert_eq!(of(&world), is("Unknown", "NotKnown"));
    world.repository = Some(holding(Vec::new()));
    assert_eq!(of(&world), is("False", "NoBackup"));
    world.repository = Some(holding(vec![summary("a", None)]));
    assert_eq!(of(&world), is("True", "BackupAndArchive"));
    let mut with_hole = backed_up(ArchiveStatus { gap_free: Some(false), ..archive() });
    with_hole.repository = Some(holding(vec![summary("a", None)]));
    assert_eq!(of(&with_hole), is("True", "ArchiveIncomplete"));
    world.repository = Some(holding(vec![summary("a", None), summary("b", Some("page 7"))]));
    assert_eq!(of(&world), is("True", "NewestDamaged"));
    world.repository = Some(holding(vec![summary("b", Some("page 7"))]));
    assert_eq!(of(&world), is("False", "Damaged"));
    world.repository = Some(RepositoryFacts { error: Some("403".to_owned()), ..holding(Vec::new()) });
    assert_eq!(of(&world), is("Unknown", "RepositoryUnreadable"));
}

#[test]
fn points_in_time_never_say_more_than_was_seen() {
    let mut world = backed_up(archive());
    world.repository = Some(holding(vec![summary("a", None)]));
    let status = world.status();
    let second = |time: Option<Time>| time.map(|time| time.0.as_second());
    assert_eq!(second(status.last_backup_time), Some(130));
    assert_eq!(second(status.earliest_restorable_time), Some(130));
    assert_eq!(second(status.latest_restorable_time), Some(600));
}

#[test]
fn an_operator_that_has_not_looked_yet_leaves_what_was_told() {
    let mut world = backed_up(archive());
    world.repository = Some(holding(vec![summary("a", None)]));
    let before = world.status();
    world.repository = None;
    assert_eq!(world.status_after(Some(&before), 700), before);
}

#[test]
fn backups_that_are_turned_off_say_so() {
    let mut world = backed_up(archive());
    let off = json!({"backup": {"destination": "s3://bucket/folder", "enabled": false}});
    world.cluster = fixtures::cluster_with(&off);
    let status = world.status();
    assert_eq!(reason(&status, CONTINUOUS_ARCHIVING), ("False", "Disabled"));
    assert_eq!(reason(&status, RESTORABLE), ("Unknown", "Disabled"));
}

#[test]
fn a_restore_shows_how_far_it_is_and_why_it_failed() {
    let mut world = World::at_rest();
    world.identity = super::super::Identity::Unborn;
    let progress = |phase, error: Option<&str>| RestoreProgress {
        phase,
        backup: None,
        bytes_done: 1 << 30,
        bytes_total: Some(3 << 30),
        wal: None,
        timeline: None,
        error: error.map(str::to_owned),
        at: at(0),
    };
    world.member(0).status.as_mut().unwrap().restore = Some(progress(RestorePhase::Copying, None));
    let status = world.status();
    let told = status.conditions.iter().find(|told| told.type_ == PROGRESSING).unwrap();
    assert_eq!(
        (told.reason.as_str(), told.message.as_str()),
        ("Restoring", "orders-db-0: copied 1 GiB of 3 GiB")
    );
    let failed = progress(RestorePhase::Failed, Some("the target is before the first backup"));
    world.member(0).status.as_mut().unwrap().restore = Some(failed);
    let status = world.status();
    let told = status.conditions.iter().find(|told| told.type_ == "Degraded").unwrap();
    assert_eq!(told.reason, "RestoreFailed");
    assert!(told.message.contains("before the first backup"), "{}", told.message);
}
