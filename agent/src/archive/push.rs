//! Puts one WAL file into the archive, exactly once.
//!
//! The server may offer a file twice, an earlier write may have landed although its answer was lost, and two
//! servers that both believe to be primary may offer different files of one name. So a file is written only
//! where there is none, and one that is there is compared by what it says decrypted and uncompressed: no two files
//! that were encrypted are alike.

use std::thread;

use proto::wire::backup::ArchiveFailure;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::{
    frame,
    layout::Root,
    names::WalName,
    store::{Store, StoreError, Written},
};

/// SHA-256 of an uncompressed file.
pub(crate) type Fingerprint = [u8; SHA256_OUTPUT_LEN];

/// A file ready to be written.
pub(crate) struct WalFile {
    /// What it is.
    pub(crate) name: WalName,
    /// Of the uncompressed contents.
    pub(crate) fingerprint: Fingerprint,
    /// As it is stored, or encrypted before: compressed, except for the small text files.
    pub(crate) stored: Vec<u8>,
}

/// Why a file is not in the archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// The store did not take it.
    #[error("archiving {name}")]
    Store {
        /// Which.
        name: WalName,
        /// What it said.
        source: StoreError,
    },
    /// Another writer was there before.
    #[error(
        "{name} is in the archive with other contents: two servers write one history, or a volume was cloned; \
         nothing was overwritten, compare the file there with the one in pg_wal"
    )]
    Conflict {
        /// Which.
        name: WalName,
    },
    /// It went away between two looks.
    #[error("{name} is said to be in the archive and cannot be read there; trying again")]
    Vanished {
        /// Which.
        name: WalName,
    },
}

impl PushError {
    /// For the status.
    pub(crate) fn failure(&self) -> ArchiveFailure {
        ArchiveFailure {
            message: crate::chain::Chain(self).to_string(),
            conflict: matches!(self, Self::Conflict { .. }),
            at: jiff::Timestamp::now(),
        }
    }
}

impl WalFile {
    /// Compresses what is to be compressed. The server waits for each file: both looks at it happen at once.
    pub(crate) fn prepare(name: WalName, contents: &[u8]) -> std::io::Result<Self> {
        thread::scope(|scope| {
            let looking = scope.spawn(|| fingerprint(contents));
            let stored = match name {
                WalName::Segment(_) | WalName::Partial(_) => frame::compress_at_once(contents)?,
                WalName::History(_) | WalName::BackupLabel(..) => contents.to_vec(),
            };
            let fingerprint = looking.join().map_err(|_| std::io::Error::other("hashing it failed"))?;
            Ok(Self { name, fingerprint, stored })
        })
    }
}

/// What is compared.
pub(crate) fn fingerprint(contents: &[u8]) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest(&SHA256, contents).as_ref());
    fingerprint
}

/// Writes the file. `Ok` means that the archive holds exactly it, acknowledged by the store.
pub(crate) async fn push(store: &Store, root: &Root, pod: &str, file: WalFile) -> Result<(), PushError> {
    let name = file.name.clone();
    let failed = |source| PushError::Store { name: name.clone(), source };
    let path = root.wal_file(&file.name, pod);
    let written = match file.name {
        // Its end is whatever lay in the file: it may differ each time, and nothing reads it by itself.
        WalName::Partial(_) => store.put_sealed(&path, file.stored).await.map(|()| Written::New),
        // Read wherever backups are listed, which needs no identity.
        WalName::History(_) => store.put_new(&path, file.stored).await,
        WalName::Segment(_) | WalName::BackupLabel(..) => store.put_new_sealed(&path, file.stored).await,
    };
    if written.map_err(failed)? == Written::New {
        return Ok(());
    }
    let Some(there) = store.get_either(&path).await.map_err(failed)? else {
        return Err(PushError::Vanished { name });
    };
    let compressed = matches!(file.name, WalName::Segment(_));
    let found = tokio::task::spawn_blocking(move || match compressed {
        true => frame::decompress(&there).ok().map(|plain| fingerprint(&plain)),
        false => Some(fingerprint(&there)),
    });
    match found.await.ok().flatten() == Some(file.fingerprint) {
        true => Ok(()),
        false => Err(PushError::Conflict { name }),
    }
}
