//! `agent supervise`: PID 1 of the `postgres` container (docs/ha.md section 1).
//!
//! Owns every PostgreSQL process, serves `proto::wire::supervisor` on a socket, and enforces the fence. It
//! knows no Kubernetes, opens no network and never ends because PostgreSQL did. Its main loop waits for no
//! disk: what may, runs on other threads, and reports are answered from memory.
//!
//! | file | one idea |
//! |---|---|
//! | `orders`, `socket` | what the agent asks for |
//! | `server`, `standby`, `promotion` | starting, stopping, configuring, following, sealing, promoting |
//! | `making` | initdb, clone, rewind |
//! | `fence`, `twin` | the deadline, enforced twice |
//! | `processes` | spawning, reaping, proof of death |
//! | `durable`, `history`, `wal`, `control` | what lies on the disk |
//! | `facts` | what is known, in memory |

mod certificates;
mod conf;
pub(crate) mod control;
mod crc32c;
pub(crate) mod durable;
mod facts;
mod fence;
pub(crate) mod history;
mod layout;
mod local;
mod making;
mod orders;
mod probe;
mod processes;
mod promotion;
mod receivers;
mod server;
mod socket;
mod standby;
mod termination;
pub(crate) mod tools;
pub(crate) mod twin;
mod wal;

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, atomic::AtomicU64},
    thread,
    time::Duration,
};

use anyhow::Context;
use proto::{
    identity::RunId,
    wire::supervisor::{Report, ServerConfig},
};
use tokio::{runtime, sync::Notify, time::sleep};

pub(crate) use layout::Layout;

use self::{conf::Attachment, facts::Facts, fence::Guard, probe::Probe, processes::Processes};

/// Threads for what waits for disks and programs. A hung disk parks a few; more would only pile up on it.
const BLOCKING_THREADS: usize = 16;
/// Stack of each thread: nothing here recurses.
const STACK: usize = 256 << 10;
/// How often renewed certificates are looked for. The kubelet needs a minute to deliver them anyway.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(15);
/// How often an earlier run's processes are looked for, while they still hold the lock.
const EARLIER_RUN_INTERVAL: Duration = Duration::from_millis(100);

/// How often a data volume that fails is tried again.
const DATA_INTERVAL: Duration = Duration::from_secs(2);

/// How the server shall run. Whoever holds its lock may change that.
#[derive(Default)]
pub(crate) struct Wanted {
    config: Option<ServerConfig>,
    /// The last one that a server started with.
    proven: Option<ServerConfig>,
    attachment: Option<Attachment>,
    /// Names each attachment's credentials anew.
    attachments: u64,
    minimums: std::collections::BTreeMap<&'static str, u64>,
}

/// Everything that the parts share.
pub(crate) struct Supervisor {
    layout: Layout,
    processes: Arc<Processes>,
    guard: Arc<Guard>,
    probe: Arc<Probe>,
    facts: Facts,
    wanted: tokio::sync::Mutex<Wanted>,
    /// Held by whoever writes the HA state.
    disk: Mutex<()>,
    /// When an agent last asked for something, as a boot time.
    agent_asked_at: AtomicU64,
    exit_ordered: Notify,
}

/// Runs until the kubelet ends the container.
pub(crate) fn run(layout: Layout) -> anyhow::Result<()> {
    anyhow::ensure!(
        std::process::id() == 1,
        "supervise must be PID 1 of its own PID namespace, because it kills everything in it"
    );
    let processes = Arc::new(Processes::new(layout.lock_file()));
    let guard = Arc::new(Guard::new(Arc::clone(&processes)));
    let probe = Arc::new(Probe::default());
    start_threads(&layout, &processes, &guard, &probe).context("starting the supervisor's threads")?;
    let run = RunId(format!("{:016x}", rand::random::<u64>()));
    tracing::info!(%run, "supervisor started");
    let supervisor = Arc::new(Supervisor {
        facts: Facts::new(run),
        layout,
        processes,
        guard,
        probe,
        wanted: tokio::sync::Mutex::default(),
        disk: Mutex::default(),
        agent_asked_at: AtomicU64::new(0),
        exit_ordered: Notify::new(),
    });
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK)
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(supervisor.live());
    // A thread that waits for a dead disk must not hold up the end.
    runtime.shutdown_background();
    ended
}

fn start_threads(
    layout: &Layout,
    processes: &Arc<Processes>,
    guard: &Arc<Guard>,
    probe: &Arc<Probe>,
) -> io::Result<()> {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work).map(drop)
    };
    let reaper = Arc::clone(processes);
    spawn("reaper", Box::new(move || reaper.reap()))?;
    let fence = Arc::clone(guard);
    spawn("fence", Box::new(move || fence.watch()))?;
    let (keeper, guarded) = (Arc::clone(processes), Arc::clone(guard));
    spawn("twin", Box::new(move || twin::keep(&keeper, &guarded)))?;
    let (probe, volumes) = (Arc::clone(probe), layout.clone());
    spawn("probe", Box::new(move || probe.watch(&volumes)))
}

impl Supervisor {
    async fn live(self: &Arc<Self>) -> anyhow::Result<()> {
        tokio::select! {
            ended = socket::serve(self) => ended.context("serving the agent"),
            never = self.watch_postmaster() => match never {},
            never = self.observe() => match never {},
            never = self.keep_certificates() => match never {},
            never = self.read_data() => match never {},
            ended = self.terminate() => ended.context("waiting for the kubelet's signal"),
        }
    }

    fn report(&self) -> Report {
        self.facts.report(&self.processes, &self.guard, &self.probe)
    }

    /// Learns what data there is, once no process of an earlier run can touch it any more.
    async fn read_data(self: &Arc<Self>) -> Infallible {
        while !self.processes.earlier_run_is_gone() {
            sleep(EARLIER_RUN_INTERVAL).await;
        }
        loop {
            match self.at_length(|this| Ok(durable::recover(&this.layout)?)).await {
                Ok(data) => {
                    tracing::info!(?data, "data read");
                    self.facts.lock().data = data;
                    return std::future::pending().await;
                }
                Err(error) => tracing::error!(error = error.sentence(), "the data volume cannot be read"),
            }
            sleep(DATA_INTERVAL).await;
        }
    }

    async fn keep_certificates(self: &Arc<Self>) -> Infallible {
        loop {
            match self.briefly(|this| Ok(certificates::refresh(&this.layout)?)).await {
                Ok(true) => self.reload(),
                Ok(false) => {}
                Err(error) => tracing::warn!(error = error.sentence(), "certificates not refreshed"),
            }
            sleep(CERTIFICATE_INTERVAL).await;
        }
    }
}
