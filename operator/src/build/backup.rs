//! The schedules: CronJobs whose pods ask for a `Backup` and wait for its end. The backup itself is taken by an agent;
//! the pod only makes success and failure visible where people look for them.

use k8s_openapi::api::{
    batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec},
    core::v1::{
        Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, ServiceAccount,
    },
    rbac::v1::{Role, RoleBinding},
};
use kube::api::ObjectMeta;
use proto::{
    api::{schedule::Schedule, valid::backup::ValidBackup},
    pod::{ENV_BACKUP, ENV_BACKUP_METHOD, ENV_DATABASE, ENV_POD_NAMESPACE},
};

use super::{
    access,
    pod::{confined, containers::AGENT_BINARY, containers::from_field, containers::small, volumes},
};
use crate::cluster::Cluster;

/// User and group of the pod: nobody, since it owns no file.
const NOBODY: i64 = 65_534;
/// A pod that is killed or evicted is made again and waits on for the same backup.
const RESTARTS: i32 = 3;
/// A schedule that was missed while the control plane was down is made up for within this.
const MADE_UP_SECONDS: i64 = 3_600;
/// Failed Jobs that stay for people to look at; backups themselves are listed by `kubectl get backups`.
const KEPT_JOBS: i32 = 3;
/// Label that the Job controller puts on the pods of a Job.
const JOB_NAME: &str = "metadata.labels['batch.kubernetes.io/job-name']";
/// Longer than any backup is waited for by the operator, which fails it at its own limits; the next schedule
/// replaces the pod in any case.
const LONGEST_SECONDS: i64 = 26 * 3_600;

/// `spec.method` of the Backups of the second schedule.
const VOLUME_SNAPSHOT: &str = "VolumeSnapshot";

/// What the schedules consist of.
#[derive(Clone, Debug)]
pub(crate) struct ScheduleChildren {
    pub(crate) service_account: ServiceAccount,
    pub(crate) role: Role,
    pub(crate) role_binding: RoleBinding,
    pub(crate) cron_job: CronJob,
    /// Of VolumeSnapshots.
    pub(crate) snapshots: Option<CronJob>,
}

/// Name of the CronJob.
pub(crate) fn schedule_name(cluster: &Cluster) -> String {
    cluster.child("backup")
}

/// Name of the CronJob of VolumeSnapshots.
pub(crate) fn snapshot_schedule_name(cluster: &Cluster) -> String {
    cluster.child("snapshot")
}

/// Name of the permissions of their pods. With a dot, which no Database has in its name: one called `<name>-backup` has
/// permissions of just that name itself.
pub(crate) fn schedule_access_name(cluster: &Cluster) -> String {
    format!("{}.backup", cluster.name())
}

/// All of it, if the Database wants backups.
pub(super) fn schedule(cluster: &Cluster, agent_image: &str) -> Option<ScheduleChildren> {
    let backup = cluster.spec.backup.as_ref()?;
    let name = schedule_access_name(cluster);
    // A name cannot be checked when something is created, and Jobs name their Backups.
    let rules = vec![access::rule("db.example.com", "backups", &["create", "get"], None)];
    Some(ScheduleChildren {
        service_account: ServiceAccount {
            metadata: cluster.owned(name.clone()),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        role: Role { metadata: cluster.owned(name.clone()), rules: Some(rules) },
        role_binding: access::binding(cluster, &name),
        cron_job: CronJob {
            metadata: cluster.owned(schedule_name(cluster)),
            spec: Some(cron_job(cluster, backup, &backup.schedule, pod(cluster, agent_image, None))),
            ..CronJob::default()
        },
        snapshots: backup.snapshots.as_ref().map(|schedule| CronJob {
            metadata: cluster.owned(snapshot_schedule_name(cluster)),
            spec: Some(cron_job(cluster, backup, schedule, pod(cluster, agent_image, Some(VOLUME_SNAPSHOT)))),
            ..CronJob::default()
        }),
    })
}

fn cron_job(
    cluster: &Cluster,
    backup: &ValidBackup,
    schedule: &Schedule,
    pod: PodTemplateSpec,
) -> CronJobSpec {
    CronJobSpec {
        schedule: schedule.to_string(),
        time_zone: Some("Etc/UTC".to_owned()),
        suspend: Some(!backup.enabled),
        // A pod that hangs must not hold up the next one; the Backup that it waited for goes on.
        concurrency_policy: Some("Replace".to_owned()),
        starting_deadline_seconds: Some(MADE_UP_SECONDS),
        successful_jobs_history_limit: Some(1),
        failed_jobs_history_limit: Some(KEPT_JOBS),
        job_template: JobTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(cluster.labels()), ..ObjectMeta::default() }),
            spec: Some(JobSpec {
                backoff_limit: Some(RESTARTS),
                active_deadline_seconds: Some(LONGEST_SECONDS),
                template: pod,
                ..JobSpec::default()
            }),
        },
    }
}

/// Without the label of the Database's pods: Services, budget and operator take what has it for instances.
fn pod(cluster: &Cluster, agent_image: &str, method: Option<&str>) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(cluster.labels_of_helpers()), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(schedule_access_name(cluster)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Never".to_owned()),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(NOBODY),
                run_as_group: Some(NOBODY),
                fs_group: Some(NOBODY), // so that the token can be read
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            tolerations: Some(cluster.spec.tolerations.clone()).filter(|list| !list.is_empty()),
            containers: vec![container(cluster, agent_image, method)],
            volumes: Some(vec![volumes::token_volume()]),
            ..PodSpec::default()
        }),
    }
}

fn container(cluster: &Cluster, agent_image: &str, method: Option<&str>) -> Container {
    let given = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    };
    let mut env = vec![
        given(ENV_DATABASE, cluster.name()),
        from_field(ENV_POD_NAMESPACE, "metadata.namespace"),
        // The Job's name: a pod made again for the same Job waits for the same Backup.
        from_field(ENV_BACKUP, JOB_NAME),
    ];
    env.extend(method.map(|method| given(ENV_BACKUP_METHOD, method)));
    Container {
        name: "request-backup".to_owned(),
        image: Some(agent_image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![AGENT_BINARY.to_owned(), "request-backup".to_owned()]),
        env: Some(env),
        // Why it failed is shown by `kubectl describe pod` too.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        resources: Some(small("64Mi")),
        security_context: Some(confined()),
        volume_mounts: Some(vec![volumes::token_mount()]),
        ..Container::default()
    }
}
