//! The Database's certificates: who a member is to the others (docs/ha.md section 9).
//!
//! Both directions of a connection show a certificate of the Database's own CA, and both are checked. The
//! files are read again while the agent runs, because the operator rotates them; a half-written or broken set
//! is logged and the last good one stays in use.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{sync::watch, time::sleep};

/// Kubelet refreshes mounted Secrets about once a minute; a rotation leaves days.
const REREAD_EVERY: Duration = Duration::from_secs(10);

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file is missing or unreadable.
    #[error("cannot read {}; is the Secret with the Database's certificates mounted?", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file is not PEM of the expected kind.
    #[error("{} is not PEM of the expected kind", .path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        source: rustls::pki_types::pem::Error,
    },
    /// The CA's certificate is of no use as a root.
    #[error("the CA's certificate cannot be a root of trust")]
    Root(#[source] rustls::Error),
    /// The CA's certificate cannot check clients.
    #[error("the CA's certificate cannot check the certificates of callers")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// The certificate and the key do not go together.
    #[error("the certificate and its key do not go together")]
    Pair(#[source] rustls::Error),
}

/// The three files, as bytes: compared to notice a rotation.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    authority: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Both ends of mutual TLS with one set of certificates.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    /// For the peer server: refuses callers without a certificate of the CA.
    pub(crate) server: Arc<ServerConfig>,
    /// For asking peers.
    pub(crate) client: ClientConfig,
}

/// Reads the certificates and keeps them current.
pub(crate) struct Rotation {
    directory: PathBuf,
    files: Files,
    current: watch::Sender<Credentials>,
}

impl Rotation {
    /// Reads the certificates a first time.
    pub(crate) async fn start(directory: &Path) -> Result<(Self, watch::Receiver<Credentials>), TlsError> {
        let files = read(directory).await?;
        let (current, credentials) = watch::channel(parse(&files, directory)?);
        Ok((Self { directory: directory.to_owned(), files, current }, credentials))
    }

    /// Reads them again from time to time, until nobody wants them.
    pub(crate) async fn run(mut self) {
        while !self.current.is_closed() {
            sleep(REREAD_EVERY).await;
            if let Err(error) = self.reread().await {
                tracing::warn!(error = %crate::chain::Chain(&error), "keeping the earlier certificates");
            }
        }
    }

    async fn reread(&mut self) -> Result<(), TlsError> {
        let files = read(&self.directory).await?;
        if files != self.files {
            self.current.send_replace(parse(&files, &self.directory)?);
            self.files = files;
            tracing::info!("the certificates have changed");
        }
        Ok(())
    }
}

async fn read(directory: &Path) -> Result<Files, TlsError> {
    let file = |name| async move {
        let path = directory.join(name);
        tokio::fs::read(&path).await.map_err(|source| TlsError::Read { path, source })
    };
    Ok(Files {
        authority: file("ca.crt").await?,
        certificate: file("tls.crt").await?,
        key: file("tls.key").await?,
    })
}

fn parse(files: &Files, directory: &Path) -> Result<Credentials, TlsError> {
    let pem = |name| move |source| TlsError::Pem { path: directory.join(name), source };
    let certificates =
        |bytes, name| CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().map_err(pem(name));
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.authority, "ca.crt")? {
        roots.add(authority).map_err(TlsError::Root)?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(&files.certificate, "tls.crt")?;
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(pem("tls.key"))?;
    let verifier = WebPkiClientVerifier::builder(Arc::clone(&roots)).build().map_err(TlsError::Verifier)?;
    let server = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(TlsError::Pair)?;
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::Pair)?;
    Ok(Credentials { server: Arc::new(server), client })
}

#[cfg(test)]
pub(crate) mod tests;
