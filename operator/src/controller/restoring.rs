//! With what a new Database begins, if not with nothing. Pure. The source is looked up once and then recorded in
//! a ConfigMap, so that a source that changes or goes later changes nothing here.

use kube::ResourceExt;
use proto::{
    api::{
        database::Database,
        valid::{
            ValidDatabase,
            backup::{Source, Store, ValidRestore},
        },
    },
    postgres::SystemIdentifier,
    wire::backup::{ArchiveConfig, RestoreConfig, RestoreTarget},
};

use super::observe::Observed;
use crate::{
    build::{RestoreShape, recorded_restore},
    chain::chain,
    cluster::Cluster,
    volume_snapshot::VolumeSnapshot,
};

/// What is known of the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// Empty, by initdb.
    Empty,
    /// From backups.
    Restore(Box<RestoreShape>),
    /// From backups that cannot be found: nothing is made until they are.
    Unknown { reason: &'static str, message: String },
}

impl Beginning {
    /// What the children are built from.
    pub(crate) fn shape(&self) -> Option<RestoreShape> {
        match self {
            Self::Restore(shape) => Some((**shape).clone()),
            Self::Empty | Self::Unknown { .. } => None,
        }
    }
}

/// Finds out. `born` is true once the Database has data.
pub(crate) fn beginning(cluster: &Cluster, observed: &Observed, born: bool) -> Beginning {
    let Some(restore) = &cluster.spec.restore else { return Beginning::Empty };
    // That of an earlier Database of this name may still be there, and says where that one began.
    let own = observed.restore_map.as_ref().filter(|map| cluster.owns(*map));
    let recorded = own.and_then(recorded_restore);
    let found = match recorded {
        Some(recorded) => Ok(recorded),
        None => find(cluster, restore, observed.restore_source.as_ref())
            .and_then(|shape| begin_with(shape, cluster, restore, observed.restore_snapshot.as_ref())),
    };
    match found {
        Ok(mut shape) => {
            shape.config.target = restore.target.clone();
            shape.config.completed = born;
            Beginning::Restore(Box::new(shape))
        }
        // Nothing is ever restored again, so it does not matter from where.
        Err(_) if born => Beginning::Restore(Box::new(nowhere())),
        Err((reason, message)) => Beginning::Unknown { reason, message },
    }
}

