//! What the agent orders and the supervisor answers, over [`crate::pod::SUPERVISOR_SOCKET`].
//!
//! One JSON document a line. The agent sends a [`Request`]; the supervisor answers each with a [`Response`] of
//! the same id, in any order. At most one *job* (initdb, clone, rewind, start, promote, stop) runs at a time:
//! a job is accepted at once and its progress and outcome are read from [`Report`]s, so that nobody waits on
//! the socket for minutes. Times are [`BootTime`]: both ends share one kernel.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    clock::BootTime,
    identity::{DataId, Epoch, RunId},
    postgres::{Lsn, SystemIdentifier, Timeline, WalPosition},
};

/// Raise it with every change that a supervisor, or an agent, of before does not understand: the operator then makes
/// pods anew, where it otherwise puts a newer agent beside an older supervisor (docs/architecture.md).
pub const VERSION: u32 = 1;

/// One order with the number that its response repeats.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the agent, unique within a connection.
    pub id: u64,
    /// What to do.
    pub order: Order,
}

/// What the agent may order. Everything is idempotent: an agent that restarted simply orders again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Answer with a [`Report`].
    Report,
    /// Set or move the fence (L2): fast stop at `fast_stop_at`, SIGKILL at `kill_at`. Needed before
    /// [`Order::Promote`]; refused if `kill_at` has passed. It fires for a server that may write, from the
    /// promotion on; one that passes for a closed standby, or for none, is dropped.
    Arm {
        /// Epoch the fence belongs to.
        epoch: Epoch,
        /// When sessions end.
        fast_stop_at: BootTime,
        /// When whatever is left is killed.
        kill_at: BootTime,
    },
    /// Write configuration files and reload; settings that need a restart are reported as pending. Needed
    /// once per run before [`Order::Start`]. Refused with the server's own message if it would not start
    /// with them; the old ones then stay.
    Configure(ServerConfig),
    /// Job: make a new data directory with `initdb` (checksums, SCRAM), and a new data id.
    Initdb(Initdb),
    /// Job: make a data directory by base backup from `upstream`, beside the old one, swapped in by rename,
    /// with a new data id.
    Clone {
        /// Whom to copy.
        upstream: Upstream,
        /// Refused unless the source has this identifier (W4: re-clone never crosses it).
        system_identifier: SystemIdentifier,
        /// Stored as `sealed` of the new data before it is swapped in.
        epoch: Epoch,
    },
    /// Job: `pg_rewind` against `upstream` under a marker file; the server must be stopped.
    Rewind {
        /// Whom to become a standby of.
        upstream: Upstream,
        /// Raised and fsynced before the first byte is changed.
        epoch: Epoch,
    },
    /// Job: start as a closed standby: no upstream, unsatisfiable `synchronous_standby_names` (until the next
    /// [`Order::Configure`]). It ends when the server recovers, not when it accepts connections, since a
    /// rewound member becomes consistent only once it follows: [`Server::Starting`] lasts until then. A server
    /// that does not start as configured is started as it was before, or bare: the job then reports an error
    /// although the server runs, and [`Report::generation`] tells which configuration it was.
    Start,
    /// Raise `sealed` to `epoch` (fsync), then attach to `upstream`. Refused if `epoch` < `sealed`.
    Follow {
        /// Whom to stream from.
        upstream: Upstream,
        /// Epoch that `upstream` has opened.
        epoch: Epoch,
    },
    /// Raise `sealed` to `epoch` (fsync), end the WAL receiver for good, answer [`Answer::Sealed`] with the
    /// exact end of WAL. Refused if `epoch` < `sealed`, or while this member is an armed primary.
    Seal {
        /// Epoch of the claim.
        epoch: Epoch,
    },
    /// Exact end of local WAL, without any effect (survey). "Not yet" while the data is not consistent by
    /// itself: after a rewind or clone, until what the source had then has arrived.
    EndOfWal,
    /// Job: promote to exactly `timeline`, then store `opened = epoch`. Refused without an armed fence of this epoch.
    Promote {
        /// Epoch that the Lease shows as opened by this member.
        epoch: Epoch,
        /// The timeline reserved in the Lease; a different result is reported and never accepts writes.
        timeline: Timeline,
    },
    /// Job: fast stop; `checkpoint` runs one beforehand (planned stops). Escalates to SIGKILL at `kill_at`.
    Stop {
        /// Run a CHECKPOINT first so that the stop itself is short.
        checkpoint: bool,
        /// When whatever is left is killed.
        kill_at: BootTime,
    },
    /// Job: SIGKILL everything, jobs included, and reap until nothing is left.
    Kill,
    /// The agent has released leadership after [`Report::terminating`]: the container may end. Refused unless
    /// it terminates and the server is stopped.
    Exit,
}

