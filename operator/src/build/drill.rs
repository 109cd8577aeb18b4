//! The restore drill: a CronJob whose pod restores the newest backup into a volume of its own, starts PostgreSQL on
//! it and reads everything. The pod reads the store and nothing else: it has no token and none of the Database's
//! certificates. What it found out it says in its last words; then the operator deletes it, and the volume goes.

use k8s_openapi::api::{
    batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec},
    core::v1::{ConfigMap, PodTemplateSpec},
};
use kube::api::ObjectMeta;
use proto::{
    api::{schedule::Schedule, valid::backup::ValidBackup},
    pod::DRILL_CONTAINER,
};

use super::{Shape, pod::volumes, restoring_pod};
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
        // To the end of what is archived: so the archive is proven with the backup.
        config_map: restoring_pod::config_map(
            cluster,
            drill_name(cluster),
            backup,
            shape.system_identifier,
            None,
        ),
        cron_job: CronJob {
            metadata: cluster.owned(drill_name(cluster)),
            spec: Some(cron_job(cluster, backup, schedule, &shape.agent_image)),
            ..CronJob::default()
        },
    })
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
                pod_failure_policy: Some(restoring_pod::undisturbed()),
                active_deadline_seconds: Some(LONGEST_SECONDS),
                ttl_seconds_after_finished: Some(KEPT_SECONDS),
                template: pod(cluster, agent_image),
                ..JobSpec::default()
            }),
        },
    }
}

fn pod(cluster: &Cluster, agent_image: &str) -> PodTemplateSpec {
    let container = restoring_pod::container(cluster, DRILL_CONTAINER, "drill");
    let volumes = volumes::of_scratch_pod(cluster, drill_name(cluster));
    restoring_pod::pod(cluster, agent_image, container, volumes)
}
