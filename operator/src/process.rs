//! The life of the process: lead, reconcile, and leave in order. Every task is joined; the unexpected end of
//! any of them ends the process, and Kubernetes starts a new one.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, Config};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{backup, controller, http, leader::Leadership, metrics::Metrics};

/// Connecting to the API server takes milliseconds, or it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest that running reconciles may take to end; below the pod's termination grace period of 30 s.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// What the process is told at its start.
pub(crate) struct Settings {
    /// Image with the agent.
    pub(crate) agent_image: String,
    /// Own pod's name: identity in the election and in events.
    pub(crate) pod_name: String,
    /// Own namespace: where the Lease lies.
    pub(crate) namespace: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub(crate) http_address: SocketAddr,
}

/// Runs until a signal, or until something that should not end does.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let stop = CancellationToken::new();
    let mut signals = tokio::spawn(stop_on_signal(stop.clone()));
    let mut served = tokio::spawn(http::serve(settings.http_address, metrics.clone()));
    let outcome = tokio::select! {
        outcome = lead(&settings, metrics, &stop) => outcome,
        ended = &mut served => {
            let ended = ended.context("the HTTP server panicked")?;
            ended.context("serving HTTP").and(Err(anyhow::anyhow!("the HTTP server ended")))
        }
        ended = &mut signals => ended.context("the signal handler panicked")?,
    };
    stop.cancel();
    outcome
}

async fn lead(settings: &Settings, metrics: Metrics, stop: &CancellationToken) -> anyhow::Result<()> {
    let client = client().await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &settings.namespace);
    let mut leadership = Leadership::new(leases, settings.pod_name.clone());
    tracing::info!("waiting for leadership");
    tokio::select! {
        () = leadership.acquire() => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!("leading");
    metrics.leading();
    let context = Arc::new(controller::Context::new(
        client,
        metrics,
        settings.agent_image.clone(),
        settings.pod_name.clone(),
    ));
    // The Lease is given back after the last reconcile has ended.
    let release = CancellationToken::new();
    let mut held = tokio::spawn(leadership.hold(release.clone()));
    let mut controlled = tokio::spawn(control(context, stop.clone()));
    tokio::select! {
        lost = &mut held => return lost.context("the election panicked")?.context("leading"),
        ended = &mut controlled => {
            ended.context("the controller panicked")?;
            anyhow::ensure!(stop.is_cancelled(), "the controller ended");
        }
        () = stop.cancelled() => end(controlled).await,
    }
    release.cancel();
    held.await.context("the election panicked")?.context("leading")
}

/// Databases and backups, side by side. If one ends before `stop`, so does the other.
async fn control(context: Arc<controller::Context>, stop: CancellationToken) {
    let both = stop.child_token();
    let databases = async {
        controller::run(Arc::clone(&context), both.clone()).await;
        both.cancel();
    };
    let backups = async {
        backup::run(Arc::clone(&context), both.clone()).await;
        both.cancel();
    };
    tokio::join!(databases, backups);
}

async fn end(controlled: JoinHandle<()>) {
    let abort = controlled.abort_handle();
    if timeout(SHUTDOWN_TIMEOUT, controlled).await.is_err() {
        tracing::warn!("reconciles did not end within {SHUTDOWN_TIMEOUT:?}");
        abort.abort();
    }
}

async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer().await.context("finding the API server")?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // The reconcile's backoff is the retry; kube's own would repeat writes for minutes.
    config.default_retry = false;
    Client::try_from(config).context("preparing to talk to the API server")
}

/// Cancels `stop` on SIGTERM or SIGINT, and then never ends: the shutdown does.
async fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down");
    stop.cancel();
    std::future::pending().await
}
