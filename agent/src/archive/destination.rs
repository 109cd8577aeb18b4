//! From the operator's configuration and the mounted credentials to a store.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    path::Path,
};
use proto::{
    pod::IDENTITIES_FILE,
    wire::backup::{ArchiveConfig, ServerSideEncryption},
};
use url::Url;

use super::{
    age::{Identities, InvalidIdentities},
    store::Store,
};

/// Stores answer within a round trip or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One request with its body: sixteen mebibytes over the slowest link that could carry a database.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// A request is repeated for this long. Credentials are not renewed meanwhile, and whoever wants something tries
/// again anyway.
const RETRY_TIMEOUT: Duration = Duration::from_secs(45);
/// Repetitions within that time.
const RETRIES: usize = 6;
/// Wait after the first failure; grows with each, with jitter.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// The longest wait.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Connections that nobody uses are closed: many servers do so after a minute.
const IDLE: Duration = Duration::from_secs(30);
/// Credentials are small.
const MAX_CREDENTIAL: u64 = 64 << 10;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DestinationError {
    /// Not one of the forms.
    #[error(
        "{0:?} is no destination; write s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix or file:///path"
    )]
    Form(String),
    /// A credential cannot be read.
    #[error("cannot read the credential {}", .path.display())]
    Credential {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Promised, but not there.
    #[error("a custom certificate authority was promised, but the credentials hold no usable ca.crt")]
    Authority,
    /// Promised, but not there.
    #[error(
        "encryption was asked for, but its Secret is missing or has no key identity.txt: make one with age-keygen; \
         until then nothing is written"
    )]
    NoIdentities,
    /// There, but useless.
    #[error("cannot use the identities for encryption")]
    Identities(#[from] InvalidIdentities),
    /// The library does not take it.
    #[error("cannot use the destination")]
    Build(#[source] object_store::Error),
}

/// The files with credentials, as they are now. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials(BTreeMap<String, String>);

impl Credentials {
    /// Reads every file of the directory; one that does not exist holds none.
    pub(crate) fn read(directory: &FilePath) -> Result<Self, DestinationError> {
        let failed = |path: PathBuf| move |source| DestinationError::Credential { path, source };
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries.map_err(failed(directory.to_owned()))?,
        };
        let mut files = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(failed(directory.to_owned()))?.path();
            let metadata = fs::metadata(&path).map_err(failed(path.clone()))?;
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // Kubernetes keeps earlier contents in folders of such names.
            if name.starts_with("..") || !metadata.is_file() || metadata.len() > MAX_CREDENTIAL {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(failed(path.clone()))?;
            files.insert(name.to_owned(), text.trim().to_owned());
        }
        Ok(Self(files))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// Opens the store; the path is the prefix in it.
pub(crate) fn open(
    config: &ArchiveConfig,
    credentials: &Credentials,
) -> Result<(Store, Path), DestinationError> {
    let form = || DestinationError::Form(config.destination.clone());
    let url = Url::parse(&config.destination).map_err(|_| form())?;
    let host = url.host_str().unwrap_or_default();
    let prefix = url.path().trim_matches('/');
    let (objects, prefix): (Arc<dyn ObjectStore>, &str) = match url.scheme() {
        // What the pods' own identity needs is in the environment.
        "s3" if !host.is_empty() => (s3(AmazonS3Builder::from_env(), config, credentials, host)?, prefix),
        "gs" if !host.is_empty() => (gcs(config, credentials, host)?, prefix),
        "az" if !host.is_empty() && !prefix.is_empty() => {
            let (container, prefix) = prefix.split_once('/').unwrap_or((prefix, ""));
            (azure(MicrosoftAzureBuilder::from_env(), config, credentials, host, container)?, prefix)
        }
        "file" if host.is_empty() && !prefix.is_empty() => (local(url.path())?, ""),
        _ => return Err(form()),
    };
    let mut store = Store::new(objects);
    if config.encrypted {
        let text = credentials.get(IDENTITIES_FILE).ok_or(DestinationError::NoIdentities)?;
        store = store.encrypting(Identities::parse(text)?);
    }
    Ok((store, Path::from(prefix)))
}

fn s3(
    builder: AmazonS3Builder,
    config: &ArchiveConfig,
    credentials: &Credentials,
    bucket: &str,
) -> Result<Arc<dyn ObjectStore>, DestinationError> {
    let mut builder = builder
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(!config.path_style)
        .with_allow_http(config.allow_http)
        .with_client_options(client(config, credentials)?)
        .with_retry(retry());
    builder = builder.with_region(config.region.as_deref().unwrap_or("us-east-1"));
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(match config.path_style {
            true => endpoint.clone(),
            false => endpoint.replacen("://", &format!("://{bucket}."), 1),
        });
    }
    if let (Some(id), Some(key)) = (credentials.get("accessKeyId"), credentials.get("secretAccessKey")) {
        builder = builder.with_access_key_id(id).with_secret_access_key(key);
        if let Some(token) = credentials.get("sessionToken") {
            builder = builder.with_token(token);
        }
    }
    let sse: AmazonS3ConfigKey = "aws_server_side_encryption".parse().map_err(DestinationError::Build)?;
    builder = match &config.server_side_encryption {
        Some(ServerSideEncryption::Kms { key_id }) => builder.with_sse_kms_encryption(key_id),
        Some(ServerSideEncryption::Aes256) => builder.with_config(sse, "AES256"),
        None => builder,
    };
    Ok(Arc::new(builder.build().map_err(DestinationError::Build)?))
}

fn gcs(
    config: &ArchiveConfig,
    credentials: &Credentials,
    bucket: &str,
) -> Result<Arc<dyn ObjectStore>, DestinationError> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_client_options(client(config, credentials)?)
        .with_retry(retry());
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(account) = credentials.get("serviceAccount.json") {
        builder = builder.with_service_account_key(account);
    }
    Ok(Arc::new(builder.build().map_err(DestinationError::Build)?))
}

