//! The cluster that scenarios play on: the lab, or the one of `$KUBECONFIG`, with the operator on it.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::sync::OnceCell;

use super::{database::Database, kubectl::Kubectl, wait::say};
use crate::{
    cargo::workspace,
    fault::cluster::Cluster,
    images::{self, Name},
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
    /// What faults need.
    pub cluster: Cluster,
}

impl Stage {
    /// The cluster of `$KUBECONFIG` where that is set, else the lab, brought up if it is not.
    pub async fn attach() -> Result<Self> {
        let cluster = Cluster::connect().await?;
        let program = match &cluster {
            Cluster::Lab(lab) => lab.programs().join("kubectl"),
            Cluster::Foreign(_) => "kubectl".into(),
        };
        let kubectl = Kubectl::new(program, cluster.kubeconfig());
        Ok(Self { client: cluster.client().await?, kubectl, cluster })
    }

    /// The same with images, definition and operator of this checkout.
    pub async fn with_operator() -> Result<Self> {
        let stage = Self::attach().await?;
        INSTALLED.get_or_try_init(|| stage.install()).await?;
        Ok(stage)
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
        self.kubectl.run_with(&["apply", "-f", "-"], &namespace.to_string()).await?;
        self.kubectl.wait_until_usable(name).await
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

    /// Has the operators give all pods this image of the agent, as those of another release do.
    pub async fn agent_image(&self, reference: &str) -> Result<()> {
        let image = format!("AGENT_IMAGE={reference}");
        self.kubectl.run(&["-n", SYSTEM, "set", "env", OPERATOR, &image]).await?;
        self.rolled_out().await
    }

    async fn install(&self) -> Result<()> {
        if let Cluster::Lab(lab) = &self.cluster {
            say("building the images and importing them on every node");
            images::ensure(lab, &images()?).await?;
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

fn images() -> Result<Vec<Name>> {
    ["agent", "operator"].iter().chain(SERVERS).map(|name| name.parse()).collect()
}
