//! Serves HTTP/1.1 to callers that may be slow, many or hostile: everything has a limit.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::tls::Credentials;

/// From the connection to the end of the TLS handshake: two round trips and a signature.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Headers of a probe fit one packet; an idle kept-alive connection ends after this too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections at once: nine members, probes, load balancers and monitors need a few dozen.
const MAX_CONNECTIONS: usize = 128;
/// After accept failed (too many open files): others must get a chance to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A request with its headers must fit this.
const MAX_BUFFER: usize = 16 * 1024;

/// Binds a port on all addresses, IPv6 included where the node has it.
pub(crate) async fn bind(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port))).await,
    }
}

/// Serves `router` for ever; with TLS if there are credentials.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    credentials: Option<watch::Receiver<Credentials>>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor =
            credentials.as_ref().map(|current| TlsAcceptor::from(Arc::clone(&current.borrow().server)));
        let router = router.clone();
        connections.spawn(async move {
            serve_connection(stream, acceptor, router).await;
            drop(slot);
        });
    }
}

async fn serve_connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, router: Router) {
    // Answers are small and wanted at once; without it they wait for the other side's acknowledgement.
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => converse(stream, router).await,
        Some(acceptor) => match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => converse(stream, router).await,
            Ok(Err(error)) => tracing::debug!(%error, "refused a TLS connection"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let result = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = result {
        tracing::trace!(%error, "a connection ended");
    }
}
