//! Writes the renewal of a primary that cannot write it itself (docs/ha.md section 6).

use std::{sync::Arc, time::Duration};

use proto::ha::lease::{LeaseVersion, Renewal};
use tokio::time::timeout;

use super::{
    calls::{CallError, LeaseCalls},
    record,
};
use crate::chain::Chain;

/// Relays renewals; cheap to clone.
#[derive(Clone)]
pub(crate) struct Relayer {
    calls: LeaseCalls,
    database_uid: Arc<str>,
}

impl Relayer {
    /// A relayer by these calls.
    pub(crate) fn new(calls: LeaseCalls, database_uid: &str) -> Self {
        Self { calls, database_uid: database_uid.into() }
    }

    /// Reads the Lease, and writes the renewal if the version is still the one that it was decided on; says what
    /// the Lease showed last, `None` if it could not be read within `limit`.
    pub(crate) async fn relay(&self, renewal: &Renewal, limit: Duration) -> Option<LeaseVersion> {
        let mut shown = None;
        match timeout(limit, self.attempt(renewal, limit, &mut shown)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = %Chain(&error), "a renewal could not be relayed"),
            Err(_) => tracing::debug!(?limit, "a renewal could not be relayed in time"),
        }
        shown
    }

    async fn attempt(
        &self,
        renewal: &Renewal,
        limit: Duration,
        shown: &mut Option<LeaseVersion>,
    ) -> Result<(), CallError> {
        let Some(lease) = self.calls.get(limit).await? else { return Ok(()) };
        let current = record::version(&lease, &self.database_uid);
        let write = renewal.judge(&current);
        *shown = Some(current);
        let Some(write) = write else { return Ok(()) };
        let object = record::object(&lease.metadata, write.contents());
        let now = match self.calls.replace(&object, limit).await {
            Ok(lease) => Some(lease),
            // It has landed all the same if a read shows it (W2).
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "a relayed renewal is not known to have landed");
                self.calls.get(limit).await?
            }
        };
        *shown = now.map(|lease| record::version(&lease, &self.database_uid)).or(shown.take());
        Ok(())
    }
}
