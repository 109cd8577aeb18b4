//! The server sends a backup once: what the store does not take at first is written again from memory, or ends it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    super::patience::{PATIENCE, PATIENCE_WHEN_REFUSED, RETRY_AFTER},
    *,
};
use crate::archive::tests::faulty::{Fault, Faulty};

fn path(number: usize) -> Path {
    Path::from(format!("base/{number}"))
}

fn pieces(faulty: &Faulty) -> Pieces {
    Pieces::new(faulty.store(), Room::new(), path)
}

/// Two pieces, the second of seven bytes.
fn data() -> Bytes {
    (0..=250).cycle().take(PIECE + 7).collect::<Vec<u8>>().into()
}

async fn read(faulty: &Faulty, number: usize) -> Vec<u8> {
    frame::decompress(&faulty.store().get(&path(number)).await.unwrap().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_is_not_taken_at_first_is_written_again_as_it_was() {
    let faulty = Faulty::default();
    for fault in [Fault::Unavailable, Fault::LoseAnswer, Fault::Forbidden, Fault::Hang, Fault::Unavailable] {
        faulty.next(fault);
    }
    let mut pieces = pieces(&faulty);
    // As it comes: not in the pieces that it becomes.
    let data = data();
    for part in data.chunks(1_000_003) {
        pieces.add(Bytes::copy_from_slice(part)).await.unwrap();
    }
    let sizes = pieces.finish().await.unwrap();
    assert_eq!((sizes.pieces, sizes.plain), (2, data.len() as u64));
    assert!(read(&faulty, 0).await == data[..PIECE], "the first one is another");
    assert_eq!(read(&faulty, 1).await, data[PIECE..]);
    let listed = faulty.store().list(&Path::from("base")).await.unwrap();
    assert_eq!(listed.iter().map(|object| object.size).sum::<u64>(), sizes.stored);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_takes_a_piece_ends_the_backup() {
    for (fault, patience) in [(Fault::Unavailable, PATIENCE), (Fault::Forbidden, PATIENCE_WHEN_REFUSED)] {
        let faulty = Faulty::default();
        (0..1000).for_each(|_| faulty.next(fault));
        let mut pieces = pieces(&faulty);
        let begun = Instant::now();
        pieces.add(Bytes::from_static(b"rows")).await.unwrap();
        assert!(matches!(pieces.finish().await, Err(PieceError::Store(_))), "{fault:?}");
        let took = begun.elapsed();
        assert!((patience..=patience + RETRY_AFTER).contains(&took), "{fault:?}: {took:?}");
        assert_eq!(faulty.writes(), 0);
    }
}

/// Memory stays bounded, and what the server still sends is waited with until a piece has failed for good.
#[tokio::test(start_paused = true)]
async fn no_more_pieces_than_there_is_room_for_wait_for_the_store() {
    let faulty = Faulty::default();
    (0..10_000).for_each(|_| faulty.next(Fault::Unavailable));
    let mut pieces = pieces(&faulty);
    let piece = Bytes::from(vec![0; PIECE]);
    for _ in 0..PIECES {
        pieces.add(piece.clone()).await.unwrap();
    }
    let begun = Instant::now();
    assert!(matches!(pieces.add(piece).await, Err(PieceError::Store(_))));
    assert!(begun.elapsed() + RETRY_AFTER >= PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(pieces.sizes().pieces, PIECES);
}

/// A backup goes on for hours, and keys may be replaced meanwhile.
#[tokio::test(start_paused = true)]
async fn a_piece_that_is_refused_goes_to_the_store_with_the_keys_of_now() {
    let (refusing, taking) = (Faulty::default(), Faulty::default());
    (0..1000).for_each(|_| refusing.next(Fault::Forbidden));
    let store = refusing.store();
    let mut pieces = Pieces::new(store.clone(), Room::new(), path);
    pieces.add(Bytes::from_static(b"rows")).await.unwrap();
    let replaced = async {
        sleep(Duration::from_mins(2)).await;
        taking.store().in_place_of(&store)
    };
    let (sizes, _) = tokio::join!(pieces.finish(), replaced);
    assert_eq!(sizes.unwrap().pieces, 1);
    assert_eq!((refusing.writes(), read(&taking, 0).await), (0, b"rows".to_vec()));
}
