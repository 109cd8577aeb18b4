//! The settings of the machine's kernel that kubelet changes: kept before a lab and put back after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::paths;

/// What kubelet sets at its start, as files below `/proc/sys`.
const SETTINGS: &[&str] = &[
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Writes down what they are.
pub(super) fn keep() -> Result<()> {
    let settings: BTreeMap<&str, String> = SETTINGS
        .iter()
        .filter_map(|name| Some((*name, fs::read_to_string(file(name)).ok()?.trim().to_owned())))
        .collect();
    paths::write(&kept(), &serde_json::to_string(&settings)?)
}

/// Puts them back, where they have been kept.
pub(super) fn put_back() -> Result<()> {
    let Ok(settings) = fs::read_to_string(kept()) else { return Ok(()) };
    let settings: BTreeMap<String, String> = serde_json::from_str(&settings).unwrap_or_default();
    for (name, value) in settings {
        fs::write(file(&name), &value).with_context(|| format!("cannot set {name} to {value} again"))?;
    }
    Ok(())
}

fn file(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn kept() -> PathBuf {
    paths::at("kernel.json")
}