fn azure(
    builder: MicrosoftAzureBuilder,
    config: &ArchiveConfig,
    credentials: &Credentials,
    account: &str,
    container: &str,
) -> Result<Arc<dyn ObjectStore>, DestinationError> {
    let mut builder = builder
        .with_account(account)
        .with_container_name(container)
        .with_allow_http(config.allow_http)
        .with_client_options(client(config, credentials)?)
        .with_retry(retry());
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    // The library puts a slash after it, and AKS has one there already.
    if let Some(authority) = builder.get_config_value(&AzureConfigKey::AuthorityHost) {
        builder = builder.with_config(AzureConfigKey::AuthorityHost, authority.trim_end_matches('/'));
    }
    if let Some(key) = credentials.get("accountKey") {
        builder = builder.with_access_key(key);
    }
    Ok(Arc::new(builder.build().map_err(DestinationError::Build)?))
}

fn local(path: &str) -> Result<Arc<dyn ObjectStore>, DestinationError> {
    let files = LocalFileSystem::new_with_prefix(path).map_err(DestinationError::Build)?;
    // An acknowledged WAL file must survive the loss of power here too.
    Ok(Arc::new(files.with_fsync(true).with_automatic_cleanup(true)))
}

/// Trusts Mozilla's list and the configured authority: the agent's image has no certificates of its own.
fn client(config: &ArchiveConfig, credentials: &Credentials) -> Result<ClientOptions, DestinationError> {
    let mut options = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_pool_idle_timeout(IDLE)
        .with_allow_http(config.allow_http)
        .with_no_system_certificates(true);
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        options = options
            .with_root_certificate(Certificate::from_der(certificate).map_err(DestinationError::Build)?);
    }
    if config.custom_ca {
        let bundle = credentials.get("ca.crt").ok_or(DestinationError::Authority)?;
        let own = Certificate::from_pem_bundle(bundle.as_bytes()).map_err(DestinationError::Build)?;
        if own.is_empty() {
            return Err(DestinationError::Authority);
        }
        options = own.into_iter().fold(options, ClientOptions::with_root_certificate);
    }
    Ok(options)
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_BACKOFF, max_backoff: MAX_BACKOFF, base: 2. },
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    }
}

#[cfg(test)]
pub(crate) mod tests;
