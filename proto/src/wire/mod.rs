//! Messages between the processes: operator, agents of different pods, agent and supervisor.
//!
//! Serialised as JSON. Unknown fields are ignored and new fields have defaults, so that two versions of the
//! binaries understand each other during an upgrade.

pub mod backup;
pub mod chronicle;
pub mod config;
pub mod drill;
pub mod http;
pub mod peer;
pub mod snapshot;
pub mod supervisor;
