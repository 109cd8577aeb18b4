//! A supervisor as PID 1 of a PID namespace of its own, with a real PostgreSQL below it.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::chown, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use proto::{
    clock::BootTime,
    identity::Epoch,
    postgres::{Timeline, WalPosition},
    wire::supervisor::{
        Answer, Data, Durable, Initdb, Order, Refusal, Report, Request, Response, Server, ServerConfig,
        Upstream,
    },
};

/// Longest that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// The user that PostgreSQL runs as when the tests run as root, which it refuses.
const NOBODY: u32 = 65534;
/// Any verifier; nobody logs in with a password here.
const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHQ=$c3RvcmVkc3RvcmVkc3RvcmVkc3RvcmVkc3RvcmVkc3Q=:c2VydmVyc2VydmVyc2VydmVyc2VydmVyc2VydmVyc2U=";

/// Directories with PostgreSQL's programs: `POSTGRES_BIN_DIRS`, separated by colons, or Debian's.
pub(crate) fn installations() -> Vec<PathBuf> {
    let debian =
        || fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let found: Vec<_> = match env::var_os("POSTGRES_BIN_DIRS") {
        Some(directories) => env::split_paths(&directories).collect(),
        None => debian().collect(),
    };
    assert!(!found.is_empty(), "no PostgreSQL: set POSTGRES_BIN_DIRS");
    found
}

/// A certificate authority and one certificate, as the operator makes them for a Database.
pub(crate) struct Certificates {
    files: [(&'static str, String); 3],
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "db");
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        Self { files: [("ca.crt", ca_pem), ("tls.crt", pem), ("tls.key", key.serialize_pem())] }
    }
}

/// One member.
pub(crate) struct Member {
    /// Keeps the directories.
    root: tempfile::TempDir,
    bin_dir: PathBuf,
    port: u16,
    process: Option<Child>,
    next_id: AtomicU64,
}

