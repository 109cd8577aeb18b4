//! Asking for another primary, as people and programs do.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use proto::{
    pod::PEER_PORT,
    wire::peer::{SWITCHOVER_PATH, Switchover},
};

use super::database::{Database, Pod};

/// The request only begins it: what takes longer hangs.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// By `kubectl annotate`, which the operator carries on.
pub async fn by_annotation(database: &Database, candidate: &Pod) -> Result<()> {
    let annotation = format!("db.example.com/switchover={}", candidate.name);
    database.kubectl(&["annotate", "--overwrite", "db", &database.name, &annotation]).await.map(drop)
}

/// By HTTP, at the primary itself, with a certificate of the Database's CA.
pub async fn by_http(database: &Database, primary: &Pod, candidate: &Pod) -> Result<()> {
    let identity = database.identity().await?;
    let host = format!("{}.{}-headless.{}.svc", primary.name, database.name, database.namespace);
    let address = SocketAddr::new(primary.address.context("the primary has no address")?, PEER_PORT);
    let client = reqwest::Client::builder()
        .timeout(REQUEST_LIMIT)
        .resolve(&host, address)
        .tls_certs_only([reqwest::Certificate::from_pem(identity.authority.as_bytes())?])
        .identity(reqwest::Identity::from_pem(identity.certificate_and_key.as_bytes())?)
        .build()?;
    let body = Switchover { leader: Some(primary.name.clone()), candidate: Some(candidate.name.clone()) };
    let answer =
        client.post(format!("https://{host}:{PEER_PORT}{SWITCHOVER_PATH}")).json(&body).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{} refused the switchover ({status}): {text}", primary.name);
    Ok(())
}
