//! Backups that build on each other, of servers that can take them.

use proto::{postgres::WalPosition, wire::backup::BackupKind};

use super::*;
use crate::{
    archive::{
        age::tests::{FIRST, SECOND},
        frame,
    },
    backup::{catalog, contents::Contents},
};

/// Of which a thousandth is changed between two backups.
const ROWS: i64 = 50_000;
/// Chains of three.
const FULL_EVERY: u32 = 3;
const SUMMARIES: &[&str] = &["summarize_wal=on"];

/// Of PostgreSQL 17 or newer, which the distribution may not have: those that `cargo lab test` names, or the others.
fn able() -> Vec<PathBuf> {
    let named = env::var_os("POSTGRES_17_BIN_DIRS").map(|named| env::split_paths(&named).collect());
    let mut found = named.unwrap_or_else(installations);
    found.retain(|bin_dir| bin_dir.join("pg_combinebackup").exists());
    assert!(!found.is_empty(), "no PostgreSQL 17 or newer: set POSTGRES_17_BIN_DIRS");
    found
}

impl Scene {
    async fn rows(&mut self) -> Client {
        let client = self.start_with(&self.path("pg"), true, SUMMARIES).await;
        client
            .batch_execute("CREATE TABLE t (n bigint PRIMARY KEY, filler text DEFAULT repeat('x', 200))")
            .await
            .unwrap();
        insert(&client, ROWS).await;
        // Hints on pages are set now, and not by what reads them after the full backup.
        client.batch_execute("VACUUM FREEZE t").await.unwrap();
        client
    }

    async fn contents(&self, name: &str) -> Contents {
        catalog::backup(&self.repository.store, &self.repository.root, name).await.unwrap().unwrap()
    }

    /// Writes the backup's description anew.
    async fn describe(&self, contents: &Contents) {
        let path = self.repository.root.backup_file(&contents.summary.name);
        self.repository.store.put_json(&path, contents).await.unwrap();
    }

