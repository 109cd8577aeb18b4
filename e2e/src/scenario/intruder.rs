//! Clients that try to write on every pod directly, past the Services, from outside and from inside every node:
//! what they get through shows who accepted writes, and when.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    database::{Database, Pod},
    inside::Inside,
    session::{Outcome, Session},
};
use crate::lab::Node;

/// Between attempts on one pod: two primaries for longer than this would be seen.
const PACE: Duration = Duration::from_millis(50);
/// Between looks for pods that came back under another address.
const LOOK: Duration = Duration::from_secs(1);

/// Those inside the nodes hold their sessions open for as long as the other side does, and wait this long for an
/// answer: a frozen primary that wakes must find them. Longer than any fault of a test lasts.
const HELD: Duration = Duration::from_mins(3);
/// The others give up on a session as an application does, and try again.
const BRISK: Duration = Duration::from_secs(2);
/// Between writes of those inside.
const HELD_PACE: Duration = Duration::from_millis(200);

/// The table that they write.
pub const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS intrusion (id bigint PRIMARY KEY, pod text, at timestamptz DEFAULT now())";
/// The first eight digits of the name of a WAL file are its timeline.
const WRITE: &str = "INSERT INTO intrusion (id, pod) VALUES ($1, $2) \
                     RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";

/// A write that a pod accepted and acknowledged.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Of the row.
    pub id: i64,
    /// Which pod.
    pub pod: String,
    /// On which timeline.
    pub timeline: u32,
    /// When it was sent.
    pub began: Instant,
    /// When it was acknowledged.
    pub ended: Instant,
}

/// Intruders at work; stop when told to.
#[derive(Debug)]
pub struct Intruders {
    shared: Shared,
    task: tokio::task::JoinHandle<()>,
    inside: Vec<Inside>,
}

/// What all of them share.
#[derive(Clone, Debug)]
struct Shared {
    accepted: Arc<Mutex<Vec<Accepted>>>,
    next_id: Arc<AtomicI64>,
    stop: CancellationToken,
}

/// How one of them goes about it.
#[derive(Clone, Copy, Debug)]
struct Manner {
    limit: Duration,
    pace: Duration,
}

impl Intruders {
    /// Begins on all pods of `database`, whatever their number becomes, from outside and from inside `nodes`.
    pub fn start(database: Database, nodes: &[Node]) -> Result<Self> {
        let shared = Shared {
            accepted: Arc::default(),
            next_id: Arc::new(AtomicI64::new(jiff::Timestamp::now().as_microsecond())),
            stop: CancellationToken::new(),
        };
        let inside = nodes.iter().map(Inside::enter).collect::<Result<Vec<_>>>()?;
        let mut places = vec![(Handle::current(), Manner { limit: BRISK, pace: PACE })];
        let held = Manner { limit: HELD, pace: HELD_PACE };
        places.extend(inside.iter().map(|inside| (inside.handle(), held)));
        let task = tokio::spawn(follow_pods(database, places, shared.clone()));
        Ok(Self { shared, task, inside })
    }

    /// What was accepted so far.
    pub fn so_far(&self) -> Vec<Accepted> {
        self.shared.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends them and gives what was accepted.
    pub async fn stop(self) -> Result<Vec<Accepted>> {
        self.shared.stop.cancel();
        self.task.await?;
        drop(self.inside);
        Ok(self.shared.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

async fn follow_pods(database: Database, places: Vec<(Handle, Manner)>, shared: Shared) {
    let mut known = BTreeMap::new();
    let mut intruders = JoinSet::new();
    while !shared.stop.is_cancelled() {
        for pod in database.pods().await.unwrap_or_default() {
            let Some(address) = pod.address else { continue };
            if known.get(&pod.name) == Some(&address) {
                continue;
            }
            known.insert(pod.name.clone(), address);
            for (place, manner) in &places {
                let intruder = intrude(database.clone(), pod.clone(), *manner, shared.clone());
                intruders.spawn_on(intruder, place);
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    while intruders.join_next().await.is_some() {}
}

/// One pod under one address. It goes on after the pod is gone: a pod on a lost node is not.
async fn intrude(database: Database, pod: Pod, manner: Manner, shared: Shared) {
    let write_for_ever = async {
        loop {
            if let Ok(access) = database.access_to(&pod).await
                && let Ok(session) = Session::open(&access).await
            {
                write_until_it_ends(&session, &pod, manner, &shared).await;
            }
            tokio::time::sleep(manner.pace).await;
        }
    };
    tokio::select! {
        () = shared.stop.cancelled() => {}
        never = write_for_ever => never,
    }
}

/// A server that refuses a write is asked again on the same session: it may lead by then, and a new connection each
/// time would cost more than everything else.
async fn write_until_it_ends(session: &Session, pod: &Pod, manner: Manner, shared: &Shared) {
    loop {
        match write(session, &pod.name, manner, shared).await {
            Ok(write) => shared.accepted.lock().unwrap_or_else(PoisonError::into_inner).extend(write),
            Err(error) if session.was_refused(&error) => {}
            Err(_) => return,
        }
        tokio::time::sleep(manner.pace).await;
    }
}

async fn write(session: &Session, pod: &str, manner: Manner, shared: &Shared) -> Result<Option<Accepted>> {
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    let outcome = session.execute_within(WRITE, &[&id, &pod], manner.limit).await?;
    let Outcome::Acknowledged(rows) = outcome else { return Ok(None) };
    let timeline: &str = rows.first().context("no row")?.try_get(0)?;
    let timeline = u32::from_str_radix(timeline, 16)?;
    Ok(Some(Accepted { id, pod: pod.to_owned(), timeline, began, ended: Instant::now() }))
}

/// S1 and S3 as clients see them: a timeline has one writer, and nobody begins a write that is accepted on an
/// older timeline once a write on a newer one was acknowledged.
pub fn at_most_one_primary(accepted: &[Accepted]) -> Result<()> {
    let mut writers: BTreeMap<u32, &str> = BTreeMap::new();
    for write in accepted {
        let writer = writers.entry(write.timeline).or_insert(&write.pod);
        if *writer != write.pod {
            bail!("both {writer} and {} accepted writes on timeline {}", write.pod, write.timeline);
        }
    }
    for old in accepted {
        let later = accepted.iter().find(|new| new.timeline > old.timeline && new.ended < old.began);
        if let Some(new) = later {
            bail!(
                "{} accepted a write on timeline {} after {} had on timeline {}",
                old.pod,
                old.timeline,
                new.pod,
                new.timeline
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(start: Instant, pod: &str, timeline: u32, began: u64) -> Accepted {
        let began = start + Duration::from_millis(began);
        Accepted { id: 0, pod: pod.to_owned(), timeline, began, ended: began + Duration::from_millis(5) }
    }

    #[test]
    fn one_primary_after_the_other_is_fine() {
        let start = Instant::now();
        let writes = [accepted(start, "a", 1, 0), accepted(start, "b", 2, 10), accepted(start, "a", 3, 20)];
        at_most_one_primary(&writes).unwrap();
    }

    #[test]
    fn two_writers_of_one_timeline_are_found() {
        let start = Instant::now();
        let writes = [accepted(start, "a", 1, 0), accepted(start, "b", 1, 10)];
        assert!(at_most_one_primary(&writes).is_err());
    }

    #[test]
    fn an_old_primary_that_goes_on_is_found() {
        let start = Instant::now();
        let writes = [accepted(start, "a", 1, 0), accepted(start, "b", 2, 10), accepted(start, "a", 1, 20)];
        assert!(at_most_one_primary(&writes).is_err());
    }
}
