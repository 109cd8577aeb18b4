//! A primary that died with WAL that it never archived: its successor has what a slot kept, and archives it.

use proto::{
    ha::document::Opening,
    identity::{DataId, Epoch},
    postgres::{Lsn, Timeline},
};

use super::{
    snapshot::{Standby, table},
    *,
};

/// A member that was promoted.
struct Successor {
    standby: Standby,
    openings: [Opening; 2],
    /// Segments that its primary never archived.
    left: Vec<Segment>,
    /// The last row in them.
    last: i64,
}

impl Successor {
    fn socket(&self) -> &str {
        self.standby.place.socket.to_str().unwrap()
    }

    fn wal(&self, segment: Segment) -> PathBuf {
        self.standby.place.data.join("pg_wal").join(segment.to_string())
    }
}

fn opening(timeline: u32, switch: Lsn) -> Opening {
    Opening {
        epoch: Epoch(timeline),
        primary: DataId(timeline.into()),
        timeline: Timeline::new(timeline).unwrap(),
        switch,
        checkpointed: true,
    }
}

pub(super) async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}

impl Scene {
    /// A backup, a standby with or without the slot that keeps what is not archived, a store that is away, more WAL, and
    /// the end of the primary.
    async fn fail_over(&mut self, guarded: bool) -> Successor {
        let client = self.start_with(&self.path("pg"), true, &["wal_keep_size=0"]).await;
        table(&client).await;
        self.back_up("b1").await;
        let standby = self.standby(&client).await;
        let socket = standby.place.socket.clone();
        if guarded {
            archiving::keep_guard(socket.to_str().unwrap(), None).await.unwrap();
        }
        self.wait_archived(&client).await;
        self.archiving.abort();
        let (mut left, mut last) = (Vec::new(), 0);
        for _ in 0..4 {
            last = insert(&client, 1_000).await;
            left.push(text(&client, "SELECT pg_walfile_name(pg_switch_wal())").await.parse().unwrap());
            // Lets whoever has no slot forget what lies before it.
            client.batch_execute("CHECKPOINT").await.unwrap();
        }
        let end = text(&client, "SELECT pg_current_wal_lsn()::text").await;
        let successor = self.connect_at(&socket).await;
        let begin = std::time::Instant::now();
        let caught_up = format!("SELECT (pg_last_wal_replay_lsn() >= '{end}')::text");
        while text(&successor, &caught_up).await != "true" {
            assert!(begin.elapsed() < PATIENCE, "the standby does not follow: {}", self.log());
            sleep(Duration::from_millis(100)).await;
        }
        // A standby's is a restart point: from here on it needs nothing older itself.
        successor.batch_execute("CHECKPOINT").await.unwrap();
        drop(client);
        self.stop(rustix::process::Signal::QUIT);
        assert_eq!(text(&successor, "SELECT pg_promote()::text").await, "true");
        let history = archiving::wal_file(socket.to_str().unwrap(), "00000002.history").await.unwrap();
        let history = String::from_utf8(history.unwrap()).unwrap();
        let switch = history.split_whitespace().nth(1).unwrap().parse().unwrap();
        Successor { standby, openings: [opening(1, Lsn(0)), opening(2, switch)], left, last }
    }

    /// What the agent of a new primary does.
    async fn fill(&self, successor: &Successor) -> Result<(), String> {
        let published = self.shown.as_ref().unwrap().subscribe();
        let archive = archive::tests::with(Connection::Open(self.repository.clone()), published);
        archive::tests::fill(archive, peers(), successor.socket(), &successor.openings).await
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn what_a_dead_primary_left_is_archived_by_its_successor() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let successor = scene.fail_over(true).await;
        let (first, broken) = (successor.left[0], successor.left[2]);
        assert!(!scene.archived().await.contains(&first), "the store was away");

        let path = successor.wal(broken);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, fs::read(successor.wal(first)).unwrap()).unwrap();
        let why = scene.fill(&successor).await.unwrap_err();
        assert!(why.contains(&format!("pg_wal/{broken}")) && why.contains("another segment"), "{why}");
        assert!(!scene.archived().await.contains(&broken));

        fs::write(&path, whole).unwrap();
        scene.fill(&successor).await.unwrap();
        let archived = scene.archived().await;
        for segment in &successor.left {
            assert!(archived.contains(segment), "{segment}");
        }
        let last = successor.last;
        drop(successor);
        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last);
    }
}

/// The same without the slot: so it is the slot that keeps it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn what_nobody_kept_is_told_as_a_hole() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let successor = scene.fail_over(false).await;
        let why = scene.fill(&successor).await.unwrap_err();
        assert!(why.contains(&format!("{} is neither in the archive nor", successor.left[0])), "{why}");
    }
}
