//! What becomes a moment, and that the ring stays small.

use std::time::Duration;

use proto::{
    ha::{
        document::Document,
        lease::{HolderField, LeaseVersion, Observed, Recorded, ResourceVersion, Sighting},
        question::{Refused, Reply},
        view::{LocalWal, PeerReplies, SealedEnd},
    },
    identity::{DataId, Ordinal},
    postgres::{Lsn, Timeline, WalPosition},
    wire::{
        http::Role,
        supervisor::{Ended, Order, Server},
    },
};

use super::*;

fn document(epoch: u32) -> Document {
    let text = format!(
        r#"{{"timeline":5,"members":{{"0":"d0000000000000000","1":"d0000000000000001","2":"d0000000000000002"}},
            "configurations":[{{"epoch":{epoch},"primary":"d0000000000000000","k":1,
                "standbys":["d0000000000000001","d0000000000000002"]}}],
            "history":[{{"epoch":{epoch},"primary":"d0000000000000000","timeline":5,"switch":"0/3000000",
                "checkpointed":true}}],
            "systemIdentifier":"7"}}"#
    );
    Document::parse(&text).unwrap()
}

fn lease(holder: HolderField, epoch: u32, renewed: u64) -> Sighting {
    Sighting::Seen(Observed {
        version: LeaseVersion {
            resource_version: ResourceVersion(renewed.to_string()),
            holder,
            epoch: Epoch(epoch),
            write_id: None,
            duration: Duration::from_secs(10),
            recorded: Recorded::Document(Box::new(document(epoch))),
        },
        first_seen: BootTime(renewed),
        confirmed: BootTime(renewed),
    })
}

fn held(member: u8, epoch: u32, renewed: u64) -> Sighting {
    lease(HolderField::Run(format!("db-{member}/uid/run").parse().unwrap()), epoch, renewed)
}

fn of_lease(sighting: &Sighting) -> Glimpse {
    let mut glimpse = Glimpse::default();
    glimpse.of_lease(sighting, "db");
    glimpse
}

#[test]
fn a_renewal_is_no_news_and_another_holder_is() {
    let before = of_lease(&held(0, 4, 1));
    assert_eq!(of_lease(&held(0, 4, 2)).news(&before), []);
    let first = before.news(&Glimpse::default());
    assert_eq!(
        first.iter().map(|(topic, what)| format!("{}: {what}", topic.word())).collect::<Vec<_>>(),
        [
            "lease: held by db-0 for epoch 4",
            "open: db-0 opened epoch 4: timeline 5 from 0/3000000",
            "commits: epoch 4: on the primary and 1 of {1, 2}",
        ]
    );
    let news = of_lease(&held(1, 5, 3)).news(&before);
    assert_eq!(news[0], (Topic::Lease, "held by db-1 for epoch 5".to_owned()));
}

#[test]
fn votes_are_told_once_each_with_where_the_wal_ends() {
    let end = WalPosition { timeline: Timeline::new(5).unwrap(), lsn: Lsn(0x300_0028) };
    let wal = LocalWal {
        sealed: Some(SealedEnd { epoch: Epoch(6), position: end, at: BootTime(1) }),
        end: Some((BootTime(1), end)),
    };
    let refused =
        Reply::Refused(Refused { sealed: None, promised: false, why: "it is a primary".to_owned() });
    let sealed = Reply::Sealed { data_id: DataId(2), position: end };
    let replies = |reply| PeerReplies { seal: Some((Epoch(6), reply)), ..PeerReplies::default() };
    let peers = [(Ordinal(0), replies(refused)), (Ordinal(2), replies(sealed))].into();
    let mut glimpse = Glimpse::default();
    glimpse.of_votes(&wal, &peers);
    let told: Vec<_> = glimpse.news(&Glimpse::default()).into_iter().map(|(_, what)| what).collect();
    assert_eq!(
        told,
        [
            "member 0 to the seal for epoch 6: no, it is a primary",
            "member 2 to the seal for epoch 6: sealed at 0/3000028@5",
            "sealed for epoch 6 at 0/3000028@5",
            "my WAL ends at 0/3000028@5",
        ]
    );
    let later = LocalWal { end: Some((BootTime(2), end)), ..wal };
    let mut again = Glimpse::default();
    again.of_votes(&later, &peers);
    assert_eq!(again.news(&glimpse), [], "the same end, read again");
}

#[test]
fn who_leads_by_promise_and_no_longer_is_told() {
    assert_eq!(glimpse::role(Role::Primary, false), "is primary to clients");
    let by_promise = "is primary to clients, by promise of other members: its renewals do not land";
    assert_eq!(glimpse::role(Role::Primary, true), by_promise);
}

#[test]
fn how_a_server_ended_is_told() {
    let crashed = Server::Stopped { last: Some(Ended::Crashed("signal 9".to_owned())), shutdown: None };
    assert_eq!(glimpse::server(&crashed), "stopped: signal 9");
    let standby = Server::Standby { following: None, streaming: false, replayed: Some(Lsn(1)) };
    assert_eq!(glimpse::server(&standby), "a standby of nobody");
}

#[test]
fn the_ring_forgets_the_oldest_and_says_so() {
    let chronicle = Chronicle::new("db-0", "db");
    let promote = |timeline| {
        let timeline = Timeline::new(timeline).unwrap();
        Action::Order(Order::Promote { epoch: Epoch(1), timeline })
    };
    let many = u32::try_from(KEPT).unwrap() + 5;
    for timeline in 1..=many {
        chronicle.begins(&promote(timeline), Epoch(1));
        chronicle.begins(&promote(timeline), Epoch(1));
        chronicle.begins(&Action::Order(Order::Report), Epoch(1));
    }
    let told = chronicle.tell();
    assert_eq!((told.moments.len(), told.forgotten), (KEPT, 5), "repeated orders and reports do not count");
    assert_eq!(told.moments[0].what, "promote to timeline 6");
    assert!(told.moments[0].age_us >= told.moments[KEPT - 1].age_us);
}
