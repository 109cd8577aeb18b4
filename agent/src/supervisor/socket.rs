//! Serves the agent: JSON documents, one a line, over a socket that only this user can open.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    sync::{Arc, atomic::Ordering},
};

use futures::{SinkExt, StreamExt, stream::FuturesUnordered};
use proto::wire::supervisor::{Request, Response};
use tokio::{
    net::{UnixListener, UnixStream},
    task::{self, JoinHandle, JoinSet},
};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use super::Supervisor;
use crate::boot_clock;

/// Longest request: a configuration with every parameter and many access rules is far below it.
const LONGEST_LINE: usize = 1 << 20;
/// Connections at a time: one agent has one, or two while it is replaced.
const CONNECTIONS: usize = 8;
/// Orders of one connection that may wait at a time.
const ORDERS: usize = 32;

/// Serves until the socket fails.
pub(crate) async fn serve(supervisor: &Arc<Supervisor>) -> io::Result<()> {
    let path = supervisor.layout.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                connections.spawn(converse(Arc::clone(supervisor), accepted?.0));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(supervisor: Arc<Supervisor>, stream: UnixStream) {
    if let Err(error) = exchange(&supervisor, stream).await {
        tracing::warn!(%error, "the agent's connection failed");
    }
}

async fn exchange(supervisor: &Arc<Supervisor>, stream: UnixStream) -> Result<(), LinesCodecError> {
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(LONGEST_LINE));
    // Each order runs in its own task: it is carried out to its end even if the agent goes away.
    let mut orders: FuturesUnordered<JoinHandle<Response>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            line = lines.next(), if orders.len() < ORDERS => match line.transpose()? {
                Some(line) => {
                    supervisor.agent_asked_at.store(boot_clock::now().0, Ordering::Relaxed);
                    orders.push(task::spawn(Arc::clone(supervisor).respond(parse(&line)?)));
                }
                None => return Ok(()),
            },
            Some(Ok(response)) = orders.next() => lines.send(encode(&response)?).await?,
        }
    }
}

fn parse(line: &str) -> io::Result<Request> {
    // The message would repeat what the line contains: verifiers, for one.
    serde_json::from_str(line).map_err(|error| {
        let message =
            format!("request not understood at column {}; do agent and supervisor differ?", error.column());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

fn encode(response: &Response) -> io::Result<String> {
    Ok(serde_json::to_string(response)?)
}
