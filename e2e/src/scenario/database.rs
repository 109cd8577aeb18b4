//! One Database on the cluster, as its user sees it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Pod as KubePod, Secret, Service};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use proto::{
    api::{database::Database as Resource, status::DatabaseStatus},
    pod::{APP_ROLE, LABEL_DATABASE, LABEL_ROLE, ROLE_PRIMARY},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{
    kubectl::Kubectl,
    session::{Access, Session},
    wait,
};

/// A Database of the cluster that `kubectl` talks to.
#[derive(Clone)]
pub struct Database {
    /// The API.
    pub client: Client,
    /// The same as people use it.
    pub kubectl: Kubectl,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    credentials: Arc<OnceCell<Credentials>>,
}

/// One of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// UID: a pod made again is another.
    pub uid: String,
    /// Value of the role label.
    pub role: String,
    /// Address, once it has one.
    pub address: Option<IpAddr>,
    /// Node, once it is scheduled.
    pub node: Option<String>,
    /// How often its containers were restarted, the agent's among them.
    pub restarts: i32,
}

/// What members identify themselves with, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The CA.
    pub authority: String,
    /// Signed by it, and the private key.
    pub certificate_and_key: String,
}

/// What the Secrets of a Database hold.
#[derive(Clone, Debug)]
struct Credentials {
    superuser: String,
    app: String,
    database: String,
    authority: String,
}

impl Database {
    /// A Database that may or may not exist yet.
    pub fn new(client: Client, kubectl: Kubectl, namespace: &str, name: &str) -> Self {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { client, kubectl, namespace, name, credentials: Arc::default() }
    }

    /// Applies it with this spec.
    pub async fn apply(&self, spec: &Value) -> Result<()> {
        let object = json!({
            "apiVersion": "db.example.com/v1alpha1",
            "kind": "Database",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        });
        self.kubectl.run_with(&["apply", "-f", "-"], &object.to_string()).await.map(drop)
    }

