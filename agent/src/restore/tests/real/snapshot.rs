//! A backup whose data somebody else copied, of a real primary and of a real standby.

use proto::{
    identity::{DataId, Epoch},
    wire::{
        backup::{BackupKind, BackupPhase},
        snapshot::SnapshotTaken,
    },
};

use super::*;
use crate::{
    archive::age::tests::FIRST,
    backup::snapshot::Hold,
    supervisor::{
        Layout,
        durable::{self, HaState},
    },
};

const DATA: DataId = DataId(7);

/// Where a server is.
pub(super) struct Place {
    pub(super) data: PathBuf,
    pub(super) socket: PathBuf,
}

impl Scene {
    fn primary(&self) -> Place {
        Place { data: self.path("pg"), socket: self.path("run") }
    }

    /// Takes a backup, and copies the files of the running server into the volume of its name meanwhile.
    async fn snapshot(&self, of: &Place, name: &str) -> BackupSummary {
        let start = BackupState::begun(name.to_owned(), BackupKind::Snapshot, Timestamp::now());
        let state = watch::Sender::new(Some(start));
        let (tell, taken) = watch::channel(None);
        let peers = peers();
        let run = self.run(&peers, of.socket.to_str().unwrap(), &state);
        let copied = async {
            let awaits = |state: &Option<BackupState>| {
                state.as_ref().is_some_and(|state| state.phase == BackupPhase::AwaitingSnapshot)
            };
            state.subscribe().wait_for(awaits).await.unwrap();
            self.copy(&of.data, name);
            let taken = SnapshotTaken { volume_snapshot: format!("db-{name}"), size_bytes: 1 << 30 };
            tell.send_replace(Some((name.to_owned(), taken)));
        };
        let made = run.make_of_snapshot(name, Hold { data: &|| Some(DATA), taken });
        tokio::join!(made, copied).0.unwrap()
    }

    /// What a snapshot holds of a volume. The control file last: it says how new the other files may be.
    fn copy(&self, data: &Path, volume: &str) {
        fs::create_dir_all(self.path(volume)).unwrap();
        give(&self.path(volume));
        let pgdata = self.path(volume).join("pgdata");
        // Files come and go meanwhile.
        Command::new("cp").arg("-a").arg(data).arg(&pgdata).stderr(Stdio::null()).status().unwrap();
        let control = "global/pg_control";
        fs::copy(data.join(control), pgdata.join(control)).unwrap();
        let place = self.path(volume);
        let layout = Layout {
            data_dir: place.clone(),
            run_dir: place.clone(),
            tls_dir: place,
            port: POSTGRES_PORT,
            bin_dir: None,
        };
        let state = HaState { data_id: DATA, ..HaState::of_new_data(Epoch(4)) };
        durable::store(&layout, &state).unwrap();
        give(&layout.durable_state());
    }

    /// Runs `agent restore` on the volume of the snapshot's name.
    fn restore_snapshot(&self, name: &str, target: RestoreTarget) -> Output {
        let wanted = RestoreConfig { target, snapshot: Some(name.to_owned()), ..config(false) };
        self.agent_with("restore", name, wanted).output().unwrap()
    }

