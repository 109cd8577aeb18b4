//! The shape of a database pod that the operator builds and the agent relies on: names, paths, ports, labels.
//!
//! One pod has an init container `install`, a native sidecar `agent` and the container `postgres`
//! (ha.md section 1). These volumes matter:
//!
//! | volume | mounted at | in | holds |
//! |---|---|---|---|
//! | `data` (PVC) | [`DATA_DIR`] | postgres | PGDATA in `pgdata/`, the durable HA state beside it |
//! | `run` (`emptyDir`, `medium: Memory`) | [`RUN_DIR`] | all | the agent binary, sockets, the lock file |
//! | `config` (`ConfigMap`) | [`CONFIG_DIR`] | agent | [`CONFIG_FILE`], a [`crate::wire::config::AgentConfig`] |
//! | `tls` (Secret) | [`TLS_DIR`] | agent, postgres | `ca.crt`, `tls.crt`, `tls.key` |
//! | `passwords` (projected Secrets) | [`PASSWORDS_DIR`] | agent | one file per role |
//! | `backup` (Secret, or two projected) | [`BACKUP_CREDENTIALS_DIR`] | agent | credentials of the archive's store, [`IDENTITIES_FILE`], if any |
//!
//! A pod of a Database that begins from a backup has an init container `restore` too, on the PostgreSQL image
//! and after the sidecar: `agent restore`, with `data` and `run`, [`RESTORE_FILE`] and
//! [`RESTORE_CREDENTIALS_DIR`].

/// Name of the container that runs `agent supervise` as PID 1 of a stock `PostgreSQL` image.
pub const POSTGRES_CONTAINER: &str = "postgres";
/// Name of the sidecar that runs `agent run`.
pub const AGENT_CONTAINER: &str = "agent";
/// Name of the init container that installs the binary.
pub const INSTALL_CONTAINER: &str = "install";

/// Shared in-memory directory. It is `PostgreSQL`'s default socket directory too, so that `psql` in
/// `kubectl exec` needs no option.
pub const RUN_DIR: &str = "/var/run/postgresql";
/// The agent binary as installed for both containers.
pub const INSTALLED_AGENT: &str = "/var/run/postgresql/agent";
/// Socket on which the supervisor serves [`crate::wire::supervisor`].
pub const SUPERVISOR_SOCKET: &str = "/var/run/postgresql/supervisor.sock";
/// File whose shared `flock` every `PostgreSQL` process inherits (ha.md section 1, proof of death).
pub const LOCK_FILE: &str = "/var/run/postgresql/postgres.lock";
/// Mount point of the data volume.
pub const DATA_DIR: &str = "/var/lib/postgresql/data";
/// PGDATA, a directory inside the volume, so that what lies beside it survives a swap by rename.
pub const PGDATA: &str = "/var/lib/postgresql/data/pgdata";
/// Mount point of the agent's configuration.
pub const CONFIG_DIR: &str = "/etc/matriarch/config";
/// Key in the `ConfigMap` and file in [`CONFIG_DIR`].
pub const CONFIG_FILE: &str = "agent.json";
/// Mount point of the Database's certificates. `tls.crt` serves both directions and must have a common name:
/// members authenticate with it to each other as [`REPLICATION_ROLE`].
pub const TLS_DIR: &str = "/etc/matriarch/tls";
/// Mount point of the roles' passwords: files `superuser` and `app`.
pub const PASSWORDS_DIR: &str = "/etc/matriarch/passwords";

/// Mount point of the credentials of the archive's store, each file optional, read anew when it changes:
/// `accessKeyId`, `secretAccessKey`, `sessionToken` (S3), `serviceAccount.json` (GCS), `accountKey` (Azure),
/// `ca.crt`; and [`IDENTITIES_FILE`].
pub const BACKUP_CREDENTIALS_DIR: &str = "/etc/matriarch/backup";
/// File among those credentials, and key in its Secret: identities of `age`, a line each, as `age-keygen` writes them.
/// The last one encrypts, all decrypt.
pub const IDENTITIES_FILE: &str = "identity.txt";
/// Socket on which the sidecar takes WAL files from the server's `archive_command`.
pub const ARCHIVE_SOCKET: &str = "/var/run/postgresql/archive.sock";
/// What to restore: a [`crate::wire::backup::RestoreConfig`].
pub const RESTORE_FILE: &str = "/etc/matriarch/restore/restore.json";
/// Folder of [`RESTORE_FILE`].
pub const RESTORE_DIR: &str = "/etc/matriarch/restore";
/// Name of [`RESTORE_FILE`] in its folder, and its key in the `ConfigMap`.
pub const RESTORE_KEY: &str = "restore.json";
/// As [`BACKUP_CREDENTIALS_DIR`], for the store that is restored from.
pub const RESTORE_CREDENTIALS_DIR: &str = "/etc/matriarch/restore-credentials";
/// A [`crate::wire::backup::RestoreProgress`], written by `agent restore` and shown by the sidecar.
pub const RESTORE_PROGRESS_FILE: &str = "/var/run/postgresql/restore.json";
/// Where the last words of a container go, which Kubernetes then shows in the status of its pod.
pub const TERMINATION_FILE: &str = "/dev/termination-log";
/// Name of the container that proves a restore.
pub const DRILL_CONTAINER: &str = "drill";
/// Name of the init container that restores a backup.
pub const RESTORE_CONTAINER: &str = "restore";

