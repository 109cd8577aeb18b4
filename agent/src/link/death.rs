//! Proof that a lost container left no `PostgreSQL` process behind (docs/ha.md section 1).
//!
//! Every process of the server inherits a shared `flock` on one file. Whoever gets it exclusively knows that
//! none is left. The lock is given back at once: the next server takes its own.

use std::{fs::File, io, path::Path};

use rustix::fs::{FlockOperation, flock};

/// Whether no process holds the lock. A file that was never made means that no server ever ran in this pod;
/// any doubt is "no".
pub(crate) fn is_proven(lock: &Path) -> bool {
    match File::open(lock) {
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_anywhere_is_life() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(is_proven(&path), "no server ever ran");
        let held = File::create(&path).unwrap();
        flock(&held, FlockOperation::LockShared).unwrap();
        assert!(!is_proven(&path));
        drop(held);
        assert!(is_proven(&path));
        assert!(is_proven(&path), "the proof itself holds nothing");
    }
}