    fn restored_snapshot(&self, name: &str, target: RestoreTarget) -> PathBuf {
        let output = self.restore_snapshot(name, target);
        assert!(output.status.success(), "{}", said(&output));
        assert!(!self.path(name).join("pgdata.incoming").exists());
        self.path(name).join("pgdata")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(super) async fn table(client: &Client) {
    let create = "CREATE TABLE t (n bigint PRIMARY KEY, filler text DEFAULT repeat('x', 200))";
    client.batch_execute(create).await.unwrap();
    insert(client, 50_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn what_a_snapshot_holds_comes_back_as_it_was_at_any_later_time() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let client = scene.start(&scene.path("pg"), true).await;
        table(&client).await;
        let before = now(&client).await;
        let busy = scene.connect().await;
        let writer = tokio::spawn(async move {
            for _ in 0..100 {
                insert(&busy, 200).await;
                sleep(Duration::from_millis(10)).await;
            }
        });
        let backup = scene.snapshot(&scene.primary(), "latest").await;
        assert_eq!((backup.kind, backup.stored_bytes), (BackupKind::Snapshot, 0));
        writer.await.unwrap();
        scene.snapshot(&scene.primary(), "time").await;
        let first = insert(&client, 1_000).await;
        let between = now(&client).await;
        sleep(Duration::from_millis(50)).await;
        let last = insert(&client, 1_000).await;
        scene.wait_archived(&client).await;
        drop(client);
        scene.stop(rustix::process::Signal::QUIT);

        let early = scene.restore_snapshot("latest", RestoreTarget::Time(before));
        assert!(said(&early).contains(&backup.stopped_at.to_string()), "{}", said(&early));
        // Everything is replayed, and the target is not in it: the next attempt finds files that are newer.
        let interrupted = scene.restore_snapshot("latest", RestoreTarget::Xid(4_000_000));
        assert!(said(&interrupted).contains("before configured recovery target"), "{}", said(&interrupted));
        assert!(!scene.path("latest/pgdata").exists());
        let latest = scene.restored_snapshot("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last);
        let time = scene.restored_snapshot("time", RestoreTarget::Time(between));
        assert_eq!(scene.last_row(&time).await, first);
        let again = scene.restore_snapshot("time", RestoreTarget::Latest);
        assert!(again.status.success() && said(&again).contains("there is data"), "{}", said(&again));

        let empty = scene.restore_snapshot("nowhere", RestoreTarget::Latest);
        assert!(said(&empty).contains("knows of no snapshot nowhere"), "{}", said(&empty));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_standby_is_held_in_backup_mode_too_and_its_label_is_encrypted() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        scene.encrypt_with(&[FIRST]).await;
        let client = scene.start(&scene.path("pg"), true).await;
        table(&client).await;
        let standby = scene.standby(&client).await;
        let busy = scene.connect().await;
        let writer = tokio::spawn(async move {
            for _ in 0..100 {
                insert(&busy, 200).await;
                // What the standby has replayed is in the archive soon.
                busy.batch_execute("SELECT pg_switch_wal()").await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
        });
        let backup = scene.snapshot(&standby.place, "copy").await;
        assert!(backup.stop.lsn >= backup.start.lsn, "{backup:?}");
        writer.await.unwrap();
        let last = insert(&client, 1_000).await;
        scene.wait_archived(&client).await;
        drop((client, standby));
        scene.stop(rustix::process::Signal::QUIT);
        let entry = scene.repository.root.snapshot_file("copy");
        let entry = scene.repository.store.get(&entry).await.unwrap().unwrap();
        assert!(!String::from_utf8(entry).unwrap().contains("START WAL LOCATION"));
        let copy = scene.restored_snapshot("copy", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&copy).await, last);
    }
}

/// The log from the snapshot to its end is in the archive, part of it only since the standby began to recover.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_new_standby_is_made_of_a_snapshot() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let client = scene.start(&scene.path("pg"), true).await;
        table(&client).await;
        scene.snapshot(&scene.primary(), "copy").await;
        let last = insert(&client, 1_000).await;
        scene.wait_archived(&client).await;
        let config = RestoreConfig { snapshot: Some("copy".to_owned()), ..config(false) };
        let made = |config| scene.agent_with("standby", "copy", config).output().unwrap();
        let output = made(config.clone());
        assert!(output.status.success(), "{}", said(&output));
        let pgdata = scene.path("copy/pgdata");
        let control = scene.done("pg_controldata", &[pgdata.to_str().unwrap()]);
        assert!(control.contains("shut down in recovery"), "{control}");
        let state = fs::read_to_string(scene.path("copy/ha-state.json")).unwrap();
        let copied = serde_json::to_string(&DATA).unwrap();
        assert!(!state.contains(&copied), "{copied} in {state}");
        assert!(said(&made(config)).contains("an earlier attempt came to its end"));
        // It follows the one that it was copied from, which has gone on meanwhile.
        let standby = scene.following(pgdata);
        let more = insert(&client, 1_000).await;
        scene.caught_up(&client).await;
        let (there, timeline) = scene.seen_on(&standby).await;
        assert_eq!((there, timeline.as_str()), (more, "1"), "after {last}: {}", scene.log());
        drop((client, standby));
        scene.stop(rustix::process::Signal::QUIT);
    }
}

/// Ends with this.
pub(super) struct Standby {
    pub(super) place: Place,
    server: Child,
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ended = self.server.kill();
        let _status = self.server.wait();
    }
}

impl Scene {
    /// One that has replayed all that the primary wrote.
    pub(super) async fn standby(&self, primary: &Client) -> Standby {
        let data = self.path("standby");
        let from = self.path("run");
        let copy = ["-h", from.to_str().unwrap(), "-U", "postgres", "-D", data.to_str().unwrap()];
        self.done("pg_basebackup", &copy);
        let standby = self.following(data);
        self.caught_up(primary).await;
        standby
    }

    /// A standby of the primary, on this data.
    fn following(&self, data: PathBuf) -> Standby {
        let place = Place { data, socket: self.path("standby-run") };
        fs::create_dir_all(&place.socket).unwrap();
        give(&place.socket);
        let signal = place.data.join("standby.signal");
        fs::write(&signal, "").unwrap();
        give(&signal);
        let mut command = self.command(&self.bin_dir.join("postgres"));
        command.arg("-D").arg(&place.data);
        for setting in [
            format!("primary_conninfo=host={} user=postgres", self.path("run").display()),
            format!("unix_socket_directories={}", place.socket.display()),
            format!("hba_file={}", self.hba().display()),
            "listen_addresses=".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let server = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Standby { place, server }
    }

    /// The standby has replayed all that the primary wrote.
    async fn caught_up(&self, primary: &Client) {
        let caught_up =
            "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE replay_lsn >= $1::text::pg_lsn)";
        let end: String = primary.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
        let begin = std::time::Instant::now();
        while !primary.query_one(caught_up, &[&end]).await.unwrap().get::<_, bool>(0) {
            assert!(begin.elapsed() < PATIENCE, "the standby does not follow: {}", self.log());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The last row on a standby, and its timeline.
    async fn seen_on(&self, standby: &Standby) -> (i64, String) {
        let client = self.connect_at(&standby.place.socket).await;
        let query = "SELECT (SELECT max(n) FROM t), timeline_id::text FROM pg_control_checkpoint()";
        let row = client.query_one(query, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }
}
