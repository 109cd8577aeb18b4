//! Coming back: a former primary that wrote what nobody acknowledged is rewound.

use proto::{
    identity::Epoch,
    wire::supervisor::{Data, JobKind, Order},
};

use crate::{
    member::{Member, until},
    pair, with_each_version,
};

/// A failover after which the old primary has a row that its successor lacks.
fn diverged(member: &dyn Fn() -> Member) -> (Member, Member) {
    let (old, new) = pair(member);
    old.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
    let end = old.end_of_wal();
    until("replication", || (new.end_of_wal() >= end).then_some(()));
    new.seal(2);
    old.sql("INSERT INTO t VALUES (2)");
    old.done(Order::Kill);
    new.lead(2, 3);
    new.sql("INSERT INTO t VALUES (3)");
    new.sql("CHECKPOINT");
    (old, new)
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_diverged_primary_is_rewound_and_follows() {
    with_each_version(|member| {
        let (old, new) = diverged(member);
        let before = old.durable();
        old.done(Order::Rewind { upstream: new.upstream(), epoch: Epoch(2) });
        let after = old.durable();
        assert_eq!((after.data_id, after.sealed), (before.data_id, Epoch(2)));
        let early = old.order(Order::EndOfWal).unwrap_err();
        assert!(early.transient && early.message.contains("not consistent"), "{early:?}");
        old.start();
        old.follow(&new, 2);
        until("the rows", || {
            (old.sql("SELECT string_agg(i::text, ',' ORDER BY i) FROM t") == "1,3").then_some(())
        });
        assert!(old.end_of_wal().timeline.0.get() == 3);
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_rewind_that_cannot_begin_costs_nothing() {
    with_each_version(|member| {
        let (old, new) = diverged(member);
        let end = old.end_of_wal();
        new.stop();
        let error = old.job(Order::Rewind { upstream: new.upstream(), epoch: Epoch(2) }).unwrap_err();
        assert!(error.contains("pg_rewind"), "{error}");
        assert!(old.end_of_wal() >= end);
        old.start();
        old.wait_standby();
        assert_eq!(old.sql("SELECT string_agg(i::text, ',' ORDER BY i) FROM t"), "1,2");
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn an_interrupted_rewind_is_never_started() {
    with_each_version(|member| {
        let (mut old, new) = diverged(member);
        old.accept(Order::Rewind { upstream: new.upstream(), epoch: Epoch(2) });
        old.wait_for("the marker", |report| {
            assert!(report.job.is_some(), "it has ended: {report:?}");
            old.path("data/rewind-in-progress").exists()
        });
        old.kill_container();
        old.run();
        let report = old.report();
        assert!(matches!(&report.data, Data::Unusable { sealed: Epoch(2), .. }), "{report:?}");
        old.accept(Order::Configure(crate::member::config(None, &[])));
        assert!(old.job(Order::Start).unwrap_err().contains("interrupted"));
        assert!(old.order(Order::EndOfWal).is_err() && old.order(Order::Seal { epoch: Epoch(3) }).is_err());
        old.clone_from(&new, 2);
        assert_eq!(old.report().last_job.unwrap().kind, JobKind::Clone);
        old.start();
        old.follow(&new, 2);
    });
}
