//! Single calls to the API server about one Lease, each with a deadline, none repeated here.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{PostParams, WatchParams},
};
use tokio::time::timeout;

/// Why a call has no useful answer. None of these is a loss of leadership (W3).
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The API server did not answer in time; a write may have landed.
    #[error("the API server did not answer about Lease {lease} within {limit:?}")]
    Timeout {
        /// Which.
        lease: String,
        /// The deadline.
        limit: Duration,
    },
    /// The API server said no, or the connection failed.
    #[error("calling the API server about Lease {lease}")]
    Failed {
        /// Which.
        lease: String,
        /// What the client library says.
        #[source]
        source: Box<kube::Error>,
    },
}

impl CallError {
    /// Whether the server refused the request outright: another version is current (409), no permission, too
    /// many requests. Anything else leaves open what became of it.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Failed { source, .. }
            if matches!(&**source, kube::Error::Api(status) if (400..500).contains(&status.code)))
    }
}

/// The Lease of one Database.
#[derive(Clone)]
pub(crate) struct LeaseCalls {
    api: Api<Lease>,
    name: String,
}

impl LeaseCalls {
    /// Calls about Lease `name`.
    pub(crate) fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Linearizable read: no resource version is given, so the API server reads from a quorum of etcd.
    pub(super) async fn get(&self, limit: Duration) -> Result<Option<Lease>, CallError> {
        self.call(limit, self.api.get_opt(&self.name)).await
    }

    /// Full replace, refused unless `lease` carries the current version.
    pub(super) async fn replace(&self, lease: &Lease, limit: Duration) -> Result<Lease, CallError> {
        self.call(limit, self.api.replace(&self.name, &PostParams::default(), lease)).await
    }

    /// Refused if the Lease exists.
    pub(super) async fn create(&self, lease: &Lease, limit: Duration) -> Result<Lease, CallError> {
        self.call(limit, self.api.create(&PostParams::default(), lease)).await
    }

    /// A stream of changes for `seconds`.
    pub(super) async fn watch(
        &self,
        seconds: u32,
    ) -> Result<
        impl futures::Stream<Item = Result<kube::core::WatchEvent<Lease>, kube::Error>> + use<>,
        kube::Error,
    > {
        let params = WatchParams::default().fields(&format!("metadata.name={}", self.name)).timeout(seconds);
        self.api.watch(&params, "0").await
    }

    async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        let lease = || self.name.clone();
        match timeout(limit, call).await {
            Err(_) => Err(CallError::Timeout { lease: lease(), limit }),
            Ok(Err(source)) => Err(CallError::Failed { lease: lease(), source: Box::new(source) }),
            Ok(Ok(value)) => Ok(value),
        }
    }
}
