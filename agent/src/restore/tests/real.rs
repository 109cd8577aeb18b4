//! Archive, backup and restore of a real server: rows are accounted for.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use proto::{
    pod::POSTGRES_PORT,
    wire::{
        backup::{BackupState, BackupSummary, RestoreConfig, RestoreTarget},
        drill::DrillReport,
        http::State,
    },
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_postgres::{Client, NoTls};

use super::config;
use crate::{
    archive::{
        self,
        connection::{Connection, Repository},
        destination::{self, Credentials},
        layout::Root,
        names::Segment,
        tests::me,
    },
    backup::{Leader, Run},
    boot_clock,
    peer::client::Peers,
    published::Published,
    sql::archiving,
    tls::tests::{Authority, credentials},
};

mod chain;
mod damage;
mod encrypted;
mod failover;
mod segments;
mod snapshot;
mod stopping;
mod tablespaces;

const NOBODY: u32 = 65534;
const UID: &str = "7d0b5a3e";
const PATIENCE: Duration = Duration::from_mins(2);

fn installations() -> Vec<PathBuf> {
    let debian =
        || fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let found: Vec<_> = match env::var_os("POSTGRES_BIN_DIRS") {
        Some(directories) => env::split_paths(&directories).collect(),
        None => debian().collect(),
    };
    assert!(!found.is_empty(), "no PostgreSQL: set POSTGRES_BIN_DIRS");
    found
}

/// A server, the archive beside it, and volumes to restore into.
struct Scene {
    root: tempfile::TempDir,
    bin_dir: PathBuf,
    server: Option<Child>,
    repository: Repository,
    archiving: JoinHandle<()>,
    /// What the archive is told of the member; it would be told nothing more if this were dropped.
    shown: Option<watch::Sender<Arc<Published>>>,
}

impl Scene {
    fn new(bin_dir: &Path) -> Self {
        Self::made_with(bin_dir, &[])
    }

