//! The parts of a Database that concern backups, parsed once.

use super::super::repository::{
    BackupPolicy, Credentials, Encryption, EncryptionAlgorithm, Repository, Restore,
    RestoreTarget as WrittenTarget, ServerSideEncryption as WrittenEncryption,
};
use crate::{
    api::schedule::{InvalidSchedule, Schedule},
    wire::backup::{ArchiveConfig, LONGEST_CHAIN, RestoreTarget, ServerSideEncryption},
};

/// Days that can be counted back from today in any calendar.
const MAX_RETENTION: i32 = 3_650;
/// The first major version that takes incremental backups.
const FIRST_INCREMENTAL: u8 = 17;
/// What stores are reached by.
const SCHEMES: [&str; 3] = ["s3://", "gs://", "az://"];

/// `spec.backup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidBackup {
    /// Whether anything is backed up.
    pub enabled: bool,
    /// When.
    pub schedule: Schedule,
    /// When a restore is proven, if ever.
    pub drill: Option<Schedule>,
    /// When VolumeSnapshots are taken, if ever by themselves.
    pub snapshots: Option<Schedule>,
    /// For how long.
    pub retention_days: u32,
    /// Each so-many-th backup is a full one; more than 1 only where the server takes incremental ones.
    pub full_every: u32,
    /// Class of VolumeSnapshots, if not the storage's own.
    pub volume_snapshot_class: Option<String>,
    /// Where to.
    pub store: Store,
}

/// A place and the Secrets that open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// As agents understand it.
    pub archive: ArchiveConfig,
    /// Name of the Secret with its credentials.
    pub credentials: Option<String>,
    /// Name of the Secret with the identities that what lies there is encrypted with.
    pub encryption: Option<String>,
}

/// `spec.bootstrap.restore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidRestore {
    /// What to begin with.
    pub source: Source,
    /// VolumeSnapshot that the volume is made of.
    pub volume_snapshot: Option<String>,
    /// Where to end.
    pub target: RestoreTarget,
}

/// Whose backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Those of a Database of the same namespace.
    Database(String),
    /// Those that lie here, of the Database of this UID if more than one used the place.
    Store {
        /// Where.
        store: Store,
        /// Whose.
        uid: Option<String>,
    },
}

/// Why it cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackup {
    /// Not a schedule.
    #[error("spec.backup.schedule cannot be used")]
    Schedule(#[source] InvalidSchedule),
    /// Not a schedule.
    #[error("spec.backup.drillSchedule cannot be used")]
    Drill(#[source] InvalidSchedule),
    /// Not a schedule.
    #[error("spec.backup.snapshotSchedule cannot be used")]
    Snapshots(#[source] InvalidSchedule),
    /// Out of 1 to 3650.
    #[error("spec.backup.retention is {0}: use 1 to {MAX_RETENTION} days")]
    Retention(i32),
    /// Out of 1 to the longest chain.
    #[error("spec.backup.fullEvery is {0}: use 1 to {LONGEST_CHAIN}")]
    FullEvery(i32),
    /// A server that takes none.
    #[error(
        "spec.backup.fullEvery above 1 needs PostgreSQL {FIRST_INCREMENTAL} or newer, and spec.version is {0}: remove \
         fullEvery, so that every backup is a full one"
    )]
    Increments(u8),
    /// No scheme that is known.
    #[error("destination {0:?} is not a bucket: write one such as s3://my-backups/orders-db")]
    Destination(String),
    /// Neither or both.
    #[error("spec.bootstrap.restore.from needs either database or repository")]
    Source,
    /// Not exactly one, or not readable.
    #[error("spec.bootstrap.restore.target: {0}")]
    Target(&'static str),
    /// A key without a service, or the other way round.
    #[error("spec.backup.serverSideEncryption needs keyId with algorithm Kms, and only then")]
    Encryption,
}

impl ValidBackup {
    pub(super) fn parse(policy: &BackupPolicy, major: u8) -> Result<Self, InvalidBackup> {
        let days = u32::try_from(policy.retention).ok();
        let days = days.filter(|_| (1..=MAX_RETENTION).contains(&policy.retention));
        let mut store = store(Place {
            destination: &policy.destination,
            endpoint: policy.endpoint.as_deref(),
            region: policy.region.as_deref(),
            path_style: policy.path_style,
            credentials: policy.credentials.as_ref(),
            encryption: policy.encryption.as_ref(),
        })?;
        store.archive.server_side_encryption =
            policy.server_side_encryption.as_ref().map(encryption).transpose()?;
        Ok(Self {
            enabled: policy.enabled,
            schedule: policy.schedule.parse().map_err(InvalidBackup::Schedule)?,
            drill: schedule(policy.drill_schedule.as_deref(), InvalidBackup::Drill)?,
            snapshots: schedule(policy.snapshot_schedule.as_deref(), InvalidBackup::Snapshots)?,
            retention_days: days.ok_or(InvalidBackup::Retention(policy.retention))?,
            full_every: full_every(policy.full_every, major)?,
            volume_snapshot_class: policy.volume_snapshot_class_name.clone(),
            store,
        })
    }
}

impl ValidBackup {
    /// Whether incremental backups are taken.
    pub fn increments(&self) -> bool {
        self.enabled && self.full_every > 1
    }
}

fn schedule(
    wanted: Option<&str>,
    invalid: impl Fn(InvalidSchedule) -> InvalidBackup,
) -> Result<Option<Schedule>, InvalidBackup> {
    wanted.map(str::parse).transpose().map_err(invalid)
}

fn full_every(wanted: i32, major: u8) -> Result<u32, InvalidBackup> {
    let parsed = u32::try_from(wanted).ok().filter(|wanted| (1..=LONGEST_CHAIN).contains(wanted));
    match parsed.ok_or(InvalidBackup::FullEvery(wanted))? {
        2.. if major < FIRST_INCREMENTAL => Err(InvalidBackup::Increments(major)),
        full_every => Ok(full_every),
    }
}

impl ValidRestore {
    pub(super) fn parse(restore: &Restore) -> Result<Self, InvalidBackup> {
        let source = match (&restore.from.database, &restore.from.repository) {
            (Some(database), None) => Source::Database(database.clone()),
            (None, Some(repository)) => {
                Source::Store { store: of_repository(repository)?, uid: repository.uid.clone() }
            }
            _ => return Err(InvalidBackup::Source),
        };
        let target = restore.target.as_ref().map_or(Ok(RestoreTarget::Latest), target)?;
        Ok(Self { source, volume_snapshot: restore.volume_snapshot.clone(), target })
    }
}

/// What both forms of a store have in common.
#[derive(Clone, Copy)]
struct Place<'a> {
    destination: &'a str,
    endpoint: Option<&'a str>,
    region: Option<&'a str>,
    path_style: Option<bool>,
    credentials: Option<&'a Credentials>,
    encryption: Option<&'a Encryption>,
}

