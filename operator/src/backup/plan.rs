//! What to do about one Backup next. Pure.
//!
//! Every state ends by itself: an attempt by its instance falling silent, standing still or failing, the whole by
//! the number of attempts or its age. So nothing that happens to one Backup keeps the next from its turn.

use jiff::{SignedDuration, Timestamp};
use proto::{
    api::backup::{BackupPhase, BackupStatus},
    identity::Ordinal,
    wire::backup::{BackupPhase as Stage, BackupState},
};

/// Attempts before a Backup is given up: another instance or another moment helps, or nothing does.
const ATTEMPTS: i32 = 3;
/// Pause before the next attempt, times the attempts so far: a store that throttles wants to be left alone.
const RETRY_PAUSE: SignedDuration = SignedDuration::from_secs(20);
/// An instance that does not answer for this long has lost the backup with its agent, or nobody can tell.
const SILENCE_LIMIT: SignedDuration = SignedDuration::from_mins(2);
/// A backup that does not get further for this long does not get further. The longest that is normal is waiting
/// for a spread checkpoint of the primary.
const STALL_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// For an instance to become able to take it.
const WAIT_LIMIT: SignedDuration = SignedDuration::from_mins(30);
/// For everything, the turns of others included.
const WHOLE_LIMIT: SignedDuration = SignedDuration::from_hours(24);

/// What is decided on.
pub(super) struct Facts<'a> {
    pub(super) now: Timestamp,
    pub(super) created: Timestamp,
    pub(super) uid: &'a str,
    pub(super) status: &'a BackupStatus,
    /// Why the Database takes no backups.
    pub(super) refusal: Option<String>,
    /// Another Backup of the Database whose turn it is.
    pub(super) ahead: Option<String>,
    /// Instances that could take it, best first.
    pub(super) candidates: Vec<Candidate>,
    /// What the instance says about the current attempt.
    pub(super) answer: Answer,
}

/// An instance that could take a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) pod: String,
    pub(super) ordinal: Ordinal,
}

/// About the current attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// There is none.
    NotAsked,
    /// No answer, and why.
    Silent(String),
    /// The instance knows of no such backup.
    Unknown,
    /// How far it is.
    State(Box<BackupState>),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// It is over.
    Nothing,
    /// Look again later; people read why.
    Wait(String),
    /// A new attempt: record it, then ask.
    Begin { pod: String, id: String },
    /// Recorded, and maybe never asked: ask (again).
    Ask { pod: String, id: String },
    /// It goes on.
    Follow(BackupState),
    /// The instance is silent; the attempt may still come to something.
    Hope(String),
    /// The attempt came to nothing.
    Retry { error: String, at: Timestamp },
    /// Done.
    Complete(BackupState),
    /// Given up.
    Fail(String),
}

/// Decides.
pub(super) fn plan(facts: &Facts<'_>) -> Step {
    if facts.status.phase.is_over() {
        return Step::Nothing;
    }
    if let Some(refusal) = &facts.refusal {
        return Step::Fail(refusal.clone());
    }
    match facts.status.phase {
        BackupPhase::Running => running(facts),
        _ if facts.now.duration_since(facts.created) > WHOLE_LIMIT => {
            Step::Fail(last_words(facts, "it did not come about within 24 hours"))
        }
        _ => waiting(facts),
    }
}

fn waiting(facts: &Facts<'_>) -> Step {
    if let Some(ahead) = &facts.ahead {
        return Step::Wait(format!("waits for {ahead}"));
    }
    let retry_at = facts.status.retry_at.as_ref().map(|at| at.0);
    if let Some(at) = retry_at.filter(|at| facts.now < *at) {
        return Step::Wait(format!("tries again at {}", at.strftime("%H:%M:%S")));
    }
    let since = retry_at.unwrap_or(facts.created);
    match choose(facts) {
        Some(candidate) => {
            let id = backup_id(facts);
            Step::Begin { pod: candidate.pod.clone(), id }
        }
        None if facts.now.duration_since(since) > WAIT_LIMIT => {
            Step::Fail(last_words(facts, "no instance was able to take it for half an hour"))
        }
        None => Step::Wait("waits for an instance that can take it".to_owned()),
    }
}

/// Another instance for each attempt, as far as there are others.
fn choose<'a>(facts: &'a Facts<'_>) -> Option<&'a Candidate> {
    let attempts = usize::try_from(facts.status.attempts).unwrap_or_default();
    facts.candidates.iter().cycle().nth(attempts.checked_rem(facts.candidates.len())?)
}

