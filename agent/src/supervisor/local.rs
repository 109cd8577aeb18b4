//! SQL on the own server, over the socket that only this user can open. Every statement has a deadline and
//! nothing that protects data depends on an answer.

use std::{path::PathBuf, time::Duration};

use proto::postgres::{Lsn, Timeline};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// How long the server may take to answer a small question. Only facts for reports wait for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    /// No connection.
    #[error("PostgreSQL does not accept the supervisor's connection")]
    Connect(#[source] tokio_postgres::Error),
    /// The statement failed.
    #[error("PostgreSQL refused {statement:?}")]
    Statement {
        /// Which one.
        statement: String,
        /// What it said.
        source: tokio_postgres::Error,
    },
    /// Nothing in time.
    #[error("PostgreSQL has not answered {0:?} in time")]
    Late(String),
    /// An answer of unexpected form.
    #[error("PostgreSQL gave an unexpected answer to {0:?}")]
    Answer(String),
}

/// One connection.
pub(crate) struct Local {
    client: Client,
    connection: JoinHandle<()>,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What a standby or primary is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// In recovery: not writable.
    pub(crate) in_recovery: bool,
    /// A WAL receiver streams.
    pub(crate) streaming: bool,
    /// How far it has replayed.
    pub(crate) replayed: Option<Lsn>,
}

impl Local {
    /// Connects as the superuser.
    pub(crate) async fn connect(socket_directory: PathBuf, port: u16) -> Result<Self, LocalError> {
        let mut config = Config::new();
        config.host_path(socket_directory).port(port).user("postgres").dbname("postgres");
        config.application_name("supervisor").connect_timeout(PATIENCE);
        let connecting = timeout(PATIENCE, config.connect(NoTls));
        let late = |_| LocalError::Late("a connection".to_owned());
        let (client, connection) = connecting.await.map_err(late)?.map_err(LocalError::Connect)?;
        // Its errors reach the client's calls.
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Self { client, connection })
    }

    /// What the server is doing.
    pub(crate) async fn observe(&self) -> Result<Observed, LocalError> {
        const OBSERVE: &str = "SELECT pg_is_in_recovery(), \
             (SELECT status = 'streaming' FROM pg_stat_wal_receiver), pg_last_wal_replay_lsn()";
        let rows = self.ask(OBSERVE, PATIENCE).await?;
        let row = rows.first().ok_or_else(|| LocalError::Answer(OBSERVE.to_owned()))?;
        Ok(Observed {
            in_recovery: row.get(0) == Some("t"),
            streaming: row.get(1) == Some("t"),
            replayed: row.get(2).and_then(|lsn| lsn.parse().ok()),
        })
    }

    /// The timeline that a primary writes on, and where it is.
    pub(crate) async fn timeline(&self) -> Result<Timeline, LocalError> {
        const TIMELINE: &str = "SELECT pg_walfile_name(pg_current_wal_lsn())";
        let rows = self.ask(TIMELINE, PATIENCE).await?;
        let name = rows.first().and_then(|row| row.get(0)).and_then(|name| name.get(..8));
        let number = name.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        number.and_then(Timeline::new).ok_or_else(|| LocalError::Answer(TIMELINE.to_owned()))
    }

    /// Settings whose value in the file waits for a restart.
    pub(crate) async fn pending_restart(&self) -> Result<Vec<String>, LocalError> {
        let rows =
            self.ask("SELECT name FROM pg_settings WHERE pending_restart ORDER BY name", PATIENCE).await?;
        Ok(rows.iter().filter_map(|row| row.get(0)).map(str::to_owned).collect())
    }

    /// What is wrong with the access rules as they stand in the file.
    pub(crate) async fn wrong_rules(&self) -> Result<Vec<String>, LocalError> {
        const RULES: &str =
            "SELECT 'line ' || line_number || ': ' || error FROM pg_hba_file_rules WHERE error IS NOT NULL";
        let rows = self.ask(RULES, PATIENCE).await?;
        Ok(rows.iter().filter_map(|row| row.get(0)).map(str::to_owned).collect())
    }

    /// Writes everything out, so that a stop that follows is short.
    pub(crate) async fn checkpoint(&self, patience: Duration) -> Result<(), LocalError> {
        self.ask("CHECKPOINT", patience).await.map(drop)
    }

    async fn ask(&self, statement: &str, patience: Duration) -> Result<Vec<SimpleQueryRow>, LocalError> {
        let asking = timeout(patience, self.client.simple_query(statement));
        let messages = asking.await.map_err(|_| LocalError::Late(statement.to_owned()))?;
        let failed = |source| LocalError::Statement { statement: statement.to_owned(), source };
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.map_err(failed)?.into_iter().filter_map(row).collect())
    }
}
