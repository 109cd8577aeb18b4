//! Removes a lab, whole or not: everything is found by where it is, not by what was recorded, so that a
//! crash at any moment leaves nothing that this does not find.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cgroup::Cgroup;
use super::{Node, kernel, mounts, network, paths, strays};

/// Removes whatever there is of a lab. It is no error if there is none.
pub(super) async fn down() -> Result<()> {
    let root = Path::new(paths::ROOT);
    mounts::unfreeze_all(root).await?;
    // Before what the processes use: afterwards nothing can start that would use it again.
    Cgroup::lab().remove().await?;
    network::remove_host_link().await?;
    kernel::put_back()?;
    strays::remove(&Node::all());
    mounts::unmount_all(root).await?;
    mounts::detach_loops(root).await?;
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", root.display()))
        }
        _ => Ok(()),
    }
}