/// Its name in the repository: sorted by time, and another one for each attempt, since what an attempt left
/// behind must never be taken for another's.
fn backup_id(facts: &Facts<'_>) -> String {
    let time = facts.created.strftime("%Y%m%dT%H%M%SZ");
    let uid: String = facts.uid.chars().take(8).collect();
    format!("{time}-{uid}-{}", facts.status.attempts + 1)
}

fn running(facts: &Facts<'_>) -> Step {
    let status = facts.status;
    let (Some(pod), Some(id)) = (status.instance.clone(), status.backup_id.clone()) else {
        return retry(facts, "its status was damaged: it names no instance");
    };
    match &facts.answer {
        Answer::NotAsked => Step::Wait(format!("{pod} has no address")).or_silent(facts),
        Answer::Silent(why) => Step::Hope(why.clone()).or_silent(facts),
        Answer::Unknown if status.heard_at.is_none() => Step::Ask { pod, id }.or_silent(facts),
        Answer::Unknown => retry(facts, &format!("{pod} lost it: its agent was restarted")),
        Answer::State(state) => match state.phase {
            Stage::Completed => Step::Complete((**state).clone()),
            Stage::Failed => retry(facts, state.error.as_deref().unwrap_or("the instance does not say why")),
            _ if stands_still(facts, state) => {
                retry(facts, &format!("{pod} got no further for {} minutes", STALL_LIMIT.as_mins()))
            }
            _ => Step::Follow((**state).clone()),
        },
    }
}

impl Step {
    /// Itself, unless nothing was heard for too long.
    fn or_silent(self, facts: &Facts<'_>) -> Self {
        let heard = facts.status.heard_at.as_ref().or(facts.status.started_at.as_ref());
        let silent = heard.is_none_or(|heard| facts.now.duration_since(heard.0) > SILENCE_LIMIT);
        match (silent, &facts.answer) {
            (false, _) => self,
            (true, Answer::Silent(why)) => retry(facts, why),
            (true, _) => retry(facts, "the instance did not begin it"),
        }
    }
}

fn stands_still(facts: &Facts<'_>, state: &BackupState) -> bool {
    let advanced = facts.status.advanced_at.as_ref().map(|at| at.0);
    let read = facts.status.read_bytes.and_then(|bytes| u64::try_from(bytes).ok());
    read == Some(state.bytes_done) && advanced.is_some_and(|at| facts.now.duration_since(at) > STALL_LIMIT)
}

fn retry(facts: &Facts<'_>, error: &str) -> Step {
    let attempts = facts.status.attempts.max(1);
    if attempts >= ATTEMPTS {
        return Step::Fail(format!("{error} (after {attempts} attempts)"));
    }
    let at = facts.now + RETRY_PAUSE * attempts;
    Step::Retry { error: error.to_owned(), at }
}

fn last_words(facts: &Facts<'_>, what: &str) -> String {
    match &facts.status.error {
        Some(error) => format!("{what}; before that: {error}"),
        None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proto::wire::backup::BackupKind;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn time(second: i64) -> Time {
        Time(at(second))
    }

    fn candidate(ordinal: u8) -> Candidate {
        Candidate { pod: format!("db-{ordinal}"), ordinal: Ordinal(ordinal) }
    }

    fn state(phase: Stage, bytes_done: u64) -> BackupState {
        BackupState {
            name: "b".to_owned(),
            kind: BackupKind::Full,
            phase,
            started_at: at(0),
            bytes_done,
            bytes_total: Some(1_000),
            stored_bytes: 0,
            start: None,
            stop: None,
            error: (phase == Stage::Failed).then(|| "the disk is full".to_owned()),
            summary: None,
        }
    }

    fn says(phase: Stage, bytes_done: u64) -> Answer {
        Answer::State(Box::new(state(phase, bytes_done)))
    }

    /// A minute after a Backup was made.
    fn facts(status: &BackupStatus) -> Facts<'_> {
        Facts {
            now: at(60),
            created: at(0),
            uid: "4bd1a2c3-9999",
            status,
            refusal: None,
            ahead: None,
            candidates: vec![candidate(1), candidate(2)],
            answer: Answer::NotAsked,
        }
    }

    fn running() -> BackupStatus {
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
}
