//! `spec.backup`: where backups and the write-ahead log go, how often and for how long; and
//! `spec.bootstrap.restore`: how they come back.

#![allow(unreachable_pub)] // KubeSchema repeats each struct inside a function, with its `pub`

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup_rules as rules;

/// Backups of a Database: the write-ahead log continuously, a physical backup by schedule.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupPolicy {
    /// Whether backups are taken and the write-ahead log is archived. Turning it off keeps what is stored; points
    /// in time after that cannot be restored.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// When a backup is taken: minute, hour, day of the month, month, weekday, in UTC.
    #[serde(default = "nightly")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = rules::schedule_has_five_fields())]
    pub schedule: String,

    /// For how many days every point in time can be restored. What is older is deleted, except what those days
    /// and the newest backup need.
    #[serde(default = "two_weeks")]
    #[schemars(range(min = 1, max = 3650))]
    pub retention: i32,

    /// Each so-many-th backup is a full one. Those between hold what has changed since the backup before: they are
    /// smaller and faster, and restoring one needs all of them back to the full one, and room for them. Above 1 only
    /// with PostgreSQL 17 or newer.
    #[serde(default = "each")]
    #[schemars(range(min = 1, max = 14))]
    pub full_every: i32,

    /// When a restore is proven, such as "0 6 * * 0": what is stored is restored into a volume of its own, started,
    /// checked and thrown away. Written as `schedule`. Without it never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = rules::drill_schedule_has_five_fields())]
    pub drill_schedule: Option<String>,

    /// When a VolumeSnapshot is taken as well, such as "0 */4 * * *". Written as `schedule`. Without it only those that a
    /// Backup with `method: VolumeSnapshot` asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = rules::snapshot_schedule_has_five_fields())]
    pub snapshot_schedule: Option<String>,

    /// VolumeSnapshotClass of VolumeSnapshots that Backups with `method: VolumeSnapshot` take. Default: that of the
    /// storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::snapshot_class_is_a_name())]
    pub volume_snapshot_class_name: Option<String>,

    /// Bucket and folder, such as s3://my-backups/orders-db (S3 and compatible stores), gs://bucket/folder (Google)
    /// or az://account/container/folder (Azure). Inside, each Database has a folder of its own, named after its UID.
    #[schemars(length(max = 500))]
    #[x_kube(validation = rules::destination_is_a_bucket())]
    pub destination: String,

    /// Address of a store that is compatible with S3, such as `https://s3.example.com`. Without it the provider's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    #[x_kube(validation = rules::endpoint_is_a_url())]
    pub endpoint: Option<String>,

    /// Region of the bucket. Default us-east-1, which compatible stores take for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 60))]
    #[x_kube(validation = rules::region_is_a_name())]
    pub region: Option<String>,

    /// Whether the bucket stands in the path and not in the host name. Default: true with `endpoint`, which
    /// most compatible stores want, false without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,

    /// Secret with the credentials of the store. Without it the pods' own identity is used, as the provider
    /// attaches it to the ServiceAccount of the Database's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,

    /// How the S3 store encrypts what it is given. Default: as the bucket says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_side_encryption: Option<ServerSideEncryption>,

    /// Encrypts the data before the store gets it, with keys that the store never sees. Who loses them loses the
    /// backups. What was stored before stays as it is, and readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

fn yes() -> bool {
    true
}

fn nightly() -> String {
    "0 3 * * *".to_owned()
}

fn two_weeks() -> i32 {
    14
}

fn each() -> i32 {
    1
}

/// Where credentials are.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Secret of the same namespace with the keys `accessKeyId`, `secretAccessKey` and, where used,
    /// `sessionToken` (S3), `serviceAccount.json` (Google) or `accountKey` (Azure). Changed keys are read without
    /// a restart.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::secret_is_a_name())]
    pub secret_name: String,

    /// Whether the store's certificate is signed by the CA in the Secret's key `ca.crt`, and not by a public one.
    #[serde(default)]
    pub custom_ca: bool,
}

/// Where the keys are.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Secret of the same namespace with the key `identity.txt`: identities of the program age, a line each, as
    /// `age-keygen` writes them. The last one encrypts, all decrypt. A changed one is read without a restart.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::encryption_secret_is_a_name())]
    pub secret_name: String,
}

/// How the store encrypts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = rules::key_belongs_to_kms())]
#[serde(rename_all = "camelCase")]
pub struct ServerSideEncryption {
    /// `Aes256`: with keys of the store (SSE-S3). `Kms`: with a key of the key management service (SSE-KMS).
    pub algorithm: EncryptionAlgorithm,

    /// With `Kms`: identifier of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub key_id: Option<String>,
}

/// Who holds the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EncryptionAlgorithm {
    /// The store.
    Aes256,
    /// The key management service.
    Kms,
}

/// Start with what was backed up. The source is only read; the new Database archives to a place of its own.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restore {
    /// Whose backups.
    pub from: RestoreSource,

    /// Name of a VolumeSnapshot of this namespace that a Backup of the source took. The volume is made of it, and only
    /// the write-ahead log comes from the store. Without it a backup in the store is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::volume_snapshot_is_a_name())]
    pub volume_snapshot: Option<String>,

    /// Up to where the write-ahead log is replayed. Without it: to the end of what was archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RestoreTarget>,
}

/// Whose backups: exactly one of these.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = rules::one_source())]
#[serde(rename_all = "camelCase")]
pub struct RestoreSource {
    /// Name of a Database of the same namespace; its `spec.backup` says where its backups are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub database: Option<String>,

    /// The store itself, for a Database that is gone or in another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
}

/// A folder of backups of one Database.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// Bucket and folder, as in `spec.backup.destination` of the source.
    #[schemars(length(max = 500))]
    #[x_kube(validation = rules::destination_is_a_bucket())]
    pub destination: String,

    /// UID of the source, which is the name of its folder there. Needed if more than one Database used this
    /// destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = rules::uid_is_one())]
    pub uid: Option<String>,

    /// As in `spec.backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    #[x_kube(validation = rules::endpoint_is_a_url())]
    pub endpoint: Option<String>,

    /// As in `spec.backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 60))]
    #[x_kube(validation = rules::region_is_a_name())]
    pub region: Option<String>,

    /// As in `spec.backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,

    /// As in `spec.backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,

    /// As in `spec.backup` of the source. Without it only what is not encrypted can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// Up to where: exactly one of these.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = rules::one_target())]
#[serde(rename_all = "camelCase")]
pub struct RestoreTarget {
    /// The last transaction that was committed by this time, such as 2026-03-01T12:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::time_has_a_zone())]
    pub time: Option<String>,

    /// A position in the write-ahead log, such as 16/B374D848.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = rules::lsn_is_one())]
    pub lsn: Option<String>,

    /// A transaction, included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = rules::xid_is_a_number())]
    pub xid: Option<String>,

    /// A point that `pg_create_restore_point` named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,

    /// As soon as the newest backup is consistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immediate: Option<bool>,
}
