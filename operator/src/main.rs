//! The operator: shapes each `Database` into a StatefulSet with its Services, Secrets and permissions, and
//! decides when something may be changed. Who is primary is the agents' business alone.

mod agents;
#[cfg(test)]
mod api_server;
mod authority;
mod backup;
mod build;
mod chain;
mod cluster;
mod controller;
mod deadline;
mod digest;
#[cfg(test)]
mod fixtures;
mod http;
mod leader;
mod metrics;
mod process;
mod volume_snapshot;

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Without RUST_LOG. kube logs each failed request as an error of its own; whoever made the request tells it
/// already, with the object and all causes.
const DEFAULT_LOG: &str = "info,kube_client::client::builder=off";

/// The operator of Database resources.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Image with the agent that database pods get.
    #[arg(long, env = "AGENT_IMAGE")]
    agent_image: String,
    /// Name of this pod: its identity in the leader election.
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// Namespace of this pod: where the election's Lease lies.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    http_address: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider was installed first"))?;
    // Two threads: the work is waiting for answers.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(process::run(process::Settings {
        agent_image: arguments.agent_image,
        pod_name: arguments.pod_name,
        namespace: arguments.namespace,
        http_address: arguments.http_address,
    }))
}
