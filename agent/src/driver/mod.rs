//! Runs the decision core (`proto::ha`): takes a view, decides, carries out, feeds back what came of it.
//!
//! The loop itself waits for nothing but events: every call, query and order runs in a task of its own whose
//! end is an event. So a hung API server, disk or peer never delays the next decision.
//!
//! | file | does |
//! |---|---|
//! | [`observe`] | assembles the view from what the tasks know |
//! | [`act`] | begins what the core decided |
//! | [`outcome`] | notes what came of it |
//! | [`configure`] | keeps the server's configuration what operator and core want |
//! | [`requests`] | questions of peers, switchovers of people |
//! | [`show`] | what the rest of the process may tell |

mod act;
mod configure;
mod observe;
mod outcome;
mod requests;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use configure::Configuring;
use outcome::{Outcome, Work};
use proto::{
    clock::BootTime,
    ha::{
        self,
        action::Summary,
        lease::WriteId,
        memory::Memory,
        view::{LocalWal, Me, PeerReplies, Verified, View},
    },
    identity::{Epoch, Ordinal},
    wire::{config::AgentConfig, peer::Takeover, supervisor::Server},
};
use requests::PendingSwitchover;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    boot_clock,
    chronicle::Chronicle,
    journal::Journal,
    lease::{LeaseRequests, LeaseState, Pace, Request, relay::Relayer},
    link::{Contact, Link},
    metrics::Metrics,
    passwords::Verifiers,
    peer::{client::Peers, server::Incoming},
    pods::{OwnPod, Pods},
    published::Published,
    sql::Reading,
};

/// Decisions are taken at least this often: deadlines of the protocol are in tenths of seconds.
const TICK: Duration = Duration::from_millis(100);
/// After SIGTERM the agent stays this long if it holds the Lease: the kubelet ends the sidecar right after the
/// postgres container, and the release must still go out.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the other tasks know, always current.
pub(crate) struct Inputs {
    /// The supervisor.
    pub(crate) contact: watch::Receiver<Contact>,
    /// The Lease.
    pub(crate) lease: watch::Receiver<LeaseState>,
    /// The local server.
    pub(crate) reading: watch::Receiver<Reading>,
    /// The operator's wishes.
    pub(crate) config: watch::Receiver<AgentConfig>,
    /// The own pod.
    pub(crate) pod: watch::Receiver<OwnPod>,
    /// Passwords.
    pub(crate) verifiers: watch::Receiver<Verifiers>,
    /// Questions and requests.
    pub(crate) incoming: mpsc::Receiver<Incoming>,
    /// SIGTERM.
    pub(crate) shutdown: CancellationToken,
}

/// With what the driver acts. Cheap to clone into tasks.
#[derive(Clone)]
pub(crate) struct Hands {
    /// Orders.
    pub(crate) link: Link,
    /// Lease reads and writes.
    pub(crate) lease: LeaseRequests,
    /// Other members' renewals.
    pub(crate) relayer: Relayer,
    /// Questions.
    pub(crate) peers: Peers,
    /// Labels.
    pub(crate) pods: Pods,
    /// Events.
    pub(crate) journal: Journal,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// What is told later.
    pub(crate) chronicle: Chronicle,
    /// Directory of the server's socket.
    pub(crate) socket_directory: Arc<str>,
    /// Has SQL facts read at once.
    pub(crate) hurry: Arc<Notify>,
}

/// The loop and everything that it knows by itself.
pub(crate) struct Driver {
    me: Arc<Me>,
    started_at: BootTime,
    inputs: Inputs,
    hands: Hands,
    shown: watch::Sender<Arc<Published>>,
    memory: Memory,
    summary: Summary,
    tasks: JoinSet<Outcome>,
    busy: BTreeSet<Work>,
    pace: Option<Pace>,
    /// The write of the Lease under way.
    writing: Option<WriteId>,
    last_write_id: WriteId,
    wal: LocalWal,
    peers: BTreeMap<Ordinal, PeerReplies>,
    /// The life of the server (its start) in which a commit was seen waiting, names being set ever since.
    commits_wait: Option<f64>,
    /// The server's state seen last: when it changes, so do the facts.
    server_seen: Option<std::mem::Discriminant<Server>>,
    verified: Option<Verified>,
    switchover: Option<PendingSwitchover>,
    configuring: Configuring,
    /// Epoch in which the passwords were set, and which.
    passwords_set: Option<(Epoch, Verifiers)>,
    passwords_retry_at: BootTime,
    slots_advanced_at: BootTime,
    streamed_at: Option<BootTime>,
    writable_at: Option<BootTime>,
    last_takeover: Option<Takeover>,
}

