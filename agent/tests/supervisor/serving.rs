//! Starting, configuring, promoting, stopping, ending.

use std::{fs, time::Duration};

use proto::{
    identity::Epoch,
    postgres::Timeline,
    wire::supervisor::{Data, Ended, Order, Server, ServerConfig},
};

use crate::{
    join,
    member::{Member, config, now, signal, until},
    pair, with_each_version,
};

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn makes_starts_promotes_and_stops() {
    with_each_version(|member| {
        let db = member();
        assert_eq!(db.report().data, Data::Empty);
        db.initdb();
        let durable = db.durable();
        assert_eq!((durable.sealed, durable.opened), (Epoch(0), None));
        db.start();
        db.wait_standby();
        assert_eq!(db.sql("SELECT pg_is_in_recovery()"), "t");
        db.lead(1, 2);
        db.sql("CREATE TABLE t (i int)");
        assert!(matches!(db.report().server, Server::Primary { timeline, .. } if timeline.0.get() == 2));
        assert_eq!((db.durable().sealed, db.durable().opened), (Epoch(1), Some(Epoch(1))));
        db.stop();
        let Server::Stopped { last, shutdown } = db.report().server else { panic!("{:?}", db.report()) };
        assert_eq!(last, Some(Ended::Ordered));
        assert_eq!(shutdown, Some(db.end_of_wal()));
        assert_eq!(shutdown.unwrap().timeline.0.get(), 2);
        assert!(!db.log().contains("SCRAM-SHA-256$"), "a verifier reached the log");
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn promotes_only_under_a_fence_of_the_same_epoch() {
    with_each_version(|member| {
        let db = member();
        db.initdb();
        db.start();
        db.wait_standby();
        let promote = |epoch| Order::Promote { epoch: Epoch(epoch), timeline: Timeline::new(2).unwrap() };
        assert!(db.job(promote(1)).unwrap_err().contains("no fence"));
        db.arm(2, Duration::from_mins(1), Duration::from_mins(2));
        assert!(db.job(promote(1)).unwrap_err().contains("another epoch"));
        let passed = Order::Arm { epoch: Epoch(2), fast_stop_at: now(), kill_at: now() };
        assert!(db.order(passed).unwrap_err().message.contains("passed"));
        assert_eq!(db.sql("SELECT pg_is_in_recovery()"), "t");
        assert_eq!(db.durable().opened, None);
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_promotion_by_somebody_else_is_killed() {
    with_each_version(|member| {
        let db = member();
        db.initdb();
        db.start();
        db.wait_standby();
        let _cut_off = db.try_sql("SELECT pg_promote()");
        let report = db.wait_for("the kill", |report| matches!(report.server, Server::Stopped { .. }));
        assert!(
            matches!(&report.server, Server::Stopped { last: Some(Ended::Crashed(why)), .. } if why.contains("somebody else")),
            "{report:?}"
        );
    });
}

/// Two timelines that nobody here has ever seen were used elsewhere (review S-2).
#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn promotes_to_the_reserved_timeline_and_survives_restarts() {
    with_each_version(|member| {
        let (leader, follower) = pair(member);
        leader.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
        let end = leader.end_of_wal();
        until("replication", || (follower.end_of_wal() >= end).then_some(()));
        leader.stop();
        follower.seal(4);
        follower.lead(4, 5);
        assert_eq!(follower.sql("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"), "00000005");
        follower.sql("INSERT INTO t VALUES (2)");
        // A crash before the first checkpoint on the new timeline, then a closed start.
        follower.done(Order::Kill);
        follower.start();
        follower.wait_standby();
        assert_eq!(follower.sql("SELECT count(*) FROM t"), "2");
        assert_eq!(follower.end_of_wal().timeline.0.get(), 5);
        follower.seal(6);
        follower.lead(6, 9);
        assert_eq!(follower.sql("SELECT count(*) FROM t"), "2");
        // A clone knows none of the old timelines, yet one from before must be able to follow it.
        let third = join(member, &follower, 6);
        third.follow(&follower, 6);
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn bad_configurations_are_refused_with_the_servers_words() {
    with_each_version(|member| {
        let db = member();
        db.initdb();
        db.start();
        db.lead(1, 2);
        let refused = |name: &str, value: &str| {
            let order = Order::Configure(config(Some(""), &[(name, value)]));
            let refusal = db.order(order).unwrap_err();
            assert!(!refusal.transient);
            refusal.message
        };
        assert!(refused("work_mem", "lots").contains("invalid value for parameter \"work_mem\""));
        assert!(refused("no_such_setting", "1").contains("unrecognized configuration parameter"));
        assert!(refused("primary_conninfo", "host=elsewhere").contains("set by the cluster"));
        let rules =
            ServerConfig { hba: vec!["host all all all nonsense".to_owned()], ..config(Some(""), &[]) };
        assert!(db.order(Order::Configure(rules)).unwrap_err().message.contains("nonsense"));
        // One more error would have been found at the next start.
        db.sql("SELECT pg_reload_conf()");
        assert_eq!(db.sql("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL"), "0");
        let tricky = "a'b\\c\nwork_mem = '1GB'";
        db.accept(Order::Configure(config(Some(""), &[("my.value", tricky)])));
        until("the reload", || db.try_sql("SHOW my.value").is_ok_and(|shown| shown == tricky).then_some(()));
        assert_eq!(db.sql("SHOW work_mem"), "4MB");
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_setting_that_needs_a_restart_waits_for_it() {
    with_each_version(|member| {
        let db = member();
        db.initdb();
        db.start();
        db.lead(1, 2);
        assert_eq!(db.report().generation, "g1");
        let wanted =
            ServerConfig { generation: "g2".to_owned(), ..config(Some(""), &[("shared_buffers", "24MB")]) };
        db.accept(Order::Configure(wanted));
        let report = db.report();
        assert_eq!(
            (report.generation.as_str(), report.pending_restart),
            ("g1", vec!["shared_buffers".to_owned()])
        );
        db.stop();
        db.done(Order::Start);
        db.wait_standby();
        let report = db.report();
        assert_eq!((report.generation.as_str(), report.pending_restart), ("g2", vec![]));
        assert_eq!(db.sql("SHOW shared_buffers"), "24MB");
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn alter_system_neither_attaches_nor_opens() {
    with_each_version(|member| {
        let db = member();
        db.initdb();
        db.start();
        db.lead(1, 2);
        db.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
        db.sql("ALTER SYSTEM SET primary_conninfo = 'host=evil'");
        db.sql("ALTER SYSTEM SET listen_addresses = ''");
        db.sql("ALTER SYSTEM SET work_mem = '5MB'");
        db.stop();
        db.start();
        db.wait_standby();
        let shown = |name: &str| db.sql(&format!("SHOW {name}"));
        assert_eq!(shown("synchronous_standby_names"), "ANY 1 (\"-\")");
        assert_eq!(shown("primary_conninfo"), "");
        assert_eq!(shown("listen_addresses"), "*");
        assert_eq!(shown("work_mem"), "5MB");
    });
}

/// The kubelet's SIGTERM, with and without an agent that drives the stop.
#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn ends_in_order_when_the_kubelet_asks() {
    with_each_version(|member| {
        let mut driven = led(member);
        let agent = std::os::unix::net::UnixStream::connect(driven.path("run/supervisor.sock")).unwrap();
        signal(driven.pid(), "TERM");
        driven.wait_for("the word", |report| report.terminating);
        assert_eq!(driven.sql("SELECT 1"), "1", "it waits for the agent");
        driven.stop();
        driven.accept(Order::Exit);
        driven.wait_end();
        drop(agent);

        let mut alone = led(member);
        signal(alone.pid(), "TERM");
        alone.wait_end();
        assert!(alone.log().contains("database system is shut down"));
        alone.run();
        assert!(matches!(alone.report().data, Data::Present(_)));
    });
}

fn led(member: &dyn Fn() -> Member) -> Member {
    let db = member();
    db.initdb();
    db.start();
    db.lead(1, 2);
    db
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_supervisor_with_a_server_stays_small() {
    with_each_version(|member| {
        let db = led(member);
        let status = fs::read_to_string(format!("/proc/{}/status", db.pid())).unwrap();
        let private =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().trim().to_owned();
        eprintln!("supervisor's private memory: {private}");
        let kib: u32 = private.trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 5 << 10, "{private}");
    });
}

/// Some mistakes show only at a start: they must not cost more than themselves.
#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_configuration_that_does_not_start_gives_way_to_the_one_before() {
    with_each_version(|member| {
        let mut db = led(member);
        let bad = [("shared_preload_libraries", "no_such_library"), ("work_mem", "6MB")];
        let bad = ServerConfig { generation: "bad".to_owned(), ..config(Some(""), &bad) };
        db.accept(Order::Configure(bad.clone()));
        db.stop();
        assert!(db.job(Order::Start).unwrap_err().contains("earlier configuration"));
        db.wait_standby();
        assert_eq!((db.report().generation.as_str(), db.sql("SHOW work_mem").as_str()), ("g1", "4MB"));
        // In a new container nothing earlier is known.
        db.sql("ALTER SYSTEM SET shared_preload_libraries = 'neither_this'");
        db.kill_container();
        db.run();
        db.accept(Order::Configure(bad));
        assert!(db.job(Order::Start).unwrap_err().contains("earlier configuration"));
        db.wait_standby();
        assert_eq!(
            (db.report().generation.as_str(), db.sql("SHOW max_connections").as_str()),
            ("bare", "100")
        );
    });
}
