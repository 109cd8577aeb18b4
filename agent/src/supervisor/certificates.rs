//! Copies the mounted certificates to where PostgreSQL accepts them: it insists on a private key that nobody
//! else can read, which a mounted Secret cannot always offer. The copies are in memory, as the Secret is.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::layout::Layout;

/// Files of [`proto::pod::TLS_DIR`].
pub(crate) const FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Why the certificates are not in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// The Secret is not mounted or incomplete.
    #[error("cannot read {}; is the Secret with the Database's certificates complete?", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The in-memory directory failed.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A job may copy at the same time as the regular look.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Copies what has changed; says whether anything has.
pub(crate) fn refresh(layout: &Layout) -> Result<bool, CertificateError> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let target = layout.own_tls_dir();
    private_directory(&target)?;
    let mut changed = false;
    for name in FILES {
        let (from, to) = (layout.tls_dir.join(name), target.join(name));
        let contents = fs::read(&from).map_err(|source| CertificateError::Read { path: from, source })?;
        if fs::read(&to).ok().as_ref() != Some(&contents) {
            replace(&to, &contents).map_err(|source| CertificateError::Write { path: to, source })?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Makes a directory with links to the certificates, for one attachment to an upstream.
pub(crate) fn link(layout: &Layout, directory: &Path) -> Result<(), CertificateError> {
    private_directory(directory)?;
    for name in FILES {
        let path = directory.join(name);
        std::os::unix::fs::symlink(layout.own_tls_dir().join(name), &path)
            .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
            .map_err(|source| CertificateError::Write { path, source })?;
    }
    Ok(())
}

/// Takes the certificates away from an attachment.
pub(crate) fn unlink(directory: &Path) -> Result<(), CertificateError> {
    match fs::remove_dir_all(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CertificateError::Write { path: directory.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn private_directory(path: &Path) -> Result<(), CertificateError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|source| CertificateError::Write { path: path.to_owned(), source })
}

fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(contents)?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_privately_and_only_what_changed() {
        let directory = tempfile::tempdir().unwrap();
        let (tls_dir, run_dir) = (directory.path().join("mounted"), directory.path().join("run"));
        let layout =
            Layout { data_dir: run_dir.clone(), run_dir, tls_dir: tls_dir.clone(), port: 1, bin_dir: None };
        assert!(matches!(refresh(&layout), Err(CertificateError::Read { .. })));
        fs::create_dir_all(&tls_dir).unwrap();
        for name in FILES {
            fs::write(tls_dir.join(name), name).unwrap();
        }
        assert!(refresh(&layout).unwrap());
        assert!(!refresh(&layout).unwrap());
        let key = layout.own_tls_dir().join("tls.key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let attached = layout.run_dir.join("upstream-1");
        link(&layout, &attached).unwrap();
        fs::write(tls_dir.join("tls.key"), "renewed").unwrap();
        assert!(refresh(&layout).unwrap());
        assert_eq!(fs::read_to_string(attached.join("tls.key")).unwrap(), "renewed");
        unlink(&attached).unwrap();
        unlink(&attached).unwrap();
        assert!(key.exists() && !attached.exists());
    }
}
