//! Looks after the archive: what it lacks, what standbys keep for it, up to when it restores, and how it is.
//!
//! Failure modes: whatever fails is logged, shown as the archive's error and tried again in the next round. None of
//! it holds up archiving or leading.

use std::{collections::BTreeSet, collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use proto::{
    ha::document::Opening,
    identity::Epoch,
    pod::{RESTORE_PROGRESS_FILE, pod_ordinal},
    postgres::Lsn,
    wire::{
        backup::{ArchiveFailure, ArchiveMode, ArchiveStatus, RestoreProgress},
        http::{Role, State},
    },
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Archive,
    connection::{Connection, Repository},
    gap::{self, Search, Unfit},
    layout::segment_of,
    names::{Segment, SegmentSize, WalName},
    push::{self, PushError, WalFile},
    store::StoreError,
};
use crate::{
    chain::Chain,
    peer::client::Peers,
    sql::{
        SqlError,
        archiving::{self, Waiting},
    },
};

/// The status is that old at most.
const ROUND: Duration = Duration::from_secs(2);
/// Standbys keep this much more WAL than needed.
const GUARD_EVERY: Duration = Duration::from_secs(10);
/// Waiting files are counted this often: it takes a connection of its own.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// Without an archive nothing changes; this only finds a slot of earlier days.
const RELEASE_EVERY: Duration = Duration::from_mins(5);
/// A failed search for what is missing is repeated after this.
const SEARCH_EVERY: Duration = Duration::from_secs(10);
/// One that found a hole: nothing but a new backup helps.
const SEARCH_HOLE_EVERY: Duration = Duration::from_mins(5);
/// How exactly the latest time that can be restored to is known.
const HEARTBEAT_EVERY: Duration = Duration::from_mins(1);
/// Heartbeats that wait for their segment to be archived; older ones say less.
const HEARTBEATS: usize = 120;

/// Contents of [`super::layout::Root::latest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latest {
    /// Some commit after this time is in the archive, with everything before it.
    pub(crate) time: Timestamp,
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpkeepError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Push(#[from] PushError),
    #[error("cannot compress a WAL file")]
    Compress(#[source] std::io::Error),
    #[error("the compression of a WAL file panicked")]
    Panicked,
    #[error("{0} is neither in the archive nor on this disk: the archive has a hole; take a new backup")]
    Hole(Segment),
    #[error("the history of timeline {0} is not on this disk")]
    NoHistory(WalName),
    #[error(
        "pg_wal/{segment} of this server is not what its name says and was not archived: the archive has a hole; take \
         a new backup, and look at that disk"
    )]
    Unfit { segment: Segment, source: Unfit },
}

/// The task.
pub(crate) struct UpkeepTask {
    archive: Archive,
    peers: Peers,
    socket: Arc<str>,
    status: watch::Sender<Option<ArchiveStatus>>,
    restore: watch::Sender<Option<RestoreProgress>>,
    size: Option<SegmentSize>,
    /// Epoch in which this member led, the first segment that it sent, and whether all before is archived.
    complete: Option<(Epoch, Option<Segment>, bool)>,
    search_at: Instant,
    guard_at: Instant,
    release_at: Instant,
    heartbeat_at: Instant,
    count_at: Instant,
    waiting: Option<Waiting>,
    heartbeats: VecDeque<(Timestamp, Lsn)>,
}

