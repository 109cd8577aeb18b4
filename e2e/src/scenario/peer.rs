//! One pod's port that answers only those who have a certificate of the Database's CA.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use proto::pod::{PEER_PORT, member_host, pod_ordinal};
use reqwest::{Certificate, Client, RequestBuilder};

use super::database::{Database, Identity, Pod};

/// A timeline is answered from memory, a switchover once the old primary has released: what takes longer hangs.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A client of one pod.
pub struct Peer {
    client: Client,
    host: String,
}

impl Peer {
    /// A client of `pod` that shows `identity`.
    pub fn of(database: &Database, identity: &Identity, pod: &Pod) -> Result<Self> {
        let ordinal = pod_ordinal(&pod.name).with_context(|| format!("{} is no member", pod.name))?;
        let host = member_host(&database.name, ordinal, &database.namespace);
        let address = pod.address.with_context(|| format!("pod {} has no address", pod.name))?;
        let client = Client::builder()
            .timeout(REQUEST_LIMIT)
            .resolve(&host, SocketAddr::new(address, PEER_PORT))
            .tls_certs_only([Certificate::from_pem(identity.authority.as_bytes())?])
            .identity(reqwest::Identity::from_pem(identity.certificate_and_key.as_bytes())?)
            .build()?;
        Ok(Self { client, host })
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    /// `POST path`.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}:{PEER_PORT}{path}", self.host)
    }
}
