//! An S3 server in the cluster, and a client that tests look into its buckets with.

mod client;
mod identity;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;

pub use self::client::{Bucket, Written};
use crate::images::own::S3_SERVER;

/// The name of the Pod and of the Service.
pub const NAME: &str = "s3";
/// Where the Service listens.
pub const PORT: u16 = 9000;
/// Where it listens with TLS.
pub const TLS_PORT: u16 = 9443;
/// Who may do everything; of a server that holds only what tests wrote.
pub const ACCESS_KEY: &str = "matriarch";
/// The key of that user.
pub const SECRET_KEY: &str = "matriarch-tests-only";

/// The image is imported before; the rest is starting one container.
const READY_LIMIT: Duration = Duration::from_mins(1);
const MANAGER: &str = "matriarch-tests";

/// A running server.
#[derive(Clone, Debug)]
pub struct Server {
    /// What pods call it: `http://s3.<namespace>.svc:9000`.
    pub endpoint: String,
    /// What this process calls it: by the address of the Service, since the host asks another DNS.
    pub endpoint_here: String,
    /// What pods call it with TLS: `https://s3.<namespace>.svc:9443`.
    pub endpoint_tls: String,
    /// Who has signed its certificate, PEM.
    pub authority: String,
}

impl Server {
    /// Starts the server in `namespace` with these buckets, or finds the one that runs there.
    ///
    /// Its image must be on the nodes: `images::ensure(&lab, &["s3".parse()?])`. What it holds is lost with
    /// its pod.
    pub async fn start(client: &kube::Client, namespace: &str, buckets: &[&str]) -> Result<Self> {
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let authority = identity::ensure(client, namespace).await?;
        let service = apply(&services, &service()).await?;
        apply(&pods, &pod(buckets)).await?;
        let ready = await_condition(pods, NAME, conditions::is_pod_running());
        tokio::time::timeout(READY_LIMIT, ready).await.with_context(|| {
            format!("the pod {namespace}/{NAME} does not run: is its image on the nodes?")
        })??;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
        let server = Self {
            endpoint: format!("http://{NAME}.{namespace}.svc:{PORT}"),
            endpoint_here: format!("http://{address}:{PORT}"),
            endpoint_tls: format!("https://{NAME}.{namespace}.svc:{TLS_PORT}"),
            authority,
        };
        server.answers().await?;
        Ok(server)
    }

    /// A bucket, as this process reaches it.
    pub fn bucket(&self, name: &str) -> Result<Bucket> {
        Bucket::new(&self.endpoint_here, name)
    }

    async fn answers(&self) -> Result<()> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        let start = tokio::time::Instant::now();
        while http.get(&self.endpoint_here).send().await.is_err() {
            ensure!(start.elapsed() < READY_LIMIT, "the S3 server at {} does not answer", self.endpoint_here);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

async fn apply<K>(api: &Api<K>, object: &serde_json::Value) -> Result<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let applied = api.patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await;
    applied.with_context(|| format!("cannot apply the {} of the S3 server", object["kind"]))
}

fn labels() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("app", NAME)])
}

fn service() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "labels": labels()},
        "spec": {
            "selector": labels(),
            "ports": [
                {"name": "http", "port": PORT, "targetPort": PORT},
                {"name": "https", "port": TLS_PORT, "targetPort": TLS_PORT},
            ],
        },
    })
}

fn pod(buckets: &[&str]) -> serde_json::Value {
    let buckets = buckets.iter().map(|bucket| format!("--bucket={bucket}"));
    let own = [
        format!("--listen=0.0.0.0:{PORT}"),
        format!("--listen-tls=0.0.0.0:{TLS_PORT}"),
        "--tls-folder=/tls".to_owned(),
        "--folder=/data".to_owned(),
    ];
    let arguments: Vec<String> = own.into_iter().chain(buckets).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": NAME, "labels": labels()},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": NAME,
                "image": S3_SERVER,
                "imagePullPolicy": "IfNotPresent",
                "args": arguments,
                "env": [
                    {"name": "AWS_ACCESS_KEY_ID", "value": ACCESS_KEY},
                    {"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET_KEY},
                ],
                "ports": [
                    {"name": "http", "containerPort": PORT},
                    {"name": "https", "containerPort": TLS_PORT},
                ],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "tls", "mountPath": "/tls", "readOnly": true},
                ],
            }],
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "tls", "secret": {"secretName": identity::SECRET}},
            ],
        },
    })
}
