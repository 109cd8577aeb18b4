//! `agent install`: copies the running binary into the shared in-memory volume.
//!
//! Written beside the target and renamed over it, so that a restarted init container never leaves half a
//! binary, and never writes into one that is being executed.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Why the binary could not be installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// The kernel does not say where this binary is.
    #[error("cannot find the running binary")]
    Own(#[source] io::Error),
    /// The copy failed.
    #[error("cannot copy the binary to {}; is the shared volume mounted and large enough?", .path.display())]
    Copy {
        /// Temporary name beside the target.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The last step failed.
    #[error("cannot rename the copied binary to {}", .path.display())]
    Rename {
        /// Where to.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Anybody in the pod may run it; nobody may change it.
const MODE: u32 = 0o555;

/// Installs the running binary as `target`.
pub(crate) fn install(target: &Path) -> Result<(), InstallError> {
    let own = std::env::current_exe().map_err(InstallError::Own)?;
    let partial = target.with_extension("partial");
    copy(&own, &partial).map_err(|source| InstallError::Copy { path: partial.clone(), source })?;
    fs::rename(&partial, target).map_err(|source| InstallError::Rename { path: target.to_owned(), source })
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::copy(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(MODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installs_over_an_earlier_copy_and_a_half_written_one() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("agent");
        fs::write(target.with_extension("partial"), "half").unwrap();
        for _ in 0..2 {
            install(&target).unwrap();
        }
        let own = std::env::current_exe().unwrap();
        assert_eq!(fs::read(&target).unwrap(), fs::read(own).unwrap());
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, MODE);
        assert!(!target.with_extension("partial").exists());
    }
}
