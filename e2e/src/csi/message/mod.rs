//! The messages of the Container Storage Interface (v1) that the driver reads or writes, and those of
//! kubelet's plugin registration: names and tags are the protocol's.
//!
//! Only the fields that the driver uses are here: others are skipped when read, as Protocol Buffers
//! prescribe. Meanings are in the CSI specification and not repeated.
#![allow(missing_docs)] // the specification documents the fields; repeating it here would drift

mod controller;
mod identity;
mod node;
mod registration;
mod volume;

pub use controller::*;
pub use identity::*;
pub use node::*;
pub use registration::*;
pub use volume::*;
