//! What to do about one Backup next. Pure.
//!
//! Every state ends by itself: an attempt by its instance falling silent, standing still or failing, the whole by
//! the number of attempts or its age. So nothing that happens to one Backup keeps the next from its turn.

mod snapshot;

use jiff::{SignedDuration, Timestamp};
use proto::{
    api::backup::{BackupPhase, BackupStatus},
    identity::Ordinal,
    wire::{
        backup::{BackupPhase as Stage, BackupState},
        snapshot::SnapshotTaken,
    },
};

use crate::volume_snapshot::VolumeSnapshot;

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

/// Words for people.
const NOT_INSTALLED: &str = "this cluster has no VolumeSnapshots (snapshot.storage.k8s.io/v1): install their definitions \
     and the snapshot controller, or use method: Physical";

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
    /// Its VolumeSnapshot, if it is to be one.
    pub(super) snapshot: Option<Sight>,
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

/// The VolumeSnapshot of the current attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sight {
    /// Nor can there be one in this cluster.
    NotInstalled,
    /// There is none. It is to have this name.
    Absent(String),
    /// It was asked for.
    There(Box<VolumeSnapshot>),
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
    /// The instance holds still: record it, then make the VolumeSnapshot.
    TakeSnapshot { pod: String, id: String, name: String },
    /// It is taken: the instance need not hold still any more.
    Release { pod: String, id: String, taken: SnapshotTaken },
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
    if facts.snapshot == Some(Sight::NotInstalled) {
        return Step::Fail(NOT_INSTALLED.to_owned());
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
            Stage::Completed => snapshot::completed(facts, state),
            Stage::Failed => retry(facts, &snapshot::why_failed(facts, state)),
            Stage::AwaitingSnapshot => snapshot::awaited(facts, state, (pod, id)),
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
mod tests;
