//! A leader and a contender while the API server answers badly: for less than F nobody may lose the lead, and
//! however long it lasts nobody may take it from a leader that renews. There is no watch at all here, which is the
//! longest gap that one can have.

use std::collections::BTreeMap;

use proto::{
    ha::{
        self,
        action::Action,
        configuration::Configuration,
        document::{Document, Opening},
        lease::Contents,
        memory::Memory,
        profile::Profile,
        question::{Question, Reply, Testimony},
        view::{LeaseView, LocalWal, Me, Supervisor, View},
        volume::Room,
    },
    identity::{DataId, Epoch, Holder, Ordinal, RunId},
    postgres::{Lsn, SystemIdentifier, Timeline, WalPosition},
    wire::{
        config::{AgentConfig, Durability},
        supervisor::{Data, Durable, Fence, Order, Report, Server as Process},
    },
};

use super::{
    tests::{PATIENCE, Server, Sky, UID, Weather},
    *,
};

/// A decision is taken this often.
const TICK: Duration = Duration::from_millis(50);
/// How often the leader that a contender looks at renews.
const RENEWS: Duration = Duration::from_secs(1);
/// Calm after the weather: renewals land and are seen.
const CALM: Duration = Duration::from_secs(3);

fn weathers() -> Vec<Weather> {
    let codes = [401, 403, 409, 422, 429, 500, 503, 504].map(Weather::Code);
    let others = [
        Weather::LandsThen(500),
        Weather::LandsThen(409),
        Weather::Slow(Duration::from_secs(1)),
        Weather::Silence,
        Weather::Cut,
        Weather::Stale,
    ];
    codes.into_iter().chain(others).collect()
}

fn timeline(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn holder(member: u8) -> Holder {
    Holder { pod: format!("db-{member}"), pod_uid: format!("uid{member}"), run: RunId("run".to_owned()) }
}

/// Member 0 opened epoch 4, in which a commit is on one of 1 and 2.
fn led(write_id: WriteId, profile: Profile) -> Contents {
    let primary = DataId(0);
    let document = Document {
        timeline: timeline(5),
        members: (0..3).map(|member| (Ordinal(member), DataId(u64::from(member)))).collect(),
        configurations: vec![Configuration {
            epoch: Epoch(4),
            primary,
            k: 1,
            standbys: [DataId(1), DataId(2)].into(),
        }],
        history: vec![Opening {
            epoch: Epoch(4),
            primary,
            timeline: timeline(5),
            switch: Lsn(100),
            checkpointed: true,
        }],
        system_identifier: SystemIdentifier(7),
        leader_lsn: None,
        release: None,
        presumed: false,
    };
    let duration = profile.timing().lease;
    Contents { holder: Some(holder(0)), epoch: Epoch(4), write_id, duration, document }
}

/// One agent's core with its Lease task, and nothing else of it.
struct Member {
    me: u8,
    profile: Profile,
    memory: Memory,
    fence: Option<Fence>,
    writing: Option<WriteId>,
    next_id: i64,
    requests: LeaseRequests,
    state: watch::Receiver<LeaseState>,
    peers: BTreeMap<Ordinal, ha::view::PeerReplies>,
    /// What was ordered of the supervisor but fences and seals.
    orders: Vec<Order>,
    asked: bool,
}

impl Member {
    fn new(me: u8, profile: Profile, server: &Server, sky: &Sky) -> Self {
        let calls = LeaseCalls::new(server.client_under(sky), "prod", "db");
        let (requests, state, task) = lease(calls, UID, Pace::of(&profile.timing()));
        tokio::spawn(task.run());
        Self {
            me,
            profile,
            memory: Memory::default(),
            fence: None,
            writing: None,
            next_id: 1_700_000_000_000_000 + i64::from(me) * 1_000_000,
            requests,
            state,
            peers: BTreeMap::new(),
            orders: Vec::new(),
            asked: false,
        }
    }

    async fn live(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            let view = self.view();
            let decision = ha::decide(&self.memory, &view);
            self.memory = decision.memory;
            for action in decision.actions {
                self.act(action);
            }
            sleep_until(Instant::now() + TICK).await;
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::ReadLease => drop(self.requests.send(Request::Refresh)),
            Action::WriteLease(write) => {
                self.writing = Some(write.contents().write_id);
                self.requests.send(Request::Write(write));
            }
            Action::Order(Order::Arm { epoch, fast_stop_at, kill_at }) => {
                self.fence = Some(Fence { epoch, fast_stop_at, kill_at });
            }
            Action::Order(Order::EndOfWal | Order::Seal { .. }) => {}
            Action::Order(order) => self.orders.push(order),
            Action::Ask { member, question: Question::Survey { id, .. } } => {
                self.asked = true;
                let reply = Reply::Surveyed(Testimony {
                    data_id: DataId(u64::from(member.0)),
                    system_identifier: SystemIdentifier(7),
                    position: end(),
                    sealed: Epoch(4),
                    room: Room::Ample,
                });
                self.peers.entry(member).or_default().survey = Some((id, reply));
            }
            _ => {}
        }
    }

    fn view(&mut self) -> View {
        let (now, state) = (boot_clock::now(), self.state.borrow().clone());
        let ended = state.last_write.as_ref().filter(|end| end.outcome != Outcome::Doubtful);
        if ended.is_some_and(|end| Some(end.id) == self.writing) {
            self.writing = None;
        }
        self.next_id += 10_000_000;
        View {
            now,
            started_at: BootTime(0),
            me: Me {
                ordinal: Ordinal(self.me),
                pod: format!("db-{}", self.me),
                pod_uid: format!("uid{}", self.me),
                database: "db".to_owned(),
                namespace: "prod".to_owned(),
            },
            config: config(self.profile),
            lease: LeaseView {
                sighting: state.sighting,
                busy: self.writing.is_some(),
                refused: state.last_write.filter(|end| end.outcome == Outcome::Refused).map(|end| end.id),
                next_write: WriteId(self.next_id),
            },
            supervisor: Supervisor::Reported(Box::new(self.report(now))),
            wal: LocalWal { sealed: None, end: Some((now, end())) },
            sql: None,
            peers: self.peers.clone(),
            label: None,
            deletion_requested: false,
            switchover: None,
        }
    }

    fn report(&self, now: BootTime) -> Report {
        let server = match self.me {
            0 => Process::Primary { timeline: timeline(5), switch_lsn: Some(Lsn(100)) },
            _ => Process::Standby { following: None, streaming: true, replayed: None },
        };
        Report {
            run: RunId("run".to_owned()),
            at: now,
            data: Data::Present(Durable {
                data_id: DataId(u64::from(self.me)),
                sealed: Epoch(4),
                opened: (self.me == 0).then_some(Epoch(4)),
                system_identifier: SystemIdentifier(7),
                major_version: 16,
            }),
            server,
            job: None,
            last_job: None,
            fence: self.fence,
            generation: String::new(),
            pending_restart: Vec::new(),
            fence_count: 0,
            worst_lateness_us: 0,
            disk_ok_at: Some(now),
            space: None,
            terminating: false,
            clock_jumped_at: None,
        }
    }
}

