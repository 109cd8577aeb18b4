//! One member's view, built by hand.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    clock::BootTime,
    ha::{
        configuration::Configuration,
        document::{Document, Opening},
        lease::{HolderField, LeaseVersion, Observed, Recorded, ResourceVersion, Sighting, WriteId},
        profile::Profile,
        sync_names::SyncNames,
        view::{LeaseView, LocalWal, Me, SealedEnd, SqlFacts, Supervisor, Verified, View},
    },
    identity::{DataId, Epoch, Holder, Ordinal, RunId},
    postgres::{Lsn, SystemIdentifier, Timeline, WalPosition},
    wire::{
        config::{AgentConfig, Durability},
        http::Role,
        supervisor::{Data, Durable, Fence, Report, Server},
    },
};

/// Now, in most scenes: long after the agent started.
pub(crate) const NOW: BootTime = BootTime(1_000_000_000);
pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const SYSTEM: SystemIdentifier = SystemIdentifier(7);

pub(crate) fn at(timeline: u32, lsn: u64) -> WalPosition {
    WalPosition { timeline: Timeline::new(timeline).unwrap(), lsn: Lsn(lsn) }
}

pub(crate) fn holder(member: u8) -> Holder {
    Holder { pod: format!("db-{member}"), pod_uid: format!("uid{member}"), run: RunId("run".to_owned()) }
}

/// Three members; member 0 opened epoch 4 on timeline 5 with k = 1 of {1, 2}.
pub(crate) fn document() -> Document {
    Document {
        timeline: Timeline::new(5).unwrap(),
        members: (0..3).map(|member| (Ordinal(member), DataId(u64::from(member)))).collect(),
        configurations: vec![Configuration {
            epoch: Epoch(4),
            primary: DataId(0),
            k: 1,
            standbys: BTreeSet::from([DataId(1), DataId(2)]),
        }],
        history: vec![Opening {
            epoch: Epoch(4),
            primary: DataId(0),
            timeline: Timeline::new(5).unwrap(),
            switch: Lsn(100),
            checkpointed: true,
        }],
        system_identifier: SYSTEM,
        leader_lsn: None,
        release: None,
        presumed: false,
    }
}

/// Version "v1" of the Lease, held by member 0 in epoch 4, seen first `age` seconds ago and confirmed just now.
pub(crate) fn held(age: u64, document: Document) -> Observed {
    Observed {
        version: LeaseVersion {
            resource_version: ResourceVersion("v1".to_owned()),
            holder: HolderField::Run(holder(0)),
            epoch: Epoch(4),
            write_id: Some(WriteId(40)),
            duration: Profile::Standard.timing().lease,
            recorded: Recorded::Document(Box::new(document)),
        },
        first_seen: BootTime(NOW.0 - age * SECOND),
        confirmed: NOW,
    }
}

/// Member `me` with a closed, sealed-nothing standby that sees `sighting`.
pub(crate) fn member(me: u8, sighting: Sighting) -> View {
    View {
        now: NOW,
        started_at: BootTime(0),
        me: Me {
            ordinal: Ordinal(me),
            pod: format!("db-{me}"),
            pod_uid: format!("uid{me}"),
            database: "db".to_owned(),
            namespace: "test".to_owned(),
        },
        config: config(),
        lease: LeaseView { sighting, busy: false, refused: None, next_write: WriteId(99) },
        supervisor: Supervisor::Reported(Box::new(report(me))),
        wal: LocalWal { sealed: None, end: Some((NOW, at(5, 500))) },
        sql: None,
        peers: BTreeMap::new(),
        label: Some(Role::None),
        deletion_requested: false,
        switchover: None,
    }
}

/// Member 0 as the primary of epoch 4, all in order, with the fence of a renewal `age` seconds ago.
pub(crate) fn primary(age: u64) -> View {
    let mut view = member(0, Sighting::Seen(held(age, document())));
    let timing = Profile::Standard.timing();
    let renewed = BootTime(NOW.0 - age * SECOND);
    change(&mut view, |report| {
        report.server = Server::Primary { timeline: Timeline::new(5).unwrap(), switch_lsn: Some(Lsn(100)) };
        report.fence = Some(Fence {
            epoch: Epoch(4),
            fast_stop_at: renewed + timing.fast_stop,
            kill_at: renewed + timing.kill,
        });
    });
    let names = SyncNames::any(1, &BTreeSet::from([DataId(1), DataId(2)])).to_string();
    view.sql = Some(SqlFacts {
        at: NOW,
        in_recovery: false,
        flushed: Lsn(500),
        names: names.clone(),
        commits_wait: true,
        verified: Some(Verified { epoch: Epoch(4), names, lsn: Lsn(400), at: NOW }),
        checkpoint_timeline: Timeline::new(5),
        standbys: BTreeMap::new(),
        slots: BTreeSet::from([Ordinal(1), Ordinal(2)]),
        works_at: Some(NOW),
    });
    view.label = Some(Role::Primary);
    view
}

/// Changes the supervisor's report.
pub(crate) fn change(view: &mut View, how: impl FnOnce(&mut Report)) {
    if let Supervisor::Reported(report) = &mut view.supervisor {
        how(report);
    }
}

pub(crate) fn sealed(epoch: u32, position: WalPosition) -> LocalWal {
    LocalWal {
        sealed: Some(SealedEnd { epoch: Epoch(epoch), position, at: NOW }),
        end: Some((NOW, position)),
    }
}

fn config() -> AgentConfig {
    AgentConfig {
        database_uid: "uid".to_owned(),
        replicas: 3,
        durability: Durability::Preferred,
        min_sync_replicas: 1,
        profile: Profile::Standard,
        sync_timeout_ms: 10_000,
        io_timeout_ms: 6_000,
        max_lag_bytes: 1_000,
        system_identifier: None,
        parameters: BTreeMap::new(),
        hba: Vec::new(),
        app_database: "app".to_owned(),
        volume_bytes: 1 << 30,
        accept_loss: None,
        generation: String::new(),
        archive: None,
    }
}

fn report(me: u8) -> Report {
    Report {
        run: RunId("run".to_owned()),
        at: NOW,
        data: Data::Present(Durable {
            data_id: DataId(u64::from(me)),
            sealed: Epoch(4),
            opened: None,
            system_identifier: SYSTEM,
            major_version: 16,
        }),
        server: Server::Standby { following: None, streaming: false, replayed: None },
        job: None,
        last_job: None,
        fence: None,
        generation: String::new(),
        pending_restart: Vec::new(),
        fence_count: 0,
        worst_lateness_us: 0,
        disk_ok_at: None,
        space: None,
        terminating: false,
        clock_jumped_at: None,
    }
}