    /// With more options for `initdb`.
    fn made_with(bin_dir: &Path, options: &[&str]) -> Self {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let root = tempfile::Builder::new().prefix("restore-").tempdir_in("/tmp").unwrap();
        for name in ["", "run", "store"] {
            let path = root.path().join(name);
            fs::create_dir_all(&path).unwrap();
            give(&path);
        }
        let built = env::current_exe().unwrap().ancestors().nth(2).unwrap().join("agent");
        fs::copy(&built, root.path().join("agent")).expect("build it with `cargo test -p agent`");
        let source = config(false).source;
        let source = proto::wire::backup::ArchiveConfig {
            destination: format!("file://{}", root.path().join("store").display()),
            ..source
        };
        let (store, prefix) = destination::open(&source, &Credentials::default()).unwrap();
        let mut scene = Self {
            bin_dir: bin_dir.to_owned(),
            server: None,
            repository: Repository {
                store,
                root: Root::new(&prefix, UID, proto::postgres::SystemIdentifier(0)),
            },
            archiving: tokio::spawn(async {}),
            shown: None,
            root,
        };
        let data = scene.path("pg");
        let own = ["-D", data.to_str().unwrap(), "-U", "postgres", "--auth=trust", "--data-checksums"];
        scene.done("initdb", &[&own, options].concat());
        scene.serve_archive();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// As an unprivileged user if this is root: PostgreSQL insists.
    fn command(&self, program: &Path) -> Command {
        let mut command = match rustix::process::geteuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                let id = NOBODY.to_string();
                command
                    .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "KILL"])
                    .arg(program);
                command
            }
            false => Command::new(program),
        };
        command.env("LD_LIBRARY_PATH", self.bin_dir.with_file_name("lib")).stdin(Stdio::null());
        command.current_dir(self.root.path());
        command
    }

    fn done(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(&self.bin_dir.join(program)).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The sidecar's part, with a valid lease.
    fn serve_archive(&mut self) {
        let control = self.done("pg_controldata", &[self.path("pg").to_str().unwrap()]);
        let line = control.lines().find(|line| line.starts_with("Database system identifier")).unwrap();
        let identifier = line.split(':').nth(1).unwrap().trim().parse().unwrap();
        let prefix = object_store::path::Path::default();
        self.repository.root = Root::new(&prefix, UID, proto::postgres::SystemIdentifier(identifier));
        let mut published = Published::unknown(&me());
        published.fenced_until = Some(boot_clock::now() + Duration::from_hours(1));
        published.status.state = State::Running;
        let (shown, published) = watch::channel(Arc::new(published));
        let archive = archive::tests::with(Connection::Open(self.repository.clone()), published);
        let socket = self.path("run/archive.sock");
        self.archiving = tokio::spawn(async move { archive::tests::serve(archive, &socket).await });
        self.shown = Some(shown);
    }

    async fn start(&mut self, data: &Path, archives: bool) -> Client {
        self.start_with(data, archives, &[]).await
    }

    async fn start_with(&mut self, data: &Path, archives: bool, settings: &[&str]) -> Client {
        let socket = self.path("run/archive.sock");
        while !socket.exists() {
            sleep(Duration::from_millis(10)).await;
        }
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        let push = match archives {
            true => format!("{} wal push --socket {} %p", self.path("agent").display(), socket.display()),
            false => "false".to_owned(),
        };
        let mut command = self.command(&self.bin_dir.join("postgres"));
        command.arg("-D").arg(data);
        for setting in [
            format!("unix_socket_directories={}", self.path("run").display()),
            format!("archive_command={push}"),
            "archive_mode=on".to_owned(),
            "wal_level=replica".to_owned(),
            "listen_addresses=".to_owned(),
            "fsync=off".to_owned(),
            "hba_file=".to_owned() + self.hba().to_str().unwrap(),
        ] {
            command.arg("-c").arg(setting);
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        self.server = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.connect().await
    }

    fn hba(&self) -> PathBuf {
        let path = self.path("hba");
        fs::write(&path, "local all all trust\nlocal replication all trust\n").unwrap();
        path
    }

    async fn connect(&self) -> Client {
        self.connect_at(&self.path("run")).await
    }

    async fn connect_at(&self, socket: &Path) -> Client {
        let begin = std::time::Instant::now();
        loop {
            let mut config = tokio_postgres::Config::new();
            config.host_path(socket).port(POSTGRES_PORT).user("postgres").dbname("postgres");
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(async move { drop(connection.await) });
                    return client;
                }
                Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}: {}", self.log()),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn stop(&mut self, signal: rustix::process::Signal) {
        let Some(mut server) = self.server.take() else { return };
        let pid = rustix::process::Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        server.wait().unwrap();
    }

    async fn back_up(&self, name: &str) -> BackupSummary {
        self.back_up_as(name, 1).await
    }

    async fn back_up_as(&self, name: &str, full_every: u32) -> BackupSummary {
        let socket = self.path("run");
        let (peers, state) = (peers(), watch::Sender::new(None));
        let run = self.run(&peers, socket.to_str().unwrap(), &state);
        Run { full_every, ..run }.make(name).await.unwrap()
    }

    fn run<'a>(
        &'a self,
        peers: &'a Peers,
        socket_directory: &'a str,
        state: &'a watch::Sender<Option<BackupState>>,
    ) -> Run<'a> {
        Run {
            repository: &self.repository,
            peers,
            socket_directory,
            port: POSTGRES_PORT,
            leader: &|| Some(Leader::Here),
            pod: "db-0",
            from_standby: false,
            server_version: self.version() * 10_000,
            full_every: 1,
            state,
        }
    }

    fn version(&self) -> u32 {
        fs::read_to_string(self.path("pg/PG_VERSION")).unwrap().trim().parse().unwrap()
    }

    /// Runs `agent restore` into a new volume.
    fn restore(&self, volume: &str, target: RestoreTarget, backup: Option<&str>) -> Output {
        self.agent("restore", volume, target, backup).output().unwrap()
    }

    /// Runs `agent drill`, and reads its report.
    fn drill(&self, volume: &str) -> (bool, DrillReport) {
        let report = self.path(&format!("{volume}.report"));
        fs::write(&report, "").unwrap();
        give(&report);
        let mut command = self.agent("drill", volume, RestoreTarget::Latest, None);
        let output = command.arg("--report").arg(&report).output().unwrap();
        let said = fs::read(&report).unwrap();
        let report = serde_json::from_slice(&said);
        (
            output.status.success(),
            report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))),
        )
    }

    fn agent(&self, verb: &str, volume: &str, target: RestoreTarget, backup: Option<&str>) -> Command {
        let backup = backup.map(str::to_owned);
        self.agent_with(verb, volume, RestoreConfig { target, backup, ..config(false) })
    }

    fn agent_with(&self, verb: &str, volume: &str, mut wanted: RestoreConfig) -> Command {
        let data = self.path(volume);
        for path in [&data, &self.path(&format!("{volume}-run"))] {
            fs::create_dir_all(path).unwrap();
            give(path);
        }
        wanted.source.destination = format!("file://{}", self.path("store").display());
        let credentials = self.path("credentials");
        wanted.source.encrypted = credentials.exists();
        let path = self.path(&format!("{volume}.json"));
        fs::write(&path, serde_json::to_string(&wanted).unwrap()).unwrap();
        let mut command = self.command(&self.path("agent"));
        command.arg(verb).arg("--config").arg(&path).arg("--credentials").arg(&credentials);
        command.arg("--data-dir").arg(&data).arg("--run-dir").arg(self.path(&format!("{volume}-run")));
        command.arg("--bin-dir").arg(&self.bin_dir).env_remove("POD_NAME");
        command
    }

    fn restored(&self, volume: &str, target: RestoreTarget) -> PathBuf {
        let output = self.restore(volume, target, None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(self.path(volume).join("ha-state.json").exists());
        assert!(!self.path(volume).join("pgdata.incoming").exists());
        self.path(volume).join("pgdata")
    }

    /// Numbers of the rows in a restored volume, as a set without a hole from 1 to the last.
    async fn last_row(&mut self, data: &Path) -> i64 {
        let client = self.start(data, false).await;
        let row = client.query_one("SELECT count(*), min(n), max(n) FROM t", &[]).await.unwrap();
        let (count, first, last): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((count, first), (last, 1), "rows are missing or twice");
        self.stop(rustix::process::Signal::INT);
        last
    }

    /// Segments in the archive.
    async fn archived(&self) -> Vec<Segment> {
        let listed = self.repository.store.list(&self.repository.root.wal()).await.unwrap();
        let segment = |object: &object_store::ObjectMeta| archive::layout::segment_of(&object.location);
        listed.iter().filter_map(segment).collect()
    }

    async fn wait_archived(&self, client: &Client) {
        let name: String =
            client.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).await.unwrap().get(0);
        let begin = std::time::Instant::now();
        let done = "SELECT coalesce(last_archived_wal, '') >= $1 FROM pg_stat_archiver";
        while !client.query_one(done, &[&name]).await.unwrap().get::<_, bool>(0) {
            assert!(begin.elapsed() < PATIENCE, "{name} is not archived: {}", self.log());
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.archiving.abort();
        drop(self.shown.take());
        if let Some(server) = &mut self.server {
            let _ended = server.kill();
            let _status = server.wait();
        }
    }
}

