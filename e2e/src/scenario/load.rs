//! All clients at work on one Database, and what must hold of what they saw.

use std::{collections::BTreeSet, fmt};

use anyhow::{Context, Result, ensure};

use super::{
    appender::{self, Appenders},
    database::Database,
    intruder::{self, Accepted, Intruders},
    session::Session,
    trial::WRITES_LIMIT,
    verdict::{self, Rows},
    writer::{self, Record, Writer},
};
use crate::lab::Node;

/// Ids of one writer: no two writers write the same for some thousand years.
const IDS_PER_WRITER: i64 = 1 << 50;

/// How much goes on.
#[derive(Clone, Copy, Debug)]
pub struct Size<'a> {
    /// Writers through `-rw`.
    pub writers: u8,
    /// Whether others append to lists, for the check of linearizability.
    pub appenders: bool,
    /// The nodes inside which clients try to write on every pod, with sessions that they hold open.
    pub inside: &'a [Node],
}

impl Size<'_> {
    /// What leaves the most of the machine to what is measured.
    pub const LIGHT: Self = Self { writers: 1, appenders: false, inside: &[] };
}

impl<'a> Size<'a> {
    /// What is most likely to show that something is wrong.
    pub fn full(nodes: &'a [Node]) -> Self {
        Self { writers: 3, appenders: true, inside: nodes }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    writers: Vec<Writer>,
    appenders: Option<Appenders>,
    intruders: Intruders,
    /// The ids up to which each writer, and the intruders, have been checked.
    checked: Vec<i64>,
    intrusions_checked: usize,
}

/// What the clients did, all of it checked.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// Rows acknowledged to writers through `-rw`.
    pub acknowledged: usize,
    /// Attempts of these that failed.
    pub failures: u64,
    /// Commits of which the server said that no standby has them.
    pub not_durable: u64,
    /// Rows acknowledged to those who write on pods directly.
    pub direct: usize,
    /// Operations on lists.
    pub operations: usize,
}

impl Load {
    /// Begins, with new tables if there are none.
    pub async fn start(database: &Database, size: Size<'_>) -> Result<Self> {
        create_tables(database).await?;
        let access = database.read_write().await?;
        let first = |writer: u8| jiff::Timestamp::now().as_microsecond() + i64::from(writer) * IDS_PER_WRITER;
        let writers: Vec<_> =
            (0..size.writers).map(|writer| Writer::start(access.clone(), first(writer))).collect();
        Ok(Self {
            checked: vec![i64::MIN; writers.len()],
            writers,
            appenders: size.appenders.then(|| Appenders::start(access)),
            intruders: Intruders::start(database.clone(), size.inside)?,
            intrusions_checked: 0,
        })
    }

    /// The first writer: the outage of its is the one that is measured.
    pub fn writer(&self) -> &Writer {
        &self.writers[0]
    }

    /// Checks what was seen since the last check, on a Database that is whole; the clients go on.
    pub async fn check(&mut self, database: &Database) -> Result<Work> {
        let records: Vec<Record> = self.writers.iter().map(Writer::so_far).collect();
        for (record, checked) in records.iter().zip(&mut self.checked) {
            let new: BTreeSet<i64> = record.acknowledged.range(*checked..).copied().collect();
            *checked = record.acknowledged.last().map_or(*checked, |last| last + 1);
            verdict::present(database, Rows::Ledger, &new).await?;
        }
        let accepted = self.intruders.so_far();
        direct_writes(database, &accepted, self.intrusions_checked).await?;
        self.intrusions_checked = accepted.len();
        let operations = match &self.appenders {
            Some(appenders) => appenders.check_past(database).await?,
            None => 0,
        };
        Ok(Work::of(&records, accepted.len(), operations))
    }

    /// Ends the clients and checks everything that they saw. Gives the first writer's record as well.
    pub async fn stop(self, database: &Database) -> Result<(Work, Record)> {
        let mut records = Vec::new();
        for writer in self.writers {
            records.push(writer.stop().await?);
        }
        let accepted = self.intruders.stop().await?;
        for record in &records {
            verdict::nothing_lost(database, record).await?;
        }
        direct_writes(database, &accepted, 0).await?;
        let operations = match self.appenders {
            Some(appenders) => appenders.stop(database).await?,
            None => 0,
        };
        let work = Work::of(&records, accepted.len(), operations);
        Ok((work, records.swap_remove(0)))
    }
}

/// One primary at a time, and nothing lost of what was acknowledged on any pod.
async fn direct_writes(database: &Database, accepted: &[Accepted], checked: usize) -> Result<()> {
    ensure!(!accepted.is_empty(), "no direct writer got through, not even on the primary");
    intruder::at_most_one_primary(accepted)?;
    let ids = accepted.iter().skip(checked).map(|write| write.id).collect();
    verdict::present(database, Rows::Intrusion, &ids).await
}

/// Creates what the clients write.
pub async fn create_tables(database: &Database) -> Result<()> {
    let access = database.read_write().await?;
    let session = Session::open_patiently(&access).await?;
    for table in [writer::TABLE, intruder::TABLE, appender::TABLE] {
        session.query(table, &[], WRITES_LIMIT).await.context("making the writers' tables")?;
    }
    Ok(())
}

impl Work {
    fn of(records: &[Record], direct: usize, operations: usize) -> Self {
        Self {
            acknowledged: records.iter().map(|record| record.acknowledged.len()).sum(),
            failures: records.iter().map(|record| record.failures).sum(),
            not_durable: records.iter().map(|record| record.not_durable).sum(),
            direct,
            operations,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rows acknowledged and present, {} more by direct writers on one primary at a time, {} operations \
             on lists in an order that can be, {} failed attempts",
            self.acknowledged, self.direct, self.operations, self.failures
        )
    }
}
