//! `/healthz`, `/readyz` and `/metrics`, plain HTTP.
//!
//! A replica that waits for leadership is healthy and ready: it is a warm stand-by, and a rollout must not
//! wait for the old leader to go.

use std::net::SocketAddr;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Serves until the process ends.
pub(crate) async fn serve(address: SocketAddr, metrics: Metrics) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router(metrics)).await
}

fn router(metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(StatusCode::OK))
        .route("/readyz", get(StatusCode::OK))
        .route("/metrics", get(render))
        .with_state(metrics)
}

#[allow(clippy::unused_async)] // axum handlers are async
async fn render(State(metrics): State<Metrics>) -> Result<String, StatusCode> {
    metrics.render().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
