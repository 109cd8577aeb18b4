//! Where the lab keeps everything: one folder, so that what is under it is the lab's and nothing else is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The lab's folder. A fixed path, since there is one lab on a machine, and short, since the paths of
/// Unix sockets (of the CSI drivers most of all) may have 107 bytes at most.
pub const ROOT: &str = "/var/lib/matriarch-lab";

/// A file or folder of the lab.
pub fn at(relative: &str) -> PathBuf {
    PathBuf::from(ROOT).join(relative)
}

/// The kubeconfig of the cluster's administrator.
pub fn kubeconfig() -> PathBuf {
    at("admin.kubeconfig")
}

/// Written when everything has been started once: without it, what is there is half a lab.
pub fn complete() -> PathBuf {
    at("complete")
}

/// The log of a process.
pub fn log(process: &str) -> PathBuf {
    at(&format!("logs/{process}.log"))
}

/// Writes a configuration file, unless it says that already: kube-proxy ends when its own is written.
pub fn write(file: &Path, content: &str) -> Result<()> {
    if fs::read_to_string(file).is_ok_and(|there| there == content) {
        return Ok(());
    }
    fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))
}