impl UpkeepTask {
    pub(super) fn new(
        archive: Archive,
        peers: Peers,
        socket: Arc<str>,
        status: watch::Sender<Option<ArchiveStatus>>,
        restore: watch::Sender<Option<RestoreProgress>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            archive,
            peers,
            socket,
            status,
            restore,
            size: None,
            complete: None,
            search_at: now,
            guard_at: now,
            release_at: now,
            heartbeat_at: now,
            count_at: now,
            waiting: None,
            heartbeats: VecDeque::new(),
        }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if let Err(error) = self.round().await {
                tracing::warn!(error = %Chain(&error), "the archive needs attention");
                if !matches!(error, UpkeepError::Sql(_)) {
                    let message = Chain(&error).to_string();
                    self.archive.noted().failed(ArchiveFailure {
                        message,
                        conflict: false,
                        at: Timestamp::now(),
                    });
                }
            }
            self.show().await;
        }
    }

    async fn round(&mut self) -> Result<(), UpkeepError> {
        let shown = self.archive.published();
        if !matches!(shown.status.state, State::Running | State::Streaming) {
            return Ok(());
        }
        let role = self.archive.role();
        if role != Role::Primary {
            self.complete = None;
            self.heartbeats.clear();
            self.archive.noted().forget_acknowledged();
        }
        match (self.archive.connection(), role) {
            (Connection::Open(repository), Role::Primary) => self.lead(&repository).await,
            (Connection::Open(_) | Connection::Pending, Role::Replica) => {
                self.guard(shown.status.leader.as_deref()).await
            }
            (Connection::Disabled, _) => self.release().await,
            _ => Ok(()),
        }
    }

    /// Nothing is archived, so nothing is kept for it.
    async fn release(&mut self) -> Result<(), UpkeepError> {
        self.complete = None;
        if Instant::now() >= self.release_at {
            self.release_at = Instant::now() + RELEASE_EVERY;
            archiving::drop_guard(&self.socket).await?;
        }
        Ok(())
    }

    async fn guard(&mut self, leader: Option<&str>) -> Result<(), UpkeepError> {
        if Instant::now() < self.guard_at {
            return Ok(());
        }
        self.guard_at = Instant::now() + GUARD_EVERY;
        let size = self.size().await?;
        let archived = match leader.and_then(pod_ordinal) {
            Some(leader) => self.peers.status(leader).await.ok().and_then(|status| status.archive),
            None => None,
        };
        // Only what the leader knows to be without a hole may be let go.
        let archived = archived.filter(|archive| archive.gap_free == Some(true));
        let last = archived.and_then(|archive| archive.last_archived);
        let newest = last.and_then(|last| match last.name.parse() {
            Ok(WalName::Segment(segment)) => Some(segment),
            _ => None,
        });
        Ok(archiving::keep_guard(&self.socket, gap::watermark(newest, size)).await?)
    }

    async fn lead(&mut self, repository: &Repository) -> Result<(), UpkeepError> {
        let shown = self.archive.published();
        let Some(document) = &shown.document else { return Ok(()) };
        let (epoch, since) = (shown.status.epoch, self.archive.noted().first);
        if self.complete != Some((epoch, since, true)) && Instant::now() >= self.search_at {
            let filled = self.fill(repository, &document.history, since).await;
            self.complete = Some((epoch, since, filled.is_ok()));
            let hole = matches!(filled, Err(UpkeepError::Hole(_)));
            self.search_at = Instant::now() + if hole { SEARCH_HOLE_EVERY } else { SEARCH_EVERY };
            filled?;
            archiving::drop_guard(&self.socket).await?;
        }
        self.beat(repository).await
    }

    /// Archives what is missing of the timelines before this one, and of this one before the segment `since`; and the
    /// history file of this one.
    pub(super) async fn fill(
        &mut self,
        repository: &Repository,
        openings: &[Opening],
        since: Option<Segment>,
    ) -> Result<(), UpkeepError> {
        if let Some(opening) = openings.last().filter(|opening| opening.timeline.0.get() > 1) {
            let name = WalName::History(opening.timeline);
            if !repository.store.exists(&repository.root.wal_file(&name, self.archive.pod())).await? {
                let text = archiving::wal_file(&self.socket, &name.to_string()).await?;
                let text = text.ok_or_else(|| UpkeepError::NoHistory(name.clone()))?;
                archive_left(repository, self.archive.pod(), name, text).await?;
            }
        }
        let size = self.size().await?;
        let (missing, archived) = missing(repository, gap::owed(openings, since, size)).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let here = archiving::wal_names(&self.socket).await?;
        let (here, gone): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|segment| here.contains(&segment.to_string()));
        for segment in here {
            if let Some(contents) = archiving::wal_file(&self.socket, &segment.to_string()).await? {
                archive_left(repository, self.archive.pod(), WalName::Segment(segment), contents).await?;
            }
        }
        let mut gone = gone.into_iter();
        gone.find(|segment| gap::is_hole(*segment, &archived, size))
            .map_or(Ok(()), |hole| Err(UpkeepError::Hole(hole)))
    }

    /// Commits now and then, and notes which of those commits the archive has.
    async fn beat(&mut self, repository: &Repository) -> Result<(), UpkeepError> {
        let size = self.size().await?;
        if Instant::now() >= self.heartbeat_at {
            self.heartbeat_at = Instant::now() + HEARTBEAT_EVERY;
            self.heartbeats.push_back(archiving::heartbeat(&self.socket).await?);
            if self.heartbeats.len() > HEARTBEATS {
                self.heartbeats.pop_front();
            }
        }
        let newest = self.archive.noted().newest;
        let Some(end) = gap::watermark(newest, size) else { return Ok(()) };
        let archived = self.heartbeats.iter().take_while(|(_, lsn)| *lsn <= end).count();
        let Some((time, _)) = self.heartbeats.drain(..archived).next_back() else { return Ok(()) };
        Ok(repository.store.put_json(&repository.root.latest(), &Latest { time }).await?)
    }

    async fn size(&mut self) -> Result<SegmentSize, SqlError> {
        if let Some(size) = self.size {
            return Ok(size);
        }
        let size = SegmentSize(archiving::segment_size(&self.socket).await?);
        self.size = Some(size);
        Ok(size)
    }

    async fn show(&mut self) {
        // Not there in a pod that restored nothing.
        if let Ok(text) = tokio::fs::read(RESTORE_PROGRESS_FILE).await {
            self.restore.send_replace(serde_json::from_slice(&text).ok());
        }
        let mode = match self.archive.connection() {
            Connection::Disabled => ArchiveMode::Disabled,
            Connection::Pending | Connection::Open(_) => ArchiveMode::Continuous,
        };
        let primary = self.archive.role() == Role::Primary;
        if !primary || mode == ArchiveMode::Disabled {
            self.waiting = None;
        } else if Instant::now() >= self.count_at {
            self.count_at = Instant::now() + COUNT_EVERY;
            self.waiting = archiving::waiting(&self.socket).await.ok();
        }
        let (last_archived, last_error) = {
            let noted = self.archive.noted();
            (noted.last.clone(), noted.error.clone())
        };
        self.status.send_replace(Some(ArchiveStatus {
            mode,
            store: self.archive.health.borrow().clone(),
            last_archived,
            waiting: self.waiting.map(|waiting| waiting.files),
            waiting_since: self.waiting.and_then(|waiting| waiting.since),
            gap_free: self.complete.filter(|_| primary).map(|(_, _, complete)| complete),
            last_error,
            backup: None,
        }));
    }
}

