//! Backups as far as the operator has to do with them: an agent takes them, an agent deletes what is too old.
//!
//! | module | does |
//! |---|---|
//! | [`reconcile`] | one `Backup`: observe → plan → act → status |
//! | [`ask`] | carries out a step |
//! | [`plan`] | what to do about it next (pure) |
//! | [`describe`] | its status (pure) |
//! | [`snapshots`] | VolumeSnapshots of Backups: looked at, made, deleted |
//! | [`upkeep`] | one `Database`: looks into its repository, asks for retention, for the first backup |
//! | [`repositories`] | what was seen there last, for the Database's status |
//! | [`metrics`] | the same for monitoring |
//! | [`drills`] | restore drills for monitoring |
//! | [`mod@run`] | wires watches to both |

mod ask;
mod describe;
mod drills;
mod metrics;
mod plan;
mod reconcile;
mod repositories;
mod run;
mod scene;
mod snapshots;
mod upkeep;

pub(crate) use describe::rounded;
pub(crate) use drills::DrillMetrics;
pub(crate) use metrics::BackupMetrics;
pub(crate) use repositories::{Repositories, RepositoryFacts};
pub(crate) use run::run;
pub(crate) use upkeep::ask_for;
