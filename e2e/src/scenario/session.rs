//! A connection to PostgreSQL over TLS, checked against the Database's own CA, that tells an acknowledged
//! commit from one whose wait for standbys was cancelled.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tokio::task::AbortHandle;
use tokio_postgres::{AsyncMessage, Client, Config, Row, config::SslMode, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::wait;

/// A server on a live network answers in milliseconds. A lost node never does, and then the next try should
/// come soon, since the length of an outage is measured by it.
const CONNECT_LIMIT: Duration = Duration::from_millis(700);
/// For what is not measured.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than a commit takes on a busy disk, short enough that a connection to a lost node does not hide that
/// another one is up already.
const STATEMENT_LIMIT: Duration = Duration::from_secs(2);
/// Begins the warning with which a commit returns that waits for no standby any more (ha.md section 10).
const NOT_DURABLE: &str = "canceling wait for synchronous replication";

/// Where and as whom to connect.
#[derive(Clone, Debug)]
pub struct Access {
    /// Name in the server's certificate.
    pub host: String,
    /// Where it is: the tests run beside the cluster and do not ask its DNS.
    pub address: IpAddr,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
    /// The Database's CA, PEM.
    pub authority: String,
}

/// An open connection. Ends when dropped.
#[derive(Debug)]
pub struct Session {
    client: Client,
    not_durable: Arc<AtomicBool>,
    driver: AbortHandle,
}

/// What a statement came to.
#[derive(Debug)]
pub enum Outcome {
    /// Committed, and on as many standbys as the Database promises.
    Acknowledged(Vec<Row>),
    /// The server said that it did not wait for standbys.
    NotDurable,
}

impl Session {
    /// Connects.
    pub async fn open(access: &Access) -> Result<Self> {
        let tls = MakeRustlsConnect::new(tls(&access.authority)?);
        let mut config = Config::new();
        config.host(&access.host).hostaddr(access.address).port(proto::pod::POSTGRES_PORT);
        config.user(&access.user).password(&access.password).dbname(&access.database);
        config.ssl_mode(SslMode::Require).application_name("scenario");
        let (client, mut connection) = tokio::time::timeout(CONNECT_LIMIT, config.connect(tls))
            .await
            .with_context(|| format!("{} does not answer", access.address))?
            .with_context(|| format!("cannot connect to {}", access.address))?;
        let not_durable = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&not_durable);
        // Messages come in order: the notice is seen before the statement that it belongs to returns.
        let messages = async move {
            let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.message().starts_with(NOT_DURABLE)
                {
                    seen.store(true, Ordering::SeqCst);
                }
            }
        };
        let driver = tokio::spawn(messages).abort_handle();
        Ok(Self { client, not_durable, driver })
    }

    /// Connects, on a machine so busy that it may take several attempts.
    pub async fn open_patiently(access: &Access) -> Result<Self> {
        let what = format!("a connection to {}", access.host);
        Ok(wait::until(&what, PATIENCE, async || Self::open(access).await).await?.0)
    }

    /// Runs one statement in a transaction of its own. An error leaves open whether it was committed.
    pub async fn execute(&self, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Outcome> {
        self.execute_within(statement, parameters, STATEMENT_LIMIT).await
    }

    /// The same with patience of one's own.
    pub async fn execute_within(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
        limit: Duration,
    ) -> Result<Outcome> {
        self.not_durable.store(false, Ordering::SeqCst);
        let rows = self.query(statement, parameters, limit).await?;
        Ok(match self.not_durable.load(Ordering::SeqCst) {
            true => Outcome::NotDurable,
            false => Outcome::Acknowledged(rows),
        })
    }

    /// Whether `error` is the server's own answer, after which the session goes on.
    pub fn was_refused(&self, error: &anyhow::Error) -> bool {
        let answered =
            error.downcast_ref::<tokio_postgres::Error>().is_some_and(|e| e.as_db_error().is_some());
        answered && !self.client.is_closed()
    }

    /// Runs a statement that may take longer.
    pub async fn query(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
        limit: Duration,
    ) -> Result<Vec<Row>> {
        let Ok(result) = tokio::time::timeout(limit, self.client.query(statement, parameters)).await else {
            bail!("no answer to {statement:?} within {} ms", limit.as_millis());
        };
        result.with_context(|| format!("{statement:?} failed"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn tls(authority: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate =
        CertificateDer::from_pem_slice(authority.as_bytes()).context("the CA is not a certificate")?;
    roots.add(certificate).context("the CA cannot be trusted")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