fn peers() -> Peers {
    let (_, credentials) = watch::channel(credentials(&Authority::new(), "db-0"));
    crate::peer::client::peers("db", "prod", credentials).unwrap().0
}

fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

async fn insert(client: &Client, rows: i64) -> i64 {
    let statement =
        "INSERT INTO t SELECT coalesce((SELECT max(n) FROM t), 0) + g FROM generate_series(1, $1::bigint) g";
    client.execute(statement, &[&rows]).await.unwrap();
    client.query_one("SELECT max(n) FROM t", &[]).await.unwrap().get(0)
}

async fn now(client: &Client) -> Timestamp {
    let text = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    Timestamp::from_microsecond(client.query_one(text, &[]).await.unwrap().get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn what_was_written_comes_back_as_it_was_at_any_time() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let client = scene.start(&scene.path("pg"), true).await;
        client
            .batch_execute("CREATE TABLE t (n bigint PRIMARY KEY, filler text DEFAULT repeat('x', 200))")
            .await
            .unwrap();
        insert(&client, 50_000).await;
        // Rows are written while the backup is taken.
        let busy = scene.connect().await;
        let writer = tokio::spawn(async move {
            for _ in 0..100 {
                insert(&busy, 200).await;
                sleep(Duration::from_millis(10)).await;
            }
        });
        let before = now(&client).await;
        let backup = scene.back_up("b1").await;
        writer.await.unwrap();
        assert!(backup.size_bytes > backup.stored_bytes && backup.damage.is_none());
        let first = insert(&client, 1_000).await;
        let between = now(&client).await;
        sleep(Duration::from_millis(50)).await;
        let position: String =
            client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
        client.batch_execute("SELECT pg_create_restore_point('before the mistake')").await.unwrap();
        let last = insert(&client, 100_000).await;
        scene.wait_archived(&client).await;
        drop(client);
        // What is only in the archive counts: the server is gone.
        scene.stop(rustix::process::Signal::QUIT);

        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last);
        let time = scene.restored("time", RestoreTarget::Time(between));
        assert_eq!(scene.last_row(&time).await, first);
        let point = scene.restored("point", RestoreTarget::Name("before the mistake".to_owned()));
        assert_eq!(scene.last_row(&point).await, first);
        let lsn = scene.restored("lsn", RestoreTarget::Lsn(position.parse().unwrap()));
        assert!((first..=last).contains(&scene.last_row(&lsn).await));
        let immediate = scene.restored("immediate", RestoreTarget::Immediate);
        assert!(scene.last_row(&immediate).await >= 50_000);

        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let early = scene.restore("early", RestoreTarget::Time(before), None);
        assert!(!early.status.success());
        assert!(said(&early).contains(&backup.stopped_at.to_string()), "{}", said(&early));
        let again = scene.restore("time", RestoreTarget::Latest, None);
        assert!(again.status.success() && said(&again).contains("there is data"), "{}", said(&again));
        // Never again where a target was not reached: it says so, and leaves nothing that starts.
        let future = scene.restore("xid", RestoreTarget::Xid(4_000_000), None);
        assert!(
            !future.status.success() && said(&future).contains("before configured recovery target"),
            "{}",
            said(&future)
        );
        assert!(!scene.path("xid/pgdata").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_hole_in_the_archive_is_no_end() {
    for bin_dir in installations() {
        let mut scene = Scene::new(&bin_dir);
        let client = scene.start(&scene.path("pg"), true).await;
        client
            .batch_execute("CREATE TABLE t (n bigint PRIMARY KEY, filler text DEFAULT repeat('x', 200))")
            .await
            .unwrap();
        scene.back_up("b1").await;
        let mut middle = None;
        for _ in 0..3 {
            insert(&client, 1_000).await;
            let name: String =
                client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]).await.unwrap().get(0);
            scene.wait_archived(&client).await;
            middle = middle.or(Some(name));
        }
        let path = scene.repository.root.wal_file(&middle.clone().unwrap().parse().unwrap(), "db-0");
        let segment = archiving::segment_size(scene.path("run").to_str().unwrap()).await.unwrap();
        assert_eq!(segment, 16 << 20);
        drop(client);
        scene.stop(rustix::process::Signal::INT);
        let contents = scene.repository.store.get(&path).await.unwrap().unwrap();
        assert!(scene.repository.store.delete(vec![path.clone()]).await.is_empty());
        let output = scene.restore("hole", RestoreTarget::Latest, None);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&middle.unwrap()) && said.contains("is missing in the archive"), "{said}");
        // Repaired, it goes on.
        scene.repository.store.put(&path, contents).await.unwrap();
        let data = scene.restored("hole", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&data).await, 3_000);
    }
}

