//! Volumes of a member's pod and where they are mounted (the table in [`proto::pod`]).

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile,
    EmptyDirVolumeSource, EphemeralVolumeSource, KeyToPath, ObjectFieldSelector,
    PersistentVolumeClaimTemplate, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource,
    SecretProjection, SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};
use kube::api::ObjectMeta;
use proto::{
    api::valid::backup::ValidBackup,
    pod::{
        BACKUP_CREDENTIALS_DIR, CONFIG_DIR, DATA_DIR, IDENTITIES_FILE, PASSWORDS_DIR,
        RESTORE_CREDENTIALS_DIR, RESTORE_DIR, RUN_DIR, TLS_DIR,
    },
};

use crate::{
    build::{Shape, VOLUME_DATA, config_map_name, restore_name, secret, stateful_set::claim},
    cluster::Cluster,
};

const RUN: &str = "run";
const CONFIG: &str = "config";
const TLS: &str = "tls";
const PASSWORDS: &str = "passwords";
const TOKEN: &str = "token";
const BACKUP: &str = "backup";
const RESTORE: &str = "restore";
const RESTORE_CREDENTIALS: &str = "restore-credentials";
const SHARED_MEMORY: &str = "dshm";
const TEMPORARY: &str = "tmp";

/// Where every client of the API server looks for its token.
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Kubelet renews a token at 80 % of this; short, since only the agent reads it and it reads it again.
const TOKEN_SECONDS: i64 = 3_607;

/// All but the data volume, which comes from the claim template.
pub(super) fn volumes(cluster: &Cluster, shape: &Shape) -> Vec<Volume> {
    let mut volumes = always(cluster);
    volumes.extend(backup_secrets(cluster).map(|secrets| secrets.volume(BACKUP)));
    if let Some(restore) = &shape.restore {
        volumes.push(config_map(RESTORE, restore_name(cluster)));
        // Mounted always, so that pods do not depend on whether the source needs any.
        let secrets = StoreSecrets::of(restore.credentials.as_ref(), restore.encryption.as_ref());
        let secrets = secrets.unwrap_or_else(|| StoreSecrets::none(restore_name(cluster)));
        volumes.push(secrets.volume(RESTORE_CREDENTIALS));
    }
    volumes
}

fn backup_secrets(cluster: &Cluster) -> Option<StoreSecrets> {
    let store = &cluster.spec.backup.as_ref()?.store;
    StoreSecrets::of(store.credentials.as_ref(), store.encryption.as_ref())
}

/// What opens a store, and decrypts what lies there.
enum StoreSecrets {
    /// The credentials of the store.
    Credentials(String),
    /// Those, if there are any, and the identities beside them.
    WithIdentities { credentials: Option<String>, identities: String },
}

impl StoreSecrets {
    fn of(credentials: Option<&String>, identities: Option<&String>) -> Option<Self> {
        match (credentials.cloned(), identities.cloned()) {
            (credentials, Some(identities)) => Some(Self::WithIdentities { credentials, identities }),
            (credentials, None) => credentials.map(Self::Credentials),
        }
    }

    /// There is none; nor is there a Secret of this name.
    fn none(name: String) -> Self {
        Self::Credentials(name)
    }

    fn volume(self, name: &str) -> Volume {
        match self {
            Self::Credentials(secret) => optional_secret(name, secret),
            Self::WithIdentities { credentials, identities } => {
                let mut sources: Vec<_> =
                    credentials.map(|name| optional_part(name, None)).into_iter().collect();
                sources.push(optional_part(identities, Some(IDENTITIES_FILE)));
                projected(name, sources)
            }
        }
    }
}

