//! The cluster that scenarios play on.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::kubectl::Kubectl;

/// A cluster.
#[derive(Clone)]
pub struct Stage {
    /// The API.
    pub client: kube::Client,
    /// The same as people use it.
    pub kubectl: Kubectl,
}

impl Stage {
    /// The cluster of `$KUBECONFIG`.
    pub async fn attach() -> Result<Self> {
        let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG").context("set KUBECONFIG")?);
        Ok(Self {
            client: kube::Client::try_default().await?,
            kubectl: Kubectl::new("kubectl".into(), &kubeconfig),
        })
    }
}
