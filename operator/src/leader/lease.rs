//! Reads and writes the operator's Lease. Every write is a replace with the `resourceVersion` of the read that
//! the decision was made on, so two candidates can never both succeed.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio_util::sync::CancellationToken;

use super::election::{DURATION, Observer, RENEW_DEADLINE, RETRY_EVERY, Record, Step};
use crate::deadline::{CallError, within};

/// Name of the Lease in the operator's own namespace.
const LEASE_NAME: &str = "matriarch-operator";

/// Why leadership ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// Another candidate was seen as holder.
    #[error("lost the operator's Lease to {0}; exiting so that the new leader works alone")]
    TakenOver(String),
    /// No renewal landed in time.
    #[error("could not renew the operator's Lease for {RENEW_DEADLINE:?}; exiting")]
    NotRenewed(#[source] Option<CallError>),
}

/// This process as a candidate, and, after [`Leadership::acquire`], as the leader.
pub(crate) struct Leadership {
    api: Api<Lease>,
    me: String,
    observer: Observer,
}

impl Leadership {
    /// A candidate named `me`, which must be unique among the operator's pods.
    pub(crate) fn new(api: Api<Lease>, me: String) -> Self {
        Self { api, me, observer: Observer::default() }
    }

    /// Waits until this process leads. Errors are logged and retried: a candidate has nothing else to do.
    pub(crate) async fn acquire(&mut self) {
        loop {
            match self.try_once().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "could not read or write the operator's Lease"),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Renews until `stop` (then releases, `Ok`) or until leadership is lost.
    pub(crate) async fn hold(mut self, stop: CancellationToken) -> Result<(), LeaseError> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.release().await;
                    return Ok(());
                }
                () = tokio::time::sleep(RETRY_EVERY) => {}
            }
            let asked = Instant::now();
            let failure = match self.renew().await {
                Ok(Renewal::Renewed) => {
                    renewed = asked;
                    None
                }
                Ok(Renewal::Holder(other)) => return Err(LeaseError::TakenOver(other)),
                Err(error) => Some(error),
            };
            if renewed.elapsed() >= RENEW_DEADLINE {
                return Err(LeaseError::NotRenewed(failure));
            }
        }
    }

    async fn try_once(&mut self) -> Result<bool, CallError> {
        let lease = within(self.api.get_opt(LEASE_NAME)).await?;
        let record = lease.as_ref().map(record_of);
        match self.observer.decide(record.as_ref(), &self.me, Instant::now()) {
            Step::Wait => Ok(false),
            Step::Create => {
                let lease = held_by(&self.me, None);
                landed(within(self.api.create(&PostParams::default(), &lease)).await)
            }
            Step::Acquire | Step::Renew => self.replace(lease.as_ref()).await,
        }
    }

    async fn renew(&mut self) -> Result<Renewal, CallError> {
        let lease = within(self.api.get_opt(LEASE_NAME)).await?;
        let holder = lease.as_ref().and_then(|lease| record_of(lease).holder);
        match holder {
            Some(other) if other != self.me => Ok(Renewal::Holder(other)),
            _ if self.try_once().await? => Ok(Renewal::Renewed),
            _ => Ok(Renewal::Holder("another candidate".to_owned())),
        }
    }

    async fn replace(&self, lease: Option<&Lease>) -> Result<bool, CallError> {
        let next = held_by(&self.me, lease);
        landed(within(self.api.replace(LEASE_NAME, &PostParams::default(), &next)).await)
    }

    async fn release(&self) {
        let released = async {
            let lease = within(self.api.get(LEASE_NAME)).await?;
            if record_of(&lease).holder.as_deref() != Some(self.me.as_str()) {
                return Ok(());
            }
            let mut next = lease;
            if let Some(spec) = next.spec.as_mut() {
                spec.holder_identity = None;
            }
            within(self.api.replace(LEASE_NAME, &PostParams::default(), &next)).await.map(drop)
        };
        if let Err::<(), CallError>(error) = released.await {
            tracing::warn!(%error, "could not release the operator's Lease; the next leader waits for its expiry");
        }
    }
}

enum Renewal {
    Renewed,
    Holder(String),
}

/// A conflict means that somebody else was faster: not an error, only not ours.
fn landed(outcome: Result<Lease, CallError>) -> Result<bool, CallError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    Record {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
        duration: seconds.map_or(DURATION, Duration::from_secs),
    }
}

fn held_by(me: &str, previous: Option<&Lease>) -> Lease {
    let now = MicroTime(jiff::Timestamp::now());
    let spec = previous.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let renewal = spec.holder_identity.as_deref() == Some(me);
    Lease {
        metadata: previous.map_or_else(
            || ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        ),
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if renewal { spec.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!renewal)),
            ..LeaseSpec::default()
        }),
    }
}