/// Whom to stream or copy from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// DNS name or address.
    pub host: String,
    /// Port, normally 5432.
    pub port: u16,
    /// Physical slot to use; created by the upstream's agent beforehand.
    pub slot: Option<String>,
}

/// What initdb needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Initdb {
    /// Password of the superuser `postgres`, as a SCRAM verifier, never as clear text.
    pub superuser_verifier: String,
    /// Password of the application role, as a SCRAM verifier.
    pub app_verifier: String,
    /// Application role to create.
    pub app_role: String,
    /// Database to create, owned by `app_role`.
    pub app_database: String,
    /// Role for replication to create.
    pub replication_role: String,
}

/// Settings and access rules of the server, complete each time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerConfig {
    /// `name = value`, unquoted.
    pub parameters: BTreeMap<String, String>,
    /// `pg_hba.conf`, line by line, after the supervisor's own: the superuser over the local socket, and
    /// replication and rewind by members, with the Database's certificate.
    pub hba: Vec<String>,
    /// Real `synchronous_standby_names`; `None` means closed (unsatisfiable). Ignored by a standby.
    pub synchronous_standby_names: Option<String>,
    /// Whether WAL is handed to the agent. Without it the server keeps all of it.
    #[serde(default)]
    pub archive: bool,
    /// Digest given by the operator, repeated in [`Report::generation`] once all of it is in effect.
    pub generation: String,
}

/// The answer to the request of the same id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Response {
    /// Repeats the request's.
    pub id: u64,
    /// Result, or why not: a sentence for people.
    pub result: Result<Answer, Refusal>,
}

/// What an accepted order answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Done, or the job has begun.
    Accepted,
    /// To [`Order::Report`].
    Report(Box<Report>),
    /// To [`Order::Seal`]: sealed, with nothing left that could acknowledge.
    Sealed(WalPosition),
    /// To [`Order::EndOfWal`].
    EndOfWal(WalPosition),
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Whether the same order may succeed in a moment ("not yet").
    pub transient: bool,
    /// What, on what, why.
    pub message: String,
}

/// Everything the supervisor knows, from memory: answering it touches no disk and no SQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// This life of the container.
    pub run: RunId,
    /// When this was taken.
    pub at: BootTime,
    /// State of the data directory.
    pub data: Data,
    /// State of the server process.
    pub server: Server,
    /// The job under way.
    pub job: Option<Job>,
    /// How the last job ended.
    pub last_job: Option<JobEnd>,
    /// The fence in force.
    pub fence: Option<Fence>,
    /// Digest of the configuration in effect.
    pub generation: String,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// How often a fence ended the server in this run.
    pub fence_count: u64,
    /// Largest delay with which the supervisor woke for its own timer, in microseconds (L1's slack).
    pub worst_lateness_us: u64,
    /// When the last write-and-fsync probe of PGDATA and pg_wal was answered. A full disk answers.
    pub disk_ok_at: Option<BootTime>,
    /// What is left on the fuller of the two. A supervisor of an earlier version does not say.
    #[serde(default)]
    pub space: Option<Space>,
    /// The kubelet asked the container to end. The supervisor waits for [`Order::Stop`] and [`Order::Exit`],
    /// for a bounded time each, and then does both by itself.
    pub terminating: bool,
    /// When `REALTIME` last jumped ahead of `BOOTTIME` (L3, a paused VM): the fence has moved ahead by as much,
    /// and a renewal whose request was sent before does not count.
    pub clock_jumped_at: Option<BootTime>,
}

