//! What the driver's failures are called in gRPC: the sidecars and kubelets act on the code.

use std::error::Error;

use tonic::Status;

use super::{
    capability::Unsupported, freeze::FreezeError, id::InvalidName, size::SizeError, store::StoreError,
    topology::NoNode, xfs::DiskError,
};

impl From<Unsupported> for Status {
    fn from(error: Unsupported) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<InvalidName> for Status {
    fn from(error: InvalidName) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<SizeError> for Status {
    fn from(error: SizeError) -> Self {
        Self::out_of_range(error.to_string())
    }
}

impl From<NoNode> for Status {
    fn from(error: NoNode) -> Self {
        // The code by which the provisioner asks the scheduler for another node.
        Self::resource_exhausted(error.to_string())
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        Self::internal(chain(&error))
    }
}

impl From<DiskError> for Status {
    fn from(error: DiskError) -> Self {
        Self::internal(chain(&error))
    }
}

impl From<FreezeError> for Status {
    fn from(error: FreezeError) -> Self {
        Self::unavailable(chain(&error))
    }
}

/// The error and its causes on one line, since only text crosses the socket.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
