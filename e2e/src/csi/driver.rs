//! What all services of the driver share: the store, the nodes, and one turn at a time on each volume.

use std::{collections::BTreeSet, sync::Arc};

use tonic::{Response, Status};

use super::{
    id::VolumeId,
    store::{Store, Stored, VolumeRecord},
    turn::Turns,
};

/// The state of the driver process.
#[derive(Debug)]
pub struct Driver {
    /// Where volumes and snapshots are.
    pub store: Store,
    /// The nodes that volumes can lie on.
    pub nodes: BTreeSet<String>,
    /// One operation at a time on each.
    pub turns: Turns,
}

impl Driver {
    /// The driver of the volumes in `store` for `nodes`.
    pub fn new(store: Store, nodes: BTreeSet<String>) -> Arc<Self> {
        Arc::new(Self { store, nodes, turns: Turns::default() })
    }

    /// The volume `id`, or the answer that there is none.
    pub fn volume(&self, id: &VolumeId) -> Result<Stored<VolumeRecord>, Status> {
        self.store.volume(id)?.ok_or_else(|| Status::not_found(format!("there is no volume {id}")))
    }
}

/// Runs an operation to its end even if the caller hangs up: a half-made mount with its turn given back
/// would be worse than a late one.
pub async fn to_the_end<T: Send + 'static>(
    operation: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    match tokio::spawn(operation).await {
        Ok(done) => done.map(Response::new),
        Err(broken) => Err(Status::internal(format!("the operation ended early: {broken}"))),
    }
}
