//! Asking for another primary, as people and programs do.

use anyhow::{Result, ensure};
use proto::wire::peer::{SWITCHOVER_PATH, Switchover};

use super::{
    database::{Database, Pod},
    peer::Peer,
};

/// By `kubectl annotate`, which the operator carries on.
pub async fn by_annotation(database: &Database, candidate: &Pod) -> Result<()> {
    let annotation = format!("db.example.com/switchover={}", candidate.name);
    database.kubectl(&["annotate", "--overwrite", "db", &database.name, &annotation]).await.map(drop)
}

/// By HTTP, at the primary itself, with a certificate of the Database's CA.
pub async fn by_http(database: &Database, primary: &Pod, candidate: &Pod) -> Result<()> {
    let identity = database.identity().await?;
    let body = Switchover { leader: Some(primary.name.clone()), candidate: Some(candidate.name.clone()) };
    let peer = Peer::of(database, &identity, primary)?;
    let answer = peer.post(SWITCHOVER_PATH).json(&body).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{} refused the switchover ({status}): {text}", primary.name);
    Ok(())
}
