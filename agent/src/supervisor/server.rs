//! The server process: configuration, start, stop, and what is seen of it meanwhile.

use std::{
    collections::BTreeMap, convert::Infallible, fs, io, path::Path, process::ExitStatus, sync::Arc,
    time::Duration,
};

use proto::{
    clock::BootTime,
    postgres::WalPosition,
    wire::supervisor::{Data, Durable, Ended, ServerConfig},
};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::{
    Supervisor, Wanted,
    conf::{self, ServerFile},
    control::Control,
    durable::{self, DurableError},
    history,
    local::Local,
    orders::OrderError,
    processes::Postmaster,
    standby::detach_files,
    tools::{Programs, Run},
    wal,
};
use crate::boot_clock;

/// How often the running server is looked at. Reports are at most this old.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(200);
/// How often a starting server is looked at.
const START_INTERVAL: Duration = Duration::from_millis(20);
/// Every so many looks, settings that wait for a restart are read too: ten seconds.
const PENDING_EVERY: u32 = 50;
/// Until a started postmaster has begun recovery. Allocating huge pages for a large buffer cache is what takes
/// long; recovery itself is not waited for.
const START_PATIENCE: Duration = Duration::from_mins(1);
/// For how long a clean end may be looked into before it is reported without its position.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Where the programs for the present data are.
    pub(crate) fn programs(&self) -> Programs {
        let major = match &self.facts.lock().data {
            Data::Present(durable) => Some(durable.major_version),
            Data::Unread | Data::Empty | Data::Unusable { .. } => None,
        };
        Programs::of(self.layout.bin_dir.as_deref(), major)
    }

    /// The present data, if it may be started.
    pub(crate) fn require_data(&self) -> Result<Durable, OrderError> {
        match &self.facts.lock().data {
            Data::Present(durable) => Ok(durable.clone()),
            Data::Unread => Err(OrderError::NotYet("the data volume has not been read yet".to_owned())),
            Data::Empty => Err(OrderError::Refused("there is no data".to_owned())),
            Data::Unusable { reason, .. } => {
                Err(OrderError::Refused(format!("the data must not be used: {reason}")))
            }
        }
    }

    /// Reads `pg_control`. Blocks.
    pub(crate) fn control(&self) -> Result<Control, OrderError> {
        let mut command = self.programs().command("pg_controldata")?;
        command.arg(self.layout.pgdata());
        let output = Run::quick(&self.processes, command, &mut |_| ()).output()?;
        Ok(Control::parse(&output)?)
    }

    /// Installs a configuration that the server itself has found to be in order.
    pub(crate) async fn configure(self: &Arc<Self>, config: ServerConfig) -> Result<(), OrderError> {
        let mut wanted = self.turn().await?;
        let file = self.render(&config, &wanted)?;
        if matches!(self.facts.lock().data, Data::Present(_)) {
            self.briefly(move |this| this.check(&file)).await?;
        }
        self.check_rules(&config).await?;
        wanted.config = Some(config);
        self.install(&wanted)?;
        self.note_pending(&wanted).await;
        Ok(())
    }

    fn render(&self, config: &ServerConfig, wanted: &Wanted) -> Result<String, OrderError> {
        let data_id = match &self.facts.lock().data {
            Data::Present(durable) => Some(durable.data_id),
            Data::Unread | Data::Empty | Data::Unusable { .. } => None,
        };
        let attachment = wanted.attachment.as_ref();
        let minimums = &wanted.minimums;
        Ok(ServerFile { layout: &self.layout, config, attachment, data_id, minimums }.render()?)
    }

    /// Writes the configuration files as wanted and makes the server read them.
    pub(crate) fn install(&self, wanted: &Wanted) -> Result<(), OrderError> {
        let Some(config) = &wanted.config else { return Err(unconfigured()) };
        write_conf(&self.layout.hba_file(), &conf::hba(&config.hba)?)?;
        write_conf(&self.layout.ident_file(), &conf::ident())?;
        write_conf(&self.layout.config_file(), &self.render(config, wanted)?)?;
        self.reload();
        Ok(())
    }

    /// Makes the server read its files again, if it runs.
    pub(crate) fn reload(&self) {
        self.processes.signal_postmaster(Signal::HUP);
    }

    /// Lets the server parse a file without starting: the message is its own. Blocks.
    fn check(&self, file: &str) -> Result<(), OrderError> {
        let candidate = self.layout.conf_dir().join("candidate.conf");
        write_conf(&candidate, file)?;
        let mut command = self.programs().command("postgres")?;
        command.arg("-D").arg(self.layout.pgdata()).args(conf::fixed_arguments(&self.layout, &candidate));
        command.args(["-C", "config_file"]);
        let mut errors = Vec::new();
        let checked = Run::quick(&self.processes, command, &mut |line| errors.push(line.to_owned())).output();
        match checked {
            Ok(_) => Ok(()),
            Err(super::tools::ToolError::Failed { .. }) if !errors.is_empty() => {
                Err(OrderError::Refused(format!("PostgreSQL refuses the parameters: {}", errors.join("; "))))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Lets a running server judge the access rules. It reads the file for that, so the old one comes back.
    async fn check_rules(self: &Arc<Self>, config: &ServerConfig) -> Result<(), OrderError> {
        let (path, rules) = (self.layout.hba_file(), conf::hba(&config.hba)?);
        let before = fs::read_to_string(&path).unwrap_or_default();
        if self.facts.lock().observed.is_none() || before == rules {
            return Ok(());
        }
        let local = self.connect().await?;
        write_conf(&path, &rules)?;
        let judged = local.wrong_rules().await;
        write_conf(&path, &before)?;
        match judged?.as_slice() {
            [] => Ok(()),
            wrong => {
                Err(OrderError::Refused(format!("PostgreSQL refuses the access rules: {}", wrong.join("; "))))
            }
        }
    }

    /// Learns what waits for a restart; the generation is in effect once nothing does.
    async fn note_pending(&self, wanted: &Wanted) {
        let Some(config) = &wanted.config else { return };
        if self.facts.lock().observed.is_none() {
            return; // nothing runs that could wait
        }
        let pending = match self.connect().await {
            Ok(local) => local.pending_restart().await,
            Err(error) => Err(error),
        };
        match pending {
            Ok(pending) => {
                let mut known = self.facts.lock();
                if pending.is_empty() {
                    known.generation.clone_from(&config.generation);
                }
                known.pending_restart = pending;
            }
            Err(error) => tracing::warn!(%error, "settings that wait for a restart are not known"),
        }
    }

    /// Connects to the own server.
    pub(crate) async fn connect(&self) -> Result<Local, super::local::LocalError> {
        Local::connect(self.layout.run_dir.clone(), self.layout.port).await
    }

    /// Job: starts the server as a closed standby. If it does not even begin recovery, the configuration is to
    /// blame, in a way that no check finds (memory, a missing library): an earlier one keeps the data served.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<(), OrderError> {
        let mut wanted = self.turn().await?;
        if self.processes.postmaster_pid().is_some() {
            return Ok(());
        }
        let Some(config) = wanted.config.clone() else { return Err(unconfigured()) };
        let proven = wanted.proven.clone().filter(|proven| !same_start(proven, &config));
        let Err(error) = self.attempt(&mut wanted, config.clone(), AutoConf::Kept).await else {
            return Ok(());
        };
        if !matches!(error, OrderError::Ended | OrderError::Refused(_)) {
            return Err(error);
        }
        for (fallback, auto_conf) in
            proven.map(|proven| (proven, AutoConf::Kept)).into_iter().chain([(bare(), AutoConf::SetAside)])
        {
            tracing::warn!(error = error.sentence(), "starting with an earlier configuration instead");
            if self.attempt(&mut wanted, fallback, auto_conf).await.is_ok() {
                return Err(OrderError::Fallback(Box::new(error)));
            }
        }
        wanted.config = Some(config);
        Err(error)
    }

    /// One closed start with `config`.
    async fn attempt(
        self: &Arc<Self>,
        wanted: &mut Wanted,
        mut config: ServerConfig,
        auto_conf: AutoConf,
    ) -> Result<(), OrderError> {
        timeout(START_PATIENCE, self.gone()).await.map_err(|_| OrderError::NotYet(STILL_THERE.to_owned()))?;
        self.require_data()?;
        detach_files(wanted)?;
        config.synchronous_standby_names = None;
        wanted.config = Some(config.clone());
        wanted.minimums = self.at_length(move |this| this.prepare_data(auto_conf)).await?;
        self.install(wanted)?;
        let file = self.render(&config, wanted)?;
        self.at_length(move |this| this.check(&file)).await?;
        self.at_length(Self::launch).await?;
        let late = |_| OrderError::NotYet("the server has not begun recovery in time".to_owned());
        timeout(START_PATIENCE, self.recovering()).await.map_err(late)??;
        let mut known = self.facts.lock();
        known.generation.clone_from(&config.generation);
        known.pending_restart.clear();
        wanted.proven = Some(config);
        Ok(())
    }

    /// Makes the data directory fit for a closed start; says what a standby must not run below. Blocks.
    fn prepare_data(&self, auto_conf: AutoConf) -> Result<BTreeMap<&'static str, u64>, OrderError> {
        super::certificates::refresh(&self.layout)?;
        close_data(&self.layout.pgdata(), auto_conf)?;
        Ok(self.control()?.minimums)
    }

    /// Starts the postmaster. Blocks while the kernel reads the program.
    fn launch(&self) -> Result<(), OrderError> {
        // Nothing of an earlier run is left (the lock), so what it left on disk or socket directory is stale,
        // even if its process number is in use again.
        durable::remove_file(&self.layout.pgdata().join("postmaster.pid"))?;
        durable::remove_file(&self.layout.run_dir.join(format!(".s.PGSQL.{}.lock", self.layout.port)))?;
        let mut command = self.programs().command("postgres")?;
        command.env_remove("LC_ALL").arg("-D").arg(self.layout.pgdata());
        command.args(conf::fixed_arguments(&self.layout, &self.layout.config_file()));
        self.facts.lock().server_starts();
        let spawned = self.processes.spawn_postmaster(&mut command);
        if spawned.is_err() {
            self.facts.lock().settled = true;
        }
        self.guard.postmaster_changed();
        spawned?;
        Ok(())
    }

    /// Until the postmaster says that recovery has begun, or has ended.
    async fn recovering(self: &Arc<Self>) -> Result<(), OrderError> {
        let path = self.layout.pgdata().join("postmaster.pid");
        loop {
            if self.processes.postmaster_pid().is_none() {
                return Err(OrderError::Ended);
            }
            let path = path.clone();
            let status = self.at_length(move |_| Ok(fs::read_to_string(path).ok())).await?;
            // The eighth line appears with the startup process.
            if status.is_some_and(|text| text.lines().count() >= 8) {
                return Ok(());
            }
            sleep(START_INTERVAL).await;
        }
    }

    /// Job: ends the server in order, and by force at `kill_at`.
    pub(crate) async fn stop(
        self: &Arc<Self>,
        checkpoint: bool,
        kill_at: BootTime,
    ) -> Result<(), OrderError> {
        if self.processes.postmaster_pid().is_some() {
            self.note_cause(Ended::Ordered);
            if checkpoint {
                self.checkpoint(kill_at.remaining(boot_clock::now())).await;
            }
            self.facts.lock().stopping = true;
            self.processes.signal_postmaster(Signal::INT);
            if timeout(kill_at.remaining(boot_clock::now()), self.gone()).await.is_err() {
                tracing::warn!("the server has not stopped in time and is killed");
                self.processes.begin_sweep();
            }
        }
        self.gone().await;
        Ok(())
    }

    /// Job: ends everything by force.
    pub(crate) async fn kill(self: &Arc<Self>) -> Result<(), OrderError> {
        self.note_cause(Ended::Ordered);
        self.processes.begin_sweep();
        self.gone().await;
        Ok(())
    }

    async fn checkpoint(&self, patience: Duration) {
        let done = match self.connect().await {
            Ok(local) => local.checkpoint(patience).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "stopping without a checkpoint beforehand"
            );
        }
    }

    /// The first cause counts.
    pub(crate) fn note_cause(&self, cause: Ended) {
        self.facts.lock().cause.get_or_insert(cause);
    }

    /// Until nothing is left and the end has been looked into.
    pub(crate) async fn gone(&self) {
        while self.require_stopped().is_err() {
            sleep(START_INTERVAL).await;
        }
    }

    /// Looks into each end of the server, for ever.
    pub(crate) async fn watch_postmaster(self: &Arc<Self>) -> Infallible {
        let mut postmaster = self.processes.postmaster();
        loop {
            let state = *postmaster.borrow_and_update();
            if let Postmaster::Gone { last: Some(status) } = state {
                self.settle(status).await;
            }
            if postmaster.changed().await.is_err() {
                // The sender lives as long as this does.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn settle(self: &Arc<Self>, status: ExitStatus) {
        let fired = self.guard.server_ended();
        let shutdown = match status.success() {
            true => timeout(SETTLE_PATIENCE, self.at_length(Self::shutdown_position))
                .await
                .ok()
                .and_then(Result::ok),
            false => None,
        };
        let mut known = self.facts.lock();
        let cause = known.cause.take().filter(|cause| !fired || *cause != Ended::Ordered);
        let crashed = || Ended::Crashed(status.to_string());
        let last = cause.unwrap_or_else(|| if fired { Ended::Fenced } else { crashed() });
        tracing::info!(%status, ?last, ?shutdown, "server ended, nothing is left of it");
        known.server_ended(last, shutdown);
    }

    fn shutdown_position(&self) -> Result<WalPosition, OrderError> {
        Ok(wal::end_of_wal(&self.layout.pgdata(), &self.control()?)?)
    }

    /// Watches the running server, for ever.
    pub(crate) async fn observe(self: &Arc<Self>) -> Infallible {
        let mut local: Option<Local> = None;
        let mut looks = 0_u32;
        loop {
            sleep(OBSERVE_INTERVAL).await;
            if self.processes.postmaster_pid().is_none() {
                local = None;
                continue;
            }
            local = match local {
                Some(local) => Some(local),
                None => self.connect().await.ok(),
            };
            let Some(connected) = &local else { continue };
            match connected.observe().await {
                Ok(observed) => self.note_observed(observed),
                Err(_) => local = None,
            }
            looks += 1;
            if looks.is_multiple_of(PENDING_EVERY)
                && let Ok(wanted) = self.wanted.try_lock()
            {
                self.note_pending(&wanted).await;
            }
        }
    }

    /// Only an ordered promotion, under a fence, may make a server writable (S4).
    fn note_observed(&self, observed: super::local::Observed) {
        let mut known = self.facts.lock();
        if self.processes.postmaster_pid().is_none() {
            return;
        }
        known.observed = Some(observed);
        if !observed.in_recovery && known.promoting.is_none() {
            known.cause = Some(Ended::Crashed("promoted by somebody else, hence killed".to_owned()));
            tracing::error!("the server was promoted by somebody else and is killed");
            self.processes.begin_sweep();
        }
    }
}

/// What becomes of the settings of ALTER SYSTEM at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AutoConf {
    /// All but what the supervisor owns stay.
    Kept,
    /// Kept in a file that nothing reads.
    SetAside,
}

