//! The schedules of backups, of VolumeSnapshots and of restore drills: there while the spec has them, gone when it has not (client).

use kube::{Resource, ResourceExt, core::NamespaceResourceScope};
use proto::pod::LABEL_DATABASE;
use serde::de::DeserializeOwned;

use super::{
    apply::{ApplyError, Writer, delete_exactly},
    observe::{LiveDrill, LiveSchedule},
};
use crate::build::{DrillChildren, ScheduleChildren};

/// Makes or removes those of backups and of VolumeSnapshots.
pub(super) async fn schedule(
    writer: &Writer<'_>,
    database: &str,
    wanted: Option<&ScheduleChildren>,
    live: &LiveSchedule,
) -> Result<(), ApplyError> {
    let Some(wanted) = wanted else { return remove(writer, database, live).await };
    writer.ensure(&wanted.service_account, live.service_account.as_ref()).await?;
    writer.ensure(&wanted.role, live.role.as_ref()).await?;
    writer.ensure(&wanted.role_binding, live.role_binding.as_ref()).await?;
    writer.ensure(&wanted.cron_job, live.cron_job.as_ref()).await?;
    match &wanted.snapshots {
        Some(snapshots) => writer.ensure(snapshots, live.snapshots.as_ref()).await,
        None => delete(writer, database, live.snapshots.as_ref()).await,
    }
}

/// Makes or removes what restore drills consist of.
pub(super) async fn drill(
    writer: &Writer<'_>,
    database: &str,
    wanted: Option<&DrillChildren>,
    live: &LiveDrill,
) -> Result<(), ApplyError> {
    let Some(wanted) = wanted else {
        delete(writer, database, live.config_map.as_ref()).await?;
        return delete(writer, database, live.cron_job.as_ref()).await;
    };
    writer.ensure(&wanted.config_map, live.config_map.as_ref()).await?;
    writer.ensure(&wanted.cron_job, live.cron_job.as_ref()).await
}

/// The CronJob of backups last: as long as it is there, the others are looked for.
async fn remove(writer: &Writer<'_>, database: &str, live: &LiveSchedule) -> Result<(), ApplyError> {
    delete(writer, database, live.role_binding.as_ref()).await?;
    delete(writer, database, live.role.as_ref()).await?;
    delete(writer, database, live.service_account.as_ref()).await?;
    delete(writer, database, live.snapshots.as_ref()).await?;
    delete(writer, database, live.cron_job.as_ref()).await
}

async fn delete<K>(writer: &Writer<'_>, database: &str, live: Option<&K>) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    // Whatever else may have this name is somebody else's.
    let ours = live.filter(|object| object.labels().get(LABEL_DATABASE).is_some_and(|name| name == database));
    let Some((object, uid)) = ours.and_then(|object| Some((object, object.uid()?))) else { return Ok(()) };
    delete_exactly::<K>(writer.context, writer.namespace, &object.name_any(), &uid).await
}