async fn archived_in(repository: &Repository, folder: &str) -> Result<Vec<Segment>, StoreError> {
    let objects = repository.store.list(&repository.root.wal().join(folder)).await?;
    Ok(objects.iter().filter_map(|object| segment_of(&object.location)).collect())
}

/// Of the segments that are `owed`, newest first, those that are missing, oldest first; and what is there beside them.
/// Nothing is owed from before the archive's own beginning.
async fn missing(
    repository: &Repository,
    owed: impl Iterator<Item = Segment>,
) -> Result<(Vec<Segment>, BTreeSet<Segment>), UpkeepError> {
    let folders = repository.store.folders(&repository.root.wal()).await?;
    let oldest =
        folders.iter().filter_map(|folder| folder.filename()).filter(|name| is_of_segments(name)).min();
    let mut listed: BTreeSet<String> = BTreeSet::new();
    let mut archived = BTreeSet::new();
    let mut search = Search::default();
    for segment in owed.take_while(|segment| oldest.is_some_and(|oldest| segment.folder().as_str() >= oldest))
    {
        if listed.insert(segment.folder()) {
            archived.extend(archived_in(repository, &segment.folder()).await?);
        }
        if !search.note(segment, archived.contains(&segment)) {
            break;
        }
    }
    Ok((search.missing(), archived))
}

