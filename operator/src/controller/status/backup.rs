//! The part of the status that is about backups. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use proto::{
    api::{
        quantity::Bytes,
        status::{CONTINUOUS_ARCHIVING, DatabaseStatus, RESTORABLE},
        valid::backup::ValidBackup,
    },
    wire::backup::{ArchiveMode, ArchiveStatus, RestorePhase, RestoreProgress},
};

use super::{Fact, Member, View, primary};

/// A file of the write-ahead log that waits longer than this is not merely next in the queue.
const BEHIND: SignedDuration = SignedDuration::from_mins(5);
/// As many files that wait, of 16 MiB each, would be ample room on a volume that is full.
const MUCH: u64 = 8;

/// Points in time of the status.
#[derive(Default)]
pub(super) struct Times {
    pub(super) last_backup: Option<Time>,
    pub(super) earliest: Option<Time>,
    pub(super) latest: Option<Time>,
}

/// As last seen in the repository. Until this process has looked they stay as they were told: they were true,
/// and nothing makes them less so.
pub(super) fn times(view: &View<'_>, previous: Option<&DatabaseStatus>) -> Times {
    if view.cluster.spec.backup.is_none() {
        return Times::default();
    }
    let Some(facts) = view.repository else {
        return previous.map_or_else(Times::default, |told| Times {
            last_backup: told.last_backup_time.clone(),
            earliest: told.earliest_restorable_time.clone(),
            latest: told.latest_restorable_time.clone(),
        });
    };
    let seen = facts.seen.as_ref();
    Times {
        last_backup: facts.newest().map(|backup| to(backup.stopped_at, 1)),
        earliest: seen.and_then(|seen| seen.earliest_restorable).map(|time| to(time, 1)),
        // To the minute below: it never says more than is so, and changes less often.
        latest: seen.and_then(|seen| seen.latest_restorable).map(|time| to(time, 60)),
    }
}

/// `time`, rounded down to a multiple of `seconds`.
fn to(time: Timestamp, seconds: i64) -> Time {
    let second = time.as_second() - time.as_second().rem_euclid(seconds);
    Time(Timestamp::from_second(second).unwrap_or(time))
}

/// What the primary says of its archive, and whether it works.
pub(crate) fn archive_of_primary<'a>(view: &View<'a>, now: Timestamp) -> Option<(&'a ArchiveStatus, bool)> {
    view.cluster.spec.backup.as_ref().filter(|backup| backup.enabled)?;
    let archive = told_by_primary(view)?;
    Some((archive, trouble(archive, now).is_none()))
}

fn told_by_primary<'a>(view: &View<'a>) -> Option<&'a ArchiveStatus> {
    primary(view.members)?.1.status.as_ref()?.archive.as_ref()
}

/// Whether the write-ahead log reaches the store, for those that want it to.
pub(super) fn archiving(view: &View<'_>, now: Timestamp) -> Option<Fact> {
    let backup = view.cluster.spec.backup.as_ref()?;
    let fact = |holds, reason, message: String| Some(Fact::new(CONTINUOUS_ARCHIVING, holds, reason, message));
    if !backup.enabled {
        return fact(Some(false), "Disabled", "spec.backup.enabled is false".to_owned());
    }
    let Some(archive) = told_by_primary(view) else {
        return fact(None, "NotKnown", "no primary says so".to_owned());
    };
    if let Some((reason, message)) = trouble(archive, now) {
        return fact(Some(false), reason, message);
    }
    if archive.mode == ArchiveMode::Disabled || archive.store.is_none() || archive.gap_free.is_none() {
        return fact(None, "Starting", "the primary has not tried the store yet".to_owned());
    }
    let message = format!("the write-ahead log goes to {}", backup.store.archive.destination);
    fact(Some(true), "Archiving", message)
}

/// What keeps the write-ahead log from the store, the most telling first.
fn trouble(archive: &ArchiveStatus, now: Timestamp) -> Option<(&'static str, String)> {
    if let Some(failure) = archive.last_error.as_ref().filter(|failure| failure.conflict) {
        return Some(("Conflict", failure.message.clone()));
    }
    if let Some(store) = archive.store.as_ref().filter(|store| !store.reachable) {
        let why = store.why.clone().unwrap_or_else(|| "the agent does not say why".to_owned());
        return Some(("StoreUnreachable", format!("the store cannot be used: {why}{}", backlog(archive))));
    }
    if let Some(failure) = &archive.last_error {
        return Some(("ArchivingFailed", format!("{}{}", failure.message, backlog(archive))));
    }
    if archive.gap_free == Some(false) {
        let message = "what an earlier primary wrote is not completely archived yet; points in time after that are \
                       restorable only from the next backup on";
        return Some(("Incomplete", message.to_owned()));
    }
    let since = archive.waiting_since.filter(|since| now.duration_since(*since) > BEHIND)?;
    Some(("Behind", waits(since)))
}

/// Since when. Without the number of files: a message must not change with every one.
fn waits(since: Timestamp) -> String {
    format!("files of the write-ahead log wait to be archived since {}", since.strftime("%Y-%m-%dT%H:%MZ"))
}

fn backlog(archive: &ArchiveStatus) -> String {
    archive.waiting_since.map(|since| format!("; {}", waits(since))).unwrap_or_default()
}