impl Member {
    /// A running supervisor without data.
    pub(crate) fn new(bin_dir: &Path, certificates: &Certificates) -> Self {
        let root = tempfile::Builder::new().prefix("member-").tempdir_in("/tmp").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut member =
            Self { root, bin_dir: bin_dir.to_owned(), port, process: None, next_id: AtomicU64::new(1) };
        for name in ["", "data", "run", "tls"] {
            let path = member.root.path().join(name);
            fs::create_dir_all(&path).unwrap();
            if is_root() {
                chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        for (name, contents) in &certificates.files {
            fs::write(member.root.path().join("tls").join(name), contents).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_agent"), member.root.path().join("agent")).unwrap();
        member.run();
        member
    }

    /// Starts the supervisor, as the kubelet starts the container.
    pub(crate) fn run(&mut self) {
        let root = self.root.path();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]);
        if is_root() {
            let id = NOBODY.to_string();
            // A change of user clears what --kill-child set: without it every test would leave its server behind.
            command.args([
                "setpriv",
                "--reuid",
                &id,
                "--regid",
                &id,
                "--clear-groups",
                "--pdeathsig",
                "KILL",
            ]);
        } else {
            command.args(["--user", "--map-current-user"]);
        }
        command.arg(root.join("agent")).arg("supervise");
        for (option, path) in [("--data-dir", "data"), ("--run-dir", "run"), ("--tls-dir", "tls")] {
            command.arg(option).arg(root.join(path));
        }
        command.arg("--port").arg(self.port.to_string()).arg("--bin-dir").arg(&self.bin_dir);
        command.env("LD_LIBRARY_PATH", self.libraries());
        let log = fs::OpenOptions::new().create(true).append(true).open(root.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        self.wait_for("the disk to be read", |report| report.data != Data::Unread);
    }

    /// SIGKILL to PID 1: the container is gone, with everything in it.
    pub(crate) fn kill_container(&mut self) {
        let mut process = self.process.take().unwrap();
        signal(self.pid_of(&process), "KILL");
        process.wait().unwrap();
    }

    /// The supervisor, as seen from outside its namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.pid_of(self.process.as_ref().unwrap())
    }

    fn pid_of(&self, unshare: &Child) -> u32 {
        *children(unshare.id()).first().unwrap_or_else(|| panic!("no supervisor; its log:\n{}", self.log()))
    }

    /// Waits until the container has ended by itself.
    pub(crate) fn wait_end(&mut self) {
        let mut process = self.process.take().unwrap();
        let ended = until("the container to end", || process.try_wait().unwrap());
        assert!(ended.success(), "{ended}; log:\n{}", self.log());
    }

    /// What the supervisor and PostgreSQL have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// This member as somebody's upstream.
    pub(crate) fn upstream(&self) -> Upstream {
        Upstream { host: "127.0.0.1".to_owned(), port: self.port, slot: None }
    }

    pub(crate) fn order(&self, order: Order) -> Result<Answer, Refusal> {
        let stream = UnixStream::connect(self.path("run/supervisor.sock"));
        let mut stream = stream.unwrap_or_else(|error| panic!("{error}; log:\n{}", self.log()));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = Request { id: self.next_id.fetch_add(1, Ordering::Relaxed), order };
        writeln!(stream, "{}", serde_json::to_string(&request).unwrap()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        let response: Response = serde_json::from_str(&line).unwrap();
        assert_eq!(response.id, request.id);
        response.result
    }

    pub(crate) fn accept(&self, order: Order) {
        let answer = self.order(order);
        assert_eq!(answer, Ok(Answer::Accepted), "log:\n{}", self.log());
    }

    /// Runs a job and returns how it ended.
    pub(crate) fn job(&self, order: Order) -> Result<(), String> {
        self.accept(order);
        let report = self.wait_for("the job to end", |report| report.job.is_none());
        report.last_job.unwrap().error.map_or(Ok(()), Err)
    }

    /// Runs a job that must succeed.
    pub(crate) fn done(&self, order: Order) {
        let described = format!("{order:?}");
        if let Err(error) = self.job(order) {
            panic!("{described}: {error}; log:\n{}", self.log());
        }
    }

    pub(crate) fn report(&self) -> Report {
        match self.order(Order::Report) {
            Ok(Answer::Report(report)) => *report,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn wait_for(&self, what: &str, accept: impl Fn(&Report) -> bool) -> Report {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.path("run/supervisor.sock").exists()
                && UnixStream::connect(self.path("run/supervisor.sock")).is_ok()
            {
                let report = self.report();
                if accept(&report) {
                    return report;
                }
                assert!(Instant::now() < deadline, "waiting for {what}: {report:?}; log:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "waiting for {what}; log:\n{}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn durable(&self) -> Durable {
        match self.report().data {
            Data::Present(durable) => durable,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn initdb(&self) {
        self.done(Order::Initdb(Initdb {
            superuser_verifier: VERIFIER.to_owned(),
            app_verifier: VERIFIER.to_owned(),
            app_role: "app".to_owned(),
            app_database: "orders".to_owned(),
            replication_role: "replicator".to_owned(),
        }));
    }

    /// Configures and starts it, closed.
    pub(crate) fn start(&self) {
        self.start_with(&[]);
    }

    pub(crate) fn start_with(&self, parameters: &[(&str, &str)]) {
        self.accept(Order::Configure(config(None, parameters)));
        self.done(Order::Start);
    }

    pub(crate) fn configure(&self, synchronous_standby_names: Option<&str>) {
        self.accept(Order::Configure(config(synchronous_standby_names, &[])));
    }

    pub(crate) fn arm(&self, epoch: u32, fast_stop_in: Duration, kill_in: Duration) {
        let now = now();
        self.accept(Order::Arm {
            epoch: Epoch(epoch),
            fast_stop_at: now + fast_stop_in,
            kill_at: now + kill_in,
        });
    }

    /// Makes a started standby primary under a fence that does not matter to the test.
    pub(crate) fn lead(&self, epoch: u32, timeline: u32) {
        self.wait_standby();
        self.arm(epoch, Duration::from_mins(10), Duration::from_mins(11));
        self.done(Order::Promote { epoch: Epoch(epoch), timeline: Timeline::new(timeline).unwrap() });
        self.configure(Some(""));
    }

    pub(crate) fn wait_standby(&self) {
        self.wait_for("a standby", |report| matches!(report.server, Server::Standby { .. }));
    }

    pub(crate) fn clone_from(&self, leader: &Self, epoch: u32) {
        let system_identifier = leader.durable().system_identifier;
        self.done(Order::Clone { upstream: leader.upstream(), system_identifier, epoch: Epoch(epoch) });
    }

    pub(crate) fn follow(&self, leader: &Self, epoch: u32) {
        self.accept(Order::Follow { upstream: leader.upstream(), epoch: Epoch(epoch) });
        self.wait_for("streaming", |report| matches!(report.server, Server::Standby { streaming: true, .. }));
    }

    pub(crate) fn seal(&self, epoch: u32) -> WalPosition {
        match self.order(Order::Seal { epoch: Epoch(epoch) }) {
            Ok(Answer::Sealed(end)) => end,
            other => panic!("{other:?}; log:\n{}", self.log()),
        }
    }

    pub(crate) fn end_of_wal(&self) -> WalPosition {
        match self.order(Order::EndOfWal) {
            Ok(Answer::EndOfWal(end)) => end,
            other => panic!("{other:?}; log:\n{}", self.log()),
        }
    }

    pub(crate) fn stop(&self) {
        self.done(Order::Stop { checkpoint: true, kill_at: now() + PATIENCE });
    }

    /// A `psql` on its socket.
    pub(crate) fn psql(&self, statement: &str) -> Command {
        let mut command = Command::new(self.bin_dir.join("psql"));
        command.arg("-h").arg(self.path("run")).args(["-p", &self.port.to_string(), "-U", "postgres"]);
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]).stdin(Stdio::null());
        command.env("PGCONNECT_TIMEOUT", "5").env("LD_LIBRARY_PATH", self.libraries());
        command
    }

    pub(crate) fn try_sql(&self, statement: &str) -> Result<String, String> {
        let output = self.psql(statement).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub(crate) fn sql(&self, statement: &str) -> String {
        self.try_sql(statement).unwrap_or_else(|error| panic!("{statement}: {error}; log:\n{}", self.log()))
    }

    /// An image has its libpq where the dynamic linker looks; an unpacked build does not.
    fn libraries(&self) -> PathBuf {
        self.bin_dir.with_file_name("lib")
    }

    /// One of PostgreSQL's programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Process ids, outside the namespace, of everything below the supervisor.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        let mut found = children(self.pid());
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            found.extend(children(*pid));
            next += 1;
        }
        found
    }

    /// The one process whose command line contains `title`.
    pub(crate) fn process(&self, title: &str) -> Option<u32> {
        self.descendants().into_iter().find(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(title))
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Takes the whole namespace with it.
            let _ended = process.kill();
            let _status = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.root.path().display(), self.log());
        }
    }
}

pub(crate) fn config(synchronous_standby_names: Option<&str>, parameters: &[(&str, &str)]) -> ServerConfig {
    let small = [("shared_buffers", "16MB"), ("max_connections", "20")];
    let parameters = small.iter().chain(parameters);
    ServerConfig {
        parameters: parameters.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        hba: vec!["hostssl all all all scram-sha-256".to_owned()],
        synchronous_standby_names: synchronous_standby_names.map(str::to_owned),
        archive: false,
        generation: "g1".to_owned(),
    }
}

pub(crate) fn now() -> BootTime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    BootTime(u64::try_from(time.tv_sec).unwrap() * 1_000_000 + u64::try_from(time.tv_nsec).unwrap() / 1_000)
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}

/// Polls until there is an answer.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waiting for {what}");
        sleep(Duration::from_millis(10));
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
