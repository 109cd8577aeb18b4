//! The local server in backup mode, while something else copies its files.
//!
//! It lasts as long as the session: one that ends without [`BackupMode::end`], with this process for instance, leaves
//! the server as if there had been no backup.

use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use proto::postgres::{Lsn, Timeline};
use serde::Deserialize;
use tokio::time::timeout;

use super::session::{Session, SqlError};

/// It begins with a checkpoint, which writes whatever is dirty.
const BEGIN_TIMEOUT: Duration = Duration::from_mins(10);
/// It ends with a record in the log, at most.
const END_TIMEOUT: Duration = Duration::from_mins(1);
/// Since this version the functions have new names.
const RENAMED: u32 = 150_000;

/// A session that holds the mode.
pub(crate) struct BackupMode {
    session: Session,
    server_version: u32,
}

/// What the server says at the end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Ended {
    /// From where on what was copied is consistent.
    pub(crate) stop: Lsn,
    /// Contents of `backup_label`.
    pub(crate) label: String,
    /// Contents of `tablespace_map`.
    pub(crate) map: String,
}

impl BackupMode {
    /// Begins it.
    pub(crate) async fn begin(socket: &str, server_version: u32, label: &str) -> Result<Self, SqlError> {
        let label = escape_literal(label);
        let statement = match server_version >= RENAMED {
            true => format!("SELECT pg_catalog.pg_backup_start({label}, true)"),
            false => format!("SELECT pg_catalog.pg_start_backup({label}, true, false)"),
        };
        let begin = async {
            let session = Session::connect_patiently(socket).await?;
            session.query_patiently(&statement).await?;
            Ok(Self { session, server_version })
        };
        timeout(BEGIN_TIMEOUT, begin).await.unwrap_or(Err(SqlError::Timeout(BEGIN_TIMEOUT)))
    }

    /// Ends it. A standby that was promoted meanwhile refuses: its files are no backup.
    pub(crate) async fn end(&self) -> Result<Ended, SqlError> {
        // Nobody waits for the archiver here: that is done with a look into the store.
        let function = match self.server_version >= RENAMED {
            true => "pg_catalog.pg_backup_stop(false)",
            false => "pg_catalog.pg_stop_backup(false, false)",
        };
        let statement = format!(
            "SELECT pg_catalog.json_build_object('stop', lsn, 'label', labelfile, 'map', \
             COALESCE(spcmapfile, '')) FROM {function}"
        );
        let answer = timeout(END_TIMEOUT, self.session.query_patiently(&statement)).await;
        let answer = answer.unwrap_or(Err(SqlError::Timeout(END_TIMEOUT)))?.unwrap_or_default();
        serde_json::from_str(&answer).map_err(SqlError::Shape)
    }

    /// On a standby after the end: the timeline of `stop`, which it may have followed to since the start.
    pub(crate) async fn timeline_of_standby(&self) -> Result<Timeline, SqlError> {
        let answer = self
            .session
            .query("SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()")
            .await?
            .unwrap_or_default();
        let number = answer.parse().ok().and_then(Timeline::new);
        number.ok_or(SqlError::Unexpected(answer))
    }
}
