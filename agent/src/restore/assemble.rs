//! From the backups of a plan to the files of one data directory: a full one is unpacked where it belongs, those that
//! build on each other beside it, and `pg_combinebackup` makes one of them.

use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path};

use proto::{api::quantity::Bytes, wire::backup::RestorePhase};
use tokio::process::Command;

use super::{
    choose::Plan,
    progress::Progress,
    recover::{self, RecoverError},
    unpack::{self, UnpackError},
};
use crate::{
    archive::connection::Repository,
    backup::contents::Contents,
    supervisor::{
        Layout,
        durable::{self, DurableError},
    },
};

/// The first version whose `pg_combinebackup` can take whole files over by hard links instead of copying them. The
/// parts are deleted afterwards, so that nobody is left to change the other name of a file.
const LINKS_SINCE: u32 = 18;

/// Why there is no data directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    /// Too little room.
    #[error(
        "the volume has {} free, and the restore of {backup} needs up to {}{}; restore into a larger volume",
        Bytes(*.free), Bytes(*.needed), .why
    )]
    Room {
        /// Which backup.
        backup: String,
        /// Free bytes.
        free: u64,
        /// Bytes that it may take.
        needed: u64,
        /// Why so many.
        why: String,
    },
    /// The volume does not tell how much room it has.
    #[error("cannot look at the volume of {}", .path)]
    Look {
        /// Where.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A piece.
    #[error("unpacking {backup}")]
    Unpack {
        /// Which backup.
        backup: String,
        /// Why not.
        source: UnpackError,
    },
    /// A directory.
    #[error(transparent)]
    Place(#[from] DurableError),
    /// No directory for the parts.
    #[error("cannot make {path}")]
    Directory {
        /// Where.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program.
    #[error("making one data directory of the backups that {backup} builds on")]
    Combine {
        /// Which backup.
        backup: String,
        /// Why not.
        source: RecoverError,
    },
}

/// Makes the files in the new directory `into`.
pub(crate) async fn assemble(
    layout: &Layout,
    repository: &Repository,
    plan: &Plan,
    into: &Path,
    progress: &Progress,
) -> Result<(), AssembleError> {
    let parts = durable::clear_parts(layout)?;
    check_room(plan, &layout.data_dir)?;
    let [only] = plan.chain.as_slice() else {
        return combine(layout, repository, plan, &parts, into, progress).await;
    };
    unpack_one(repository, only, into, progress).await
}

async fn combine(
    layout: &Layout,
    repository: &Repository,
    plan: &Plan,
    parts: &Path,
    into: &Path,
    progress: &Progress,
) -> Result<(), AssembleError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(parts)
        .map_err(|source| AssembleError::Directory { path: parts.display().to_string(), source })?;
    let programs = recover::programs(layout, plan);
    let failed = |source| AssembleError::Combine { backup: plan.backup.summary.name.clone(), source };
    let mut command = Command::from(programs.command("pg_combinebackup").map_err(|e| failed(e.into()))?);
    command.args(options(plan.backup.summary.server_version)).arg("--output").arg(into);
    for backup in &plan.chain {
        let part = parts.join(&backup.summary.name);
        unpack_one(repository, backup, &part, progress).await?;
        recover::verify(&programs, &part).await.map_err(failed)?;
        command.arg(part);
    }
    progress.note(|progress| progress.phase = RestorePhase::Combining);
    recover::run("pg_combinebackup", command).await.map_err(failed)?;
    durable::clear_parts(layout)?;
    Ok(())
}

/// What comes of it is flushed at the very end, with the rest.
fn options(server_version: u32) -> Vec<&'static str> {
    let links = (server_version / 10_000 >= LINKS_SINCE).then_some("--link");
    ["--no-sync"].into_iter().chain(links).collect()
}