type Trouble = (&'static str, String);

fn find(
    cluster: &Cluster,
    restore: &ValidRestore,
    source: Option<&Database>,
) -> Result<RestoreShape, Trouble> {
    match &restore.source {
        Source::Store { store, uid } => Ok(shape(store, uid.clone(), None)),
        Source::Database(name) if name == cluster.name() => Err((
            "RestoreSourceInvalid",
            "spec.bootstrap.restore.from.database names this Database itself, which has no data yet: name its store \
             in from.repository"
                .to_owned(),
        )),
        Source::Database(name) => of_database(name, source),
    }
}

/// Adds the VolumeSnapshot, if there is to be one.
fn begin_with(
    mut shape: RestoreShape,
    cluster: &Cluster,
    restore: &ValidRestore,
    snapshot: Option<&VolumeSnapshot>,
) -> Result<RestoreShape, Trouble> {
    let Some(name) = &restore.volume_snapshot else { return Ok(shape) };
    let invalid = |why: String| ("RestoreSourceInvalid", format!("VolumeSnapshot {name} {why}"));
    let snapshot = snapshot.ok_or_else(|| {
        let message =
            format!("there is no VolumeSnapshot {name} in this namespace: see kubectl get volumesnapshots");
        ("RestoreSourceMissing", message)
    })?;
    let (backup, uid) = snapshot.backup().ok_or_else(|| {
        invalid("was not taken by a Backup, so that nobody knows what its files need".to_owned())
    })?;
    if shape.config.database_uid.as_ref().is_some_and(|of| of != uid) {
        return Err(invalid("is of another Database than spec.bootstrap.restore.from".to_owned()));
    }
    if !snapshot.is_ready() {
        let message = format!("VolumeSnapshot {name} is not ready to use yet");
        return Err(("RestoreSourceNotReady", message));
    }
    if let Some(size) = snapshot.size().filter(|size| *size > cluster.spec.storage_size) {
        return Err(invalid(format!("needs a volume of {size} at least: raise spec.storage.size")));
    }
    shape.config.database_uid = Some(uid.to_owned());
    shape.config.snapshot = Some(backup.to_owned());
    shape.volume_snapshot = Some(name.clone());
    Ok(shape)
}

fn of_database(name: &str, source: Option<&Database>) -> Result<RestoreShape, Trouble> {
    let source = source.ok_or_else(|| {
        let message = format!(
            "there is no Database {name} in this namespace: if it was deleted, name its store in \
             spec.bootstrap.restore.from.repository"
        );
        ("RestoreSourceMissing", message)
    })?;
    let valid = ValidDatabase::parse(source).map_err(|error| ("RestoreSourceInvalid", chain(&error)))?;
    let backup = valid.backup.ok_or_else(|| {
        (
            "RestoreSourceInvalid",
            format!("Database {name} has no spec.backup that says where its backups are"),
        )
    })?;
    let identifier =
        source.status.as_ref().and_then(|status| status.system_identifier.as_ref()?.parse().ok());
    Ok(shape(&backup.store, source.uid(), identifier.map(SystemIdentifier)))
}

fn shape(store: &Store, uid: Option<String>, system_identifier: Option<SystemIdentifier>) -> RestoreShape {
    RestoreShape {
        config: RestoreConfig {
            source: store.archive.clone(),
            database_uid: uid,
            system_identifier,
            target: RestoreTarget::Latest,
            backup: None,
            snapshot: None,
            completed: false,
        },
        credentials: store.credentials.clone(),
        encryption: store.encryption.clone(),
        volume_snapshot: None,
    }
}

fn nowhere() -> RestoreShape {
    let source = ArchiveConfig {
        destination: String::new(),
        endpoint: None,
        region: None,
        path_style: false,
        allow_http: false,
        custom_ca: false,
        server_side_encryption: None,
        encrypted: false,
    };
    let store = Store { archive: source, credentials: None, encryption: None };
    let mut shape = shape(&store, None, None);
    shape.config.completed = true;
    shape
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    use super::*;
    use crate::{build, fixtures, volume_snapshot};

    fn restoring(from: &Value) -> Cluster {
        let target = json!({"time": "2026-03-01T12:00:00Z"});
        fixtures::cluster_with(&json!({"bootstrap": {"restore": {"from": from, "target": target}}}))
    }

    fn source(backup: &Value) -> Database {
        let mut stored = fixtures::stored_database(&json!({}));
        stored["metadata"]["name"] = json!("old");
        stored["metadata"]["uid"] = json!("01d");
        stored["spec"]["backup"] = backup.clone();
        stored["status"] = json!({"systemIdentifier": "77"});
        serde_json::from_value(stored).unwrap()
    }

    fn store() -> Value {
        json!({
            "destination": "s3://bucket/old",
            "credentials": {"secretName": "keys"},
            "encryption": {"secretName": "identities"},
        })
    }

    fn restored(beginning: &Beginning) -> RestoreShape {
        beginning.shape().unwrap()
    }

    #[test]
    fn the_source_says_where_its_backups_are() {
        let observed = Observed { restore_source: Some(source(&store())), ..Observed::default() };
        let shape = restored(&beginning(&restoring(&json!({"database": "old"})), &observed, false));
        assert_eq!(shape.credentials.as_deref(), Some("keys"));
        assert_eq!(shape.encryption.as_deref(), Some("identities"));
        assert!(shape.config.source.encrypted);
        assert_eq!(shape.config.source.destination, "s3://bucket/old");
        assert_eq!(shape.config.database_uid.as_deref(), Some("01d"));
        assert_eq!(shape.config.system_identifier, Some(SystemIdentifier(77)));
        assert_eq!(shape.config.target, RestoreTarget::Time("2026-03-01T12:00:00Z".parse().unwrap()));
        assert!(!shape.config.completed);
    }

    #[test]
    fn what_is_recorded_outlives_the_source() {
        let cluster = restoring(&json!({"database": "old"}));
        let observed = Observed { restore_source: Some(source(&store())), ..Observed::default() };
        let shape = restored(&beginning(&cluster, &observed, false));
        let shape = build::Shape { restore: Some(shape), ..fixtures::shape() };
        let recorded = build::children(&cluster, &shape).restore_map;
        let later = Observed { restore_map: recorded, ..Observed::default() };
        let again = restored(&beginning(&cluster, &later, true));
        assert_eq!(again.credentials.as_deref(), Some("keys"));
        assert_eq!(again.encryption.as_deref(), Some("identities"));
        assert_eq!(again.config.database_uid.as_deref(), Some("01d"));
        assert!(again.config.completed);
    }

    #[test]
    fn what_an_earlier_database_of_the_name_began_with_counts_for_nothing() {
        let cluster = restoring(&json!({"database": "old"}));
        let observed = Observed { restore_source: Some(source(&store())), ..Observed::default() };
        let mut shape = restored(&beginning(&cluster, &observed, false));
        shape.config.source.destination = "s3://bucket/earlier".to_owned();
        let shape = build::Shape { restore: Some(shape), ..fixtures::shape() };
        let mut map = build::children(&cluster, &shape).restore_map.unwrap();
        let destination = |map: &ConfigMap| {
            let observed = Observed {
                restore_map: Some(map.clone()),
                restore_source: Some(source(&store())),
                ..Observed::default()
            };
            restored(&beginning(&cluster, &observed, false)).config.source.destination
        };
        assert_eq!(destination(&map), "s3://bucket/earlier");
        map.owner_references_mut()[0].uid = "another".to_owned();
        assert_eq!(destination(&map), "s3://bucket/old");
    }

    #[test]
    fn without_the_source_nothing_is_made_and_the_reason_is_said() {
        let reason = |from: Value, source: Option<Database>| {
            let observed = Observed { restore_source: source, ..Observed::default() };
            match beginning(&restoring(&from), &observed, false) {
                Beginning::Unknown { reason, .. } => reason,
                other => panic!("{other:?}"),
            }
        };
        let from = json!({"database": "old"});
        assert_eq!(reason(from.clone(), None), "RestoreSourceMissing");
        assert_eq!(reason(from, Some(source(&Value::Null))), "RestoreSourceInvalid");
        assert_eq!(reason(json!({"database": "orders-db"}), None), "RestoreSourceInvalid");
    }

    #[test]
    fn a_database_that_has_data_needs_no_source_any_more() {
        let shape = restored(&beginning(&restoring(&json!({"database": "old"})), &Observed::default(), true));
        assert!(shape.config.completed);
    }

    /// A restore that begins with a VolumeSnapshot of the Database `4bd1`.
    fn with_snapshot(size: &str, uid: &str, snapshot: Option<&Value>) -> Beginning {
        let from = json!({"repository": {"destination": "s3://bucket/old", "uid": uid}});
        let cluster = fixtures::cluster_with(&json!({
            "storage": {"size": size},
            "bootstrap": {"restore": {"from": from, "volumeSnapshot": "nightly"}},
        }));
        let snapshot = snapshot.map(volume_snapshot::tests::observed);
        beginning(&cluster, &Observed { restore_snapshot: snapshot, ..Observed::default() }, false)
    }

    #[test]
    fn a_snapshot_says_which_backup_it_is() {
        let ready = json!({"readyToUse": true, "restoreSize": "50Gi"});
        let shape = restored(&with_snapshot("50Gi", "4bd1", Some(&ready)));
        assert_eq!(shape.volume_snapshot.as_deref(), Some("nightly"));
        assert_eq!(shape.config.snapshot.as_deref(), Some("20260301T030000Z-4bd1a2c3-1"));
    }

    #[test]
    fn a_snapshot_that_cannot_be_used_is_refused_and_the_reason_is_said() {
        let refusal = |size: &str, uid: &str, snapshot: Option<Value>| match with_snapshot(
            size,
            uid,
            snapshot.as_ref(),
        ) {
            Beginning::Unknown { reason, message } => (reason, message),
            other => panic!("{other:?}"),
        };
        let ready = || Some(json!({"readyToUse": true, "restoreSize": "50Gi"}));
        assert_eq!(refusal("50Gi", "4bd1", None).0, "RestoreSourceMissing");
        assert_eq!(refusal("50Gi", "4bd1", Some(json!({}))).0, "RestoreSourceNotReady");
        assert!(refusal("50Gi", "0000", ready()).1.contains("of another Database"));
        assert!(refusal("49Gi", "4bd1", ready()).1.contains("a volume of 50 GiB"));
    }

    #[test]
    fn a_store_is_taken_as_it_is_written() {
        let from = json!({"repository": {"destination": "s3://bucket/old", "uid": "01d"}});
        let shape = restored(&beginning(&restoring(&from), &Observed::default(), false));
        assert_eq!(shape.config.database_uid.as_deref(), Some("01d"));
    }
}
