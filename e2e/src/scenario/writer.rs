//! An application: it writes through `<name>-rw` all the time, remembers outside of the database what was
//! acknowledged and when, and reconnects when a connection ends.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::session::{Access, Outcome, Session};

/// A steady load that leaves the machine room for three PostgreSQL; it is also the resolution of an outage.
const PACE: Duration = Duration::from_millis(10);
/// Between attempts to connect: what a pool does, roughly.
const RETRY: Duration = Duration::from_millis(50);

/// The table that writers write, and the checker reads.
pub const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY, at timestamptz DEFAULT now())";

/// What was acknowledged, in order.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Ids whose commit was acknowledged.
    pub acknowledged: BTreeSet<i64>,
    /// Commits that returned with the warning that no standby has them.
    pub not_durable: u64,
    /// Statements and connections that failed.
    pub failures: u64,
    /// The last failure, for people.
    pub last_failure: Option<String>,
    moments: Vec<Instant>,
}

impl Record {
    /// The longest time without an acknowledged write, beginning at or after `since` or covering it.
    pub fn outage(&self, since: Instant) -> Duration {
        self.gap(since).map_or(Duration::ZERO, |(one, next)| next - one)
    }

    /// When that ended.
    pub fn restored(&self, since: Instant) -> Option<Instant> {
        self.gap(since).map(|(_, next)| next)
    }

    fn gap(&self, since: Instant) -> Option<(Instant, Instant)> {
        let pairs = self.moments.iter().copied().zip(self.moments.iter().copied().skip(1));
        pairs.filter(|(_, next)| *next >= since).max_by_key(|(one, next)| *next - *one)
    }
}

/// A writer at work; stops when told to.
#[derive(Debug)]
pub struct Writer {
    record: Arc<Mutex<Record>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Writer {
    /// Begins to write ids from `first` on.
    pub fn start(access: Access, first: i64) -> Self {
        let (record, stop) = (Arc::default(), CancellationToken::new());
        let task = tokio::spawn(write(access, first, Arc::clone(&record), stop.clone()));
        Self { record, stop, task }
    }

    /// What was acknowledged so far.
    pub fn so_far(&self) -> Record {
        lock(&self.record).clone()
    }

    /// Number of acknowledged writes so far.
    pub fn count(&self) -> usize {
        lock(&self.record).acknowledged.len()
    }

    /// Ends it and gives the record.
    pub async fn stop(self) -> Result<Record> {
        self.stop.cancel();
        self.task.await?;
        Ok(lock(&self.record).clone())
    }
}

fn lock(record: &Mutex<Record>) -> std::sync::MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(access: Access, first: i64, record: Arc<Mutex<Record>>, stop: CancellationToken) {
    let mut next = first;
    while !stop.is_cancelled() {
        match Session::open(&access).await {
            Ok(session) => next = write_until_it_fails(&session, next, &record, &stop).await,
            Err(error) => failed(&record, &error),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// An id whose statement failed may be committed or not: it is never used again.
async fn write_until_it_fails(
    session: &Session,
    first: i64,
    record: &Mutex<Record>,
    stop: &CancellationToken,
) -> i64 {
    let mut id = first;
    while !stop.is_cancelled() {
        match session.execute("INSERT INTO ledger (id) VALUES ($1)", &[&id]).await {
            Ok(Outcome::Acknowledged(_)) => {
                let mut record = lock(record);
                record.acknowledged.insert(id);
                record.moments.push(Instant::now());
            }
            Ok(Outcome::NotDurable) => lock(record).not_durable += 1,
            Err(error) => {
                failed(record, &error);
                return id + 1;
            }
        }
        id += 1;
        tokio::time::sleep(PACE).await;
    }
    id
}

fn failed(record: &Mutex<Record>, error: &anyhow::Error) {
    let mut record = lock(record);
    record.failures += 1;
    record.last_failure = Some(format!("{error:#}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outage_is_the_longest_gap_since_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let record =
            Record { moments: [0, 900, 1000, 1010, 1600, 1610].map(at).to_vec(), ..Record::default() };
        assert_eq!(
            record.outage(at(1005)),
            Duration::from_millis(590),
            "the gap before the fault does not count"
        );
        assert_eq!(record.outage(at(500)), Duration::from_millis(900), "the fault lies within the gap");
        assert_eq!(record.outage(at(2000)), Duration::ZERO);
        assert_eq!(record.restored(at(500)), Some(at(900)));
    }
}
