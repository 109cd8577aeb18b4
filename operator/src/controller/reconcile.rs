//! Puts the steps together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
    runtime::{
        controller::Action,
        finalizer::{Error as FinalizerError, Event, finalizer},
    },
};
use proto::{
    api::{
        database::Database,
        status::{DatabaseStatus, Phase},
    },
    identity::Ordinal,
    pod::ANNOTATION_ACCEPT_DATA_LOSS,
};
use serde_json::json;

use super::{
    ANNOTATION_SWITCHOVER,
    act::{ActError, act},
    apply::{ApplyError, Writer, apply},
    context::{Context, News},
    credentials::{self, CredentialError},
    drill::{last_drill, tidy},
    finalize::{FinalizeError, finalize},
    last_backup::{LastBackup, last_backup},
    members::members,
    newcomer::{Newcomers, newcomers, receive},
    news::news,
    observe::{ObserveError, Observed, observe},
    plan::{Facts, Plan, SetFacts, plan},
    record::{Identity, identity, lease_facts},
    restoring::{Beginning, beginning},
    status::{self, View, status},
};
use crate::{
    build,
    chain::chain,
    cluster::Cluster,
    deadline::{CallError, within},
};

/// Finalizer on every Database.
const FINALIZER: &str = "db.example.com/operator";
/// Owner of the status in server-side apply.
const STATUS_MANAGER: &str = "matriarch-operator/status";
/// Next look while something is under way or missing: what agents say does not come by watch.
const SOON: Duration = Duration::from_secs(2);
/// Next look at a Database at rest: bounds the age of the lag shown, and how long a deleted Secret (which is
/// not watched, since that would mean reading all of them) stays away.
const LATER: Duration = Duration::from_secs(20);
/// Next look while a last backup is taken, or instances shut down.
const LEAVING: Duration = Duration::from_secs(2);

