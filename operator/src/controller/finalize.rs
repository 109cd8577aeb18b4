//! Deletion of a Database (client). With `DeleteAfterBackup` a last backup comes before anything else
//! ([`super::last_backup`]). Then the instances leave, while their permissions still exist, so that the
//! last primary shuts down cleanly and releases its Lease. Then volumes, Lease and passwords stay (`Retain`) or
//! go (`Delete`); everything else has an owner reference and goes by itself.
//!
//! Nothing depends on this having run: without it, data merely stays.

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    coordination::v1::Lease,
    core::v1::{PersistentVolumeClaim, Secret},
};
use kube::{Resource, ResourceExt, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;

use super::{
    apply::{ApplyError, delete_exactly},
    context::Context,
    observe::{ObserveError, Observed},
    record::{LeaseFacts, lease_facts},
};
use crate::{cluster::Cluster, deadline::CallError};

/// Longer than a pod's termination grace period. An instance on a node that is gone never ends, and must not
/// hold the Database for ever.
const LONGEST_WAIT_SECONDS: i64 = 240;

/// Deletion is not complete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FinalizeError {
    /// What is there could not be read.
    #[error("could not see what is left to delete")]
    Observe(#[source] ObserveError),
    /// A deletion was refused.
    #[error("could not delete what goes with the Database")]
    Delete(#[source] ApplyError),
    /// The Backup could not be read or made.
    #[error("could not ask for the last backup")]
    LastBackup(#[source] CallError),
    /// The last backup is not over: not a failure, only not yet.
    #[error("the last backup is not complete")]
    BackingUp,
    /// It failed, and a person has to decide.
    #[error("the last backup failed")]
    NotBackedUp,
    /// Instances still shut down: not a failure, only not yet.
    #[error("{0} instances are shutting down")]
    Leaving(usize),
}

/// Removes what goes with the Database; `since` is the moment from which on it might go.
pub(crate) async fn finalize(
    context: &Context,
    cluster: &Cluster,
    observed: &Observed,
    since: Timestamp,
    now: Timestamp,
) -> Result<(), FinalizeError> {
    delete(context, observed.stateful_set.as_ref()).await?;
    if !observed.pods.is_empty() && is_patient(observed, since, now) {
        return Err(FinalizeError::Leaving(observed.pods.len()));
    }
    match cluster.spec.deletion_policy.deletes() {
        true => delete_data(context, observed).await?,
        false => delete_unused_lease(context, observed).await?,
    }
    context.agents.forget(cluster.namespace(), cluster.name());
    Ok(())
}

/// Whether the pods may still be leaving by themselves: those that were told a while after the Database was deleted,
/// as after a backup, have their time too.
fn is_patient(observed: &Observed, since: Timestamp, now: Timestamp) -> bool {
    let is_new = |set: &StatefulSet| set.metadata.deletion_timestamp.is_none();
    let told = observed.pods.iter().filter_map(|pod| pod.metadata.deletion_timestamp.as_ref());
    let since = told.map(|time| time.0).fold(since, Timestamp::max);
    observed.stateful_set.as_ref().is_some_and(is_new)
        || now.as_second() - since.as_second() < LONGEST_WAIT_SECONDS
}

async fn delete_data(context: &Context, observed: &Observed) -> Result<(), FinalizeError> {
    for volume in &observed.volumes {
        delete::<PersistentVolumeClaim>(context, Some(volume)).await?;
    }
    delete::<Lease>(context, observed.lease.as_ref()).await?;
    let secrets = &observed.secrets;
    for secret in [&secrets.superuser, &secrets.app, &secrets.authority] {
        delete::<Secret>(context, secret.as_ref()).await?;
    }
    Ok(())
}

/// A Lease that was never claimed says nothing worth keeping.
async fn delete_unused_lease(context: &Context, observed: &Observed) -> Result<(), FinalizeError> {
    match lease_facts(observed.lease.as_ref()) {
        LeaseFacts::NeverInitialised { .. } => delete(context, observed.lease.as_ref()).await,
        _ => Ok(()),
    }
}

async fn delete<K>(context: &Context, object: Option<&K>) -> Result<(), FinalizeError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let judged = object.filter(|object| object.meta().deletion_timestamp.is_none());
    let Some((object, uid)) = judged.and_then(|object| Some((object, object.uid()?))) else { return Ok(()) };
    let namespace = object.namespace().unwrap_or_default();
    delete_exactly::<K>(context, &namespace, &object.name_any(), &uid).await.map_err(FinalizeError::Delete)
}
