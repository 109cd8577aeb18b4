//! An S3 server for tests: objects are files in one folder, every bucket a folder in it.
//!
//! Its conditional writes are as S3's: of many that race, one wins; and a bucket that was not made takes no objects.
//! It keeps nothing across the loss of
//! its folder and forgets uploads that were not completed: it is for tests only.

mod objects;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse};
use s3s_fs::FileSystem;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio_rustls::TlsAcceptor;

/// How many connections are served at once: more than any test opens, and fewer than would fill memory.
const CONNECTIONS: usize = 256;

/// What a conditional write may hold, in bytes, since it is read whole: several WAL segments.
const CONDITIONAL_LIMIT: usize = 64 << 20;

/// A client that connects and says nothing holds one of the connections.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// An S3 server for tests.
#[derive(Parser)]
#[command(name = "s3-server", version)]
struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0:9000")]
    listen: SocketAddr,
    /// Where to listen with TLS as well
    #[arg(long, requires = "tls_folder")]
    listen_tls: Option<SocketAddr>,
    /// Where the certificate and its key are: tls.crt and tls.key, PEM
    #[arg(long)]
    tls_folder: Option<PathBuf>,
    /// Where the buckets are
    #[arg(long)]
    folder: PathBuf,
    /// Buckets to make
    #[arg(long)]
    bucket: Vec<String>,
    /// Who may do everything
    #[arg(long, env = "AWS_ACCESS_KEY_ID")]
    access_key: String,
    /// The key of that user
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_key: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    for bucket in &arguments.bucket {
        let folder = arguments.folder.join(bucket);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let files = FileSystem::new(&arguments.folder)
        .map_err(|error| anyhow::anyhow!("cannot serve {}: {error:?}", arguments.folder.display()))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(arguments.access_key, arguments.secret_key));
    let server = Server {
        s3: builder.build(),
        folder: arguments.folder.into(),
        conditional: Arc::new(Mutex::new(())),
    };
    let plain = server.clone().serve(listen(arguments.listen).await?, None);
    let (Some(address), Some(folder)) = (arguments.listen_tls, &arguments.tls_folder) else {
        return plain.await;
    };
    let encrypted = server.serve(listen(address).await?, Some(tls::acceptor(folder)?));
    tokio::try_join!(plain, encrypted).map(drop)
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

#[derive(Clone)]
struct Server {
    s3: S3Service,
    folder: Arc<Path>,
    /// Held during a conditional write: the file system's own check and write are two steps.
    conditional: Arc<Mutex<()>>,
}

impl Server {
    async fn serve(self, listener: TcpListener, tls: Option<TlsAcceptor>) -> Result<()> {
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = Arc::clone(&free).acquire_owned().await?;
            let (connection, _) = listener.accept().await.context("cannot accept connections")?;
            let (server, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => server.connection(connection).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(connection)).await {
                        Ok(Ok(encrypted)) => server.connection(encrypted).await,
                        Ok(Err(error)) => eprintln!("no TLS: {error}"),
                        Err(_) => eprintln!("no TLS after {HANDSHAKE_LIMIT:?}"),
                    },
                }
                drop(place);
            });
        }
    }

    async fn connection(self, connection: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| self.answer(request));
        if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await {
            eprintln!("a connection broke: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
        let mut request = request.map(Body::from);
        if bucket_of_object(request.uri().path()).is_some_and(|bucket| !self.folder.join(bucket).is_dir()) {
            // The file system below would make it.
            request.body_mut().store_all_limited(CONDITIONAL_LIMIT).await.map_err(HttpError::new)?;
            return Ok(no_such_bucket());
        }
        if request.method() == Method::GET && request.uri().query().is_none() {
            let path = request.uri().path().to_owned();
            return Ok(objects::read_in_large_parts(&self.folder, &path, self.s3.call(request).await?).await);
        }
        if !is_conditional(&request) {
            return self.s3.call(request).await;
        }
        // A refusal closes the connection; a client that still sent would see that, and not the answer.
        request.body_mut().store_all_limited(CONDITIONAL_LIMIT).await.map_err(HttpError::new)?;
        let _alone = self.conditional.lock().await;
        self.s3.call(request).await
    }
}

/// The bucket of a request about an object in it.
fn bucket_of_object(path: &str) -> Option<&str> {
    let (bucket, key) = path.strip_prefix('/')?.split_once('/')?;
    (!bucket.is_empty() && !key.is_empty()).then_some(bucket)
}

fn no_such_bucket() -> HttpResponse {
    const WHY: &str =
        "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>";
    let mut response = HttpResponse::new(Body::from(WHY.to_owned()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn is_conditional<B>(request: &Request<B>) -> bool {
    ["if-match", "if-none-match"].iter().any(|name| request.headers().contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_about_objects_need_their_bucket() {
        assert_eq!(bucket_of_object("/bucket/a/b"), Some("bucket"));
        for path in ["/", "/bucket", "/bucket/"] {
            assert_eq!(bucket_of_object(path), None, "{path}");
        }
    }
}