impl Driver {
    /// A driver that knows nothing yet.
    pub(crate) fn new(me: Arc<Me>, inputs: Inputs, hands: Hands) -> (Self, watch::Receiver<Arc<Published>>) {
        let summary = show::nothing();
        let driver = Self {
            shown: watch::Sender::new(Arc::new(Published::unknown(&me))),
            started_at: boot_clock::now(),
            memory: Memory::default(),
            summary,
            tasks: JoinSet::new(),
            busy: BTreeSet::new(),
            pace: None,
            writing: None,
            last_write_id: WriteId::default(),
            wal: LocalWal::default(),
            peers: BTreeMap::new(),
            commits_wait: None,
            server_seen: None,
            verified: None,
            switchover: None,
            configuring: Configuring::default(),
            passwords_set: None,
            passwords_retry_at: BootTime::default(),
            slots_advanced_at: BootTime::default(),
            streamed_at: None,
            writable_at: None,
            last_takeover: None,
            me,
            inputs,
            hands,
        };
        let shown = driver.shown.subscribe();
        (driver, shown)
    }

    /// Decides and acts until SIGTERM. Returns why it ended.
    pub(crate) async fn run(mut self) -> &'static str {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut farewell: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = self.inputs.shutdown.cancelled(), if farewell.is_none() => {
                    farewell = Some(Instant::now() + FAREWELL);
                }
                () = sleep_until(farewell.unwrap_or_else(Instant::now)), if farewell.is_some() => return "terminated",
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(outcome) => self.note(outcome),
                    Err(_) => return "a task of the driver panicked",
                },
                incoming = self.inputs.incoming.recv() => match incoming {
                    Some(incoming) => self.receive(incoming),
                    None => return "the peer server ended",
                },
                alive = self.inputs.lease.changed() => if alive.is_err() { return "the lease task ended" },
                alive = self.inputs.contact.changed() => if alive.is_err() { return "the link task ended" },
                alive = self.inputs.reading.changed() => if alive.is_err() { return "the SQL task ended" },
                _ = ticks.tick() => {}
            }
            self.step();
            if farewell.is_some() && !self.holds_lease() {
                return "terminated";
            }
        }
    }

    /// One decision.
    fn step(&mut self) {
        self.note_lease();
        let view = self.view(boot_clock::now());
        let decision = ha::decide(&self.memory, &view);
        self.memory = decision.memory;
        self.summary = decision.summary;
        self.hands.chronicle.look(&view, &self.memory, &self.summary);
        for action in decision.actions {
            self.hands.chronicle.begins(&action, self.summary.epoch);
            self.begin(action);
        }
        self.note_server(&view);
        self.keep_pace(&view.config);
        self.keep_configured(&view);
        self.keep_passwords();
        self.keep_slots_moving(&view);
        self.show(&view);
    }

    fn note_server(&mut self, view: &View) {
        let server = view.server().map(std::mem::discriminant);
        if server != self.server_seen {
            self.server_seen = server;
            self.hands.hurry.notify_one();
        }
    }

    fn keep_pace(&mut self, config: &AgentConfig) {
        let pace = Pace::of(&config.profile.timing());
        if self.pace != Some(pace) && self.hands.lease.send(Request::Pace(pace)) {
            self.pace = Some(pace);
        }
    }

    fn holds_lease(&self) -> bool {
        self.memory.tenure.is_some() || self.writing.is_some()
    }

    /// Begins `work` unless the same is still under way.
    fn spawn(&mut self, work: Work, task: impl Future<Output = Outcome> + Send + 'static) {
        if self.busy.insert(work) {
            self.tasks.spawn(task);
        }
    }
}
