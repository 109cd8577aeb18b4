//! From the pieces of a backup to files: pieces arrive and are decompressed ahead, several at once, and are unpacked in
//! order by one thread.

use std::{
    fs, io,
    io::Read,
    mem,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::files;
use crate::{
    archive::{
        frame,
        layout::Root,
        store::{Store, StoreError},
    },
    backup::contents::{ArchiveContents, Contents},
    chain::Chain,
    spare::Spare,
};

/// Pieces that are arrived or decompressed at once.
const FETCHES: usize = 4;
/// Pieces that wait for the disk.
const WAITING: usize = 1;
/// A store that is away for this long ends the attempt.
const PATIENCE: Duration = Duration::from_mins(10);
/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_secs(3);

/// Why the files are not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The store does not hand out a piece.
    #[error("cannot read a piece of the backup")]
    Store(#[from] StoreError),
    /// The backup is not whole.
    #[error("{0} of the backup is missing in the store")]
    Missing(String),
    /// It does not decode.
    #[error("{path} of the backup is damaged")]
    Damaged {
        /// Which piece.
        path: String,
        /// How.
        source: io::Error,
    },
    /// The disk, or the tar.
    #[error("cannot unpack {archive} into {}", .into.display())]
    Unpack {
        /// Which archive.
        archive: String,
        /// Where to.
        into: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A task ended in a panic.
    #[error("unpacking the backup was given up")]
    GivenUp,
}

/// Writes the backup's files into the new directory `into`, and tells of the bytes.
pub(crate) async fn unpack(
    store: &Store,
    root: &Root,
    backup: &Contents,
    into: &Path,
    on_bytes: impl Fn(u64) + Sync,
) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Unpack { archive: "it".to_owned(), into: into.to_owned(), source };
    fs::DirBuilder::new().mode(0o700).create(into).map_err(failed)?;
    for archive in &backup.archives {
        unpack_one(store, root, backup, archive, into, &on_bytes).await?;
    }
    Ok(())
}

async fn unpack_one(
    store: &Store,
    root: &Root,
    backup: &Contents,
    archive: &ArchiveContents,
    into: &Path,
    on_bytes: &(impl Fn(u64) + Sync),
) -> Result<(), UnpackError> {
    let (pieces_in, pieces) = mpsc::channel(WAITING);
    let spare = Spare::default();
    let reader = Arriving { pieces, current: io::Cursor::default(), spare: spare.clone() };
    let (name, target) = (archive.name.clone(), into.to_owned());
    let unpacking = tokio::task::spawn_blocking(move || {
        let unpacked = match name.strip_suffix(".tar") {
            Some(_) => files::untar(reader, &target),
            None => files::plain(reader, &target.join(&name)),
        };
        unpacked.map_err(|source| UnpackError::Unpack { archive: name, into: target, source })
    });
    let fetches = futures::stream::iter(0..archive.pieces)
        .map(|number| root.piece(&backup.summary.name, &archive.name, number))
        // A task each, since nobody looks at them while a piece waits for the disk.
        .map(|path| {
            AbortOnDropHandle::new(tokio::spawn(fetch(store.clone(), path, backup.encrypted, spare.clone())))
        })
        .buffered(FETCHES);
    let mut fetches = std::pin::pin!(fetches);
    let mut arrived = Ok(());
    while let Some(piece) = fetches.next().await {
        match piece.map_err(|_| UnpackError::GivenUp).flatten() {
            Ok(piece) => {
                on_bytes(piece.len() as u64);
                // Nobody takes it: the unpacking has failed and says why below.
                if pieces_in.send(piece).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                arrived = Err(error);
                break;
            }
        }
    }
    drop(pieces_in);
    let unpacked = unpacking.await.map_err(|_| UnpackError::GivenUp)?;
    arrived.and(unpacked)
}

async fn fetch(
    store: Store,
    path: object_store::path::Path,
    encrypted: bool,
    spare: Spare,
) -> Result<Vec<u8>, UnpackError> {
    let deadline = Instant::now() + PATIENCE;
    let frame = loop {
        match store.get_as(&path, encrypted).await {
            Ok(Some(frame)) => break frame,
            Ok(None) => return Err(UnpackError::Missing(path.to_string())),
            Err(error) if error.is_lasting() || Instant::now() >= deadline => return Err(error.into()),
            Err(error) => tracing::warn!(error = %Chain(&error), "a piece of the backup is tried again"),
        }
        sleep(RETRY_AFTER).await;
    };
    let decoded = tokio::task::spawn_blocking(move || {
        let mut plain = spare.take();
        frame::decompress_into(&frame, &mut plain).map(|()| plain)
    });
    let decoded = decoded.await;
    decoded
        .map_err(|_| UnpackError::GivenUp)?
        .map_err(|source| UnpackError::Damaged { path: path.to_string(), source })
}

/// What arrives, as one stream.
struct Arriving {
    pieces: mpsc::Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
    /// Where those that were read go.
    spare: Spare,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.current.read(buffer)? {
                0 => match self.pieces.blocking_recv() {
                    Some(piece) => {
                        let read = mem::replace(&mut self.current, io::Cursor::new(piece));
                        self.spare.give_back(read.into_inner());
                    }
                    None => return Ok(0),
                },
                read => return Ok(read),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        archive::tests::{
            faulty::{Fault, Faulty},
            root,
        },
        backup::chain::tests::backup,
    };

    const ARCHIVE: &str = "base.tar";

    /// A backup of one file, in three pieces.
    async fn stored(store: &Store, root: &Root) -> (Contents, Vec<u8>) {
        let bytes: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, "base/1/16384", &bytes[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let mut backup = backup(1, 1, 1);
        let pieces: Vec<_> = tar.chunks(40_000).collect();
        for (number, piece) in pieces.iter().enumerate() {
            let path = root.piece(&backup.summary.name, ARCHIVE, number);
            store.put(&path, frame::compress(piece).unwrap()).await.unwrap();
        }
        let (name, size_bytes) = (ARCHIVE.to_owned(), tar.len() as u64);
        backup.archives = vec![ArchiveContents { name, pieces: pieces.len(), size_bytes }];
        (backup, bytes)
    }

    /// In real time: a paused clock stands still as long as the thread that unpacks waits.
    #[tokio::test]
    async fn a_store_that_fails_for_a_while_is_waited_for() {
        let (faulty, root) = (Faulty::default(), root());
        let store = faulty.store();
        let (backup, bytes) = stored(&store, &root).await;
        for fault in [Fault::Unavailable, Fault::CutBody, Fault::Forbidden] {
            faulty.next(fault);
        }
        let place = tempfile::tempdir().unwrap();
        let into = place.path().join("into");
        unpack(&store, &root, &backup, &into, |_| {}).await.unwrap();
        assert!(fs::read(into.join("base/1/16384")).unwrap() == bytes, "other bytes");
    }

    #[tokio::test]
    async fn a_piece_that_is_lost_or_was_changed_ends_the_restore() {
        let (faulty, root) = (Faulty::default(), root());
        let store = faulty.store();
        let (backup, _) = stored(&store, &root).await;
        let path = root.piece(&backup.summary.name, ARCHIVE, 1);
        let whole = store.get(&path).await.unwrap().unwrap();
        let place = tempfile::tempdir().unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        for (number, wrong) in [changed, whole[..whole.len() / 2].to_vec()].into_iter().enumerate() {
            store.put(&path, wrong).await.unwrap();
            let into = place.path().join(number.to_string());
            let error = unpack(&store, &root, &backup, &into, |_| {}).await.unwrap_err();
            assert!(
                matches!(&error, UnpackError::Damaged { path: told, .. } if *told == path.to_string()),
                "{error}"
            );
        }
        assert_eq!(store.delete(vec![path.clone()]).await.len(), 0);
        let error = unpack(&store, &root, &backup, &place.path().join("lost"), |_| {}).await.unwrap_err();
        assert!(matches!(&error, UnpackError::Missing(told) if *told == path.to_string()), "{error}");
    }
}
