//! What is done about a Backup that copies files.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::wire::backup::BackupKind;

use super::*;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) fn time(second: i64) -> Time {
    Time(at(second))
}

pub(super) fn candidate(ordinal: u8) -> Candidate {
    Candidate { pod: format!("db-{ordinal}"), ordinal: Ordinal(ordinal) }
}

pub(super) fn state(phase: Stage, bytes_done: u64) -> BackupState {
    BackupState {
        phase,
        bytes_done,
        bytes_total: Some(1_000),
        error: (phase == Stage::Failed).then(|| "the disk is full".to_owned()),
        ..BackupState::begun("b".to_owned(), BackupKind::Full, at(0))
    }
}

pub(super) fn says(phase: Stage, bytes_done: u64) -> Answer {
    Answer::State(Box::new(state(phase, bytes_done)))
}

/// A minute after a Backup was made.
pub(super) fn facts(status: &BackupStatus) -> Facts<'_> {
    Facts {
        now: at(60),
        created: at(0),
        uid: "4bd1a2c3-9999",
        status,
        refusal: None,
        ahead: None,
        candidates: vec![candidate(1), candidate(2)],
        answer: Answer::NotAsked,
        snapshot: None,
    }
}

pub(super) fn running() -> BackupStatus {
    BackupStatus {
        phase: BackupPhase::Running,
        attempts: 1,
        instance: Some("db-1".to_owned()),
        backup_id: Some("b".to_owned()),
        started_at: Some(time(0)),
        heard_at: Some(time(55)),
        advanced_at: Some(time(55)),
        read_bytes: Some(10),
        ..BackupStatus::default()
    }
}

#[test]
fn each_attempt_has_a_name_and_as_far_as_possible_an_instance_of_its_own() {
    let status = BackupStatus::default();
    let id = "19700101T000000Z-4bd1a2c3-1".to_owned();
    assert_eq!(plan(&facts(&status)), Step::Begin { pod: "db-1".to_owned(), id });
    let second = BackupStatus { attempts: 1, retry_at: Some(time(59)), ..status };
    let id = "19700101T000000Z-4bd1a2c3-2".to_owned();
    assert_eq!(plan(&facts(&second)), Step::Begin { pod: "db-2".to_owned(), id });
    let alone = Facts { candidates: vec![candidate(0)], ..facts(&second) };
    assert!(matches!(plan(&alone), Step::Begin { pod, .. } if pod == "db-0"));
}

#[test]
fn others_go_first_but_not_for_ever() {
    let status = BackupStatus::default();
    let behind = Facts { ahead: Some("nightly".to_owned()), ..facts(&status) };
    assert_eq!(plan(&behind), Step::Wait("waits for nightly".to_owned()));
    let late = Facts { now: at(90_000), ..behind };
    assert!(matches!(plan(&late), Step::Fail(_)));
}

#[test]
fn without_an_instance_it_waits_and_gives_up() {
    let status = BackupStatus::default();
    let nobody = Facts { candidates: Vec::new(), ..facts(&status) };
    assert!(matches!(plan(&nobody), Step::Wait(_)));
    assert!(matches!(plan(&Facts { now: at(1_900), ..nobody }), Step::Fail(_)));
}

#[test]
fn a_database_that_takes_none_is_told_at_once() {
    let status = running();
    let refused = Facts { refusal: Some("spec.backup.enabled is false".to_owned()), ..facts(&status) };
    assert_eq!(plan(&refused), Step::Fail("spec.backup.enabled is false".to_owned()));
}

#[test]
fn a_request_whose_outcome_is_unknown_is_made_again() {
    let status = BackupStatus { heard_at: None, ..running() };
    let asked = Facts { answer: Answer::Unknown, ..facts(&status) };
    assert_eq!(plan(&asked), Step::Ask { pod: "db-1".to_owned(), id: "b".to_owned() });
    assert!(matches!(plan(&Facts { now: at(200), ..asked }), Step::Retry { .. }));
}

#[test]
fn an_attempt_ends_when_its_instance_fails_forgets_falls_silent_or_stands_still() {
    let status = running();
    let silent = || Answer::Silent("no answer".to_owned());
    for (answer, now, retries) in [
        (says(Stage::Copying, 500), 60, false),
        (says(Stage::Copying, 10), 900, false),
        (says(Stage::Copying, 10), 1_000, true),
        (says(Stage::Failed, 10), 60, true),
        (Answer::Unknown, 60, true),
        (silent(), 60, false),
        (silent(), 200, true),
    ] {
        let step = plan(&Facts { answer: answer.clone(), now: at(now), ..facts(&status) });
        assert_eq!(matches!(step, Step::Retry { .. }), retries, "{answer:?} at {now}: {step:?}");
    }
    let done = Facts { answer: says(Stage::Completed, 10), ..facts(&status) };
    assert!(matches!(plan(&done), Step::Complete(_)));
}

#[test]
fn the_third_attempt_is_the_last() {
    let status = BackupStatus { attempts: 3, ..running() };
    let failed = Facts { answer: says(Stage::Failed, 10), ..facts(&status) };
    let expected = "the disk is full (after 3 attempts)".to_owned();
    assert_eq!(plan(&failed), Step::Fail(expected));
}

#[test]
fn what_is_over_stays_over() {
    let status = BackupStatus { phase: BackupPhase::Failed, ..BackupStatus::default() };
    assert_eq!(plan(&facts(&status)), Step::Nothing);
}
