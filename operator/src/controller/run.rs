//! Wires watches to reconciles.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::CronJob,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Resource, ResourceExt,
    core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta},
    runtime::{
        controller::{Config, Controller},
        reflector::ObjectRef,
        utils::Backoff,
        watcher,
    },
};
use proto::{api::database::Database, pod::LABEL_DATABASE};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    reconcile::{on_error, reconcile},
};

/// Databases reconciled at the same time. Each costs some twenty small requests; more at once would only queue
/// up at the API server.
const CONCURRENCY: u16 = 8;
/// Changes of children come in bursts; nothing here is so urgent that a fifth of a second matters.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// A watch is renewed after this many seconds, so that one that died silently is noticed.
const WATCH_SECONDS: u32 = 120;
/// After an error of one watch kube pauses all of them together. When an API server restarts all ten fail, so
/// with kube's default (up to 30 s each) the operator would see nothing for minutes.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
/// Objects per page of an initial list: bounds the memory that a start takes.
const PAGE: u32 = 200;

/// [`WATCH_PAUSE`], however often.
pub(crate) struct ConstantPause;

impl Iterator for ConstantPause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(WATCH_PAUSE)
    }
}

impl Backoff for ConstantPause {
    fn reset(&mut self) {}
}

type Guarded = DeserializeGuard<Database>;

/// Runs until `stop`, then lets running reconciles end.
pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let client = context.client.clone();
    let controller = Controller::new(Api::<Guarded>::all(client), every_object())
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .trigger_backoff(ConstantPause)
        .graceful_shutdown_on(stop.cancelled_owned());
    let controller = watch::<Pod>(controller, &context);
    let controller = watch::<PersistentVolumeClaim>(controller, &context);
    let controller = watch::<StatefulSet>(controller, &context);
    let controller = watch::<Service>(controller, &context);
    let controller = watch::<ConfigMap>(controller, &context);
    let controller = watch::<ServiceAccount>(controller, &context);
    let controller = watch::<Role>(controller, &context);
    let controller = watch::<RoleBinding>(controller, &context);
    let controller = watch::<PodDisruptionBudget>(controller, &context);
    let controller = watch::<CronJob>(controller, &context);
    controller.run(reconcile, on_error, context).for_each(log).await;
}

/// How everything is watched.
pub(crate) fn every_object() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE)
}

/// Only names and versions of labelled children are watched: what they contain is read when it is looked at.
fn watch<K>(controller: Controller<Guarded>, context: &Context) -> Controller<Guarded>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(context.client.clone());
    controller.watches(api, every_object().labels(LABEL_DATABASE), |child| database_of(&child))
}

fn database_of<K: Resource>(child: &K) -> Option<ObjectRef<Guarded>> {
    let name = child.labels().get(LABEL_DATABASE)?;
    Some(ObjectRef::new(name).within(&child.namespace()?))
}

type Outcome = Result<
    (ObjectRef<Guarded>, kube::runtime::controller::Action),
    kube::runtime::controller::Error<super::reconcile::ReconcileError, watcher::Error>,
>;

async fn log(outcome: Outcome) {
    match outcome {
        Ok((database, action)) => tracing::debug!(%database, ?action, "reconciled"),
        // Already logged, with its causes, by the error policy.
        Err(kube::runtime::controller::Error::ReconcilerFailed(..)) => {}
        // A child whose Database is gone.
        Err(kube::runtime::controller::Error::ObjectNotFound(database)) => {
            tracing::debug!(%database, "no such Database");
        }
        Err(error) => {
            tracing::warn!(error = %crate::chain::chain(&error), "a watch failed; it is begun anew");
        }
    }
}
