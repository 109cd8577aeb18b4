//! The same, encrypted before the store gets it.

use super::*;
use crate::archive::age::tests::{FIRST, SECOND, identities};

impl Scene {
    /// From now on what is written is encrypted, and what restores has these identities.
    pub(super) async fn encrypt_with(&mut self, lines: &[&str]) {
        self.archiving.abort();
        let socket = self.path("run/archive.sock");
        let _stale = fs::remove_file(&socket);
        self.repository.store = self.repository.store.clone().encrypting(identities(lines));
        self.serve_archive();
        while !socket.exists() {
            sleep(Duration::from_millis(10)).await;
        }
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        self.hold(lines);
    }

    /// What restores has these identities.
    fn hold(&self, lines: &[&str]) {
        fs::create_dir_all(self.path("credentials")).unwrap();
        fs::write(self.path("credentials/identity.txt"), lines.join("\n")).unwrap();
    }

    /// Restores as docs/backup-repository.md says, without a line of this project.
    async fn by_hand(&mut self, backup: &str) -> PathBuf {
        let data = self.path("by-hand");
        let of = |path: object_store::path::Path| self.path("store").join(path.to_string());
        let (root, key) = (&self.repository.root, self.path("credentials/identity.txt"));
        let (wal, backup) = (of(root.wal()), of(root.backup(backup)));
        let (data_dir, wal, backup, key) = (data.display(), wal.display(), backup.display(), key.display());
        let script = format!(
            "set -e; mkdir -m 700 {data_dir}
            for piece in {backup}/base.tar.zst/*.age; do age -d -i {key} \"$piece\"; done | zstd -d | tar -x -C {data_dir}
            for piece in {backup}/backup_manifest.zst/*.age; do age -d -i {key} \"$piece\"; done | zstd -d > \
                {data_dir}/backup_manifest
            touch {data_dir}/recovery.signal"
        );
        let output = self.command(Path::new("sh")).arg("-c").arg(script).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        self.done("pg_verifybackup", &["--no-parse-wal", data.to_str().unwrap()]);
        let fetch = format!(
            "restore_command=age -d -i {key} {wal}/$(echo %f | cut -c1-16)/%f.zst.age | zstd -qd > %p"
        );
        let client = self.start_with(&data, false, &[&fetch]).await;
        let ended = "SELECT NOT pg_is_in_recovery()";
        while !client.query_one(ended, &[]).await.unwrap().get::<_, bool>(0) {
            sleep(Duration::from_millis(100)).await;
        }
        drop(client);
        self.stop(rustix::process::Signal::INT);
        data
    }

    /// The files of a backup.
    async fn files(&self, backup: &str) -> Vec<object_store::path::Path> {
        let listed = self.repository.store.list(&self.repository.root.backup(backup)).await.unwrap();
        listed.into_iter().map(|object| object.location).collect()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn what_is_encrypted_comes_back_with_its_identity_alone() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let client = scene.start(&scene.path("pg"), true).await;
        client.batch_execute("CREATE TABLE t (n bigint PRIMARY KEY, filler text)").await.unwrap();
        insert(&client, 1_000).await;
        scene.back_up("plain").await;
        scene.wait_archived(&client).await;
        scene.encrypt_with(&[FIRST]).await;
        insert(&client, 1_000).await;
        scene.back_up("first").await;
        scene.wait_archived(&client).await;
        scene.encrypt_with(&[FIRST, SECOND]).await;
        insert(&client, 1_000).await;
        scene.back_up("second").await;
        let last = insert(&client, 1_000).await;
        scene.wait_archived(&client).await;
        drop(client);
        scene.stop(rustix::process::Signal::QUIT);

        for (backup, encrypted) in [("plain", false), ("first", true), ("second", true)] {
            let files = scene.files(backup).await;
            assert!(files.len() > 2, "{files:?}");
            for file in files.iter().filter(|file| file.filename() != Some("backup.json")) {
                assert_eq!(file.extension() == Some("age"), encrypted, "{file}");
            }
        }
        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last);
        // Plain files, then WAL that one identity decrypts, then WAL of the other.
        for backup in ["plain", "first"] {
            let across = scene.restore(backup, RestoreTarget::Latest, Some(backup));
            assert!(across.status.success(), "{}", said(&across));
            let data = scene.path(backup).join("pgdata");
            assert_eq!(scene.last_row(&data).await, last);
        }

        let by_hand = scene.by_hand("first").await;
        assert_eq!(scene.last_row(&by_hand).await, last);

        scene.hold(&[SECOND]);
        let newer = scene.restored("newer", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&newer).await, last);
        let begun = std::time::Instant::now();
        let older = scene.restore("older", RestoreTarget::Latest, Some("first"));
        assert!(
            !older.status.success() && said(&older).contains("none of the 1 identities"),
            "{}",
            said(&older)
        );
        assert!(!said(&older).contains("AGE-SECRET-KEY"), "{}", said(&older));
        // An identity is missing where only the WAL needs it: recovery does not end there as if that were the end.
        let wal = scene.restore("wal", RestoreTarget::Latest, Some("plain"));
        assert!(!wal.status.success() && said(&wal).contains("none of the 1 identities"), "{}", said(&wal));
        let piece =
            scene.files("second").await.into_iter().find(|file| file.to_string().contains("base.tar"));
        let piece = piece.unwrap();
        let mut contents = scene.repository.store.get(&piece).await.unwrap().unwrap();
        let middle = contents.len() / 2;
        contents[middle] ^= 1;
        scene.repository.store.put(&piece, contents).await.unwrap();
        let forged = scene.restore("forged", RestoreTarget::Latest, Some("second"));
        assert!(!forged.status.success() && said(&forged).contains("was tampered with"), "{}", said(&forged));
        fs::remove_dir_all(scene.path("credentials")).unwrap();
        let none = scene.restore("none", RestoreTarget::Latest, Some("first"));
        assert!(!none.status.success() && said(&none).contains("no identity is given"), "{}", said(&none));
        assert!(begun.elapsed() < PATIENCE, "none of them is tried again: {:?}", begun.elapsed());
    }
}