/// A reconcile that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// Reading.
    #[error("observing failed")]
    Observe(#[source] ObserveError),
    /// Reading the Database itself.
    #[error("could not read the Database")]
    Database(#[source] CallError),
    /// Passwords and certificates.
    #[error("making credentials failed")]
    Credentials(#[source] CredentialError),
    /// Writing children.
    #[error("applying failed")]
    Apply(#[source] ApplyError),
    /// The disruptive step.
    #[error("acting failed")]
    Act(#[source] ActError),
    /// Writing the status.
    #[error("could not write the status")]
    Status(#[source] CallError),
    /// Deleting.
    #[error("deleting failed")]
    Finalize(#[source] FinalizeError),
    /// Adding or removing the finalizer.
    #[error("could not change the finalizer")]
    Finalizer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ReconcileError {
    /// Stable name of the step, for metrics.
    fn step(&self) -> &'static str {
        match self {
            Self::Observe(_) | Self::Database(_) => "observe",
            Self::Credentials(_) => "credentials",
            Self::Apply(_) => "apply",
            Self::Act(_) => "act",
            Self::Status(_) => "status",
            Self::Finalize(_) => "finalize",
            Self::Finalizer(_) => "finalizer",
        }
    }

    /// Not a failure, only not yet: when to look again.
    fn waits(&self) -> Option<Duration> {
        match self {
            Self::Finalize(FinalizeError::Leaving(_) | FinalizeError::BackingUp) => Some(LEAVING),
            Self::Finalize(FinalizeError::NotBackedUp) => Some(LATER),
            _ => None,
        }
    }
}

/// Called by the controller for each change and each requeue.
pub(super) async fn reconcile(
    guard: Arc<DeserializeGuard<Database>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let begun = Instant::now();
    let outcome = Box::pin(dispatch(&guard, &context)).await;
    let failed = outcome.as_ref().err().filter(|error| error.waits().is_none()).map(ReconcileError::step);
    context.metrics.reconciled(begun.elapsed(), failed);
    if failed.is_none() {
        context.succeeded(&key(guard.as_ref()));
    }
    outcome
}

/// Called by the controller when [`reconcile`] failed.
#[allow(clippy::needless_pass_by_value)] // the controller's signature
pub(super) fn on_error(
    guard: Arc<DeserializeGuard<Database>>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Action {
    if let Some(pause) = error.waits() {
        return Action::requeue(pause);
    }
    let pause = context.backoff(&key(guard.as_ref()));
    tracing::warn!(database = key(guard.as_ref()), error = %chain(error), ?pause, "reconcile failed");
    Action::requeue(pause)
}

fn key(object: &impl Resource) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

async fn dispatch(guard: &DeserializeGuard<Database>, context: &Context) -> Result<Action, ReconcileError> {
    let database = match &guard.0 {
        Ok(database) => database,
        Err(invalid) => {
            let message = format!("the object cannot be read; correct it: {}", invalid.error);
            context.tell(&guard.object_ref(&()), &News::warning("InvalidObject", message)).await;
            return Ok(Action::await_change());
        }
    };
    let api: Api<Database> =
        Api::namespaced(context.client.clone(), &database.namespace().unwrap_or_default());
    let step = |event| async {
        match event {
            Event::Apply(database) => Box::pin(shape(context, &api, &database)).await,
            Event::Cleanup(database) => Box::pin(clean_up(context, &api, &database)).await,
        }
    };
    finalizer(&api, FINALIZER, Arc::new(database.clone()), step).await.map_err(|error| match error {
        FinalizerError::ApplyFailed(error) | FinalizerError::CleanupFailed(error) => error,
        other => ReconcileError::Finalizer(Box::new(other)),
    })
}

async fn clean_up(
    context: &Context,
    api: &Api<Database>,
    cached: &Database,
) -> Result<Action, ReconcileError> {
    // Read anew: a decision on an old deletionPolicy could not be taken back.
    let read = within(api.get_opt(&cached.name_any())).await.map_err(ReconcileError::Database)?;
    let Some(database) = read.filter(|database| database.uid() == cached.uid()) else {
        return Ok(Action::await_change());
    };
    // What cannot be parsed was never built.
    if let Ok(cluster) = Cluster::parse(&database) {
        Box::pin(clean_up_cluster(context, api, &database, &cluster)).await?;
    } else {
        let status = status::deleting(&LastBackup::None, &database, Timestamp::now());
        write_status(context, api, &database, &status).await?;
    }
    context.succeeded(&key(&database));
    Ok(Action::await_change())
}

async fn clean_up_cluster(
    context: &Context,
    api: &Api<Database>,
    database: &Database,
    cluster: &Cluster,
) -> Result<(), ReconcileError> {
    let now = Timestamp::now();
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let observed = Box::pin(observe(&context.client, &context.agents, cluster, today))
        .await
        .map_err(|error| ReconcileError::Finalize(FinalizeError::Observe(error)))?;
    let lease = lease_facts(observed.lease.as_ref());
    let members = members(cluster, &observed, now);
    let identity = identity(database.status.as_ref(), &observed, &lease, &members);
    let last = Box::pin(last_backup(context, database, cluster, &identity)).await;
    let last = last.map_err(ReconcileError::Finalize)?;
    publish(context, api, database, &status::deleting(&last, database, now), Vec::new()).await?;
    let asked_at = database.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let since = match last {
        LastBackup::None => asked_at,
        LastBackup::Complete(at) => asked_at.max(at),
        LastBackup::Missing | LastBackup::Underway(_) => {
            return Err(ReconcileError::Finalize(FinalizeError::BackingUp));
        }
        LastBackup::Failed(_) => return Err(ReconcileError::Finalize(FinalizeError::NotBackedUp)),
    };
    Box::pin(finalize(context, cluster, &observed, since, now)).await.map_err(ReconcileError::Finalize)?;
    context.metrics.drills.forget(cluster.namespace(), cluster.name());
    context.metrics.backups.forget(cluster.namespace(), cluster.name());
    Ok(())
}

async fn shape(context: &Context, api: &Api<Database>, cached: &Database) -> Result<Action, ReconcileError> {
    // Read anew: news are told by comparison with the last status, which the cache may not have yet.
    let read = within(api.get_opt(&cached.name_any())).await.map_err(ReconcileError::Database)?;
    let Some(database) = read.filter(|database| database.metadata.deletion_timestamp.is_none()) else {
        return Ok(Action::await_change());
    };
    let now = Timestamp::now();
    match Cluster::parse(&database) {
        Ok(cluster) => Box::pin(reconcile_cluster(context, api, &database, &cluster, now)).await,
        Err(invalid) => {
            let generation = database.metadata.generation;
            let status = status::invalid(&chain(&invalid), generation, database.status.as_ref(), now);
            publish(context, api, &database, &status, Vec::new()).await?;
            Ok(Action::await_change())
        }
    }
}

async fn reconcile_cluster(
    context: &Context,
    api: &Api<Database>,
    database: &Database,
    cluster: &Cluster,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let observed = Box::pin(observe(&context.client, &context.agents, cluster, today))
        .await
        .map_err(ReconcileError::Observe)?;
    let lease = lease_facts(observed.lease.as_ref());
    let members = members(cluster, &observed, now);
    let identity = identity(database.status.as_ref(), &observed, &lease, &members);
    let beginning = beginning(cluster, &observed, identity.known().is_some());
    let plan = plan(&Facts {
        cluster,
        members: &members,
        lease: &lease,
        identity: &identity,
        set: set_facts(&observed),
        accepted: database.annotations().get(ANNOTATION_ACCEPT_DATA_LOSS).map(String::as_str),
        requested: database.annotations().get(ANNOTATION_SWITCHOVER).map(String::as_str),
        agent_image: &context.agent_image,
        restore: beginning.shape(),
        newcomers: coming(cluster, &observed, now),
    });
    // Data that contradict each other: children made from the wrong one would make it worse. Without the backups
    // that it begins with, a first instance would make empty data.
    let hands_off = cluster.spec.paused
        || matches!(identity, Identity::Contradiction(_))
        || matches!(beginning, Beginning::Unknown { .. });
    let done = match hands_off {
        true => Ok(Vec::new()),
        false => Box::pin(carry_out(context, cluster, &observed, &plan, today)).await,
    };
    let repository = context.repositories.of(cluster.namespace(), cluster.name());
    let drill = last_drill(&observed.drill);
    let view = View {
        cluster,
        members: &members,
        lease: &lease,
        identity: &identity,
        plan: &plan,
        beginning: &beginning,
        repository: repository.as_deref(),
        drill: drill.as_ref(),
        refused: done.as_ref().err().map(|error| chain(error)),
        set_warning: observed.warnings.get(&format!("StatefulSet/{}", cluster.name())).map(String::as_str),
    };
    let status = status(&view, database.status.as_ref(), now);
    if let Some((archive, works)) = status::archive_of_primary(&view, now) {
        context.metrics.backups.archives(cluster.namespace(), cluster.name(), archive, works);
    }
    let told = done.as_ref().cloned().unwrap_or_default();
    publish(context, api, database, &status, told).await?;
    context.metrics.drills.told(cluster, database.status.as_ref(), &status);
    tidy(context, cluster.namespace(), &observed.drill).await.map_err(ReconcileError::Apply)?;
    let at_rest = status.phase == Phase::Running && plan.progress.is_none();
    done.map(|_| Action::requeue(if at_rest { LATER } else { SOON }))
}

fn set_facts(observed: &Observed) -> Option<SetFacts> {
    let spec = observed.stateful_set.as_ref()?.spec.as_ref()?;
    let claim = spec.volume_claim_templates.as_ref().and_then(|templates| templates.first()?.spec.as_ref());
    let size = claim.and_then(|claim| claim.resources.as_ref()?.requests.as_ref()?.get("storage"));
    Some(SetFacts {
        pods: spec.replicas.and_then(|pods| u8::try_from(pods).ok()).unwrap_or_default(),
        template_size: size.map(|size| size.0.clone()),
    })
}

/// Of a StatefulSet that is there: the first instances of a Database begin otherwise.
fn coming(cluster: &Cluster, observed: &Observed, now: Timestamp) -> Newcomers {
    let Some(set) = set_facts(observed) else { return Newcomers::default() };
    newcomers(cluster, Ordinal(set.pods), &observed.volumes, &observed.newcomers, now)
}

async fn carry_out(
    context: &Context,
    cluster: &Cluster,
    observed: &Observed,
    plan: &Plan,
    today: jiff::civil::Date,
) -> Result<Vec<News>, ReconcileError> {
    let children = build::children(cluster, &plan.shape);
    credentials::ensure(context, cluster, &observed.secrets, today)
        .await
        .map_err(ReconcileError::Credentials)?;
    let writer = Writer { context, namespace: cluster.namespace() };
    let mut told = Box::pin(receive(&writer, cluster, plan)).await.map_err(ReconcileError::Apply)?;
    apply(context, cluster, observed, plan, &children).await.map_err(ReconcileError::Apply)?;
    told.extend(act(context, cluster, observed, &plan.step, today).await.map_err(ReconcileError::Act)?);
    Ok(told)
}

/// Writes the status if it changed, then tells what is new: an event that was told twice would be a lie.
async fn publish(
    context: &Context,
    api: &Api<Database>,
    database: &Database,
    status: &DatabaseStatus,
    mut told: Vec<News>,
) -> Result<(), ReconcileError> {
    write_status(context, api, database, status).await?;
    told.extend(news(database.status.as_ref(), status));
    let object = database.object_ref(&());
    for news in &told {
        tracing::info!(database = key(database), reason = news.reason, "{}", news.message);
        context.tell(&object, news).await;
    }
    Ok(())
}

async fn write_status(
    context: &Context,
    api: &Api<Database>,
    database: &Database,
    status: &DatabaseStatus,
) -> Result<(), ReconcileError> {
    if database.status.as_ref() == Some(status) {
        return Ok(());
    }
    let name = database.name_any();
    let body = json!({
        "apiVersion": Database::api_version(&()),
        "kind": Database::kind(&()),
        // The UID makes sure that a Database made anew under this name does not get this status.
        "metadata": {"name": name, "uid": database.uid()},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    within(api.patch_status(&name, &params, &Patch::Apply(body))).await.map_err(ReconcileError::Status)?;
    context.metrics.wrote("Database/status");
    Ok(())
}

#[cfg(test)]
mod tests;
