//! The cluster that scenarios play on: the lab, or the one of `$KUBECONFIG`, with the operator on it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::OnceCell;

use super::{database::Database, kubectl::Kubectl, wait::say};
use crate::{
    cargo::workspace,
    images::{self, Name},
    lab::{Lab, Node},
};

/// Namespace of the operator, as in `manifests/`.
const SYSTEM: &str = "matriarch-system";
/// Deployment of the operator.
const OPERATOR: &str = "deployment/matriarch-operator";
/// Starting two small pods whose image is there.
const ROLLOUT_LIMIT: &str = "--timeout=120s";
/// The PostgreSQL that scenarios run: `version: "16"` is its newest known minor release.
const SERVERS: &[&str] = &["16"];
/// Namespaces end when every pod in them has ended.
const NAMESPACE_LIMIT: Duration = Duration::from_mins(4);

/// Once for all tests of a program: what they play on is of this checkout.
static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// A cluster.
#[derive(Clone)]
pub struct Stage {
    /// The API.
    pub client: kube::Client,
    /// The same as people use it.
    pub kubectl: Kubectl,
    lab: Option<Lab>,
}

impl Stage {
    /// The cluster of `$KUBECONFIG` if that is set and not the lab's; otherwise the lab, brought up if need be.
    pub async fn attach() -> Result<Self> {
        if let Some(path) = foreign_kubeconfig() {
            let client = crate::lab::api::client(&path).await?;
            return Ok(Self { client, kubectl: Kubectl::new("kubectl".into(), &path), lab: None });
        }
        let lab = Lab::up().await?;
        let kubectl = Kubectl::new(lab.programs().join("kubectl"), lab.kubeconfig());
        Ok(Self { client: lab.client().await?, kubectl, lab: Some(lab) })
    }

    /// The same with images, definition and operator of this checkout.
    pub async fn with_operator() -> Result<Self> {
        let stage = Self::attach().await?;
        INSTALLED.get_or_try_init(|| stage.install()).await?;
        Ok(stage)
    }

    /// The lab, for faults that only it can inject.
    pub fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("this needs the lab: unset KUBECONFIG")
    }

    /// A Database that may not exist yet, in a namespace that does.
    pub async fn database(&self, namespace: &str, name: &str) -> Result<Database> {
        self.namespace(namespace).await?;
        Ok(Database::new(self.client.clone(), self.kubectl.clone(), namespace, name))
    }

    /// Makes a namespace, in which only pods of the `restricted` Pod Security Standard may run.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let metadata = json!({"name": name, "labels": labels});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        self.kubectl.run_with(&["apply", "-f", "-"], &namespace.to_string()).await.map(drop)
    }

    /// Removes a namespace with everything in it, if it exists.
    pub async fn without(&self, namespace: &str) -> Result<()> {
        let limit = format!("--timeout={}s", NAMESPACE_LIMIT.as_secs());
        self.kubectl.run(&["delete", "namespace", namespace, "--ignore-not-found", &limit]).await.map(drop)
    }

    /// Sets the number of operators and waits until it is so.
    pub async fn scale_operator(&self, replicas: u8) -> Result<()> {
        self.kubectl.run(&["-n", SYSTEM, "scale", OPERATOR, &format!("--replicas={replicas}")]).await?;
        if replicas == 0 {
            let gone = ["-n", SYSTEM, "wait", "--for=delete", "pod", "--all", ROLLOUT_LIMIT];
            return self.kubectl.run(&gone).await.map(drop);
        }
        self.rolled_out().await
    }

    async fn install(&self) -> Result<()> {
        if let Some(lab) = &self.lab {
            say("building the images and importing them on every node");
            let sockets: Vec<PathBuf> = lab.nodes().iter().map(Node::containerd_socket).collect();
            images::ensure(&sockets, &images()?).await?;
        }
        say("installing the definition and the operator");
        let manifests = workspace().join("manifests").display().to_string();
        self.kubectl.run(&["apply", "--server-side", "--force-conflicts", "-k", &manifests]).await?;
        // The tag of a development image says nothing about its contents.
        self.kubectl.run(&["-n", SYSTEM, "rollout", "restart", OPERATOR]).await?;
        self.rolled_out().await
    }

    async fn rolled_out(&self) -> Result<()> {
        self.kubectl.run(&["-n", SYSTEM, "rollout", "status", OPERATOR, ROLLOUT_LIMIT]).await.map(drop)
    }
}

fn foreign_kubeconfig() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("KUBECONFIG")?);
    (path != Path::new(&crate::lab::paths::kubeconfig())).then_some(path)
}

fn images() -> Result<Vec<Name>> {
    ["agent", "operator"].iter().chain(SERVERS).map(|name| name.parse()).collect()
}
