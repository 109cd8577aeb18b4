//! Volumes of a member's pod and where they are mounted (the table in [`proto::pod`]).

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile,
    EmptyDirVolumeSource, KeyToPath, ObjectFieldSelector, ProjectedVolumeSource, SecretProjection,
    SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use proto::pod::{CONFIG_DIR, DATA_DIR, PASSWORDS_DIR, RUN_DIR, TLS_DIR};

use crate::{
    build::{VOLUME_DATA, config_map_name, secret},
    cluster::Cluster,
};

const RUN: &str = "run";
const CONFIG: &str = "config";
const TLS: &str = "tls";
const PASSWORDS: &str = "passwords";
const TOKEN: &str = "token";
const SHARED_MEMORY: &str = "dshm";
const TEMPORARY: &str = "tmp";

/// Where every client of the API server looks for its token.
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Kubelet renews a token at 80 % of this; short, since only the agent reads it and it reads it again.
const TOKEN_SECONDS: i64 = 3_607;

/// All but the data volume, which comes from the claim template.
pub(super) fn volumes(cluster: &Cluster) -> Vec<Volume> {
    let names = secret::names(cluster);
    vec![
        memory(RUN),
        memory(SHARED_MEMORY),
        Volume {
            name: TEMPORARY.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        },
        Volume {
            name: CONFIG.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: config_map_name(cluster),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
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
        projected(TOKEN, token()),
    ]
}

/// The shared directory, for every container.
pub(super) fn run() -> VolumeMount {
    mount(RUN, RUN_DIR)
}

/// The agent has no access to the data, and PostgreSQL none to the token and the passwords.
pub(super) fn of_agent() -> Vec<VolumeMount> {
    vec![
        run(),
        read_only(CONFIG, CONFIG_DIR),
        read_only(TLS, TLS_DIR),
        read_only(PASSWORDS, PASSWORDS_DIR),
        read_only(TOKEN, TOKEN_DIR),
    ]
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