fn end() -> WalPosition {
    WalPosition { timeline: timeline(5), lsn: Lsn(500) }
}

fn config(profile: Profile) -> AgentConfig {
    serde_json::from_value(serde_json::json!({
        "databaseUid": UID, "replicas": 3, "durability": Durability::Preferred, "minSyncReplicas": 1,
        "profile": profile, "syncTimeoutMs": 10_000, "maxLagBytes": 0, "systemIdentifier": null,
        "parameters": {}, "hba": [], "appDatabase": "app", "volumeBytes": 1 << 30, "generation": "",
    }))
    .unwrap()
}

async fn leader_under(weather: Weather) {
    let (server, sky) = (Server::born(), Sky::default());
    server.write_as_holder(&led(WriteId(1_700_000_000_000_000), Profile::Standard));
    let mut leader = Member::new(0, Profile::Standard, &server, &sky);
    leader.live(Duration::from_secs(2) + CALM).await;
    let renewed = server.version();
    sky.turn(Some(weather));
    // Two renewals are due meanwhile; F is three seconds away when it clears.
    leader.live(Duration::from_secs(4)).await;
    sky.turn(None);
    leader.live(CALM).await;
    assert_eq!(leader.orders, [], "{weather:?}: nothing is stopped");
    let fence = leader.fence.expect("armed").fast_stop_at;
    assert!(fence > boot_clock::now() + Duration::from_secs(3), "{weather:?}: renewals land again");
    assert!(server.version() > renewed, "{weather:?}");
    assert_eq!(server.leader(), (holder(0).to_string(), 4), "{weather:?}");
}

async fn contender_under(weather: Weather) {
    let (server, sky) = (Server::born(), Sky::default());
    let profile = Profile::Fast;
    server.write_as_holder(&led(WriteId(1), profile));
    let mut contender = Member::new(1, profile, &server, &sky);
    let renewals = async {
        for renewal in 2.. {
            sleep_until(Instant::now() + RENEWS).await;
            server.write_as_holder(&led(WriteId(renewal), profile));
        }
    };
    let story = async {
        contender.live(CALM).await;
        sky.turn(Some(weather));
        contender.live(profile.timing().lease + Duration::from_secs(3)).await;
        sky.turn(None);
        contender.live(CALM).await;
    };
    tokio::select! {
        () = renewals => {}
        () = story => {}
    }
    assert_eq!(server.leader(), (holder(0).to_string(), 4), "{weather:?}");
    // Who is shown the past asks around, and its claim is refused for the version that it carries (W1).
    let stale = matches!(weather, Weather::Stale);
    assert_eq!(contender.asked, stale, "{weather:?}");
}

#[tokio::test]
async fn bad_answers_for_less_than_f_cost_no_leadership() {
    let all = futures::future::join_all(weathers().into_iter().map(leader_under));
    tokio::time::timeout(PATIENCE * 3, all).await.unwrap();
}

#[tokio::test]
async fn bad_answers_however_long_make_no_second_leader() {
    let all = futures::future::join_all(weathers().into_iter().map(contender_under));
    tokio::time::timeout(PATIENCE * 3, all).await.unwrap();
}
