//! Clients of the API server, with the timeouts and without the retries that kube has by default.

use std::time::Duration;

use kube::{Client, Config};

/// The control plane is one hop away; a connection that takes longer is as good as refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than any call's own deadline: only ends what nobody waits for any more.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// Not in a pod, or without a service account.
    #[error("cannot find the API server; does this run in a pod with a service account token?")]
    Environment(#[source] kube::config::InClusterError),
    /// The certificates are of no use.
    #[error("cannot make a client of the API server")]
    Client(#[source] kube::Error),
}

/// For single calls: each has its own deadline, and none is repeated behind our back.
pub(crate) fn control() -> Result<Client, ClusterError> {
    let mut config = incluster()?;
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(READ_TIMEOUT);
    // Otherwise the time that a connection lay idle counts.
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(ClusterError::Client)
}

/// For watches, which are silent for as long as nothing changes: no read timeout.
pub(crate) fn watching() -> Result<Client, ClusterError> {
    Client::try_from(incluster()?).map_err(ClusterError::Client)
}

/// By the address in `KUBERNETES_SERVICE_HOST`, not by name: renewals must not depend on DNS.
fn incluster() -> Result<Config, ClusterError> {
    let mut config = Config::incluster_env().map_err(ClusterError::Environment)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.default_retry = false;
    Ok(config)
}