/// Whether a volume may be full of write-ahead log that waits for the store. Only a primary counts what waits; when
/// all have ended for want of space, what is left to see is that the store cannot be used.
pub(super) fn holds_wal(view: &View<'_>) -> bool {
    let enabled = view.cluster.spec.backup.as_ref().is_some_and(|backup| backup.enabled);
    let mut archives = view.members.values().filter_map(|member| member.status.as_ref()?.archive.as_ref());
    enabled && archives.any(is_stuck)
}

fn is_stuck(archive: &ArchiveStatus) -> bool {
    let unreachable = archive.store.as_ref().is_some_and(|store| !store.reachable);
    let waiting = archive.waiting.unwrap_or_default();
    unreachable || waiting >= MUCH || (waiting > 0 && archive.last_error.is_some())
}

/// Whether anything can be restored. Before this process has looked, what was told stays.
pub(super) fn restorable(
    view: &View<'_>,
    previous: Option<&DatabaseStatus>,
    now: Timestamp,
) -> Option<Condition> {
    let backup = view.cluster.spec.backup.as_ref()?;
    let told = previous.and_then(|status| status.conditions.iter().find(|told| told.type_ == RESTORABLE));
    if let (None, true, Some(told)) = (view.repository, backup.enabled, told) {
        return Some(told.clone());
    }
    let fact = restorable_fact(view, backup);
    Some(fact.into_condition(view.cluster.spec.generation, previous, now))
}

fn restorable_fact(view: &View<'_>, backup: &ValidBackup) -> Fact {
    let fact = |holds, reason, message: String| Fact::new(RESTORABLE, holds, reason, message);
    if !backup.enabled {
        let message = "spec.backup.enabled is false: what was stored before stays, and nobody looks at it";
        return fact(None, "Disabled", message.to_owned());
    }
    let Some(facts) = view.repository else {
        return fact(None, "NotKnown", "nobody has looked into the repository yet".to_owned());
    };
    if let Some(error) = &facts.error {
        return fact(None, "RepositoryUnreadable", format!("the repository cannot be read: {error}"));
    }
    let damaged = facts.seen.as_ref().and_then(|seen| seen.backups.last()?.damage.clone());
    match (facts.newest(), damaged) {
        (None, Some(damage)) => {
            fact(Some(false), "Damaged", format!("the only backups hold damage: {damage}"))
        }
        (None, None) => fact(Some(false), "NoBackup", "there is no backup yet".to_owned()),
        (Some(newest), Some(damage)) => {
            let message = format!("the newest backup holds damage ({damage}); {} does not", newest.name);
            fact(Some(true), "NewestDamaged", message)
        }
        (Some(_), None) if has_hole(view) => {
            let message = "the archive lacks some of the write-ahead log (see ContinuousArchiving): of the time from \
                           earliestRestorableTime to latestRestorableTime, what lies after the hole cannot be \
                           restored before the next backup";
            fact(Some(true), "ArchiveIncomplete", message.to_owned())
        }
        (Some(_), None) => {
            let message =
                "any point in time from earliestRestorableTime to latestRestorableTime can be restored";
            fact(Some(true), "BackupAndArchive", message.to_owned())
        }
    }
}

fn has_hole(view: &View<'_>) -> bool {
    told_by_primary(view).is_some_and(|archive| archive.gap_free == Some(false))
}

/// How far the restore is that makes the first instance, while it lasts.
pub(super) fn restoring(view: &View<'_>) -> Option<String> {
    if view.identity.known().is_some() {
        return None;
    }
    restores(view).map(|(pod, progress)| format!("{pod}: {}", describe(progress))).next()
}

/// Why the restore came to nothing so far.
pub(super) fn restore_failed(view: &View<'_>) -> Option<String> {
    if view.identity.known().is_some() {
        return None;
    }
    let mut failed = restores(view).filter(|(_, progress)| progress.phase == RestorePhase::Failed);
    failed.next().map(|(pod, progress)| {
        let why = progress.error.as_deref().unwrap_or("see its log");
        format!("{pod} could not restore: {why}")
    })
}

fn restores<'a>(view: &View<'a>) -> impl Iterator<Item = (&'a str, &'a RestoreProgress)> + use<'a> {
    let of = |member: &'a Member| {
        let status = member.status.as_ref()?;
        Some((status.pod.as_str(), status.restore.as_ref()?))
    };
    view.members.values().filter_map(of)
}

fn describe(progress: &RestoreProgress) -> String {
    let stage = match progress.phase {
        RestorePhase::Choosing => "chooses a backup".to_owned(),
        RestorePhase::Copying => {
            let total = progress.bytes_total.map(|total| format!(" of {}", Bytes(total))).unwrap_or_default();
            format!("copied {}{total}", Bytes(progress.bytes_done))
        }
        RestorePhase::Combining => {
            "makes one data directory of a full backup and those that build on it".to_owned()
        }
        RestorePhase::Recovering => {
            let wal = progress.wal.as_deref().unwrap_or("nothing yet");
            format!("replays the write-ahead log, last {wal}")
        }
        RestorePhase::Completed => "restored".to_owned(),
        RestorePhase::Failed => "the restore failed and is tried again".to_owned(),
    };
    match &progress.error {
        Some(error) => format!("{stage} ({error})"),
        None => stage,
    }
}

#[cfg(test)]
mod tests;
