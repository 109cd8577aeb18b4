//! What the driver has done by SQL. Each act makes a connection of its own and may be repeated.

use std::time::Duration;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use proto::{
    identity::{Epoch, Ordinal},
    pod,
    postgres::Lsn,
};
use tokio::time::{Instant, sleep, timeout};

use super::session::{Session, SqlError};

/// A probe commit that has not begun to wait by then was acknowledged, or the server is stuck.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks at the probe.
const PROBE_LOOK_EVERY: Duration = Duration::from_millis(10);
/// A checkpoint of a busy server takes minutes; after this it is asked for again.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_mins(10);

/// Makes the missing slots of these members, keeping WAL from now on. One whose WAL is gone is in the way: newer
/// servers let nobody use it again.
pub(crate) async fn ensure_slots(socket: &str, members: &[Ordinal]) -> Result<(), SqlError> {
    let session = Session::connect(socket).await?;
    for member in members {
        let slot = escape_literal(&pod::member_slot(*member));
        session
            .execute(&format!(
                "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                 WHERE slot_name = {slot} AND NOT active AND wal_status = 'lost'"
            ))
            .await?;
        session
            .execute(&format!(
                "SELECT pg_catalog.pg_create_physical_replication_slot({slot}, true) WHERE NOT EXISTS \
                 (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot})"
            ))
            .await?;
    }
    Ok(())
}

/// Drops a member's slot if it exists and nobody uses it.
pub(crate) async fn drop_slot(socket: &str, member: Ordinal) -> Result<(), SqlError> {
    let slot = escape_literal(&pod::member_slot(member));
    let session = Session::connect(socket).await?;
    session
        .execute(&format!(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = {slot} AND NOT active"
        ))
        .await
}

/// Moves the slots of the other members on a standby up to what this standby has replayed, so that they do not
/// hold WAL for ever. What a member that lags behind still needs, it gets from the leader meanwhile.
pub(crate) async fn advance_slots(socket: &str) -> Result<(), SqlError> {
    let session = Session::connect(socket).await?;
    session
        .execute(
            "SELECT pg_catalog.pg_replication_slot_advance(slot_name, \
             LEAST(pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_last_wal_receive_lsn())) \
             FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND NOT active \
             AND slot_name LIKE 'member\\_%' AND pg_catalog.pg_is_in_recovery() \
             AND restart_lsn < LEAST(pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_last_wal_receive_lsn())",
        )
        .await
}

/// In a new session: reads the synchronous names, and if they are `names` writes locally and reads the end of
/// WAL after it. `None` if other names are shown.
pub(crate) async fn verify_local_write(
    socket: &str,
    epoch: Epoch,
    names: &str,
) -> Result<Option<Lsn>, SqlError> {
    let session = Session::connect(socket).await?;
    let shown = session.query("SHOW synchronous_standby_names").await?.unwrap_or_default();
    if shown != names {
        return Ok(None);
    }
    let mark = escape_literal(&format!("epoch {epoch}"));
    session.execute(&format!("SELECT pg_catalog.pg_logical_emit_message(true, 'matriarch', {mark})")).await?;
    let end = session.query("SELECT pg_catalog.pg_current_wal_lsn()").await?.unwrap_or_default();
    end.parse().map(Some).map_err(|_| SqlError::Unexpected(end))
}

/// Commits something as an application would and sees whether the commit waits for a standby. The commit is
/// given up afterwards; it carried nothing.
pub(crate) async fn commits_wait(socket: &str) -> Result<bool, SqlError> {
    let (probe, observer) = tokio::try_join!(Session::connect_waiting(socket), Session::connect(socket))?;
    let pid = probe.query("SELECT pg_catalog.pg_backend_pid()").await?.unwrap_or_default();
    let pid: u32 = pid.parse().map_err(|_| SqlError::Unexpected(pid))?;
    let commit =
        probe.query_patiently("SELECT pg_catalog.pg_logical_emit_message(true, 'matriarch', 'probe')");
    let look = async {
        let deadline = Instant::now() + PROBE_TIMEOUT;
        while Instant::now() < deadline {
            let event = observer
                .query(&format!("SELECT wait_event FROM pg_catalog.pg_stat_activity WHERE pid = {pid}"))
                .await?;
            if event.as_deref() == Some("SyncRep") {
                return Ok(true);
            }
            sleep(PROBE_LOOK_EVERY).await;
        }
        Ok(false)
    };
    let waits = tokio::select! {
        biased;
        waits = look => waits?,
        // Acknowledged at once: nothing made it wait.
        acknowledged = commit => acknowledged.map(|_| false)?,
    };
    // The server notices a closed connection only when it next writes to it.
    observer.execute(&format!("SELECT pg_catalog.pg_terminate_backend({pid})")).await?;
    Ok(waits)
}

/// Runs a checkpoint, however long it takes.
pub(crate) async fn checkpoint(socket: &str) -> Result<(), SqlError> {
    let run =
        async { Session::connect_patiently(socket).await?.query_patiently("CHECKPOINT").await.map(drop) };
    timeout(CHECKPOINT_TIMEOUT, run).await.unwrap_or(Err(SqlError::Timeout(CHECKPOINT_TIMEOUT)))
}

/// Sets a role's password by its SCRAM verifier: no clear text reaches the server.
pub(crate) async fn set_password(socket: &str, role: &str, verifier: &str) -> Result<(), SqlError> {
    let session = Session::connect(socket).await?;
    let (role, verifier) = (escape_identifier(role), escape_literal(verifier));
    session.execute(&format!("ALTER ROLE {role} PASSWORD {verifier}")).await
}
