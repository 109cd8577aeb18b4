//! Talks to the API server: waits for it, for the nodes, and applies what the lab brings along.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{DynamicObject, TypeMeta};
use kube::{Client, Config};
use serde_json::Value;

/// No answer may take longer: watches end and are begun again, so this holds for them too.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Many times what it takes while the machine is idle: others may be building on it, and a kubelet that was late once
/// waits twice as long before each further attempt, for up to two minutes.
const START_LIMIT: Duration = Duration::from_mins(5);

const POLL: Duration = Duration::from_millis(200);

/// A client for the cluster of this kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    // Fails only where a program has chosen already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read the kubeconfig {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    config.connect_timeout = Some(READ_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Ok(Client::try_from(config)?)
}

/// Waits until the API server says that it is ready.
pub async fn wait_ready(client: &Client) -> Result<()> {
    wait("the API server to be ready", async || {
        let request = http_get("/readyz")?;
        client.request_text(request).await.map(drop).map_err(|error| error.to_string())
    })
    .await
}

/// The names of the nodes that are ready.
pub async fn ready_nodes(client: &Client) -> Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let list = nodes.list(&ListParams::default()).await.context("cannot list the nodes")?;
    Ok(list.into_iter().filter(is_ready).filter_map(|node| node.metadata.name).collect())
}

/// Whether the node says that it is ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Applies the objects of a `List` in JSON.
pub async fn apply(client: &Client, list: &str) -> Result<()> {
    let list: Value = serde_json::from_str(list)?;
    for item in list["items"].as_array().context("not a list of objects")? {
        apply_one(client, item).await?;
    }
    Ok(())
}

async fn apply_one(client: &Client, item: &Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(item.clone())?;
    let types: &TypeMeta = object.types.as_ref().context("an object without a kind")?;
    let kind = kube::core::GroupVersionKind::try_from(types)?;
    let (resource, _) = kube::discovery::pinned_kind(client, &kind).await?;
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object.metadata.name.as_deref().context("an object without a name")?;
    let params = PatchParams::apply("matriarch-lab").force();
    api.patch(name, &params, &Patch::Apply(item))
        .await
        .with_context(|| format!("cannot apply {} {name}", kind.kind))?;
    Ok(())
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>, String> {
    http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())
}

/// Tries until it succeeds; the error tells the last reason.
pub async fn wait(what: &str, mut attempt: impl AsyncFnMut() -> Result<(), String>) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let Err(reason) = attempt().await else { return Ok(()) };
        if Instant::now() > deadline {
            bail!("waited {} s for {what}: {reason}", START_LIMIT.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}
