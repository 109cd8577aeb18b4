//! The cluster that tests run against: the lab, or the one that `KUBECONFIG` names.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::lab::{Lab, api, paths};

/// What a test may want to do to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node is off, frozen or without its kubelet.
    Node,
    /// A node is cut off.
    Partition,
    /// The API server is gone, hangs or answers with errors.
    ApiServer,
    /// Processes in a container are signalled or stopped.
    Container,
    /// A volume hangs or is full.
    Disk,
}

/// A cluster for tests.
#[derive(Clone, Debug)]
pub enum Cluster {
    /// The lab of this machine, with all its faults.
    Lab(Lab),
    /// A cluster of somebody else, by its kubeconfig.
    Foreign(PathBuf),
}

impl Cluster {
    /// The cluster of `KUBECONFIG` where that is set, else the lab, which must be up.
    pub async fn connect() -> Result<Self> {
        match std::env::var_os("KUBECONFIG").map(PathBuf::from) {
            Some(file) if file != paths::kubeconfig() => Ok(Self::Foreign(file)),
            _ => Ok(Self::Lab(Lab::attach().await?)),
        }
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        match self {
            Self::Lab(lab) => lab.kubeconfig(),
            Self::Foreign(file) => file,
        }
    }

    /// A client for it.
    pub async fn client(&self) -> Result<kube::Client> {
        api::client(self.kubeconfig()).await
    }

    /// Whether `fault` can be made in it. Each needs the machine that the nodes are on.
    pub fn supports(&self, fault: Fault) -> bool {
        self.lab_for(fault).is_some()
    }

    /// The lab, where `fault` can be made; where not, says so: a test that skips must not look as if it passed.
    pub fn lab_for(&self, fault: Fault) -> Option<&Lab> {
        match self {
            Self::Lab(lab) => Some(lab),
            Self::Foreign(file) => {
                eprintln!("skipped: {fault:?} faults cannot be made in the cluster of {}", file.display());
                None
            }
        }
    }
}
