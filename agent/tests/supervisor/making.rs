//! Cloning: into a fresh directory, with a new identity, and never half.

use proto::{
    identity::Epoch,
    postgres::SystemIdentifier,
    wire::supervisor::{Data, JobKind, Order},
};

use crate::{
    member::{Member, until},
    pair, with_each_version,
};

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_clone_is_somebody_else_with_the_same_data() {
    with_each_version(|member| {
        let (leader, follower) = pair(member);
        leader.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
        let before = follower.durable();
        assert_eq!(before.system_identifier, leader.durable().system_identifier);
        assert_ne!(before.data_id, leader.durable().data_id);
        until("the row", || follower.try_sql("SELECT i FROM t").ok());
        follower.stop();
        follower.clone_from(&leader, 3);
        let after = follower.durable();
        assert_ne!(after.data_id, before.data_id);
        assert_eq!((after.sealed, after.opened), (Epoch(3), None));
        follower.start();
        follower.follow(&leader, 3);
        let name = leader.sql("SELECT application_name FROM pg_stat_replication");
        assert_eq!(name, after.data_id.to_string());
        // Beside PGDATA nothing but the state is left.
        let left: Vec<_> =
            std::fs::read_dir(follower.path("data")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(
            left.iter().all(|name| ["pgdata", "ha-state.json", "io-probe"].contains(&name.to_str().unwrap())),
            "{left:?}"
        );
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_clone_never_crosses_a_system_identifier() {
    with_each_version(|member| {
        let (leader, follower) = pair(member);
        let before = follower.durable();
        follower.stop();
        let upstream = leader.upstream();
        let other = Order::Clone { upstream, system_identifier: SystemIdentifier(7), epoch: Epoch(1) };
        assert!(follower.job(other).unwrap_err().contains("another database"));
        assert_eq!(follower.durable(), before);
        let epoch = Epoch(0);
        let below =
            Order::Clone { upstream: leader.upstream(), system_identifier: before.system_identifier, epoch };
        assert!(follower.job(below).unwrap_err().contains("below the sealed"));
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn an_interrupted_clone_leaves_what_there_was() {
    with_each_version(|member| {
        let (leader, mut follower) = pair(member);
        leader.sql("CREATE TABLE t AS SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i");
        follower.stop();
        let before = follower.durable();
        begin_clone(&follower, &leader);
        follower.kill_container();
        assert!(follower.path("data/pgdata.incoming").exists());
        follower.run();
        assert_eq!(follower.durable(), before);
        assert!(!follower.path("data/pgdata.incoming").exists());
        // A kill by order ends the job, not the supervisor.
        begin_clone(&follower, &leader);
        follower.done(Order::Kill);
        assert_eq!(follower.durable(), before);
        follower.start();
        follower.follow(&leader, 1);

        let mut fresh = member();
        begin_clone(&fresh, &leader);
        fresh.kill_container();
        fresh.run();
        assert_eq!(fresh.report().data, Data::Empty);
    });
}

fn begin_clone(follower: &Member, leader: &Member) {
    let system_identifier = leader.durable().system_identifier;
    follower.accept(Order::Clone { upstream: leader.upstream(), system_identifier, epoch: Epoch(1) });
    follower.wait_for("the clone", |report| {
        report.job.as_ref().is_some_and(|job| job.kind == JobKind::Clone)
            && follower.path("data/pgdata.incoming/PG_VERSION").exists()
    });
}
