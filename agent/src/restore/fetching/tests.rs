//! What the recovering server is told while the store fails: "absent" ends recovery as if it had succeeded, so that a
//! segment of the plan must never be called that.

use proto::postgres::SystemIdentifier;

use super::*;
use crate::{
    archive::{
        header,
        tests::{
            SYSTEM,
            faulty::{Fault, Faulty},
            root, segment,
        },
    },
    backup::chain::tests::{backup, timeline},
};

const PLANNED: [&str; 3] =
    ["000000020000000000000003", "000000020000000000000004", "000000020000000000000005"];
/// More requests than the plan's segments make while there is patience.
const FOR_EVER: usize = 1000;

/// An archive on timeline 2 with the plan's segments, and its recovery.
struct Scene {
    store: Faulty,
    fetching: Arc<Fetching>,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::with_plan(Purpose::Use).await
    }

    async fn with_plan(purpose: Purpose) -> Self {
        let scene = Self::of(purpose);
        for name in PLANNED {
            scene.put(name, &frame::compress(&segment(name)).unwrap()).await;
        }
        scene
    }

    fn empty() -> Self {
        Self::of(Purpose::Use)
    }

    fn of(purpose: Purpose) -> Self {
        let store = Faulty::default();
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository { store: store.store(), root: root() };
        let progress = Progress::new(directory.path().join("progress"));
        let fetching = Fetching::new(repository, plan(), purpose, progress);
        Self { store, fetching, _directory: directory }
    }

    async fn put(&self, name: &str, stored: &[u8]) {
        let path = self.fetching.path(&name.parse().unwrap());
        self.store.store().put(&path, stored.to_vec()).await.unwrap();
    }

    async fn lose(&self, name: &str) {
        let path = self.fetching.path(&name.parse().unwrap());
        assert!(self.store.store().delete(vec![path]).await.is_empty());
    }

    fn fail(&self, fault: Fault, requests: usize) {
        (0..requests).for_each(|_| self.store.next(fault));
    }

    async fn found(&self, name: &str) {
        let (reply, contents) = self.fetching.answer(name).await;
        let expected = segment(name);
        assert_eq!(reply, Reply::Found { length: expected.len() as u64 }, "{name}");
        assert!(contents == Some(expected), "{name}: other bytes");
    }

    /// Returns why.
    async fn failed(&self, name: &str) -> String {
        match self.fetching.answer(name).await {
            (Reply::Failed { why }, None) => why,
            (reply, _) => panic!("{name}: {reply:?}"),
        }
    }

    async fn absent(&self, name: &str) {
        assert_eq!(self.fetching.answer(name).await, (Reply::Absent, None), "{name}");
    }
}