/// An index over an order that then changes, as a new version of a C library does to texts.
const MISORDERED: &str = "
    CREATE FUNCTION cmp(int4, int4) RETURNS int LANGUAGE sql AS 'SELECT CASE WHEN $1 > $2 THEN 1 WHEN $1 < $2 THEN -1 ELSE 0 END';
    CREATE OPERATOR CLASS odd FOR TYPE int4 USING btree AS OPERATOR 1 < (int4, int4), OPERATOR 2 <= (int4, int4),
        OPERATOR 3 = (int4, int4), OPERATOR 4 >= (int4, int4), OPERATOR 5 > (int4, int4), FUNCTION 1 cmp(int4, int4);
    CREATE TABLE misordered (n int4);
    INSERT INTO misordered SELECT generate_series(1, 1000);
    CREATE INDEX ON misordered (n odd);
    CREATE OR REPLACE FUNCTION cmp(int4, int4) RETURNS int LANGUAGE sql AS 'SELECT CASE WHEN $1 < $2 THEN 1 WHEN $1 > $2 THEN -1 ELSE 0 END';";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_drill_proves_what_restores_and_nothing_else() {
    for bin_dir in installations() {
        let mut scene = Scene::new(&bin_dir);
        let client = scene.start(&scene.path("pg"), true).await;
        client.batch_execute("CREATE TABLE t (n bigint PRIMARY KEY, filler text)").await.unwrap();
        client.batch_execute("CREATE DATABASE other").await.unwrap();
        client.batch_execute("CREATE MATERIALIZED VIEW empty AS SELECT 1 WITH NO DATA").await.unwrap();
        let (proven, nothing) = scene.drill("nothing");
        assert!(!proven && nothing.proof.is_none(), "{nothing:?}");
        assert!(nothing.error.unwrap().contains("where one is to be restored"));

        scene.back_up("b1").await;
        insert(&client, 1_000).await;
        scene.wait_archived(&client).await;
        let (proven, report) = scene.drill("sound");
        assert!(proven, "{report:?}");
        let proof = report.proof.unwrap();
        // postgres, other and template1.
        assert_eq!((report.backup.as_deref(), proof.databases, proof.without_amcheck), (Some("b1"), 3, None));
        assert!(proof.rows >= 1_000 && proof.reached.is_some() && proof.last_commit.is_some());
        // Neither the source nor the store was touched: the next one finds the same.
        let (proven, _) = scene.drill("again");
        assert!(proven);
        scene.restored("used", RestoreTarget::Latest);
        let (proven, refused) = scene.drill("used");
        assert!(!proven && refused.error.unwrap().contains("has to be empty"));

        client.batch_execute(MISORDERED).await.unwrap();
        scene.wait_archived(&client).await;
        let (proven, report) = scene.drill("damaged");
        let error = report.error.unwrap();
        assert!(!proven && error.contains("pg_amcheck") && error.contains("misordered_n_idx"), "{error}");
        drop(client);
        scene.stop(rustix::process::Signal::INT);
    }
}
