//! Runs PostgreSQL on the unpacked files until the target, has it promote itself unless it is to be a standby, and
//! stops it.
//!
//! Nothing is durable before the end: it runs without fsync, and one fsync of everything follows. A crash leaves a
//! directory that nobody takes for data. Only what a VolumeSnapshot brought is written durably throughout.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use proto::{
    postgres::{Lsn, Timeline},
    wire::{backup::BackupKind, drill::Proof},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, config::SslMode};

use super::{
    check::{CheckError, check},
    choose::Plan,
};
use crate::supervisor::{
    Layout,
    control::{Control, InvalidControl},
    tools::{Programs, ToolError},
};

/// For programs that read or flush every file once.
const PROGRAM_TIMEOUT: Duration = Duration::from_hours(6);
/// For a stop, which writes what is dirty.
const STOP_TIMEOUT: Duration = Duration::from_mins(30);
/// For one look.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lines of the server's log that explain its end.
const LINES: usize = 4;

/// Why there is no restored server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    /// A program is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// `pg_control` is not understood.
    #[error(transparent)]
    Control(#[from] InvalidControl),
    /// A program could not be run.
    #[error("cannot run {program}")]
    Run {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} ended with {status}: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// How.
        status: String,
        /// Its last words.
        said: String,
    },
    /// A file could not be prepared.
    #[error("cannot prepare {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The recovered server does not answer.
    #[error("the recovered server does not answer")]
    Sql(#[from] tokio_postgres::Error),
    /// It answers something odd.
    #[error("the recovered server answered {0:?}")]
    Odd(String),
    /// What was recovered is not sound.
    #[error("the restored data did not pass the checks")]
    Check(#[from] CheckError),
    /// Recovery ended early although all WAL is there.
    #[error("recovery ended at {reached}, but the archive goes on to {end}")]
    Short {
        /// Where it ended.
        reached: String,
        /// Where the archive ends.
        end: String,
    },
}

/// A recovery to run.
pub(crate) struct Recovery<'a> {
    pub(crate) layout: &'a Layout,
    /// The unpacked files.
    pub(crate) data: &'a Path,
    /// Where WAL is handed out.
    pub(crate) wal_socket: &'a Path,
    pub(crate) plan: &'a Plan,
    pub(crate) purpose: Purpose,
    /// Whether the server has been handed all of the archive.
    pub(crate) ended: watch::Receiver<bool>,
}

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be served, on a timeline of its own.
    Use,
    /// To be a standby's: nothing is promoted.
    Follow,
    /// To see whether it could be: everything is read, and nothing kept.
    Proof,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// On which the server ended.
    pub(crate) timeline: Timeline,
    /// With [`Purpose::Proof`].
    pub(crate) proof: Option<Proof>,
}