fn of_repository(repository: &Repository) -> Result<Store, InvalidBackup> {
    store(Place {
        destination: &repository.destination,
        endpoint: repository.endpoint.as_deref(),
        region: repository.region.as_deref(),
        path_style: repository.path_style,
        credentials: repository.credentials.as_ref(),
        encryption: repository.encryption.as_ref(),
    })
}

fn store(place: Place<'_>) -> Result<Store, InvalidBackup> {
    let destination = place.destination.trim_end_matches('/');
    if !SCHEMES.iter().any(|scheme| destination.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())) {
        return Err(InvalidBackup::Destination(place.destination.to_owned()));
    }
    let archive = ArchiveConfig {
        destination: destination.to_owned(),
        endpoint: place.endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
        region: place.region.map(str::to_owned),
        path_style: place.path_style.unwrap_or(place.endpoint.is_some()),
        allow_http: place.endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")),
        custom_ca: place.credentials.is_some_and(|credentials| credentials.custom_ca),
        server_side_encryption: None,
        encrypted: place.encryption.is_some(),
    };
    let credentials = place.credentials.map(|credentials| credentials.secret_name.clone());
    let encryption = place.encryption.map(|encryption| encryption.secret_name.clone());
    Ok(Store { archive, credentials, encryption })
}

fn encryption(written: &WrittenEncryption) -> Result<ServerSideEncryption, InvalidBackup> {
    match (written.algorithm, &written.key_id) {
        (EncryptionAlgorithm::Aes256, None) => Ok(ServerSideEncryption::Aes256),
        (EncryptionAlgorithm::Kms, Some(key_id)) => Ok(ServerSideEncryption::Kms { key_id: key_id.clone() }),
        _ => Err(InvalidBackup::Encryption),
    }
}

