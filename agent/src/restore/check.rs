//! Whether a recovered server is sound: every table of every database is read from end to end, and `pg_amcheck` looks
//! at structure and indexes where the image has it.

use std::{path::Path, process::Stdio, time::Duration};

use proto::wire::drill::{Proof, shortened};
use tokio::{process::Command, time::timeout};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::recover::{connect, first};
use crate::{
    chain::Chain,
    supervisor::tools::{Programs, ToolError},
};

/// For a session to begin, and for a look into the catalog.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// For one table, or for `pg_amcheck`: each reads a volume once at most. The Job has a limit for the whole.
const READ_TIMEOUT: Duration = Duration::from_hours(6);
/// Connections of `pg_amcheck`.
const JOBS: &str = "--jobs=2";

/// Databases that take connections; dropping one half leaves it with a limit of -2.
const DATABASES: &str =
    "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1";
/// What holds rows of its own and is in backups.
const TABLES: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
                      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated ORDER BY 1";

/// Why it is not sound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// No session.
    #[error("cannot connect to database {database:?}")]
    Connect {
        /// Which.
        database: String,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// A statement failed.
    #[error("cannot read {what} of database {database:?}")]
    Read {
        /// A table, or the catalog.
        what: String,
        /// Where.
        database: String,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// Nothing came.
    #[error("reading {what} of database {database:?} took more than {} minutes", .after.as_secs() / 60)]
    Late {
        /// A table, or the catalog.
        what: String,
        /// Where.
        database: String,
        /// How long it was given.
        after: Duration,
    },
    /// `pg_amcheck` found something, or could not be run.
    #[error("pg_amcheck: {0}")]
    Amcheck(String),
}

/// Reads everything.
pub(super) async fn check(place: &Path, port: u16, programs: &Programs) -> Result<Proof, CheckError> {
    let server = Server { place, port };
    let databases = server.session("postgres").await?.list("the catalog", DATABASES).await?;
    let mut proof =
        Proof { reached: None, last_commit: None, databases: 0, tables: 0, rows: 0, without_amcheck: None };
    for database in &databases {
        let session = server.session(database).await?;
        for table in session.list("the catalog", TABLES).await? {
            proof.rows += session.count(&table).await?;
            proof.tables += 1;
        }
        proof.databases += 1;
        proof.without_amcheck = proof.without_amcheck.or(session.prepare_amcheck().await);
        tracing::info!(database, tables = proof.tables, rows = proof.rows, "read a database");
    }
    if proof.without_amcheck.is_none() {
        proof.without_amcheck = server.amcheck(programs).await?;
    }
    Ok(proof)
}

struct Server<'a> {
    place: &'a Path,
    port: u16,
}

impl Server<'_> {
    async fn session(&self, database: &str) -> Result<Session, CheckError> {
        let client = match timeout(CALL_TIMEOUT, connect(self.place, self.port, database)).await {
            Ok(connected) => {
                connected.map_err(|source| CheckError::Connect { database: database.to_owned(), source })?
            }
            Err(_) => return Err(late("a session", database, CALL_TIMEOUT)),
        };
        let session = Session { client, database: database.to_owned() };
        // A count may not be answered from an index, which is not what is to be read.
        session
            .run("a session", "SET enable_indexonlyscan = off; SET statement_timeout = 0", CALL_TIMEOUT)
            .await?;
        Ok(session)
    }

    /// Says why the image cannot, if it cannot.
    async fn amcheck(&self, programs: &Programs) -> Result<Option<String>, CheckError> {
        let mut command = match programs.command("pg_amcheck") {
            Ok(command) => Command::from(command),
            Err(missing @ ToolError::Missing { .. }) => return Ok(Some(missing.to_string())),
            Err(error) => return Err(CheckError::Amcheck(Chain(&error).to_string())),
        };
        command.args(["--all", "--no-password", JOBS, "--username=postgres"]);
        command.arg("--host").arg(self.place).arg("--port").arg(self.port.to_string());
        let output = timeout(READ_TIMEOUT, command.kill_on_drop(true).stdin(Stdio::null()).output()).await;
        let output = output.map_err(|_| late("everything", "with pg_amcheck", READ_TIMEOUT))?;
        let output = output.map_err(|error| CheckError::Amcheck(error.to_string()))?;
        if output.status.success() {
            return Ok(None);
        }
        // What is corrupt is on its standard output, what kept it from looking on the other.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        Err(CheckError::Amcheck(format!("{}: {}", output.status, shortened(said.trim()))))
    }
}

struct Session {
    client: Client,
    database: String,
}

impl Session {
    async fn run(
        &self,
        what: &str,
        statement: &str,
        limit: Duration,
    ) -> Result<Vec<SimpleQueryMessage>, CheckError> {
        match timeout(limit, self.client.simple_query(statement)).await {
            Ok(answer) => answer.map_err(|source| CheckError::Read {
                what: what.to_owned(),
                database: self.database.clone(),
                source,
            }),
            Err(_) => Err(late(what, &self.database, limit)),
        }
    }

    async fn list(&self, what: &str, statement: &str) -> Result<Vec<String>, CheckError> {
        let rows = self.run(what, statement, CALL_TIMEOUT).await?;
        Ok(rows.iter().filter_map(|row| first(std::slice::from_ref(row))).collect())
    }

    async fn count(&self, table: &str) -> Result<u64, CheckError> {
        let rows =
            self.run(table, &format!("SELECT pg_catalog.count(*) FROM ONLY {table}"), READ_TIMEOUT).await?;
        Ok(first(&rows).and_then(|count| count.parse().ok()).unwrap_or_default())
    }

    /// Says why the extension cannot be used here, if it cannot: an image without it is not what is to be proven.
    async fn prepare_amcheck(&self) -> Option<String> {
        let made = self.run("amcheck", "CREATE EXTENSION IF NOT EXISTS amcheck", CALL_TIMEOUT).await;
        made.err().map(|error| shortened(&Chain(&error).to_string()).to_owned())
    }
}

fn late(what: &str, database: &str, after: Duration) -> CheckError {
    CheckError::Late { what: what.to_owned(), database: database.to_owned(), after }
}
