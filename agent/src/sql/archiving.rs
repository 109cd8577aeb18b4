//! What the archive asks of the local server.

use std::collections::BTreeSet;

use jiff::Timestamp;
use postgres_protocol::escape::escape_literal;
use proto::postgres::Lsn;

use super::session::{Session, SqlError};

/// Physical slot on standbys that keeps WAL until it is in the archive: if the primary dies with files that it
/// never archived, the next one has them. (A standby marks what it receives as archived.)
const GUARD: &str = "archive_guard";
/// Bytes of a WAL file that are read at once; they come as hexadecimal text, twice as many.
const READ_AT_ONCE: usize = 1 << 20;

/// Files that wait for the server's archiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// How many.
    pub(crate) files: u64,
    /// Since when the oldest waits.
    pub(crate) since: Option<Timestamp>,
}

/// Reads how many files wait, and since when.
pub(crate) async fn waiting(socket: &str) -> Result<Waiting, SqlError> {
    let session = Session::connect(socket).await?;
    let row = session
        .query(
            "SELECT pg_catalog.count(*) || ' ' || COALESCE(pg_catalog.floor(EXTRACT(epoch FROM \
             pg_catalog.min(modification)))::bigint::text, '') FROM pg_catalog.pg_ls_archive_statusdir() \
             WHERE name LIKE '%.ready'",
        )
        .await?
        .unwrap_or_default();
    let unexpected = || SqlError::Unexpected(row.clone());
    let (files, since) = row.split_once(' ').ok_or_else(unexpected)?;
    let since = match since {
        "" => None,
        seconds => {
            Some(seconds.parse().ok().and_then(|s| Timestamp::from_second(s).ok()).ok_or_else(unexpected)?)
        }
    };
    Ok(Waiting { files: files.parse().map_err(|_| unexpected())?, since })
}

/// Size of this cluster's WAL segments in bytes.
pub(crate) async fn segment_size(socket: &str) -> Result<u64, SqlError> {
    let session = Session::connect(socket).await?;
    let setting = session
        .query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'")
        .await?
        .unwrap_or_default();
    setting.parse().map_err(|_| SqlError::Unexpected(setting))
}

/// Whether pages have checksums.
pub(crate) async fn has_checksums(socket: &str) -> Result<bool, SqlError> {
    let session = Session::connect(socket).await?;
    let setting = session.query("SHOW data_checksums").await?.unwrap_or_default();
    match setting.as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(SqlError::Unexpected(setting)),
    }
}

/// Bytes of all databases' files.
pub(crate) async fn data_bytes(socket: &str) -> Result<u64, SqlError> {
    let session = Session::connect(socket).await?;
    let sum = session
        .query("SELECT pg_catalog.sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database")
        .await?
        .unwrap_or_default();
    sum.parse().map_err(|_| SqlError::Unexpected(sum))
}

/// Names of all files of `pg_wal`.
pub(crate) async fn wal_names(socket: &str) -> Result<BTreeSet<String>, SqlError> {
    let session = Session::connect(socket).await?;
    let names =
        session.query("SELECT pg_catalog.string_agg(name, ' ') FROM pg_catalog.pg_ls_waldir()").await?;
    Ok(names.unwrap_or_default().split(' ').map(str::to_owned).collect())
}

/// A file of `pg_wal`, if it is there.
pub(crate) async fn wal_file(socket: &str, name: &str) -> Result<Option<Vec<u8>>, SqlError> {
    let session = Session::connect(socket).await?;
    let path = escape_literal(&format!("pg_wal/{name}"));
    let mut contents = Vec::new();
    loop {
        let part = session
            .query(&format!(
                "SELECT pg_catalog.encode(pg_catalog.pg_read_binary_file({path}, {}, {READ_AT_ONCE}, true), 'hex')",
                contents.len()
            ))
            .await?;
        let Some(part) = part else { return Ok(None) };
        let bytes = part.as_bytes().chunks_exact(2).map(|pair| {
            let digits = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        let before = contents.len();
        for byte in bytes {
            contents
                .push(byte.ok_or_else(|| SqlError::Unexpected("bytes that are not hexadecimal".to_owned()))?);
        }
        if contents.len() - before < READ_AT_ONCE {
            return Ok(Some(contents));
        }
    }
}

/// On a standby: keeps WAL from `archived` on, or from its last restart point if that is later.
pub(crate) async fn keep_guard(socket: &str, archived: Option<Lsn>) -> Result<(), SqlError> {
    let session = Session::connect(socket).await?;
    session
        .execute(&format!(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = '{GUARD}' AND wal_status = 'lost'"
        ))
        .await?;
    session
        .execute(&format!(
            "SELECT pg_catalog.pg_create_physical_replication_slot('{GUARD}', true) WHERE \
             pg_catalog.pg_is_in_recovery() AND NOT EXISTS \
             (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = '{GUARD}')"
        ))
        .await?;
    let Some(archived) = archived else { return Ok(()) };
    session
        .execute(&format!(
            "SELECT pg_catalog.pg_replication_slot_advance(slot_name, \
             LEAST('{archived}', pg_catalog.pg_last_wal_replay_lsn())) FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = '{GUARD}' AND pg_catalog.pg_is_in_recovery() \
             AND restart_lsn < LEAST('{archived}', pg_catalog.pg_last_wal_replay_lsn())"
        ))
        .await
}

/// Keeps nothing any more.
pub(crate) async fn drop_guard(socket: &str) -> Result<(), SqlError> {
    let session = Session::connect(socket).await?;
    session
        .execute(&format!(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = '{GUARD}' AND NOT active"
        ))
        .await
}

/// Commits something, so that a time that can be restored to is known however little is written. Returns a time
/// before that commit and a position after it.
pub(crate) async fn heartbeat(socket: &str) -> Result<(Timestamp, Lsn), SqlError> {
    let session = Session::connect(socket).await?;
    let text = session
        .query(
            "SELECT pg_catalog.floor(EXTRACT(epoch FROM pg_catalog.now()) * 1000)::bigint::text \
             FROM (SELECT pg_catalog.pg_logical_emit_message(true, 'matriarch', 'heartbeat')) m",
        )
        .await?
        .unwrap_or_default();
    let at = text.parse().ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    let at = at.ok_or(SqlError::Unexpected(text))?;
    let end = session.query("SELECT pg_catalog.pg_current_wal_lsn()").await?.unwrap_or_default();
    Ok((at, end.parse().map_err(|_| SqlError::Unexpected(end))?))
}

/// Ends the current segment, so that it is archived.
pub(crate) async fn switch_wal(socket: &str) -> Result<(), SqlError> {
    Session::connect(socket).await?.execute("SELECT pg_catalog.pg_switch_wal()").await
}
