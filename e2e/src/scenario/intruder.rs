//! Clients that try to write on every pod directly, past the Services: what they get through shows who
//! accepted writes, and when.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    database::{Database, Pod},
    session::{Outcome, Session},
};

/// Between attempts on one pod: two primaries for longer than this would be seen.
const PACE: Duration = Duration::from_millis(50);
/// Between looks for pods that came back under another address.
const LOOK: Duration = Duration::from_secs(1);

/// The table that they write.
pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS intrusion (pod text, at timestamptz DEFAULT now())";
/// The first eight digits of the name of a WAL file are its timeline.
const WRITE: &str = "INSERT INTO intrusion (pod) VALUES ($1) \
                     RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";

/// A write that a pod accepted and acknowledged.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Which.
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
    accepted: Arc<Mutex<Vec<Accepted>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Intruders {
    /// Begins on all pods of `database`, whatever their number becomes.
    pub fn start(database: Database) -> Self {
        let (accepted, stop) = (Arc::default(), CancellationToken::new());
        let task = tokio::spawn(follow_pods(database, Arc::clone(&accepted), stop.clone()));
        Self { accepted, stop, task }
    }

    /// Ends them and gives what was accepted.
    pub async fn stop(self) -> Result<Vec<Accepted>> {
        self.stop.cancel();
        self.task.await?;
        Ok(self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

async fn follow_pods(database: Database, accepted: Arc<Mutex<Vec<Accepted>>>, stop: CancellationToken) {
    let mut known = BTreeMap::new();
    let mut intruders = JoinSet::new();
    while !stop.is_cancelled() {
        for pod in database.pods().await.unwrap_or_default() {
            let Some(address) = pod.address else { continue };
            if known.get(&pod.name) == Some(&address) {
                continue;
            }
            known.insert(pod.name.clone(), address);
            intruders.spawn(intrude(database.clone(), pod, Arc::clone(&accepted), stop.clone()));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    while intruders.join_next().await.is_some() {}
}

/// One pod under one address. It goes on after the pod is gone: a pod on a lost node is not.
async fn intrude(database: Database, pod: Pod, accepted: Arc<Mutex<Vec<Accepted>>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Ok(access) = database.access_to(&pod).await
            && let Ok(session) = Session::open(&access).await
        {
            while let Ok(write) = write(&session, &pod.name).await
                && !stop.is_cancelled()
            {
                accepted.lock().unwrap_or_else(PoisonError::into_inner).extend(write);
                tokio::time::sleep(PACE).await;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn write(session: &Session, pod: &str) -> Result<Option<Accepted>> {
    let began = Instant::now();
    let Outcome::Acknowledged(rows) = session.execute(WRITE, &[&pod]).await? else { return Ok(None) };
    let timeline: &str = rows.first().context("no row")?.try_get(0)?;
    let timeline = u32::from_str_radix(timeline, 16)?;
    Ok(Some(Accepted { pod: pod.to_owned(), timeline, began, ended: Instant::now() }))
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
        Accepted { pod: pod.to_owned(), timeline, began, ended: began + Duration::from_millis(5) }
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
