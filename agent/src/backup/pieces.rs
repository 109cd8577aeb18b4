//! From a stream of bytes to objects: pieces of equal size, each compressed (and encrypted) by itself and written while
//! the next ones are read. Bounded memory, no scratch disk; a write that fails is repeated without reading anything anew.

use std::{mem, sync::Arc};

use bytes::Bytes;
use object_store::path::Path;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use super::patience::patiently;
use crate::{
    archive::{
        frame,
        store::{Store, StoreError},
    },
    spare::Spare,
};

/// Uncompressed bytes of a piece. Together with [`PIECES`] it bounds the memory of a backup: each piece is there
/// once as it was read and, from when it is compressed on, once more.
pub(crate) const PIECE: usize = 16 << 20;
/// Pieces in memory: one that is filled, two that are compressed, one that is written.
const PIECES: usize = 4;

/// Why a piece is not in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PieceError {
    /// It did not compress.
    #[error("cannot compress a piece of the backup")]
    Compress(#[source] std::io::Error),
    /// The store took it for too long not.
    #[error("cannot write a piece of the backup")]
    Store(#[from] StoreError),
    /// A task ended in a panic or was given up.
    #[error("writing a piece of the backup was given up")]
    GivenUp,
}

/// Written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Pieces.
    pub(crate) pieces: usize,
    /// Uncompressed bytes.
    pub(crate) plain: u64,
    /// Bytes in the store.
    pub(crate) stored: u64,
}

/// Writes one archive.
pub(crate) struct Pieces {
    store: Store,
    path: Box<dyn Fn(usize) -> Path + Send>,
    room: Room,
    filling: Option<(Vec<u8>, OwnedSemaphorePermit)>,
    writing: JoinSet<Result<u64, PieceError>>,
    sizes: Sizes,
}

/// Memory for the pieces of a backup; shared by all its archives, one after the other.
#[derive(Clone)]
pub(crate) struct Room {
    permits: Arc<Semaphore>,
    spare: Spare,
}

impl Room {
    /// Nothing is taken yet.
    pub(crate) fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(PIECES)), spare: Spare::default() }
    }
}

impl Pieces {
    /// For an archive whose pieces have these paths.
    pub(crate) fn new(store: Store, room: Room, path: impl Fn(usize) -> Path + Send + 'static) -> Self {
        Self {
            store,
            path: Box::new(path),
            room,
            filling: None,
            writing: JoinSet::new(),
            sizes: Sizes::default(),
        }
    }

    /// What is written; the uncompressed bytes include those that are not yet.
    pub(crate) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Adds bytes; waits while as many pieces as there may be are under way.
    pub(crate) async fn add(&mut self, mut data: Bytes) -> Result<(), PieceError> {
        self.sizes.plain += data.len() as u64;
        while !data.is_empty() {
            let (mut piece, permit) = match self.filling.take() {
                Some(filling) => filling,
                None => self.begin().await?,
            };
            let part = data.split_to(data.len().min(PIECE - piece.len()));
            piece.extend_from_slice(&part);
            match piece.len() == PIECE {
                true => self.write(piece, permit),
                false => self.filling = Some((piece, permit)),
            }
        }
        Ok(())
    }

    /// Writes what is left and waits for all of it.
    pub(crate) async fn finish(mut self) -> Result<Sizes, PieceError> {
        if let Some((piece, permit)) = mem::take(&mut self.filling) {
            self.write(piece, permit);
        }
        while let Some(written) = self.writing.join_next().await {
            self.sizes.stored += written.map_err(|_| PieceError::GivenUp)??;
        }
        Ok(self.sizes)
    }

    async fn begin(&mut self) -> Result<(Vec<u8>, OwnedSemaphorePermit), PieceError> {
        let permit = self.permit().await?;
        let mut buffer = self.room.spare.take();
        buffer.reserve_exact(PIECE);
        Ok((buffer, permit))
    }

    async fn permit(&mut self) -> Result<OwnedSemaphorePermit, PieceError> {
        let permit = Arc::clone(&self.room.permits).acquire_owned().await;
        while let Some(written) = self.writing.try_join_next() {
            self.sizes.stored += written.map_err(|_| PieceError::GivenUp)??;
        }
        permit.map_err(|_| PieceError::GivenUp)
    }

    fn write(&mut self, piece: Vec<u8>, permit: OwnedSemaphorePermit) {
        let (store, path) = (self.store.clone(), (self.path)(self.sizes.pieces));
        let spare = self.room.spare.clone();
        self.sizes.pieces += 1;
        self.writing.spawn(async move {
            let sealing = store.clone();
            let packed = tokio::task::spawn_blocking(move || pack(&sealing, path, piece, &spare));
            let (path, packed) = packed.await.map_err(|_| PieceError::GivenUp)??;
            let packed = Bytes::from(packed);
            patiently("a piece of the backup", || store.put(&path, packed.clone())).await?;
            drop(permit);
            Ok(packed.len() as u64)
        });
    }
}

/// What is written of a piece, and where.
fn pack(store: &Store, path: Path, piece: Vec<u8>, spare: &Spare) -> Result<(Path, Vec<u8>), PieceError> {
    let mut frame = frame::compress(&piece).map_err(PieceError::Compress)?;
    spare.give_back(piece);
    if !store.encrypts() {
        frame.shrink_to_fit();
    }
    Ok(store.seal(path, frame)?)
}

#[cfg(test)]
mod tests;
