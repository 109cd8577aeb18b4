//! One reconcile of one Database: observe → validate → plan → build → apply → status, one file each.
//!
//! No step waits: long work is a state that the next reconcile finds. A reconcile of an unchanged world writes
//! nothing.

mod act;
mod apply;
mod context;
mod credentials;
mod drill;
mod finalize;
mod last_backup;
mod members;
mod newcomer;
mod news;
mod observe;
mod plan;
mod reconcile;
mod record;
mod restoring;
mod run;
mod schedule;
mod status;
mod trouble;
mod unchanged;

pub(crate) use context::{Context, News};
pub(crate) use observe::{addresses, authority_in};
pub(crate) use run::{ConstantPause, every_object, run};

/// Annotation on a Database that asks for a switchover: the pod that should lead, or empty for any.
const ANNOTATION_SWITCHOVER: &str = "db.example.com/switchover";
/// Annotation on a pod: ID of the agent's container that a newer one takes the place of. As long as the pod shows
/// that one, the newer one has not started.
const ANNOTATION_REPLACED_AGENT: &str = "db.example.com/replaced-agent";
