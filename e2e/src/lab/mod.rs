//! The lab: a real Kubernetes with one control plane and three worker nodes on this machine.
//!
//! Every node is a network namespace with its own containerd, kubelet and kube-proxy. Everything of the lab is
//! under one folder (`paths`), one control group (`cgroup`) and one route (`network`), which is how `down`
//! finds all of it, also after a crash.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub mod addresses;
pub mod api;
pub mod binaries;
pub mod cache;
pub mod cgroup;
pub mod command;
pub(crate) mod control_plane;
mod dns;
mod down;
mod host;
pub(crate) mod image;
mod kernel;
pub mod mounts;
pub mod network;
mod node;
pub mod packages;
pub mod paths;
pub(crate) mod pki;
pub mod process;
pub mod progress;
mod proxy;
mod status;
pub mod storage;
pub(crate) mod strays;
mod up;

pub use node::Node;
pub use status::Status;

/// A lab that is up.
#[derive(Clone, Debug)]
pub struct Lab {
    kubeconfig: PathBuf,
    nodes: Vec<Node>,
    programs: PathBuf,
}

impl Lab {
    /// Makes a lab, or what is missing of it, and waits until it is ready.
    pub async fn up() -> Result<Self> {
        let _held = host::only_one_at_a_time()?;
        up::up().await
    }

    /// The lab that is up.
    pub async fn attach() -> Result<Self> {
        if !paths::complete().exists() {
            bail!("there is no lab on this machine: run `cargo lab up` first");
        }
        Ok(Self::with_programs(binaries::KUBERNETES.build().await?))
    }

    /// Ends whatever there is of a lab and leaves nothing behind.
    pub async fn down() -> Result<()> {
        let _held = host::only_one_at_a_time()?;
        down::down().await
    }

    /// What runs and what does not.
    pub async fn status() -> Result<Status> {
        status::status().await
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The worker nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The worker node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| {
            let names: Vec<&str> = self.nodes.iter().map(Node::name).collect();
            format!("there is no node {name}: the nodes are {}", names.join(", "))
        })
    }

    /// The folder with kubectl and the programs of Kubernetes.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// A client that acts as the administrator.
    pub async fn client(&self) -> Result<kube::Client> {
        api::client(&self.kubeconfig).await
    }

    /// Imports the images of a docker-archive or oci-archive on every node.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        let imports = self.nodes.iter().map(|node| image::import(node, archive));
        futures::future::try_join_all(imports).await.map(drop)
    }

    fn with_programs(programs: PathBuf) -> Self {
        Self { kubeconfig: paths::kubeconfig(), nodes: Node::all(), programs }
    }
}
