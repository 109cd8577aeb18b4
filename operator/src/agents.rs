//! Asks agents over HTTPS with a client certificate of the Database's CA, all members at once, each with a
//! deadline. A member that does not answer is a fact about that member, never an error of the reconcile.
//!
//! Names are resolved from the pods' addresses as the API server knows them, so that a broken cluster DNS does
//! not blind the operator; certificates are still checked against the names.

pub(crate) mod backups;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use jiff::civil::Date;
use proto::{
    identity::Ordinal,
    pod::{PEER_PORT, member_host},
    wire::peer::{Accepted, Refused, STATUS_PATH, SWITCHOVER_PATH, Status, Switchover},
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::{
    authority::{Authority, AuthorityError, Subject},
    digest::digest,
};

/// An agent answers from memory; one that needs longer than this is as good as silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A switchover is answered when the leader has released: after its checkpoint and its shutdown. Normally that
/// is a second; a reconcile waits no longer than this.
const SWITCHOVER_TIMEOUT: Duration = Duration::from_secs(15);
/// Name in the operator's client certificate. No role of this name exists in PostgreSQL, so the certificate
/// opens no database.
const COMMON_NAME: &str = "matriarch-operator";
/// Days that a client certificate is valid. It lives in memory only and is renewed when half of this is over.
const CLIENT_DAYS: i64 = 8;

/// Why an agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The operator could not make its own certificate.
    #[error("could not prepare to talk to the agents")]
    Certificate(#[source] AuthorityError),
    /// The client could not be built from certificate and key.
    #[error("could not prepare to talk to the agents")]
    Client(#[source] reqwest::Error),
    /// The pod has no address yet.
    #[error("the pod has no address yet")]
    NoAddress,
    /// No connection, no answer in time, or nonsense.
    #[error("the agent did not answer")]
    Silent(#[source] reqwest::Error),
    /// The request went out and its outcome is not known.
    #[error("the agent did not say within {SWITCHOVER_TIMEOUT:?} how it went")]
    NoOutcome(#[source] reqwest::Error),
    /// The agent understood and said no.
    #[error("{0}")]
    Refused(String),
}

/// One Database as far as asking needs it.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) database: &'a str,
    pub(crate) authority: &'a Authority,
    pub(crate) today: Date,
}

/// Addresses of the members' pods.
pub(crate) type Addresses = BTreeMap<Ordinal, Option<IpAddr>>;

/// Connections to the agents of all Databases.
#[derive(Default)]
pub(crate) struct Agents {
    links: Mutex<HashMap<(String, String), Arc<Link>>>,
}

struct Link {
    authority: String,
    renew_on: Date,
    client: reqwest::Client,
    book: Arc<AddressBook>,
}

impl Agents {
    /// The status of each member.
    pub(crate) async fn ask_all(
        &self,
        target: Target<'_>,
        addresses: &Addresses,
    ) -> Result<BTreeMap<Ordinal, Result<Status, AgentError>>, AgentError> {
        let link = self.link(target)?;
        let answers = addresses.iter().map(|(ordinal, address)| {
            let link = Arc::clone(&link);
            async move { (*ordinal, link.status(target, *ordinal, *address).await) }
        });
        Ok(join_all(answers).await.into_iter().collect())
    }

    /// Asks the leader to hand over.
    pub(crate) async fn switch_over(
        &self,
        target: Target<'_>,
        leader: (Ordinal, Option<IpAddr>),
        request: &Switchover,
    ) -> Result<Accepted, AgentError> {
        self.link(target)?.switch_over(target, leader, request).await
    }

    /// Forgets a Database.
    pub(crate) fn forget(&self, namespace: &str, database: &str) {
        self.locked().remove(&(namespace.to_owned(), database.to_owned()));
    }

    fn link(&self, target: Target<'_>) -> Result<Arc<Link>, AgentError> {
        let key = (target.namespace.to_owned(), target.database.to_owned());
        let authority = digest(target.authority.certificate());
        if let Some(link) = self.locked().get(&key)
            && link.authority == authority
            && target.today < link.renew_on
        {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(Link::new(target, authority)?);
        self.locked().insert(key, Arc::clone(&link));
        Ok(link)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Arc<Link>>> {
        // Every critical section is one map operation: a panic elsewhere leaves nothing half-done here.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn new(target: Target<'_>, authority: String) -> Result<Self, AgentError> {
        let subject = Subject { common_name: COMMON_NAME, hosts: Vec::new(), days: CLIENT_DAYS };
        let issued = target.authority.issue(subject, target.today).map_err(AgentError::Certificate)?;
        let pem = format!("{}{}", issued.certificate, issued.key);
        let trusted = reqwest::Certificate::from_pem(target.authority.certificate().as_bytes())
            .map_err(AgentError::Client)?;
        let book = Arc::new(AddressBook::default());
        let client = reqwest::Client::builder()
            .tls_certs_only([trusted])
            .identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(AgentError::Client)?)
            .dns_resolver(Arc::clone(&book))
            .no_proxy()
            .timeout(ANSWER_TIMEOUT)
            .connect_timeout(ANSWER_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build()
            .map_err(AgentError::Client)?;
        let renew_on = target.today.saturating_add(jiff::Span::new().days(CLIENT_DAYS / 2));
        Ok(Self { authority, renew_on, client, book })
    }

    async fn status(
        &self,
        target: Target<'_>,
        ordinal: Ordinal,
        address: Option<IpAddr>,
    ) -> Result<Status, AgentError> {
        let url = self.url(target, (ordinal, address), STATUS_PATH)?;
        let answer = self.client.get(url).send().await.map_err(AgentError::Silent)?;
        answer.error_for_status().map_err(AgentError::Silent)?.json().await.map_err(AgentError::Silent)
    }

    async fn switch_over(
        &self,
        target: Target<'_>,
        leader: (Ordinal, Option<IpAddr>),
        request: &Switchover,
    ) -> Result<Accepted, AgentError> {
        let url = self.url(target, leader, SWITCHOVER_PATH)?;
        let sent = self.client.post(url).timeout(SWITCHOVER_TIMEOUT).json(request).send().await;
        let answer = sent.map_err(|error| match error.is_connect() {
            true => AgentError::Silent(error),
            false => AgentError::NoOutcome(error),
        })?;
        if answer.status().is_success() {
            return answer.json().await.map_err(AgentError::NoOutcome);
        }
        let refused: Refused = answer.json().await.map_err(AgentError::NoOutcome)?;
        Err(AgentError::Refused(refused.message))
    }

    fn url(
        &self,
        target: Target<'_>,
        member: (Ordinal, Option<IpAddr>),
        path: &str,
    ) -> Result<String, AgentError> {
        let (ordinal, address) = member;
        let host = member_host(target.database, ordinal, target.namespace);
        self.book.enter(host.clone(), address.ok_or(AgentError::NoAddress)?);
        Ok(format!("https://{host}:{PEER_PORT}{path}"))
    }
}

/// Names to addresses, as last observed.
#[derive(Default)]
struct AddressBook(Mutex<HashMap<String, IpAddr>>);

impl AddressBook {
    fn enter(&self, host: String, address: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host, address);
    }

    fn find(&self, host: &str) -> Option<IpAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied()
    }
}

impl Resolve for AddressBook {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.find(name.as_str());
        Box::pin(async move {
            let address = found.ok_or("not an observed member")?;
            // The port is the URL's; reqwest replaces this one.
            Ok(Box::new(std::iter::once(SocketAddr::new(address, 0))) as Addrs)
        })
    }
}