fn always(cluster: &Cluster) -> Vec<Volume> {
    let names = secret::names(cluster);
    vec![
        memory(RUN),
        memory(SHARED_MEMORY),
        temporary(),
        config_map(CONFIG, config_map_name(cluster)),
        Volume {
            name: TLS.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(names.tls),
                default_mode: Some(0o440), // PostgreSQL refuses a key that others may read
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
        projected(PASSWORDS, vec![password(names.superuser, "superuser"), password(names.app, "app")]),
        token_volume(),
    ]
}

/// The token with which a container talks to the API server.
pub(in crate::build) fn token_volume() -> Volume {
    projected(TOKEN, token())
}

/// Where it is expected.
pub(in crate::build) fn token_mount() -> VolumeMount {
    read_only(TOKEN, TOKEN_DIR)
}

/// The shared directory, for every container.
pub(super) fn run() -> VolumeMount {
    mount(RUN, RUN_DIR)
}

/// The agent has no access to the data, and PostgreSQL none to the token and the passwords.
pub(super) fn of_agent(cluster: &Cluster) -> Vec<VolumeMount> {
    let mut mounts = vec![
        run(),
        read_only(CONFIG, CONFIG_DIR),
        read_only(TLS, TLS_DIR),
        read_only(PASSWORDS, PASSWORDS_DIR),
        token_mount(),
    ];
    mounts.extend(backup_secrets(cluster).map(|_| read_only(BACKUP, BACKUP_CREDENTIALS_DIR)));
    mounts
}

/// Mounts of the container that restores: as PostgreSQL's, with what to restore.
pub(super) fn of_restore() -> Vec<VolumeMount> {
    let mut mounts = of_postgres();
    mounts.push(read_only(RESTORE, RESTORE_DIR));
    mounts.push(read_only(RESTORE_CREDENTIALS, RESTORE_CREDENTIALS_DIR));
    mounts
}

/// Volumes of a pod that restores into a volume of its own.
pub(in crate::build) fn of_scratch_pod(cluster: &Cluster, map: String) -> Vec<Volume> {
    of_restoring_pod(cluster, map, scratch(cluster))
}

/// Volumes of a pod that makes the data of a new instance on the volume that this will have.
pub(in crate::build) fn of_standby_pod(cluster: &Cluster, map: String, claim_name: String) -> Vec<Volume> {
    let claim = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
    let data =
        Volume { name: VOLUME_DATA.to_owned(), persistent_volume_claim: Some(claim), ..Volume::default() };
    of_restoring_pod(cluster, map, data)
}

/// What to restore is in the ConfigMap `map`, and the keys are those of backups.
fn of_restoring_pod(cluster: &Cluster, map: String, data: Volume) -> Vec<Volume> {
    let secrets = backup_secrets(cluster).unwrap_or_else(|| StoreSecrets::none(map.clone()));
    vec![
        memory(RUN),
        memory(SHARED_MEMORY),
        temporary(),
        config_map(RESTORE, map),
        secrets.volume(RESTORE_CREDENTIALS),
        data,
    ]
}

/// As [`of_restore`], without the certificates of the Database.
pub(in crate::build) fn of_scratch() -> Vec<VolumeMount> {
    of_restore().into_iter().filter(|mount| mount.name != TLS).collect()
}

/// A volume that comes and goes with its pod.
fn scratch(cluster: &Cluster) -> Volume {
    let template = PersistentVolumeClaimTemplate {
        metadata: Some(ObjectMeta { labels: Some(cluster.labels_of_helpers()), ..ObjectMeta::default() }),
        spec: claim(cluster, &scratch_size(cluster)),
    };
    Volume {
        name: VOLUME_DATA.to_owned(),
        ephemeral: Some(EphemeralVolumeSource { volume_claim_template: Some(template) }),
        ..Volume::default()
    }
}

/// Mounts of PostgreSQL's container. `/dev/shm` in memory without the runtime's 64 MiB: parallel queries use it.
pub(super) fn of_postgres() -> Vec<VolumeMount> {
    vec![
        run(),
        mount(VOLUME_DATA, DATA_DIR),
        mount(SHARED_MEMORY, "/dev/shm"),
        mount(TEMPORARY, "/tmp"),
        read_only(TLS, TLS_DIR),
    ]
}

/// Of backups that build on each other there are the parts and what is made of them, at once.
fn scratch_size(cluster: &Cluster) -> String {
    let settings = &cluster.spec;
    match settings.backup.as_ref().is_some_and(ValidBackup::increments) {
        true => settings.storage_size.0.saturating_mul(2).to_string(),
        false => settings.storage_quantity.clone(),
    }
}

fn config_map(name: &str, map: String) -> Volume {
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: map, ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }
}

