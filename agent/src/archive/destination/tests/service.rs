//! A service on loopback that answers as the providers' do, with a certificate that no public CA signed, and keeps what
//! it was asked.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    serve::Listener,
};
use object_store::path::Path;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{ArchiveConfig, Credentials, config, open};
use crate::{
    archive::store::{Store, StoreError, Written},
    tls::tests::Authority,
};

/// Whose service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    Amazon,
    Google,
    Azure,
}

/// A status and the code in the body.
type Refusal = (StatusCode, &'static str);

impl Provider {
    /// What a write says that must not replace anything.
    fn condition(self) -> (&'static str, &'static str) {
        match self {
            Self::Amazon | Self::Azure => ("if-none-match", "*"),
            Self::Google => ("x-goog-if-generation-match", "0"),
        }
    }

    fn taken(self) -> Refusal {
        match self {
            Self::Amazon | Self::Google => (StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
            Self::Azure => (StatusCode::CONFLICT, "BlobAlreadyExists"),
        }
    }

    fn no_bucket(self) -> Refusal {
        (StatusCode::NOT_FOUND, if self == Self::Azure { "ContainerNotFound" } else { "NoSuchBucket" })
    }

    fn no_object(self) -> Refusal {
        (StatusCode::NOT_FOUND, if self == Self::Azure { "BlobNotFound" } else { "NoSuchKey" })
    }

    fn destination(self, bucket: &str) -> String {
        match self {
            Self::Amazon => format!("s3://{bucket}/prefix"),
            Self::Google => format!("gs://{bucket}/prefix"),
            Self::Azure => format!("az://account/{bucket}/prefix"),
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    /// Empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// A line for each header, as signatures have them.
    pub(crate) fn lines<'a>(&self, names: impl Iterator<Item = &'a str>) -> String {
        names.fold(String::new(), |lines, name| lines + name + ":" + self.header(name) + "\n")
    }

    /// Google's client encodes what others leave as it is, which means the same.
    pub(crate) fn path(&self) -> String {
        self.uri.path().replace("%2F", "/")
    }
}

#[derive(Debug)]
struct Shared {
    provider: Provider,
    asked: Vec<Asked>,
    objects: BTreeMap<String, Bytes>,
    /// What is answered where, whatever is asked.
    told: BTreeMap<String, String>,
    refusal: Option<Refusal>,
}

impl Shared {
    fn answer(&mut self, asked: Asked) -> Response {
        let path = asked.path();
        self.asked.push(asked.clone());
        if let Some(refusal) = self.refusal {
            return refuse(refusal);
        }
        if let Some(text) = self.told.get(&path) {
            return text.clone().into_response();
        }
        if !path.starts_with("/bucket/") {
            return refuse(self.provider.no_bucket());
        }
        let (header, value) = self.provider.condition();
        match (asked.method.as_str(), self.objects.get(&path)) {
            ("PUT", Some(_)) if asked.header(header) == value => refuse(self.provider.taken()),
            ("PUT", _) => {
                self.objects.insert(path, asked.body);
                found(Bytes::new())
            }
            (_, Some(object)) => found(object.clone()),
            (_, None) => refuse(self.provider.no_object()),
        }
    }
}

fn refuse((status, code): Refusal) -> Response {
    (status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>")).into_response()
}

fn found(object: Bytes) -> Response {
    ([("etag", "\"1\""), ("last-modified", "Fri, 27 Nov 2026 00:00:00 GMT")], object).into_response()
}

/// The service; ends when it is dropped.
pub(crate) struct Service {
    shared: Arc<Mutex<Shared>>,
    authority: String,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn of(provider: Provider) -> Self {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        Authority::new().write(directory.path(), "127.0.0.1");
        let file = |name| directory.path().join(name);
        let certificate = CertificateDer::from_pem_file(file("tls.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("tls.key")).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Secured(listener, TlsAcceptor::from(Arc::new(tls.unwrap())));
        let shared = Shared {
            provider,
            asked: Vec::new(),
            objects: BTreeMap::new(),
            told: BTreeMap::new(),
            refusal: None,
        };
        let shared = Arc::new(Mutex::new(shared));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let authority = std::fs::read_to_string(file("ca.crt")).unwrap();
        Self { shared, authority, address, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A bucket here; only "bucket" is there.
    pub(crate) fn config(&self, bucket: &str) -> ArchiveConfig {
        ArchiveConfig {
            endpoint: Some(self.url()),
            path_style: true,
            custom_ca: true,
            ..config(&self.shared.lock().unwrap().provider.destination(bucket))
        }
    }

    /// These, and what the certificate here is known by.
    pub(crate) fn credentials(&self, files: &[(&str, &str)]) -> Credentials {
        let files = files.iter().copied().chain([("ca.crt", self.authority.as_str())]);
        Credentials(files.map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
    }

    /// From now on answers this there, whatever is asked.
    pub(crate) fn tells(&self, path: &str, text: &str) {
        self.shared.lock().unwrap().told.insert(path.to_owned(), text.to_owned());
    }

    /// From now on refuses everything, or nothing.
    pub(crate) fn refuses(&self, refusal: Option<Refusal>) {
        self.shared.lock().unwrap().refusal = refusal;
    }

    /// What it was asked last.
    pub(crate) fn last(&self) -> Asked {
        self.shared.lock().unwrap().asked.last().expect("nothing was asked").clone()
    }

    /// What it was asked at a path.
    pub(crate) fn asked_at(&self, path: &str) -> Vec<Asked> {
        let shared = self.shared.lock().unwrap();
        shared.asked.iter().filter(|asked| asked.uri.path() == path).cloned().collect()
    }

    /// What all providers mean alike, however they say it.
    pub(crate) async fn is_understood(&self, credentials: &Credentials) {
        let opened = |bucket: &str| open(&self.config(bucket), credentials).unwrap();
        let (store, prefix) = opened("bucket");
        let path = prefix.join("a");
        assert_eq!(store.get(&path).await.unwrap(), None);
        assert_eq!(store.put_new(&path, b"first".to_vec()).await.unwrap(), Written::New);
        assert_eq!(self.last().path(), "/bucket/prefix/a");
        assert_eq!(self.last().body, "first");
        assert_eq!(store.put_new(&path, b"second".to_vec()).await.unwrap(), Written::AlreadyThere);
        assert_eq!(store.get(&path).await.unwrap().as_deref(), Some(b"first".as_slice()));
        store.put(&path, b"third".to_vec()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().as_deref(), Some(b"third".as_slice()));

        let absent = opened("absent").0.put_new(&path, b"x".to_vec()).await;
        assert!(matches!(absent, Err(StoreError::NotFound { .. })), "{absent:?}");
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            self.refuses(Some((status, "AccessDenied")));
            let refused = store.put_new(&path, b"x".to_vec()).await.unwrap_err();
            assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
            assert!(refused.to_string().contains("AccessDenied"), "{refused}");
        }
        self.refuses(None);
    }

    /// Writes with these credentials, and returns what was asked for that.
    pub(crate) async fn put(&self, store: &Store) -> Asked {
        store.put_new(&Path::from("prefix/a b"), b"contents".to_vec()).await.unwrap();
        self.last()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    shared.lock().unwrap().answer(Asked { method, uri, headers, body })
}

struct Secured(TcpListener, TlsAcceptor);

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}
