//! Leader election among replicas of the operator: [`election`] decides, [`lease`] reads and writes.
//!
//! It keeps two operators from working at once in the normal case. It is not a fence: what an operator does is
//! safe because every disruptive write carries a UID or `resourceVersion` precondition. A process that loses
//! the Lease exits, so no work of a former leader goes on in the background.

mod election;
mod lease;

pub(crate) use lease::Leadership;
