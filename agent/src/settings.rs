//! The operator's configuration: the mounted file first, then the ConfigMap through the API.
//!
//! Failure modes: what cannot be read or parsed leaves the earlier configuration in force.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use proto::{pod::CONFIG_FILE, wire::config::AgentConfig};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::chain::Chain;

/// A change by the user shows after this at the latest; kubelet takes about a minute to refresh the file.
const READ_EVERY: Duration = Duration::from_secs(5);
/// For one read.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no (new) configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The file is missing.
    #[error("cannot read the configuration {}; is the ConfigMap mounted?", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is not a configuration of this version.
    #[error("the configuration does not parse; do operator and agent belong to one release?")]
    Shape(#[source] serde_json::Error),
    /// The API server did not hand it out.
    #[error("cannot read ConfigMap {name}")]
    Api {
        /// Which.
        name: String,
        /// What the client library says.
        source: kube::Error,
    },
    /// The API server did not answer.
    #[error("the API server did not answer about ConfigMap {name} within {READ_TIMEOUT:?}")]
    Timeout {
        /// Which.
        name: String,
    },
    /// The ConfigMap has no such key.
    #[error("ConfigMap {name} has no key {CONFIG_FILE}")]
    Key {
        /// Which.
        name: String,
    },
}

/// Reads the mounted file.
pub(crate) async fn from_file(directory: &Path) -> Result<AgentConfig, SettingsError> {
    let path = directory.join(CONFIG_FILE);
    let text =
        tokio::fs::read_to_string(&path).await.map_err(|source| SettingsError::File { path, source })?;
    serde_json::from_str(&text).map_err(SettingsError::Shape)
}

/// Keeps the configuration current.
pub(crate) struct SettingsTask {
    /// ConfigMaps of the Database's namespace.
    pub(crate) api: Api<ConfigMap>,
    /// Name of the ConfigMap.
    pub(crate) name: String,
    /// Where the configuration goes.
    pub(crate) config: watch::Sender<AgentConfig>,
}

impl SettingsTask {
    /// Reads it again and again, until nobody wants it.
    pub(crate) async fn run(self) {
        while !self.config.is_closed() {
            match self.read().await {
                Ok(config) => {
                    self.config.send_if_modified(|current| {
                        let changed = *current != config;
                        *current = config;
                        changed
                    });
                }
                Err(error) => tracing::warn!(error = %Chain(&error), "keeping the earlier configuration"),
            }
            sleep(READ_EVERY).await;
        }
    }

    async fn read(&self) -> Result<AgentConfig, SettingsError> {
        let name = || self.name.clone();
        let map = timeout(READ_TIMEOUT, self.api.get(&self.name))
            .await
            .map_err(|_| SettingsError::Timeout { name: name() })?
            .map_err(|source| SettingsError::Api { name: name(), source })?;
        let text = map
            .data
            .and_then(|mut data| data.remove(CONFIG_FILE))
            .ok_or_else(|| SettingsError::Key { name: name() })?;
        serde_json::from_str(&text).map_err(SettingsError::Shape)
    }
}