async fn unpack_one(
    repository: &Repository,
    backup: &Contents,
    into: &Path,
    progress: &Progress,
) -> Result<(), AssembleError> {
    let Repository { store, root } = repository;
    let on_bytes = |bytes| progress.note(|progress| progress.bytes_done += bytes);
    unpack::unpack(store, root, backup, into, on_bytes)
        .await
        .map_err(|source| AssembleError::Unpack { backup: backup.summary.name.clone(), source })
}

/// Bytes of all backups of the chain.
pub(super) fn unpacked(plan: &Plan) -> u64 {
    plan.chain.iter().map(|backup| backup.summary.size_bytes).sum()
}

/// Bytes that a restore may take, without the WAL that it replays: parts and what becomes of them are there at once.
fn needed(plan: &Plan) -> u64 {
    let parts = unpacked(plan);
    match plan.chain.len() {
        0 | 1 => parts,
        // Every block of the result is in one of the parts.
        _ => parts + plan.backup.data_bytes.map_or(parts, |data| data.min(parts)),
    }
}

fn check_room(plan: &Plan, volume: &Path) -> Result<(), AssembleError> {
    let look = |source: io::Error| AssembleError::Look { path: volume.display().to_string(), source };
    let found = rustix::fs::statvfs(volume).map_err(|error| look(error.into()))?;
    let (free, needed) = (found.f_bavail.saturating_mul(found.f_frsize), needed(plan));
    if free >= needed {
        return Ok(());
    }
    let parts = unpacked(plan);
    let why = match plan.chain.len() {
        0 | 1 => String::new(),
        length => format!(
            " ({} for the {length} backups that it is made of, {} for what is made of them)",
            Bytes(parts),
            Bytes(needed - parts)
        ),
    };
    Err(AssembleError::Room { backup: plan.backup.summary.name.clone(), free, needed, why })
}

#[cfg(test)]
mod tests {
    use proto::{postgres::Timeline, wire::backup::BackupKind};

    use super::*;
    use crate::backup::chain::tests::{backup, increment};

    fn plan(sizes: &[u64], data_bytes: Option<u64>) -> Plan {
        let mut chain: Vec<Contents> = Vec::new();
        for (hours, size) in (1_u32..).zip(sizes) {
            let mut made = match chain.last() {
                Some(parent) => increment(hours.into(), 1, (2 * hours).into(), parent),
                None => backup(hours.into(), 1, (2 * hours).into()),
            };
            made.summary.size_bytes = *size;
            made.data_bytes = data_bytes;
            chain.push(made);
        }
        Plan {
            backup: chain.last().unwrap().clone(),
            chain,
            timeline: Timeline::FIRST,
            wal: Vec::new(),
            setting: None,
            to_the_end: true,
        }
    }

    #[test]
    fn a_chain_needs_room_for_its_parts_and_for_what_is_made_of_them() {
        assert_eq!(needed(&plan(&[100], Some(90))), 100);
        assert_eq!(needed(&plan(&[100, 10, 10], Some(105))), 225);
        assert_eq!(needed(&plan(&[100, 10], None)), 220, "no more than all blocks of all parts");
        assert_eq!(needed(&plan(&[100, 10], Some(5_000))), 220);
    }

    #[test]
    fn too_little_room_is_refused_with_figures() {
        let volume = tempfile::tempdir().unwrap();
        check_room(&plan(&[1, 1], Some(1)), volume.path()).unwrap();
        let plan = plan(&[5 << 60, 1 << 60], Some(3 << 60));
        assert_eq!(plan.backup.summary.kind, BackupKind::Incremental);
        let refused = check_room(&plan, volume.path()).unwrap_err().to_string();
        for part in
            ["restore of b2", "needs up to 9437184 TiB", "6291456 TiB for the 2 backups", "3145728 TiB for"]
        {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn whole_files_are_linked_where_the_program_can() {
        assert_eq!(options(170_004), ["--no-sync"]);
        assert_eq!(options(180_001), ["--no-sync", "--link"]);
    }
}
