//! The restore drill: a CronJob whose pod restores the newest backup into a volume of its own, starts PostgreSQL on
//! it and reads everything. The pod reads the store and nothing else: it has no token and none of the Database's
//! certificates. What it found out it says in its last words; then the operator deletes it, and the volume goes.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    batch::v1::{
        CronJob, CronJobSpec, JobSpec, JobTemplateSpec, PodFailurePolicy,
        PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
    },
    core::v1::{Affinity, ConfigMap, Container, PodSpec, PodTemplateSpec},
};
use kube::api::ObjectMeta;
use proto::{
    api::{schedule::Schedule, valid::backup::ValidBackup},
    pod::{DRILL_CONTAINER, INSTALLED_AGENT, RESTORE_KEY},
    wire::backup::{RestoreConfig, RestoreTarget},
};

use super::{
    Shape,
    pod::{apart, as_postgres, confined, containers::install, volumes},
};
use crate::cluster::Cluster;

/// A drill that takes longer comes to nothing: one that hangs must not keep a volume for ever.
pub(crate) const LONGEST_SECONDS: i64 = 12 * 3_600;
/// A schedule that was missed while the control plane was down is made up for within this.
const MADE_UP_SECONDS: i64 = 3_600;
/// The operator reads how it went and deletes the pod within a minute. Where it is away for longer, this frees the
/// volume.
const KEPT_SECONDS: i32 = 6 * 3_600;

/// What drills consist of.
#[derive(Clone, Debug)]
pub(crate) struct DrillChildren {
    pub(crate) config_map: ConfigMap,
    pub(crate) cron_job: CronJob,
}

/// Name of both.
pub(crate) fn drill_name(cluster: &Cluster) -> String {
    cluster.child("drill")
}

/// Both, if the Database wants drills.
pub(super) fn drill(cluster: &Cluster, shape: &Shape) -> Option<DrillChildren> {
    let backup = cluster.spec.backup.as_ref()?;
    let schedule = backup.drill.as_ref()?;
    Some(DrillChildren {
        config_map: config_map(cluster, backup, shape),
        cron_job: CronJob {
            metadata: cluster.owned(drill_name(cluster)),
            spec: Some(cron_job(cluster, backup, schedule, &shape.agent_image)),
            ..CronJob::default()
        },
    })
}

/// To the end of what is archived: so the archive is proven with the backup.
fn config_map(cluster: &Cluster, backup: &ValidBackup, shape: &Shape) -> ConfigMap {
    let config = RestoreConfig {
        source: backup.store.archive.clone(),
        database_uid: Some(cluster.spec.uid.clone()),
        system_identifier: shape.system_identifier,
        target: RestoreTarget::Latest,
        backup: None,
        snapshot: None,
        completed: false,
    };
    // Plain strings, numbers and lists: serialising them has no way to fail.
    let json = serde_json::to_string_pretty(&config).unwrap_or_default();
    ConfigMap {
        metadata: cluster.owned(drill_name(cluster)),
        data: Some(BTreeMap::from([(RESTORE_KEY.to_owned(), json)])),
        ..ConfigMap::default()
    }
}

fn cron_job(cluster: &Cluster, backup: &ValidBackup, schedule: &Schedule, agent_image: &str) -> CronJobSpec {
    CronJobSpec {
        schedule: schedule.to_string(),
        time_zone: Some("Etc/UTC".to_owned()),
        suspend: Some(!backup.enabled),
        // One that hangs must not hold up the next one.
        concurrency_policy: Some("Replace".to_owned()),
        starting_deadline_seconds: Some(MADE_UP_SECONDS),
        successful_jobs_history_limit: Some(1),
        failed_jobs_history_limit: Some(1),
        job_template: JobTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(cluster.labels()), ..ObjectMeta::default() }),
            spec: Some(JobSpec {
                // What keeps one restore from succeeding is worth telling, not hiding behind a second try.
                backoff_limit: Some(0),
                pod_failure_policy: Some(undisturbed()),
                active_deadline_seconds: Some(LONGEST_SECONDS),
                ttl_seconds_after_finished: Some(KEPT_SECONDS),
                template: pod(cluster, agent_image),
                ..JobSpec::default()
            }),
        },
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
fn pod(cluster: &Cluster, agent_image: &str) -> PodTemplateSpec {
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
            containers: vec![container(cluster)],
            volumes: Some(volumes::of_scratch_pod(cluster, drill_name(cluster))),
            ..PodSpec::default()
        }),
    }
}

/// On the nodes that are meant for the Database, and not beside an instance if there is another: it reads and writes
/// as much as a disk gives.
pub(super) fn affinity(cluster: &Cluster) -> Affinity {
    let wanted = cluster.spec.affinity.as_ref();
    Affinity { node_affinity: wanted.and_then(|wanted| wanted.node_affinity.clone()), ..apart(cluster) }
}

fn container(cluster: &Cluster) -> Container {
    Container {
        name: DRILL_CONTAINER.to_owned(),
        image: Some(cluster.spec.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![INSTALLED_AGENT.to_owned(), "drill".to_owned()]),
        resources: cluster.spec.resources.clone(),
        security_context: Some(confined()),
        volume_mounts: Some(volumes::of_scratch()),
        ..Container::default()
    }
}