/// The message of a start that waits for the last server.
const STILL_THERE: &str = "the server has not stopped";

fn unconfigured() -> OrderError {
    OrderError::Refused("no configuration yet: order Configure first".to_owned())
}

/// Whether a restart with one is a restart with the other.
fn same_start(one: &ServerConfig, other: &ServerConfig) -> bool {
    (&one.parameters, &one.hba) == (&other.parameters, &other.hba)
}

/// Nothing that a user chose.
fn bare() -> ServerConfig {
    ServerConfig { generation: "bare".to_owned(), ..ServerConfig::default() }
}

/// Makes a stopped data directory start as a standby without an upstream. Blocks.
fn close_data(pgdata: &Path, auto_conf: AutoConf) -> Result<(), DurableError> {
    history::prepare_start(&pgdata.join("pg_wal"))?;
    for name in ["recovery.signal", "promote"] {
        durable::remove_file(&pgdata.join(name))?;
    }
    durable::write_file(&pgdata.join("standby.signal"), b"")?;
    match auto_conf {
        AutoConf::Kept => strip_auto_conf(pgdata),
        AutoConf::SetAside => durable::set_aside(&pgdata.join("postgresql.auto.conf")),
    }
}

/// Takes out of ALTER SYSTEM's file what only the supervisor sets. Blocks.
pub(crate) fn strip_auto_conf(pgdata: &Path) -> Result<(), DurableError> {
    let path = pgdata.join("postgresql.auto.conf");
    match fs::read_to_string(&path) {
        Ok(text) => {
            conf::without_owned(&text).map_or(Ok(()), |kept| durable::write_file(&path, kept.as_bytes()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DurableError::Read { path, source }),
    }
}

/// Replaces a file of the in-memory directory.
pub(crate) fn write_conf(path: &Path, contents: &str) -> Result<(), DurableError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|source| DurableError::Write {
            action: "create",
            path: directory.to_owned(),
            source,
        })?;
    }
    durable::write_file(path, contents.as_bytes())
}
