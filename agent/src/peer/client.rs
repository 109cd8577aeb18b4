//! Asks other members.

use std::time::Duration;

use proto::{
    ha::question::{Question, Reply},
    identity::Ordinal,
    pod::{PEER_PORT, member_host},
    wire::{
        chronicle::{Chronicle, TIMELINE_PATH},
        peer::{QUESTION_PATH, STATUS_PATH, SWITCH_WAL_PATH, Status},
    },
};
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::addresses::AddressBook;
use crate::tls::Credentials;

/// A member's account is some 60 KiB, from memory too; whoever asks is a person.
const TIMELINE_TIMEOUT: Duration = Duration::from_secs(3);
/// Status is answered from memory.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// One statement of the other member's server.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(3);
/// A live member on the pod network accepts at once.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// The longest answer that is read: a status with nine standbys takes some kilobytes.
const MAX_ANSWER: usize = 1 << 20;
/// Idle connections are kept this long, so that questions in a row need one handshake.
const IDLE: Duration = Duration::from_secs(20);

/// Why a member did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// No client could be made of the certificates.
    #[error("cannot make a client with the Database's certificates")]
    Client(#[source] reqwest::Error),
    /// Unreachable, too slow, or an answer that is none.
    #[error("asking member {member}")]
    Call {
        /// Whom.
        member: Ordinal,
        /// What happened.
        source: reqwest::Error,
    },
    /// It says what no member says. It counts as silent.
    #[error("member {member} answers nonsense")]
    Nonsense {
        /// Who.
        member: Ordinal,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It does not stop talking.
    #[error("member {member} answers with more than {MAX_ANSWER} bytes")]
    TooLong {
        /// Who.
        member: Ordinal,
    },
}

/// Asks members of one Database; cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    database: String,
    namespace: String,
    client: watch::Receiver<reqwest::Client>,
}

/// Keeps the client of [`Peers`] current.
pub(crate) struct PeersTask {
    credentials: watch::Receiver<Credentials>,
    addresses: AddressBook,
    client: watch::Sender<reqwest::Client>,
}

/// Makes the handle and its task.
pub(crate) fn peers(
    database: &str,
    namespace: &str,
    credentials: watch::Receiver<Credentials>,
) -> Result<(Peers, PeersTask), AskError> {
    let addresses = AddressBook::default();
    let first = client(&credentials.borrow(), &addresses)?;
    let (client, client_out) = watch::channel(first);
    let peers = Peers { database: database.to_owned(), namespace: namespace.to_owned(), client: client_out };
    Ok((peers, PeersTask { credentials, addresses, client }))
}

fn client(credentials: &Credentials, addresses: &AddressBook) -> Result<reqwest::Client, AskError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(credentials.client.clone())
        .dns_resolver(addresses.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(1)
        .no_proxy()
        .https_only(true)
        .build()
        .map_err(AskError::Client)
}

impl PeersTask {
    /// Refreshes addresses, and makes a new client when the certificates change.
    pub(crate) async fn run(mut self) {
        let addresses = self.addresses.clone();
        tokio::select! {
            () = addresses.run() => {},
            () = self.renew_client() => {},
        }
    }

    async fn renew_client(&mut self) {
        while self.credentials.changed().await.is_ok() {
            let renewed = client(&self.credentials.borrow_and_update(), &self.addresses);
            match renewed {
                Ok(renewed) => {
                    self.client.send_replace(renewed);
                }
                Err(error) => {
                    tracing::error!(error = %crate::chain::Chain(&error), "keeping the earlier client");
                }
            }
        }
    }
}

impl Peers {
    /// Asks a member a question of the protocol, and waits for its reply no longer than `limit`.
    pub(crate) async fn ask(
        &self,
        member: Ordinal,
        question: &Question,
        limit: Duration,
    ) -> Result<Reply, AskError> {
        let request = self.http().post(self.url(member, QUESTION_PATH)).json(question);
        receive(member, request.timeout(limit)).await
    }

    /// Asks a member for its status.
    pub(crate) async fn status(&self, member: Ordinal) -> Result<Status, AskError> {
        receive(member, self.http().get(self.url(member, STATUS_PATH)).timeout(STATUS_TIMEOUT)).await
    }

    /// Asks a member what it saw and did.
    pub(crate) async fn chronicle(&self, member: Ordinal) -> Result<Chronicle, AskError> {
        let request = self.http().get(self.url(member, TIMELINE_PATH));
        receive(member, request.timeout(TIMELINE_TIMEOUT)).await
    }

    /// Has the primary begin a new WAL file.
    pub(crate) async fn switch_wal(&self, member: Ordinal) -> Result<(), AskError> {
        let request = self.http().post(self.url(member, SWITCH_WAL_PATH)).timeout(SWITCH_TIMEOUT);
        let sent = request.send().await.and_then(reqwest::Response::error_for_status);
        sent.map(drop).map_err(|source| AskError::Call { member, source })
    }

    fn http(&self) -> reqwest::Client {
        self.client.borrow().clone()
    }

    fn url(&self, member: Ordinal, path: &str) -> String {
        format!("https://{}:{PEER_PORT}{path}", member_host(&self.database, member, &self.namespace))
    }
}

pub(super) async fn receive<T: DeserializeOwned>(
    member: Ordinal,
    request: RequestBuilder,
) -> Result<T, AskError> {
    let call = |source| AskError::Call { member, source };
    let mut response = request.send().await.and_then(reqwest::Response::error_for_status).map_err(call)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(call)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(AskError::TooLong { member });
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|source| AskError::Nonsense { member, source })
}