/// Beside those of segments, there are some of other files.
fn is_of_segments(folder: &str) -> bool {
    folder.len() == 16 && folder.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Archives what was read from this server's `pg_wal`, if it is what its name says.
async fn archive_left(
    repository: &Repository,
    pod: &str,
    name: WalName,
    contents: Vec<u8>,
) -> Result<(), UpkeepError> {
    if let WalName::Segment(segment) = name {
        gap::check(segment, &contents, repository.root.system_identifier())
            .map_err(|source| UpkeepError::Unfit { segment, source })?;
    }
    tracing::info!(%name, "archiving what an earlier primary left");
    let file = tokio::task::spawn_blocking(move || WalFile::prepare(name, &contents)).await;
    let file = file.map_err(|_| UpkeepError::Panicked)?.map_err(UpkeepError::Compress)?;
    Ok(push::push(&repository.store, &repository.root, pod, file).await?)
}

#[cfg(test)]
mod tests {
    use proto::{identity::DataId, postgres::Timeline};

    use super::*;
    use crate::archive::{
        header,
        tests::{SEGMENT, SYSTEM, faulty::Faulty, root, segment},
    };

    /// It would stay there for ever, and the real one would be in conflict with it.
    #[tokio::test]
    async fn what_is_not_the_missing_segment_is_told_and_not_archived() {
        let faulty = Faulty::default();
        let repository = Repository { store: faulty.store(), root: root() };
        let name: WalName = SEGMENT.parse().unwrap();
        let put = async |contents: Vec<u8>| archive_left(&repository, "db-0", name.clone(), contents).await;
        let whole = segment(SEGMENT);
        let foreign = header::tests::segment(SEGMENT.parse().unwrap(), SYSTEM + 1);
        for wrong in [segment("000000020000000000000004"), foreign, whole[..whole.len() / 2].to_vec()] {
            let error = Chain(&put(wrong).await.unwrap_err()).to_string();
            assert!(error.contains(SEGMENT) && error.contains("take a new backup"), "{error}");
        }
        assert_eq!(faulty.writes(), 0);
        put(whole).await.unwrap();
        assert_eq!(faulty.writes(), 1);
    }

    /// As when archiving was turned off and on again, or was never on before.
    #[tokio::test]
    async fn what_was_written_without_an_archive_is_missing_up_to_what_is_there() {
        let faulty = Faulty::default();
        let repository = Repository { store: faulty.store(), root: root() };
        let named = |number: u64| format!("0000000100000000{number:08X}");
        let size = SegmentSize(1 << 24);
        let opening = Opening {
            epoch: Epoch(1),
            primary: DataId(1),
            timeline: Timeline::FIRST,
            switch: Lsn(0),
            checkpointed: true,
        };
        let missing_before = async |since: u64| {
            let since = Some(named(since).parse().unwrap());
            let (found, archived) = missing(&repository, gap::owed(&[opening], since, size)).await.unwrap();
            let hole = found.first().is_some_and(|first| gap::is_hole(*first, &archived, size));
            (found.iter().map(Segment::to_string).collect::<Vec<_>>(), hole)
        };
        assert_eq!(missing_before(3).await, (Vec::new(), false), "nothing is there at all");
        for number in [3, 4, 7] {
            let contents = segment(&named(number));
            archive_left(&repository, "db-0", named(number).parse().unwrap(), contents).await.unwrap();
        }
        assert_eq!(missing_before(3).await, (vec![named(1), named(2)], false));
        let (found, hole) = missing_before(7).await;
        assert!(found.ends_with(&[named(5), named(6)]), "{found:?}");
        assert!(!hole, "the oldest is from before the archive");
        assert!(gap::is_hole(named(5).parse().unwrap(), &[named(4).parse().unwrap()].into(), size));
    }
}