fn plan() -> Plan {
    let mut backup = backup(10, 2, 0);
    backup.wal_segment_size = 1 << 20;
    backup.system_identifier = SystemIdentifier(SYSTEM);
    Plan {
        chain: vec![backup.clone()],
        backup,
        timeline: timeline(2),
        wal: PLANNED.iter().map(|name| name.parse().unwrap()).collect(),
        setting: None,
        to_the_end: true,
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_planned_is_found_in_whatever_order_it_is_asked_for() {
    let scene = Scene::new().await;
    for at in [0, 1, 2, 2, 0, 2, 1] {
        scene.found(PLANNED[at]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_planned_segment_outlasts_an_outage() {
    for fault in [Fault::Unavailable, Fault::Forbidden, Fault::CutBody] {
        let scene = Scene::new().await;
        // Twenty tries of each, two seconds apart.
        scene.fail(fault, 20 * PLANNED.len());
        let begun = Instant::now();
        for name in PLANNED {
            scene.found(name).await;
        }
        assert!(begun.elapsed() >= RETRY_AFTER * 20, "{fault:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_planned_segment_is_never_absent_however_long_the_store_fails() {
    for fault in [Fault::Unavailable, Fault::Forbidden, Fault::CutBody] {
        let scene = Scene::new().await;
        scene.fail(fault, FOR_EVER);
        let begun = Instant::now();
        for name in PLANNED {
            assert!(scene.failed(name).await.contains(name), "{fault:?}");
        }
        let waited = begun.elapsed();
        assert!(waited >= PATIENCE && waited <= PATIENCE + RETRY_AFTER, "{fault:?}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_planned_segment_that_went_away_stops_recovery() {
    let scene = Scene::new().await;
    scene.lose(PLANNED[1]).await;
    scene.found(PLANNED[0]).await;
    assert!(scene.failed(PLANNED[1]).await.contains("should be in the archive"));
    scene.put(PLANNED[1], &frame::compress(&segment(PLANNED[1])).unwrap()).await;
    scene.found(PLANNED[1]).await;
}

/// Waiting would not mend it.
#[tokio::test(start_paused = true)]
async fn a_planned_segment_that_is_something_else_stops_recovery_at_once() {
    let scene = Scene::new().await;
    let foreign = header::tests::segment(PLANNED[0].parse().unwrap(), SYSTEM + 1);
    scene.put(PLANNED[0], &frame::compress(&foreign).unwrap()).await;
    scene.put(PLANNED[1], &frame::compress(&segment(PLANNED[2])).unwrap()).await;
    let cut = frame::compress(&segment(PLANNED[2])).unwrap();
    scene.put(PLANNED[2], &cut[..cut.len() / 2]).await;
    let begun = Instant::now();
    for name in PLANNED {
        assert!(scene.failed(name).await.contains("is damaged"));
    }
    assert!(begun.elapsed() < RETRY_AFTER, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn absent_is_what_lies_after_the_end_of_the_plan() {
    let scene = Scene::new().await;
    // Archived since the plan was made, or on the way that it does not take.
    for name in ["000000020000000000000006", "000000030000000000000006"] {
        scene.put(name, &frame::compress(&segment(name)).unwrap()).await;
        scene.absent(name).await;
    }
    scene.fail(Fault::Unavailable, FOR_EVER);
    scene.absent("000000020000000000000007").await;
}

/// The server asks for the newest timeline's segment first.
#[tokio::test(start_paused = true)]
async fn a_segment_beside_the_plan_is_absent_only_if_the_store_says_so() {
    let scene = Scene::new().await;
    let beside = "000000010000000000000004";
    scene.absent(beside).await;
    scene.fail(Fault::Unavailable, FOR_EVER);
    assert!(scene.failed(beside).await.contains(beside));
    let scene = Scene::new().await;
    scene.put(beside, &frame::compress(&segment(beside)).unwrap()).await;
    scene.found(beside).await;
}

#[tokio::test(start_paused = true)]
async fn the_beginning_of_a_segment_and_a_higher_timeline_are_never_handed_out() {
    let scene = Scene::new().await;
    let labels = "000000020000000000000003.00000028.backup";
    for name in ["000000020000000000000003.partial", "00000003.history", labels] {
        scene.put(name, b"there").await;
        scene.absent(name).await;
    }
    scene.absent("what no server asks for").await;
}

#[tokio::test(start_paused = true)]
async fn the_history_that_the_plan_follows_is_absent_only_if_the_store_says_so() {
    let scene = Scene::empty();
    scene.absent("00000002.history").await;
    scene.put("00000002.history", b"1\t0/3000000\n").await;
    scene.fail(Fault::Unavailable, 20);
    let (reply, contents) = scene.fetching.answer("00000002.history").await;
    assert_eq!((reply, contents.as_deref()), (Reply::Found { length: 12 }, Some(&b"1\t0/3000000\n"[..])));
    scene.fail(Fault::Forbidden, FOR_EVER);
    assert!(scene.failed("00000002.history").await.contains("refuses these credentials"));
}

#[tokio::test(start_paused = true)]
async fn a_standby_is_handed_what_was_archived_since_until_there_is_no_more() {
    const SINCE: &str = "000000020000000000000006";
    for (purpose, handed) in [(Purpose::Follow, true), (Purpose::Use, false), (Purpose::Proof, false)] {
        let scene = Scene::with_plan(purpose).await;
        scene.put(SINCE, &frame::compress(&segment(SINCE)).unwrap()).await;
        let ended = scene.fetching.ended();
        scene.found(PLANNED[2]).await;
        match handed {
            true => scene.found(SINCE).await,
            false => scene.absent(SINCE).await,
        }
        assert_eq!(*ended.borrow(), !handed, "{purpose:?}");
        scene.absent("000000020000000000000007").await;
        assert!(*ended.borrow());
    }
}