/// `PostgreSQL`'s port.
pub const POSTGRES_PORT: u16 = 5432;
/// Plain HTTP for probes, load balancers and monitors: harmless reads only (ha.md section 9).
pub const HTTP_PORT: u16 = 8008;
/// HTTPS with client certificates of the Database's CA: what members ask each other, and the operator.
pub const PEER_PORT: u16 = 8009;

/// Environment: the pod's own name.
pub const ENV_POD_NAME: &str = "POD_NAME";
/// Environment: the pod's namespace.
pub const ENV_POD_NAMESPACE: &str = "POD_NAMESPACE";
/// Environment: the pod's UID.
pub const ENV_POD_UID: &str = "POD_UID";
/// Environment: name of the Database, which is the name of its Lease and `StatefulSet` too.
pub const ENV_DATABASE: &str = "DATABASE";

/// Environment of the pod that asks for a backup: name of the `Backup` to make.
pub const ENV_BACKUP: &str = "BACKUP";
/// Environment of the same pod: `spec.method` of the `Backup`, if not `Physical`.
pub const ENV_BACKUP_METHOD: &str = "BACKUP_METHOD";

/// Label on everything that belongs to a Database; its value is the Database's name.
pub const LABEL_DATABASE: &str = "db.example.com/database";
/// Label that the agent keeps on its own pod: one of the `ROLE_` values.
pub const LABEL_ROLE: &str = "db.example.com/role";
/// Leads, holds a valid lease, accepts writes.
pub const ROLE_PRIMARY: &str = "primary";
/// Follows a leader and may serve reads.
pub const ROLE_REPLICA: &str = "replica";
/// Neither (starting, fenced, cloning).
pub const ROLE_NONE: &str = "none";

/// Annotation of the Lease that holds the HA document (ha.md section 2).
pub const ANNOTATION_HA: &str = "db.example.com/ha";
/// Annotation on a Database by which a human lets a member lead without those that have acknowledged commits and
/// are away: `<pod>@<last epoch that was opened>`.
pub const ANNOTATION_ACCEPT_DATA_LOSS: &str = "db.example.com/accept-data-loss";
/// Annotation of the `StatefulSet` (and field of the status) that keeps the system identifier outside the
/// Lease (W4).
pub const ANNOTATION_SYSTEM_ID: &str = "db.example.com/system-identifier";

/// Role that replicates. Members authenticate as it with the Database's certificate, not with a password.
pub const REPLICATION_ROLE: &str = "replicator";
/// Role and database that applications get by default.
pub const APP_ROLE: &str = "app";

/// DNS name of a member, resolvable while the pod is not ready.
pub fn member_host(database: &str, ordinal: crate::identity::Ordinal, namespace: &str) -> String {
    format!("{database}-{ordinal}.{database}-headless.{namespace}.svc")
}

/// Annotation with which the operator creates the Lease of a Database that was never initialised, once in the
/// Database's life; its value is the Database's UID. Only such a Lease may be without [`ANNOTATION_HA`] and
/// still be claimed (W4). The first claim removes it.
pub const ANNOTATION_NEVER_INITIALISED: &str = "db.example.com/never-initialised";

/// Physical replication slot of a member on every node that leads or could lead. It names the ordinal, so that
/// a re-cloned member finds it, and a leader learns from it which ordinal a new data id belongs to.
pub fn member_slot(ordinal: crate::identity::Ordinal) -> String {
    format!("member_{ordinal}")
}

/// The ordinal that [`member_slot`] made this name of.
pub fn slot_member(slot: &str) -> Option<crate::identity::Ordinal> {
    slot.strip_prefix("member_")?.parse().ok().map(crate::identity::Ordinal)
}

/// The ordinal at the end of a pod's name.
pub fn pod_ordinal(pod: &str) -> Option<crate::identity::Ordinal> {
    pod.rsplit_once('-')?.1.parse().ok().map(crate::identity::Ordinal)
}
