//! An API server that is gone, that hangs, that refuses writes, or that has only errors to give.

use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpStream;

use super::undo;
use crate::lab::addresses::API_SERVER;
use crate::lab::control_plane::{self, API_SERVER_PROCESS};
use crate::lab::{Lab, api, binaries, network, pki, process};

/// The program that answers in the API server's place.
const STAND_IN: &str = "unavailable-apiserver";

/// Kills the API server: connections are refused.
pub async fn stop() -> Result<()> {
    process::kill(API_SERVER_PROCESS).await
}

/// Starts it again, and waits until it is ready.
pub async fn start(lab: &Lab) -> Result<()> {
    control_plane::start_api_server(lab.programs())?;
    api::wait_ready(&lab.client().await?).await
}

/// Lets it hang for `limit` at most: connections are made and nothing is answered.
pub async fn pause(limit: Duration) -> Result<()> {
    undo::stop_process(API_SERVER_PROCESS, limit).await
}

/// Lets it go on.
pub async fn resume() -> Result<()> {
    undo::resume_process(API_SERVER_PROCESS).await
}

/// Answers 503 to every request, in the API server's place.
pub async fn fail_all() -> Result<()> {
    let programs = binaries::FAULTS.build().await?;
    let (certificate, key) = pki::pair("kube-apiserver");
    stop().await?;
    let arguments = [
        "unavailable".to_owned(),
        format!("{API_SERVER}:6443"),
        certificate.display().to_string(),
        key.display().to_string(),
    ];
    let mut process = control_plane::process(&programs, "faults", &arguments);
    STAND_IN.clone_into(&mut process.name);
    process.start()?;
    api::wait("the API server's stand-in", async || {
        TcpStream::connect((API_SERVER, 6443)).await.map(drop).map_err(|error| error.to_string())
    })
    .await
}

/// Puts the API server back in its place.
pub async fn recover(lab: &Lab) -> Result<()> {
    process::remove(STAND_IN).await?;
    start(lab).await
}

/// Lets every write fail while reads go on, as when etcd's quota is used up.
pub async fn refuse_writes() -> Result<()> {
    quota("on").await
}

/// Lets writes succeed again.
pub async fn accept_writes() -> Result<()> {
    quota("off").await
}

async fn quota(full: &str) -> Result<()> {
    let program = binaries::FAULTS.build().await?.join("faults");
    network::run_in(&network::control_plane(), &[&program.to_string_lossy(), "full", full]).await.map(drop)
}
