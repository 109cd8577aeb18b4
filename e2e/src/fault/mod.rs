//! What goes wrong in production, done on purpose: each fault is a function and is undone by its opposite.
//!
//! Whatever freezes or cuts off is undone by a timer as well, armed before it (`undo`): a test that dies
//! must leave neither a process that not even SIGKILL ends nor a cluster that the next test cannot use.

use std::time::Duration;

pub mod api_server;
pub mod cluster;
pub mod container;
pub mod disk;
pub mod kubelet;
pub mod node;
pub mod partition;
pub mod undo;

/// After this a fault undoes itself unless it is told otherwise. Longer than any lease or grace period in the
/// cluster, so that what a fault leads to can be seen to its end.
pub const LONGEST: Duration = Duration::from_mins(10);