    /// Runs `kubectl` in its namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", self.namespace.as_str()];
        all.extend_from_slice(arguments);
        self.kubectl.run(&all).await
    }

    /// Its status.
    pub async fn status(&self) -> Result<DatabaseStatus> {
        let api: Api<Resource> = Api::namespaced(self.client.clone(), &self.namespace);
        let object =
            api.get(&self.name).await.with_context(|| format!("cannot read Database {}", self.name))?;
        object.status.with_context(|| format!("Database {} has no status yet", self.name))
    }

    /// Its pods, by name.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let api: Api<KubePod> = Api::namespaced(self.client.clone(), &self.namespace);
        let ours = ListParams::default().labels(&format!("{LABEL_DATABASE}={}", self.name));
        Ok(api.list(&ours).await?.into_iter().map(pod).collect())
    }

    /// The pod that the label calls primary.
    pub async fn primary(&self) -> Result<Pod> {
        let mut primaries = self.pods().await?;
        primaries.retain(|pod| pod.role == ROLE_PRIMARY);
        match primaries.len() {
            1 => Ok(primaries.remove(0)),
            count => bail!("{count} pods are labelled primary"),
        }
    }

    /// A pod that is not the primary.
    pub async fn standby(&self) -> Result<Pod> {
        let standby = self.pods().await?.into_iter().find(|pod| pod.role == "replica");
        standby.context("no pod is labelled replica")
    }

    /// The pod that the status calls primary.
    pub async fn primary_of_status(&self) -> Result<String> {
        self.status().await?.primary.context("the status names no primary")
    }

    /// Whether a pod accepts a write from the application.
    pub async fn accepts_writes(&self, pod: &Pod) -> bool {
        let write = async {
            let session = Session::open(&self.access_to(pod).await?).await?;
            session.execute("CREATE TEMPORARY TABLE IF NOT EXISTS probe ()", &[]).await
        };
        write.await.is_ok()
    }

    /// As the application, through `<name>-rw`.
    pub async fn read_write(&self) -> Result<Access> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let service = api.get(&format!("{}-rw", self.name)).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("a Service without ClusterIP")?;
        let credentials = self.credentials().await?;
        Ok(Access {
            host: format!("{}-rw.{}.svc", self.name, self.namespace),
            address: address.parse()?,
            user: APP_ROLE.to_owned(),
            password: credentials.app.clone(),
            database: credentials.database.clone(),
            authority: credentials.authority.clone(),
        })
    }

    /// As the application, on one pod directly.
    pub async fn access_to(&self, pod: &Pod) -> Result<Access> {
        let credentials = self.credentials().await?;
        Ok(Access {
            host: format!("{}.{}-headless.{}.svc", pod.name, self.name, self.namespace),
            address: pod.address.with_context(|| format!("pod {} has no address", pod.name))?,
            user: APP_ROLE.to_owned(),
            password: credentials.app.clone(),
            database: credentials.database.clone(),
            authority: credentials.authority.clone(),
        })
    }

    /// As the superuser, on one pod directly, in the application's database.
    pub async fn superuser_on(&self, pod: &Pod) -> Result<Access> {
        let password = self.credentials().await?.superuser.clone();
        Ok(Access { user: "postgres".to_owned(), password, ..self.access_to(pod).await? })
    }

    /// Deletes it with its volumes and waits until nothing of it runs.
    pub async fn delete(&self, limit: Duration) -> Result<()> {
        let patch = json!({"spec": {"deletionPolicy": "Delete"}}).to_string();
        self.kubectl(&["patch", "db", &self.name, "--type=merge", "-p", &patch]).await?;
        self.kubectl(&["delete", "db", &self.name, "--wait=false"]).await?;
        let gone = async || {
            let pods = self.pods().await?.len();
            ensure!(pods == 0, "{pods} pods are left");
            Ok(())
        };
        wait::until("the pods to end", limit, gone).await.map(drop)
    }

    /// Deletes a pod as `kubectl delete pod` does, without waiting.
    pub async fn delete_pod(&self, pod: &Pod) -> Result<()> {
        let api: Api<KubePod> = Api::namespaced(self.client.clone(), &self.namespace);
        api.delete(&pod.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// A certificate of the Database's CA.
    pub async fn identity(&self) -> Result<Identity> {
        let secret = self.secret("tls").await?;
        Ok(Identity {
            authority: field(&secret, "ca.crt")?,
            certificate_and_key: field(&secret, "tls.crt")? + &field(&secret, "tls.key")?,
        })
    }

    async fn credentials(&self) -> Result<&Credentials> {
        self.credentials.get_or_try_init(|| self.read_credentials()).await
    }

    async fn read_credentials(&self) -> Result<Credentials> {
        let app = self.secret("app").await?;
        Ok(Credentials {
            superuser: field(&self.secret("superuser").await?, "password")?,
            app: field(&app, "password")?,
            database: field(&app, "dbname")?,
            authority: field(&self.secret("tls").await?, "ca.crt")?,
        })
    }

    async fn secret(&self, suffix: &str) -> Result<BTreeMap<String, String>> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = api.get(&format!("{}-{suffix}", self.name)).await?;
        let data = secret.data.unwrap_or_default();
        data.into_iter().map(|(key, value)| Ok((key, String::from_utf8(value.0)?))).collect()
    }
}

fn field(secret: &BTreeMap<String, String>, key: &str) -> Result<String> {
    secret.get(key).cloned().with_context(|| format!("the Secret has no {key}"))
}

fn pod(pod: KubePod) -> Pod {
    let labels = pod.metadata.labels.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    Pod {
        name: pod.metadata.name.unwrap_or_default(),
        uid: pod.metadata.uid.unwrap_or_default(),
        role: labels.get(LABEL_ROLE).cloned().unwrap_or_default(),
        restarts: containers.map(|container| container.restart_count).sum(),
        address: status.pod_ip.and_then(|address| address.parse().ok()),
        node: pod.spec.and_then(|spec| spec.node_name),
    }
}
