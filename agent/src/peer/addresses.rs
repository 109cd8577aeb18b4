//! Addresses of members, looked up off the path of every question.
//!
//! A name that was ever asked for is looked up again and again; questions use what was found last. A lookup that
//! fails keeps the earlier address: DNS may be down when it matters most.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{
    net::lookup_host,
    time::{sleep, timeout},
};

/// A pod that was made again has another address; it must be known well before its PostgreSQL runs.
const REFRESH_EVERY: Duration = Duration::from_secs(2);
/// The cluster's DNS answers in milliseconds.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Addresses by name; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressBook(Arc<Mutex<BTreeMap<String, Vec<SocketAddr>>>>);

impl AddressBook {
    /// Keeps the addresses current for ever.
    pub(super) async fn run(self) {
        loop {
            let names: Vec<_> = self.with(|book| book.keys().cloned().collect());
            join_all(names.iter().map(|name| self.refresh(name))).await;
            sleep(REFRESH_EVERY).await;
        }
    }

    async fn refresh(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<_> = timeout(LOOKUP_TIMEOUT, lookup_host((name, 0))).await??.collect();
        self.with(|book| book.insert(name.to_owned(), found.clone()));
        Ok(found)
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Vec<SocketAddr>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Resolve for AddressBook {
    fn resolve(&self, name: Name) -> Resolving {
        let book = self.clone();
        Box::pin(async move {
            let known = book.with(|known| known.entry(name.as_str().to_owned()).or_default().clone());
            let addresses = if known.is_empty() { book.refresh(name.as_str()).await? } else { known };
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