/// Space on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Space {
    /// Size of the file system.
    pub total_bytes: u64,
    /// What an unprivileged process can still write.
    pub available_bytes: u64,
}

/// The data directory and the durable HA state beside it (ha.md section 2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Data {
    /// The disk has not answered yet since the supervisor started, or another run's processes still hold it.
    Unread,
    /// No data: initdb or clone.
    Empty,
    /// A directory that must not start: an interrupted rewind or clone.
    Unusable {
        /// Which marker was found.
        reason: String,
        /// Highest epoch that must not be undercut, as far as it is known.
        sealed: Epoch,
    },
    /// A complete data directory.
    Present(Durable),
}

/// Values that are fsynced before anything that depends on them is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Durable {
    /// Random name of this data.
    pub data_id: DataId,
    /// Highest epoch sealed, followed or opened.
    pub sealed: Epoch,
    /// Highest epoch that this data was opened in as primary.
    pub opened: Option<Epoch>,
    /// From `pg_control`.
    pub system_identifier: SystemIdentifier,
    /// Major version of the data (`PG_VERSION`).
    pub major_version: u32,
}

/// The server process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Server {
    /// Proven: every process was reaped (`ECHILD`).
    Stopped {
        /// How the last one ended; `None` if none ran yet.
        last: Option<Ended>,
        /// End of WAL if the shutdown was clean: the shutdown checkpoint's record is included.
        shutdown: Option<WalPosition>,
    },
    /// SIGKILL is pending on processes that sit in the kernel: they can acknowledge nothing, but the disk
    /// is not safe to use yet (ha.md section 1).
    Dying,
    /// Started, not yet accepting connections.
    Starting,
    /// In recovery. `following` is the upstream in force; `None` means closed.
    Standby {
        /// Upstream in force.
        following: Option<Upstream>,
        /// A WAL receiver runs.
        streaming: bool,
        /// Replayed up to here, as last looked.
        replayed: Option<Lsn>,
    },
    /// Promoted.
    Primary {
        /// The timeline it writes on.
        timeline: Timeline,
        /// Where that timeline began.
        switch_lsn: Option<Lsn>,
    },
    /// Shutting down.
    Stopping,
}

/// Why the server ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// By order.
    Ordered,
    /// By the fence (L2).
    Fenced,
    /// By itself or by somebody else: exit status or signal, for people.
    Crashed(String),
}

/// A job under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Which.
    pub kind: JobKind,
    /// Since when.
    pub since: BootTime,
    /// Progress for people, such as "copied 1.2 of 5.0 GiB".
    pub progress: Option<String>,
}

/// The long orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobKind {
    /// [`Order::Initdb`]
    Initdb,
    /// [`Order::Clone`]
    Clone,
    /// [`Order::Rewind`]
    Rewind,
    /// [`Order::Start`]
    Start,
    /// [`Order::Promote`]
    Promote,
    /// [`Order::Stop`] and [`Order::Kill`]
    Stop,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobEnd {
    /// Which.
    pub kind: JobKind,
    /// When.
    pub at: BootTime,
    /// `None` if it succeeded; otherwise what the tool said last.
    pub error: Option<String>,
}

/// The armed fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// Epoch it belongs to.
    pub epoch: Epoch,
    /// When sessions end.
    pub fast_stop_at: BootTime,
    /// When whatever is left is killed.
    pub kill_at: BootTime,
}