fn target(written: &WrittenTarget) -> Result<RestoreTarget, InvalidBackup> {
    let time = written.time.as_ref().map(|time| {
        let parsed = time.parse().map(RestoreTarget::Time);
        parsed.map_err(|_| InvalidBackup::Target("time is not one such as 2026-03-01T12:00:00Z"))
    });
    let lsn = written.lsn.as_ref().map(|lsn| {
        let parsed = lsn.parse().map(RestoreTarget::Lsn);
        parsed.map_err(|_| InvalidBackup::Target("lsn is not one such as 16/B374D848"))
    });
    let xid = written.xid.as_ref().map(|xid| {
        xid.parse().map(RestoreTarget::Xid).map_err(|_| InvalidBackup::Target("xid is not a number"))
    });
    let name = written.name.clone().map(|name| Ok(RestoreTarget::Name(name)));
    let immediate = written.immediate.filter(|wanted| *wanted).map(|_| Ok(RestoreTarget::Immediate));
    let mut given = [time, lsn, xid, name, immediate].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(one), None) => one,
        _ => Err(InvalidBackup::Target("give exactly one of time, lsn, xid, name and immediate: true")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn backup(changes: &Value) -> Result<ValidBackup, InvalidBackup> {
        let mut policy = json!({"destination": "s3://my-backups/orders-db"});
        policy.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ValidBackup::parse(&serde_json::from_value(policy).unwrap(), 17)
    }

    fn restore(restore: Value) -> Result<ValidRestore, InvalidBackup> {
        ValidRestore::parse(&serde_json::from_value(restore).unwrap())
    }

    #[test]
    fn a_destination_is_all_that_it_takes() {
        let valid = backup(&json!({})).unwrap();
        assert!(valid.enabled && valid.drill.is_none());
        assert_eq!((valid.schedule.to_string().as_str(), valid.retention_days), ("0 3 * * *", 14));
        let archive = valid.store.archive;
        assert_eq!((archive.path_style, archive.allow_http, archive.endpoint), (false, false, None));
    }

    #[test]
    fn an_endpoint_says_how_it_is_reached() {
        let archive = backup(&json!({"endpoint": "http://s3.lab:9000/"})).unwrap().store.archive;
        assert_eq!(archive.endpoint.as_deref(), Some("http://s3.lab:9000"));
        assert!(archive.path_style && archive.allow_http);
        let archive =
            backup(&json!({"endpoint": "https://s3.lab", "pathStyle": false})).unwrap().store.archive;
        assert!(!archive.path_style && !archive.allow_http);
    }

    #[test]
    fn encryption_is_asked_for_by_its_secret() {
        let plain = backup(&json!({})).unwrap().store;
        assert!(!plain.archive.encrypted && plain.encryption.is_none());
        let encrypted = json!({"encryption": {"secretName": "orders-keys"}});
        let store = backup(&encrypted).unwrap().store;
        assert!(store.archive.encrypted);
        assert_eq!(store.encryption.as_deref(), Some("orders-keys"));
        let repository = json!({"destination": "s3://b/f", "encryption": {"secretName": "orders-keys"}});
        let valid = restore(json!({"from": {"repository": repository}})).unwrap();
        let Source::Store { store, .. } = valid.source else { unreachable!("it names a store") };
        assert!(store.archive.encrypted);
        assert_eq!(store.encryption.as_deref(), Some("orders-keys"));
    }

    #[test]
    fn what_the_rules_missed_is_refused() {
        for (changes, part) in [
            (json!({"schedule": "daily"}), "spec.backup.schedule"),
            (json!({"drillSchedule": "weekly"}), "spec.backup.drillSchedule"),
            (json!({"snapshotSchedule": "hourly"}), "spec.backup.snapshotSchedule"),
            (json!({"retention": 0}), "spec.backup.retention is 0"),
            (json!({"fullEvery": 0}), "spec.backup.fullEvery is 0"),
            (json!({"fullEvery": 15}), "use 1 to 14"),
            (json!({"destination": "/backups"}), "destination \"/backups\""),
            (json!({"destination": "s3://"}), "destination \"s3://\""),
            (json!({"serverSideEncryption": {"algorithm": "Kms"}}), "keyId"),
        ] {
            let error = backup(&changes).unwrap_err().to_string();
            assert!(error.contains(part), "{changes}: {error}");
        }
    }

    #[test]
    fn increments_need_a_server_that_takes_them() {
        assert!(!backup(&json!({})).unwrap().increments(), "each is a full one if nothing else is said");
        assert!(backup(&json!({"fullEvery": 7})).unwrap().increments());
        assert!(!backup(&json!({"fullEvery": 7, "enabled": false})).unwrap().increments());
        assert_eq!(full_every(1, 16), Ok(1));
        assert_eq!(full_every(2, 16), Err(InvalidBackup::Increments(16)));
    }

    #[test]
    fn a_restore_has_one_source_and_one_target() {
        let from = json!({"database": "orders-db"});
        let latest = restore(json!({"from": from})).unwrap();
        assert_eq!(latest.source, Source::Database("orders-db".to_owned()));
        assert_eq!(latest.target, RestoreTarget::Latest);
        let timed = restore(json!({"from": from, "target": {"time": "2026-03-01T12:00:00+01:00"}})).unwrap();
        assert_eq!(timed.target, RestoreTarget::Time("2026-03-01T11:00:00Z".parse().unwrap()));
        let immediate = restore(json!({"from": from, "target": {"immediate": true}})).unwrap();
        assert_eq!(immediate.target, RestoreTarget::Immediate);
        for target in
            [json!({}), json!({"immediate": false}), json!({"xid": "7", "lsn": "0/1"}), json!({"xid": "x"})]
        {
            let refused = restore(json!({"from": from, "target": target}));
            assert!(matches!(refused, Err(InvalidBackup::Target(_))), "{target}");
        }
        assert_eq!(restore(json!({"from": {}})), Err(InvalidBackup::Source));
    }
}