impl Recovery<'_> {
    /// Runs it.
    pub(crate) async fn run(&self) -> Result<Recovered, RecoverError> {
        let place = self.prepare()?;
        // A snapshot has no manifest.
        if !self.in_place() {
            verify(&self.programs(), self.data).await?;
        }
        let control = Control::parse(&self.program("pg_controldata", &[]).await?)?;
        let mut server = self.start(&place, &control.minimums)?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let log = server.stderr.take().map(|stderr| tokio::spawn(follow(stderr, Arc::clone(&said))));
        let recovered = tokio::select! {
            ended = server.wait() => Err(ended.map_or_else(
                |source| RecoverError::Run { program: "postgres", source },
                |status| failed("postgres", status, &said),
            )),
            recovered = self.until_recovered(&place) => recovered,
        };
        let stopped = match recovered {
            Ok(recovered) => stop(&mut server, &said).await.map(|()| recovered),
            // Dropping it kills it.
            Err(error) => Err(error),
        };
        drop(server);
        if let Some(log) = log {
            log.abort();
        }
        let recovered = stopped?;
        if self.purpose != Purpose::Proof {
            self.initdb_sync().await?;
        }
        Ok(recovered)
    }

    /// A place for socket and configuration that nobody else looks into.
    fn prepare(&self) -> Result<PathBuf, RecoverError> {
        let place = self.layout.run_dir.join("restore");
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| RecoverError::File { path, source }
        };
        fs::create_dir_all(&place).map_err(file(&place))?;
        let write = |path: PathBuf, text: &str| fs::write(&path, text).map_err(file(&path));
        write(place.join("postgresql.conf"), "")?;
        write(place.join("pg_ident.conf"), "restore /^.*$ postgres\n")?;
        write(place.join("pg_hba.conf"), "local all postgres peer map=restore\n")?;
        let (signal, other) = match self.purpose {
            Purpose::Use | Purpose::Proof => ("recovery.signal", "standby.signal"),
            Purpose::Follow => ("standby.signal", "recovery.signal"),
        };
        write(self.data.join(signal), "")?;
        for name in [other, "postmaster.pid"] {
            match fs::remove_file(self.data.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file(&self.data.join(name))(error));
                }
                _ => {}
            }
        }
        Ok(place)
    }

    fn start(&self, place: &Path, minimums: &BTreeMap<&'static str, u64>) -> Result<Child, RecoverError> {
        let run = |source| RecoverError::Run { program: "postgres", source };
        let agent = std::env::current_exe().map_err(run)?;
        let of = |name: &str| place.join(name).display().to_string();
        let fetch = format!(
            "\"{}\" wal fetch --socket \"{}\" \"%f\" \"%p\"",
            agent.display(),
            self.wal_socket.display()
        );
        let mut settings = vec![
            ("config_file", of("postgresql.conf")),
            ("hba_file", of("pg_hba.conf")),
            ("ident_file", of("pg_ident.conf")),
            ("unix_socket_directories", place.display().to_string()),
            ("unix_socket_permissions", "0700".to_owned()),
            ("listen_addresses", String::new()),
            ("port", self.layout.port.to_string()),
            ("restore_command", fetch),
            // With numbers and words of its own: what a later restore of the same volume would choose is fixed here.
            ("recovery_target_timeline", self.plan.timeline.to_string()),
            ("recovery_target_action", "promote".to_owned()),
            ("primary_conninfo", String::new()),
            ("primary_slot_name", String::new()),
            ("synchronous_standby_names", String::new()),
            ("shared_preload_libraries", String::new()),
            // It archives under its own name, once it has one.
            ("archive_mode", "off".to_owned()),
            ("wal_level", "replica".to_owned()),
            ("hot_standby", "on".to_owned()),
            // Its subscriptions are the source's: they must not take what is meant for those.
            ("max_logical_replication_workers", "0".to_owned()),
            ("autovacuum", "off".to_owned()),
            ("fsync", if self.in_place() { "on" } else { "off" }.to_owned()),
            ("ssl", "off".to_owned()),
            ("logging_collector", "off".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("restart_after_crash", "off".to_owned()),
            // The default, or two segments if that is more: the server insists.
            ("min_wal_size", format!("{}MB", (self.plan.backup.wal_segment_size >> 19).max(80))),
        ];
        settings.extend(self.plan.setting.clone());
        settings.extend(minimums.iter().map(|(name, least)| (*name, least.to_string())));
        let mut command = Command::from(self.programs().command("postgres")?);
        command.arg("-D").arg(self.data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.kill_on_drop(true).spawn().map_err(run)
    }

    async fn until_recovered(&self, place: &Path) -> Result<Recovered, RecoverError> {
        match self.purpose {
            Purpose::Use | Purpose::Proof => self.until_promoted(place).await,
            Purpose::Follow => self.until_followed(place).await,
        }
    }

    /// Waits until it has asked for more than the archive has, which it does when it has replayed that.
    async fn until_followed(&self, place: &Path) -> Result<Recovered, RecoverError> {
        let mut ended = self.ended.clone();
        // An error would be the other end's end, which ends all of this.
        drop(ended.wait_for(|ended| *ended).await);
        let client = self.client(place, true).await;
        let reached = query(&client, "SELECT pg_last_wal_replay_lsn()").await?;
        query(&client, "CHECKPOINT; SELECT 1").await?;
        let timeline = timeline(&client).await?;
        tracing::info!(%timeline, reached, "the end of the archive is reached");
        Ok(Recovered { timeline, proof: None })
    }

    /// A session as soon as the server is, or is no longer, in recovery.
    async fn client(&self, place: &Path, recovering: bool) -> Client {
        loop {
            match timeout(CALL_TIMEOUT, look(place, self.layout.port)).await {
                Ok(Ok((client, found))) if found == recovering => break client,
                // Not up yet, or not that far.
                Ok(_) | Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Looks until it is promoted, then at what it came to.
    async fn until_promoted(&self, place: &Path) -> Result<Recovered, RecoverError> {
        let client = self.client(place, false).await;
        let reached = query(&client, "SELECT pg_last_wal_replay_lsn()").await?;
        if let (true, Some(last)) = (self.plan.to_the_end, self.plan.wal.last()) {
            let size = crate::archive::names::SegmentSize(self.plan.backup.wal_segment_size);
            if reached.parse().is_ok_and(|lsn: proto::postgres::Lsn| lsn < last.start(size)) {
                return Err(RecoverError::Short { reached, end: last.to_string() });
            }
        }
        query(&client, "SELECT count(*) FROM pg_catalog.pg_class").await?;
        query(&client, "CHECKPOINT; SELECT 1").await?;
        let timeline = timeline(&client).await?;
        tracing::info!(%timeline, reached, "recovery has reached its target");
        let proof = match self.purpose {
            Purpose::Use | Purpose::Follow => None,
            Purpose::Proof => Some(self.prove(place, &client, reached.parse().ok()).await?),
        };
        Ok(Recovered { timeline, proof })
    }

    async fn prove(
        &self,
        place: &Path,
        client: &Client,
        reached: Option<Lsn>,
    ) -> Result<Proof, RecoverError> {
        let last =
            "SELECT pg_catalog.floor(extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp()))::bigint";
        let last = query(client, last).await?.parse().ok();
        let checked = Box::pin(check(place, self.layout.port, &self.programs())).await?;
        let last_commit = last.and_then(|second| Timestamp::from_second(second).ok());
        Ok(Proof { reached, last_commit, ..checked })
    }

    /// Whether these are the only files there are: an attempt that was interrupted goes on with them.
    fn in_place(&self) -> bool {
        self.plan.backup.summary.kind == BackupKind::Snapshot
    }

    fn programs(&self) -> Programs {
        programs(self.layout, self.plan)
    }

    async fn initdb_sync(&self) -> Result<(), RecoverError> {
        tracing::info!("flushing what was restored");
        let mut command = Command::from(self.programs().command("initdb")?);
        command.arg("-D").arg(self.data).arg("--sync-only");
        run("initdb", command).await.map(drop)
    }

    /// Runs a program on the data.
    async fn program(&self, program: &'static str, options: &[&str]) -> Result<String, RecoverError> {
        let mut command = Command::from(self.programs().command(program)?);
        command.args(options).arg(self.data);
        run(program, command).await
    }
}

/// Those of the version that the backup is of.
pub(super) fn programs(layout: &Layout, plan: &Plan) -> Programs {
    Programs::of(layout.bin_dir.as_deref(), Some(plan.backup.summary.server_version / 10_000))
}

/// Whether every file of a backup is there and as long as its manifest says. The store's frames have checksums.
pub(super) async fn verify(programs: &Programs, data: &Path) -> Result<(), RecoverError> {
    let mut command = Command::from(programs.command("pg_verifybackup")?);
    command.args(["--no-parse-wal", "--skip-checksums", "--quiet"]).arg(data);
    run("pg_verifybackup", command).await.map(drop)
}

/// Runs a program of the image to its end.
pub(super) async fn run(program: &'static str, mut command: Command) -> Result<String, RecoverError> {
    let output = timeout(PROGRAM_TIMEOUT, command.kill_on_drop(true).stdin(Stdio::null()).output()).await;
    let output = output.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let output = output.map_err(|source| RecoverError::Run { program, source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(RecoverError::Failed { program, status: output.status.to_string(), said: text(&output.stderr) })
}

async fn stop(server: &mut Child, said: &Mutex<Vec<String>>) -> Result<(), RecoverError> {
    let gone = |source: io::Error| RecoverError::Run { program: "postgres", source };
    let pid = server.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| gone(io::ErrorKind::NotFound.into()))?;
    kill_process(pid, Signal::INT).map_err(|error| gone(error.into()))?;
    let status =
        timeout(STOP_TIMEOUT, server.wait()).await.map_err(|_| gone(io::ErrorKind::TimedOut.into()))?;
    let status = status.map_err(gone)?;
    if status.success() { Ok(()) } else { Err(failed("postgres", status, said)) }
}

fn failed(program: &'static str, status: ExitStatus, said: &Mutex<Vec<String>>) -> RecoverError {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner).join("; ");
    RecoverError::Failed { program, status: status.to_string(), said }
}

/// Repeats the server's log, and keeps the lines that explain why it could not go on.
async fn follow(stderr: ChildStderr, said: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::info!(program = "postgres", "{line}");
        let explains = ["FATAL:", "PANIC:", "last completed transaction", "wal fetch "]
            .iter()
            .any(|mark| line.contains(mark));
        if explains {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push(line);
            if said.len() > LINES {
                said.remove(0);
            }
        }
    }
}

/// A session of the superuser.
pub(super) async fn connect(
    place: &Path,
    port: u16,
    database: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host_path(place).port(port).user("postgres").dbname(database).ssl_mode(SslMode::Disable);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // It ends with the client; what breaks it shows there too.
        let _ended = connection.await;
    });
    Ok(client)
}

/// A session, and whether the server is still in recovery.
async fn look(place: &Path, port: u16) -> Result<(Client, bool), tokio_postgres::Error> {
    let client = connect(place, port, "postgres").await?;
    let rows = client.simple_query("SELECT pg_is_in_recovery()").await?;
    Ok((client, first(&rows).as_deref() != Some("f")))
}

async fn timeline(client: &Client) -> Result<Timeline, RecoverError> {
    let timeline = query(client, "SELECT timeline_id FROM pg_control_checkpoint()").await?;
    timeline.parse().ok().and_then(Timeline::new).ok_or(RecoverError::Odd(timeline))
}

async fn query(client: &Client, statement: &str) -> Result<String, RecoverError> {
    let rows = timeout(STOP_TIMEOUT, client.simple_query(statement)).await;
    let rows = rows.map_err(|_| RecoverError::Odd(format!("nothing to {statement}")))??;
    Ok(first(&rows).unwrap_or_default())
}

pub(super) fn first(rows: &[SimpleQueryMessage]) -> Option<String> {
    rows.iter().find_map(|row| match row {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}