    /// Overwrites the parent's manifest, and takes what would be an incremental backup.
    async fn refused_with(&self, parent: &str, manifest: Option<&[u8]>, name: &str) -> String {
        let path = self.repository.root.piece(parent, "backup_manifest", 0);
        let was = self.repository.store.get(&path).await.unwrap().unwrap();
        match manifest {
            Some(bytes) => self.repository.store.put(&path, bytes.to_vec()).await.unwrap(),
            None => assert!(self.repository.store.delete(vec![path.clone()]).await.is_empty()),
        }
        let summary = self.back_up_as(name, 99).await;
        self.repository.store.put(&path, was).await.unwrap();
        assert_eq!((summary.kind, summary.parent, summary.depth), (BackupKind::Full, None, 0));
        // Out of the way of the next one, which is to find the same parent.
        let file = self.repository.root.backup_file(name);
        assert!(self.repository.store.delete(vec![file]).await.is_empty());
        summary.fallback.unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Changes rows all over the table, which none of the later counts may see twice or not at all.
async fn change(client: &Client, to: &str) {
    let statement = "UPDATE t SET filler = $1 WHERE n % 1000 = 0";
    client.execute(statement, &[&to]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_chain_of_backups_comes_back_as_it_was_at_any_time() {
    for bin_dir in able() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let client = scene.rows().await;
        let full = scene.back_up_as("b1", FULL_EVERY).await;
        assert_eq!((full.kind, full.fallback), (BackupKind::Full, None));
        change(&client, "second").await;
        let second = scene.back_up_as("b2", FULL_EVERY).await;
        assert_eq!((second.kind, second.depth), (BackupKind::Incremental, 1), "{:?}", second.fallback);
        assert_eq!(second.parent.as_deref(), Some("b1"));
        eprintln!("a full backup of {} bytes, an incremental one of {}", full.size_bytes, second.size_bytes);
        assert!(second.size_bytes < full.size_bytes / 4);
        let between = insert(&client, 1_000).await;
        let moment = now(&client).await;
        sleep(Duration::from_millis(50)).await;
        // Files that vanish and appear between two links.
        client.batch_execute("CREATE TABLE gone AS SELECT g FROM generate_series(1, 1000) g").await.unwrap();
        change(&client, "third").await;
        let third = scene.back_up_as("b3", FULL_EVERY).await;
        assert_eq!((third.parent.as_deref(), third.depth), (Some("b2"), 2), "{:?}", third.fallback);
        client.batch_execute("DROP TABLE gone").await.unwrap();
        client.batch_execute("VACUUM FULL t").await.unwrap();
        let fourth = scene.back_up_as("b4", FULL_EVERY).await;
        assert_eq!((fourth.kind, fourth.fallback), (BackupKind::Full, None), "its turn has come");
        let fifth = scene.back_up_as("b5", FULL_EVERY).await;
        assert_eq!(fifth.parent.as_deref(), Some("b4"), "{:?}", fifth.fallback);
        let last = insert(&client, 1_000).await;
        scene.wait_archived(&client).await;
        drop(client);
        scene.stop(rustix::process::Signal::QUIT);

        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last);
        assert!(!scene.path("latest/pgdata.parts").exists(), "the parts are gone");
        let time = scene.restored("time", RestoreTarget::Time(moment));
        assert_eq!(scene.last_row(&time).await, between);
        let named = scene.restore("third", RestoreTarget::Immediate, Some("b3"));
        assert!(named.status.success(), "{}", said(&named));
        let data = scene.path("third/pgdata");
        assert_eq!(scene.last_row(&data).await, between);
        let client = scene.start(&data, false).await;
        let query = "SELECT count(*) FROM t WHERE filler = 'third'";
        let changed: i64 = client.query_one(query, &[]).await.unwrap().get(0);
        assert_eq!(changed, between / 1000, "what changed last is in none but the last");
        drop(client);
        scene.stop(rustix::process::Signal::INT);
        scene.done("pg_checksums", &["--check", "-D", data.to_str().unwrap()]);

        // Without its middle the chain is nothing, and the older ones are chosen instead.
        let file = scene.repository.root.backup_file("b2");
        assert!(scene.repository.store.delete(vec![file]).await.is_empty());
        let broken = scene.restore("broken", RestoreTarget::Immediate, Some("b3"));
        assert!(!broken.status.success() && said(&broken).contains("b3 builds on b2"), "{}", said(&broken));
        let around = scene.restored("around", RestoreTarget::Time(moment));
        assert_eq!(scene.last_row(&around).await, between);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_full_backup_says_why_it_is_no_incremental_one() {
    for bin_dir in able() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let client = scene.rows().await;
        scene.back_up_as("b1", 99).await;
        let why = scene.refused_with("b1", None, "lost").await;
        assert!(why.contains("the manifest of b1 is missing"), "{why}");
        let why = scene.refused_with("b1", Some(b"damaged"), "damaged").await;
        assert!(why.contains("the manifest of b1 is damaged"), "{why}");
        let nonsense = frame::compress(b"{\"not\": \"a manifest\"}").unwrap();
        let why = scene.refused_with("b1", Some(&nonsense), "nonsense").await;
        assert!(why.contains("manifest"), "the server's words: {why}");

        let known = scene.contents("b1").await;
        let mut unlike = known.clone();
        unlike.checksums = Some(false);
        scene.describe(&unlike).await;
        let full = scene.back_up_as("unlike", 99).await;
        assert!(full.fallback.unwrap().contains("checksums"), "pages without checksums do not fit");
        scene.describe(&known).await;

        // Neither summaries nor the WAL to make them of.
        for _ in 0..3 {
            insert(&client, 10_000).await;
            scene.wait_archived(&client).await;
            client.batch_execute("CHECKPOINT").await.unwrap();
        }
        drop(client);
        scene.stop(rustix::process::Signal::INT);
        fs::remove_dir_all(scene.path("pg/pg_wal/summaries")).unwrap();
        fs::create_dir(scene.path("pg/pg_wal/summaries")).unwrap();
        give(&scene.path("pg/pg_wal/summaries"));
        let client = scene.start_with(&scene.path("pg"), true, SUMMARIES).await;
        insert(&client, 10).await;
        let full = scene.back_up_as("forgotten", 99).await;
        let why = full.fallback.unwrap();
        assert!(why.contains("WAL summaries are required"), "{why}");
        let next = scene.back_up_as("next", 99).await;
        assert_eq!(next.parent.as_deref(), Some("forgotten"), "{:?}", next.fallback);

        // A server that notes nothing.
        drop(client);
        scene.stop(rustix::process::Signal::INT);
        let client = scene.start(&scene.path("pg"), true).await;
        let why = scene.back_up_as("silent", 99).await.fallback.unwrap();
        assert!(why.contains("summar"), "{why}");
        drop(client);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_backup_across_a_promotion_builds_on_what_is_on_its_way() {
    for bin_dir in able() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let client = scene.rows().await;
        scene.back_up_as("b1", 99).await;
        change(&client, "second").await;
        let before = scene.back_up_as("b2", 99).await;
        assert_eq!(before.depth, 1, "{:?}", before.fallback);
        drop(client);
        // Recovery of its own WAL up to its end, and on as the next timeline.
        scene.stop(rustix::process::Signal::INT);
        fs::write(scene.path("pg/recovery.signal"), "").unwrap();
        give(&scene.path("pg/recovery.signal"));
        let settings = ["summarize_wal=on", "restore_command=false"];
        let client = scene.start_with(&scene.path("pg"), true, &settings).await;
        let ended = "SELECT NOT pg_is_in_recovery()";
        while !client.query_one(ended, &[]).await.unwrap().get::<_, bool>(0) {
            sleep(Duration::from_millis(100)).await;
        }
        insert(&client, 1_000).await;
        let after = scene.back_up_as("b3", 99).await;
        let WalPosition { timeline, .. } = after.start;
        assert_eq!((timeline.0.get(), after.parent.as_deref()), (2, Some("b2")), "{:?}", after.fallback);
        let last = insert(&client, 1_000).await;
        scene.wait_archived(&client).await;
        drop(client);
        scene.stop(rustix::process::Signal::INT);
        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_chain_builds_on_what_its_identities_decrypt() {
    for bin_dir in able() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        scene.encrypt_with(&[FIRST]).await;
        let client = scene.rows().await;
        scene.back_up_as("b1", 99).await;
        scene.encrypt_with(&[FIRST, SECOND]).await;
        change(&client, "second").await;
        let second = scene.back_up_as("b2", 99).await;
        assert_eq!(second.parent.as_deref(), Some("b1"), "{:?}", second.fallback);
        scene.encrypt_with(&[FIRST]).await;
        let why = scene.back_up_as("b3", 99).await.fallback.unwrap();
        assert!(why.contains("manifest of b2") && why.contains("none of the 1 identities"), "{why}");
        scene.encrypt_with(&[SECOND, FIRST]).await;
        drop(client);
        scene.stop(rustix::process::Signal::QUIT);
        let restored = scene.restore("b2", RestoreTarget::Immediate, Some("b2"));
        assert!(restored.status.success(), "{}", said(&restored));
        let data = scene.path("b2/pgdata");
        assert_eq!(scene.last_row(&data).await, ROWS);
    }
}
