//! `lab bench --only backup`: backups, restores and archiving beside `pg_basebackup`, a plain copy and pgBackRest, with
//! the same data in the same run (docs/figures.md says how).
//!
//! | file | one idea |
//! |---|---|
//! | [`ground`] | a Database of one instance with a gigabyte in it, and its store |
//! | [`shell`] | scripts in its container, and how long they take |
//! | [`pgbackrest`] | what is run of it |
//! | [`backups`], [`restores`], [`archiving`] | what is measured |
//! | [`stages`] | where the time of a restore goes |
//! | [`figure`] | figures beside targets: pure |

mod archiving;
mod backups;
mod figure;
mod ground;
mod pgbackrest;
mod restores;
mod shell;
mod stages;

use anyhow::Result;

use self::ground::Ground;
use super::Line;
use crate::{lab::Lab, scenario::stage::Stage};

/// What `--only` calls it.
pub(super) const NAME: &str = "backup";

/// How often each way is measured, in turns: what else happens on the machine meets all of them.
const ROUNDS: u32 = 3;

/// Measures in `namespace`, which is cleared before and after.
pub(super) async fn lines(stage: &Stage, lab: &Lab, namespace: &'static str) -> Result<Vec<Line>> {
    stage.without(namespace).await?;
    let ground = Ground::prepare(stage, lab, namespace).await?;
    let mut lines = Vec::new();
    let backup = backups::measure(&ground, &mut lines).await?;
    restores::measure(&ground, &backup, &mut lines).await?;
    archiving::measure(&ground, &mut lines).await?;
    drop(ground);
    stage.without(namespace).await?;
    Ok(lines)
}
