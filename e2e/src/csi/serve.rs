//! The driver process: one for all nodes, since they share the machine's mounts. Each kubelet finds a socket of its
//! own in its registry folder, and the sidecars one for the controller.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::try_join_all;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Server, server::Router};

use super::{
    DRIVER,
    controller::ControllerService,
    driver::Driver,
    identity::IdentityService,
    node::NodeService,
    registration::RegistrationService,
    rpc::{
        controller::controller_server::ControllerServer, identity::identity_server::IdentityServer,
        node::node_server::NodeServer, registration::registration_server::RegistrationServer,
    },
    store::Store,
};

/// How soon a removed socket is made again: soon beside the seconds that a node takes to boot.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where the driver keeps volumes and whom it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The folder of volumes and snapshots.
    pub folder: PathBuf,
    /// The socket for the sidecars.
    pub controller: PathBuf,
    /// The root folder of each node's kubelet, by node name.
    pub kubelets: BTreeMap<String, PathBuf>,
}

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket could not be made.
    #[error("listening on {socket} failed: its path may be at most 107 bytes long")]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The signal to end could not be awaited.
    #[error("waiting for signals failed")]
    Signals(#[source] io::Error),
    /// A server failed.
    #[error("serving {socket} failed")]
    Serve {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        #[source]
        source: tonic::transport::Error,
    },
}

/// The socket that the kubelet with this root folder finds the driver by.
///
/// The `@` is for kubelet's first call, which names the server by the path of its socket, with every `/` as `%2F`.
/// That is no valid name of a host and our HTTP/2 resets the call; before an `@` it is one of a user, and valid.
pub fn kubelet_socket(kubelet: &Path) -> PathBuf {
    kubelet.join("plugins_registry").join(format!("lab@{DRIVER}.sock"))
}

/// Serves until SIGTERM.
pub async fn run(setup: Setup) -> Result<(), ServeError> {
    let nodes = setup.kubelets.keys().cloned().collect();
    let driver = Driver::new(Store::new(setup.folder), nodes);
    let kubelets = setup.kubelets.iter().map(async |(node, kubelet)| {
        let socket = kubelet_socket(kubelet);
        serve(&socket, || node_routes(&driver, node.clone(), &socket)).await
    });
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    tokio::select! {
        ended = serve(&setup.controller, || controller_routes(&driver)) => ended,
        ended = try_join_all(kubelets) => ended.map(drop),
        _ = terminate.recv() => Ok(()),
    }
}

fn controller_routes(driver: &Arc<Driver>) -> Router {
    Server::builder()
        .add_service(IdentityServer::new(IdentityService))
        .add_service(ControllerServer::new(ControllerService(Arc::clone(driver))))
}

fn node_routes(driver: &Arc<Driver>, node: String, socket: &Path) -> Router {
    let endpoint = socket.to_string_lossy().into_owned();
    Server::builder()
        .add_service(IdentityServer::new(IdentityService))
        .add_service(RegistrationServer::new(RegistrationService { endpoint, node: node.clone() }))
        .add_service(NodeServer::new(NodeService { driver: Arc::clone(driver), node }))
}

/// Serves on `socket`, and anew whenever somebody removes it: kubelet empties its registry folder as it starts,
/// so a node that was off would never find its driver again.
async fn serve(socket: &Path, routes: impl Fn() -> Router) -> Result<(), ServeError> {
    loop {
        let listener =
            listen(socket).map_err(|source| ServeError::Listen { socket: socket.to_owned(), source })?;
        tracing::info!(socket = %socket.display(), "listening");
        tokio::select! {
            ended = routes().serve_with_incoming(UnixListenerStream::new(listener)) => {
                return ended.map_err(|source| ServeError::Serve { socket: socket.to_owned(), source });
            }
            () = removed(socket) => {}
        }
    }
}

async fn removed(socket: &Path) {
    while socket.exists() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Binds `socket`, in place of what an earlier process left there.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_socket_is_an_authority_as_kubelet_writes_it() {
        let socket = kubelet_socket(Path::new("/var/lib/lab/node1/kubelet"));
        let written = socket.to_str().unwrap().replace('/', "%2F");
        assert!(written.parse::<http::uri::Authority>().is_ok(), "{written}");
        assert!(
            written.replace('@', "-").parse::<http::uri::Authority>().is_err(),
            "no need for the @ any more"
        );
    }
}
