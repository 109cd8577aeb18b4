//! Pods that restore for the Database without being one of its instances. They read the store and nothing else.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    batch::v1::{PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule},
    core::v1::{Affinity, ConfigMap, Container, PodSpec, PodTemplateSpec, Volume},
};
use kube::api::ObjectMeta;
use proto::{
    api::valid::backup::ValidBackup,
    pod::{INSTALLED_AGENT, RESTORE_KEY},
    postgres::SystemIdentifier,
    wire::backup::{RestoreConfig, RestoreTarget},
};

use super::pod::{apart, as_postgres, confined, containers::install, volumes};
use crate::cluster::Cluster;

/// What such a pod is to restore: everything that is archived, from the VolumeSnapshot of a backup or from the newest
/// backup in the store.
pub(super) fn config_map(
    cluster: &Cluster,
    name: String,
    backups: &ValidBackup,
    system_identifier: Option<SystemIdentifier>,
    snapshot: Option<String>,
) -> ConfigMap {
    let config = RestoreConfig {
        source: backups.store.archive.clone(),
        database_uid: Some(cluster.spec.uid.clone()),
        system_identifier,
        target: RestoreTarget::Latest,
        backup: None,
        snapshot,
        completed: false,
    };
    // Plain strings, numbers and lists: serialising them has no way to fail.
    let json = serde_json::to_string_pretty(&config).unwrap_or_default();
    ConfigMap {
        metadata: cluster.owned(name),
        data: Some(BTreeMap::from([(RESTORE_KEY.to_owned(), json)])),
        ..ConfigMap::default()
    }
}

/// A node that is drained says nothing about the backup: the pod begins again elsewhere.
pub(super) fn undisturbed() -> PodFailurePolicy {
    PodFailurePolicy {
        rules: vec![PodFailurePolicyRule {
            action: "Ignore".to_owned(),
            on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                type_: "DisruptionTarget".to_owned(),
                status: "True".to_owned(),
            }]),
            ..PodFailurePolicyRule::default()
        }],
    }
}

/// Without the label of the Database's pods, as the pod of a backup. As the Database's ServiceAccount, to which the
/// provider may have given access to the store, and without its token.
pub(super) fn pod(
    cluster: &Cluster,
    agent_image: &str,
    container: Container,
    volumes: Vec<Volume>,
) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(cluster.labels_of_helpers()), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(cluster.name().to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Never".to_owned()),
            security_context: Some(as_postgres()),
            affinity: Some(affinity(cluster)),
            tolerations: Some(cluster.spec.tolerations.clone()).filter(|list| !list.is_empty()),
            init_containers: Some(vec![install(agent_image)]),
            containers: vec![container],
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    }
}

/// On the nodes that are meant for the Database, and not beside an instance if there is another: it reads and writes
/// as much as a disk gives.
fn affinity(cluster: &Cluster) -> Affinity {
    let wanted = cluster.spec.affinity.as_ref();
    Affinity { node_affinity: wanted.and_then(|wanted| wanted.node_affinity.clone()), ..apart(cluster) }
}

/// Runs this command of the agent on the image of the Database.
pub(super) fn container(cluster: &Cluster, name: &str, command: &str) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(cluster.spec.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![INSTALLED_AGENT.to_owned(), command.to_owned()]),
        resources: cluster.spec.resources.clone(),
        security_context: Some(confined()),
        volume_mounts: Some(volumes::of_scratch()),
        ..Container::default()
    }
}
