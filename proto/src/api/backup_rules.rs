//! CEL rules of what concerns backups; see [`super::rules`].

use kube::core::{Message, Rule};

fn rule(expression: impl Into<String>, message: &str) -> Rule {
    Rule::new(expression).message(message)
}

/// A rule whose message is computed, since naming the offending value helps.
fn explained(expression: impl Into<String>, message: impl Into<String>) -> Rule {
    Rule::new(expression).message(Message::Expression(message.into()))
}

/// One field of a schedule: `*`, `1`, `1-5`, `*/10` and lists of those, with `value` for a number or name.
fn field(value: &str) -> String {
    let item = format!("([*]|({value})(-({value}))?)(/[1-9][0-9]?)?");
    format!("{item}(,{item})*")
}

/// Of backups.
pub fn schedule_has_five_fields() -> Rule {
    five_fields("schedule")
}

/// Of restore drills.
pub fn drill_schedule_has_five_fields() -> Rule {
    five_fields("drillSchedule")
}

/// Of VolumeSnapshots.
pub fn snapshot_schedule_has_five_fields() -> Rule {
    five_fields("snapshotSchedule")
}

/// Five fields within their bounds, as a CronJob takes them.
fn five_fields(name: &str) -> Rule {
    let fields = [
        field("[0-5]?[0-9]"),
        field("[01]?[0-9]|2[0-3]"),
        field("0?[1-9]|[12][0-9]|3[01]"),
        field("0?[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"),
        field("[0-6]|sun|mon|tue|wed|thu|fri|sat"),
    ];
    explained(
        format!("self.lowerAscii().matches('^{}$')", fields.join("[ ]+")),
        format!(
            "'spec.backup.{name} \"' + self + '\" is not a schedule: write five fields such as \"0 3 * * *\" \
             (minute hour day month weekday, in UTC)'"
        ),
    )
}

/// Older servers keep no account of what changes.
pub fn increments_can_be_taken() -> Rule {
    rule(
        "!has(self.backup) || !has(self.backup.fullEvery) || self.backup.fullEvery <= 1 || \
         !self.version.matches('^1[456]')",
        "spec.backup.fullEvery above 1 asks for incremental backups, which need PostgreSQL 17 or newer: remove \
         fullEvery, so that every backup is a full one, or use version 17 or 18",
    )
}

/// A bucket, and a folder in it.
pub fn destination_is_a_bucket() -> Rule {
    explained(
        "self.matches('^((s3|gs)://[a-z0-9][-a-z0-9._]{1,61}[a-z0-9]|az://[a-z0-9]{3,24}/[a-z0-9][-a-z0-9]{2,62})\
         (/[A-Za-z0-9._=-]+)*/?$')",
        "'destination ' + self + ' is not a bucket: write one such as s3://my-backups/orders-db, \
         gs://bucket/folder or az://account/container/folder'",
    )
}

/// An address without a path.
pub fn endpoint_is_a_url() -> Rule {
    explained(
        "self.matches('^https?://[A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]{1,5})?/?$')",
        "'endpoint ' + self + ' is not the address of a store: write one such as https://s3.example.com or \
         http://10.0.0.1:9000, without a path'",
    )
}

/// One word.
pub fn region_is_a_name() -> Rule {
    rule("self.matches('^[a-z0-9][-a-z0-9]*$')", "region must be the name of a region such as eu-central-1")
}

/// A Secret is named like every object.
pub fn secret_is_a_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "credentials.secretName must be the name of a Secret in the namespace of the Database",
    )
}

/// As every object.
pub fn encryption_secret_is_a_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "encryption.secretName must be the name of a Secret in the namespace of the Database",
    )
}

/// As every object.
pub fn snapshot_class_is_a_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "spec.backup.volumeSnapshotClassName must be the name of a VolumeSnapshotClass: see kubectl get \
         volumesnapshotclasses",
    )
}

/// As every object.
pub fn volume_snapshot_is_a_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "spec.bootstrap.restore.volumeSnapshot must be the name of a VolumeSnapshot in the namespace of the Database",
    )
}

/// Only the key management service has keys to choose from.
pub fn key_belongs_to_kms() -> Rule {
    rule(
        "(self.algorithm == 'Kms') == has(self.keyId)",
        "spec.backup.serverSideEncryption needs keyId with algorithm Kms, and takes none with Aes256",
    )
}

/// As Kubernetes gives it.
pub fn uid_is_one() -> Rule {
    rule(
        "self.matches('^[A-Za-z0-9][-A-Za-z0-9]*$')",
        "spec.bootstrap.restore.from.repository.uid must be the UID of a Database, the name of its folder in the \
         destination",
    )
}

/// From one place.
pub fn one_source() -> Rule {
    rule(
        "has(self.database) != has(self.repository)",
        "spec.bootstrap.restore.from needs either database, the name of a Database in this namespace, or \
         repository, the store that holds the backups",
    )
}

/// To one point.
pub fn one_target() -> Rule {
    rule(
        "[has(self.time), has(self.lsn), has(self.xid), has(self.name), has(self.immediate) && \
         self.immediate].filter(given, given).size() == 1",
        "spec.bootstrap.restore.target needs exactly one of time, lsn, xid, name and immediate: true; leave target \
         out to restore everything that was archived",
    )
}

/// Without a zone a time means another one to everybody.
pub fn time_has_a_zone() -> Rule {
    explained(
        "self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$')",
        "'spec.bootstrap.restore.target.time ' + self + ' is not a time with a zone: write one such as \
         2026-03-01T12:00:00Z'",
    )
}

/// Two hexadecimal numbers.
pub fn lsn_is_one() -> Rule {
    explained(
        "self.matches('^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$')",
        "'spec.bootstrap.restore.target.lsn ' + self + ' is not a position in the write-ahead log: write one such \
         as 16/B374D848'",
    )
}

/// As `pg_current_xact_id` says it.
pub fn xid_is_a_number() -> Rule {
    rule(
        "self.matches('^[0-9]+$')",
        "spec.bootstrap.restore.target.xid must be the number of a transaction, in quotes",
    )
}

/// A request is for one Database and one kind.
pub fn backup_is_fixed() -> Rule {
    rule("self.spec == oldSelf.spec", "spec of a Backup cannot change: create another Backup")
}