/// A Secret of the user's: without it the pod starts all the same, and the agent says what is missing.
fn optional_secret(name: &str, secret: String) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn temporary() -> Volume {
    Volume {
        name: TEMPORARY.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

fn memory(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn projected(name: &str, sources: Vec<VolumeProjection>) -> Volume {
    Volume {
        name: name.to_owned(),
        projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: Some(0o440) }),
        ..Volume::default()
    }
}

/// A Secret of the user's, or one of its keys.
fn optional_part(secret: String, key: Option<&str>) -> VolumeProjection {
    let item = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), ..KeyToPath::default() };
    VolumeProjection {
        secret: Some(SecretProjection {
            name: secret,
            items: key.map(|key| vec![item(key)]),
            optional: Some(true),
        }),
        ..VolumeProjection::default()
    }
}

fn password(secret: String, file: &str) -> VolumeProjection {
    VolumeProjection {
        secret: Some(SecretProjection {
            name: secret,
            items: Some(vec![KeyToPath {
                key: secret::KEY_PASSWORD.to_owned(),
                path: file.to_owned(),
                ..KeyToPath::default()
            }]),
            ..SecretProjection::default()
        }),
        ..VolumeProjection::default()
    }
}

fn token() -> Vec<VolumeProjection> {
    vec![
        VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                expiration_seconds: Some(TOKEN_SECONDS),
                path: "token".to_owned(),
                ..ServiceAccountTokenProjection::default()
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: "kube-root-ca.crt".to_owned(),
                items: Some(vec![KeyToPath {
                    key: "ca.crt".to_owned(),
                    path: "ca.crt".to_owned(),
                    ..KeyToPath::default()
                }]),
                ..ConfigMapProjection::default()
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection {
                items: Some(vec![DownwardAPIVolumeFile {
                    path: "namespace".to_owned(),
                    field_ref: Some(ObjectFieldSelector {
                        api_version: Some("v1".to_owned()),
                        field_path: "metadata.namespace".to_owned(),
                    }),
                    ..DownwardAPIVolumeFile::default()
                }]),
            }),
            ..VolumeProjection::default()
        },
    ]
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(name, path) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        build::{RestoreShape, children, recorded_restore},
        fixtures,
    };

    fn encrypted(credentials: &Value) -> Cluster {
        fixtures::cluster_with(&json!({"backup": {
            "destination": "s3://my-backups/orders-db",
            "credentials": credentials,
            "encryption": {"secretName": "orders-identity"},
        }}))
    }

    fn of(volumes: &[Volume], name: &str) -> Value {
        json!(volumes.iter().find(|volume| volume.name == name).unwrap().projected)
    }

    fn identities() -> Value {
        let items = json!([{"key": "identity.txt", "path": "identity.txt"}]);
        json!({"secret": {"items": items, "name": "orders-identity", "optional": true}})
    }

    #[test]
    fn identities_are_beside_the_credentials_wherever_these_are() {
        let cluster = encrypted(&json!({"secretName": "s3-keys"}));
        let credentials = json!({"secret": {"name": "s3-keys", "optional": true}});
        let both = json!({"defaultMode": 0o440, "sources": [credentials, identities()]});
        assert_eq!(of(&volumes(&cluster, &fixtures::shape()), BACKUP), both);
        assert_eq!(of(&of_scratch_pod(&cluster, "map".to_owned()), RESTORE_CREDENTIALS), both);

        let config = json!({"source": {"destination": "s3://b/f", "encrypted": true}});
        let restore = RestoreShape {
            config: serde_json::from_value(config).unwrap(),
            credentials: Some("s3-keys".to_owned()),
            encryption: Some("orders-identity".to_owned()),
            volume_snapshot: None,
        };
        let shape = Shape { restore: Some(restore.clone()), ..fixtures::shape() };
        assert_eq!(of(&volumes(&cluster, &shape), RESTORE_CREDENTIALS), both);
        assert_eq!(recorded_restore(&children(&cluster, &shape).restore_map.unwrap()), Some(restore));
    }

    #[test]
    fn identities_need_no_credentials() {
        let cluster = encrypted(&Value::Null);
        let alone = json!({"defaultMode": 0o440, "sources": [identities()]});
        assert_eq!(of(&volumes(&cluster, &fixtures::shape()), BACKUP), alone);
        assert!(of_agent(&cluster).iter().any(|mount| mount.mount_path == BACKUP_CREDENTIALS_DIR));
    }
}
