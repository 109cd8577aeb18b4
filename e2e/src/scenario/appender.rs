//! Clients that append to lists through `<name>-rw` and read them back, and remember every answer for
//! [`super::history`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    database::Database,
    history::{self, Answer, Operation},
    session::{Access, Outcome, Session},
};

/// The table.
pub const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS appended (key bigint PRIMARY KEY, items bigint[] NOT NULL)";
const APPEND: &str = "INSERT INTO appended AS a (key, items) VALUES ($1, ARRAY[$2::bigint]) \
                      ON CONFLICT (key) DO UPDATE SET items = a.items || EXCLUDED.items RETURNING items";
const READ: &str = "SELECT items FROM appended WHERE key = $1";
const READ_ALL: &str = "SELECT key, items FROM appended WHERE key = ANY($1)";

/// Clients at once: enough that operations overlap on every key.
const CLIENTS: usize = 3;
/// Between operations of one client.
const PACE: Duration = Duration::from_millis(40);
/// Between attempts to connect.
const RETRY: Duration = Duration::from_millis(50);
/// Each key is used for this long, so that no list grows so long that writing it is most of the work. A whole
/// failover fits.
const KEY_FOR: Duration = Duration::from_secs(30);
/// Operations of each kind in turn: two appends, then a read.
const READ_EVERY: u32 = 3;
/// Reading some lists of a few hundred numbers.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Appenders at work; stop when told to.
#[derive(Debug)]
pub struct Appenders {
    shared: Shared,
    clients: JoinSet<()>,
}

#[derive(Clone, Debug)]
struct Shared {
    access: Access,
    operations: Arc<Mutex<Vec<Operation>>>,
    next_value: Arc<AtomicI64>,
    first_key: i64,
    since: Instant,
    stop: CancellationToken,
}

impl Appenders {
    /// Begins.
    pub fn start(access: Access) -> Self {
        let shared = Shared {
            access,
            operations: Arc::default(),
            next_value: Arc::new(AtomicI64::new(1)),
            first_key: jiff::Timestamp::now().as_microsecond(),
            since: Instant::now(),
            stop: CancellationToken::new(),
        };
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(shared.clone().run());
        }
        Self { shared, clients }
    }

    /// Checks what happened on keys that nobody uses any more, and forgets it; returns the number of operations.
    pub async fn check_past(&self, database: &Database) -> Result<usize> {
        // An operation that began on the last key may still be under way.
        let last = self.shared.key() - 1;
        check(database, self.shared.take(|key| key < last)).await
    }

    /// Ends them, and checks everything that was not checked yet.
    pub async fn stop(mut self, database: &Database) -> Result<usize> {
        self.shared.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        check(database, self.shared.take(|_| true)).await
    }
}

async fn check(database: &Database, operations: Vec<Operation>) -> Result<usize> {
    let keys: BTreeSet<i64> = operations.iter().map(|operation| operation.key).collect();
    let keys: Vec<i64> = keys.into_iter().collect();
    let session = Session::open_patiently(&database.read_write().await?).await?;
    let rows = session.query(READ_ALL, &[&keys], READ_LIMIT).await.context("reading the lists")?;
    let last: BTreeMap<i64, Vec<i64>> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?;
    history::check(&operations, &last).context("the history of the lists is impossible")?;
    Ok(operations.len())
}

impl Shared {
    async fn run(self) {
        while !self.stop.is_cancelled() {
            if let Ok(session) = Session::open(&self.access).await {
                self.operate_until_it_fails(&session).await;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn operate_until_it_fails(&self, session: &Session) {
        let mut turn = 0_u32;
        while !self.stop.is_cancelled() {
            turn = turn.wrapping_add(1);
            let done = match turn.is_multiple_of(READ_EVERY) {
                true => self.read(session).await,
                false => self.append(session).await,
            };
            if done.is_err() {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// An append whose answer does not come may have happened. So may one whose wait for standbys was cancelled:
    /// the server says itself that it may be lost.
    async fn append(&self, session: &Session) -> Result<()> {
        let (key, value, began) =
            (self.key(), self.next_value.fetch_add(1, Ordering::Relaxed), Instant::now());
        let outcome = session.execute(APPEND, &[&key, &value]).await;
        let answer = match &outcome {
            Ok(Outcome::Acknowledged(rows)) => {
                Some(Answer { at: Instant::now(), items: rows.first().context("no row")?.try_get(0)? })
            }
            Ok(Outcome::NotDurable) | Err(_) => None,
        };
        self.note(Operation { key, append: Some(value), began, answer });
        outcome.map(drop)
    }

    async fn read(&self, session: &Session) -> Result<()> {
        let (key, began) = (self.key(), Instant::now());
        let Outcome::Acknowledged(rows) = session.execute(READ, &[&key]).await? else { return Ok(()) };
        let items = rows.first().map_or(Ok(Vec::new()), |row| row.try_get(0))?;
        self.note(Operation { key, append: None, began, answer: Some(Answer { at: Instant::now(), items }) });
        Ok(())
    }

    fn key(&self) -> i64 {
        let slice = self.since.elapsed().as_secs() / KEY_FOR.as_secs();
        self.first_key + i64::try_from(slice).unwrap_or(i64::MAX)
    }

    fn note(&self, operation: Operation) {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    fn take(&self, wanted: impl Fn(i64) -> bool) -> Vec<Operation> {
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, kept) = operations.drain(..).partition(|operation| wanted(operation.key));
        *operations = kept;
        taken
    }
}
