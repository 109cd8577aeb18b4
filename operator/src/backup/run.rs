//! Wires watches to the reconciles of Backups and the upkeep of repositories.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api,
    core::DeserializeGuard,
    runtime::controller::{Config, Controller},
};
use proto::api::{backup::Backup, database::Database};
use tokio_util::sync::CancellationToken;

use super::{reconcile, upkeep};
use crate::controller::{ConstantPause, Context, every_object};

/// Backups looked after at the same time: each waits for an agent now and then.
const CONCURRENT_BACKUPS: u16 = 4;
/// Repositories looked into at the same time: each may wait for a slow store for half a minute.
const CONCURRENT_UPKEEP: u16 = 8;
/// Statuses that this process wrote come back as changes; so they are taken together.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Runs both until `stop`, then lets running reconciles end.
pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    tokio::join!(backups(Arc::clone(&context), stop.clone()), repositories(context, stop));
}

async fn backups(context: Arc<Context>, stop: CancellationToken) {
    let api: Api<DeserializeGuard<Backup>> = Api::all(context.client.clone());
    Controller::new(api, every_object())
        .with_config(Config::default().concurrency(CONCURRENT_BACKUPS).debounce(DEBOUNCE))
        .trigger_backoff(ConstantPause)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile::reconcile, reconcile::on_error, context)
        .for_each(async |outcome| tracing::trace!(?outcome, "looked at a Backup"))
        .await;
}

async fn repositories(context: Arc<Context>, stop: CancellationToken) {
    let api: Api<DeserializeGuard<Database>> = Api::all(context.client.clone());
    Controller::new(api, every_object())
        .with_config(Config::default().concurrency(CONCURRENT_UPKEEP).debounce(DEBOUNCE))
        .trigger_backoff(ConstantPause)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(upkeep::upkeep, upkeep::on_error, context)
        .for_each(async |outcome| tracing::trace!(?outcome, "looked into a repository"))
        .await;
}
