//! Sealing ends acknowledgements for good, and the end of WAL is exact.

use std::{process::Command, thread::sleep};

use proto::{
    identity::Epoch,
    postgres::{Lsn, WalPosition},
    wire::supervisor::{Order, Server},
};

use crate::{
    WELL_WAITED,
    member::{Member, until},
    pair, synchronous, with_each_version,
};

/// Starts a commit on `leader` and says whether it was acknowledged within a while.
fn acknowledged(leader: &Member, value: u32) -> bool {
    let mut commit = leader.psql(&format!("INSERT INTO t VALUES ({value})")).spawn().unwrap();
    sleep(WELL_WAITED);
    let ended = commit.try_wait().unwrap();
    if ended.is_none() {
        commit.kill().unwrap();
        commit.wait().unwrap();
    }
    ended.is_some_and(|status| status.success())
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_sealed_member_acknowledges_nothing_more() {
    with_each_version(|member| {
        let (leader, mut follower) = pair(member);
        leader.sql("CREATE TABLE t (i int)");
        synchronous(&leader, &follower);
        assert!(acknowledged(&leader, 1));
        let end = follower.seal(2);
        assert!(!acknowledged(&leader, 2));
        assert_eq!(follower.seal(2), end, "nothing arrived after the answer");
        let below = Order::Follow { upstream: leader.upstream(), epoch: Epoch(1) };
        assert!(follower.order(below.clone()).unwrap_err().message.contains("below the sealed"));
        // The seal outlives the container.
        follower.kill_container();
        follower.run();
        assert_eq!(follower.durable().sealed, Epoch(2));
        follower.start();
        assert!(!follower.order(below).unwrap_err().transient);
        assert!(!acknowledged(&leader, 3));
        assert_eq!(follower.end_of_wal(), end);
        assert!(leader.order(Order::Seal { epoch: Epoch(2) }).unwrap_err().message.contains("primary"));
    });
}

/// Review S-5: a reload alone would leave the receiver running while replay waits for a query.
#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_seal_holds_while_replay_waits_for_a_conflict() {
    with_each_version(|member| {
        let (leader, follower) = pair(member);
        leader.sql("CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 100)");
        synchronous(&leader, &follower);
        until("the table", || {
            follower.try_sql("SELECT count(*) FROM t").is_ok_and(|n| n == "100").then_some(())
        });
        let query = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t; SELECT pg_sleep(60)";
        let mut query = follower.psql(query).spawn().unwrap();
        until("the query", || follower.process("pg_sleep").or_else(|| follower.process("SELECT")));
        leader.sql("DELETE FROM t WHERE i < 50");
        leader.sql("VACUUM t");
        until("a blocked replay", || follower.process("startup").filter(|_| is_waiting(&follower)));
        assert!(acknowledged(&leader, 1001), "the receiver goes on while replay is blocked");
        let end = follower.seal(2);
        assert!(is_waiting(&follower), "replay must still be blocked when the seal is answered");
        assert!(follower.process("walreceiver").is_none());
        assert!(!acknowledged(&leader, 1002));
        assert_eq!(follower.end_of_wal(), end);
        query.kill().unwrap();
        query.wait().unwrap();
    });
}

fn is_waiting(member: &Member) -> bool {
    member.process("startup").is_some_and(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|title| title.contains("waiting"))
    })
}

/// Review S-6: after a restart the server knows less than it has acknowledged.
#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn the_end_of_wal_is_exact_after_restarts_and_crashes() {
    with_each_version(|member| {
        let (leader, mut follower) = pair(member);
        leader.sql("CREATE TABLE t (i int, filler text)");
        synchronous(&leader, &follower);
        // More than one segment, with records over page and segment boundaries.
        leader.sql("INSERT INTO t SELECT i, repeat('x', 1500) FROM generate_series(1, 20000) i");
        let acknowledged: Lsn = leader.sql("SELECT pg_current_wal_flush_lsn()").parse().unwrap();
        follower.kill_container();
        follower.run();
        let stopped = follower.end_of_wal();
        assert!(stopped.lsn >= acknowledged, "{stopped} is below what was acknowledged, {acknowledged}");
        follower.start();
        assert_eq!(follower.end_of_wal(), stopped);
        assert_eq!(stopped.lsn, by_waldump(&follower, stopped));
        follower.wait_standby();
        until("replay", || {
            (follower.sql("SELECT pg_last_wal_replay_lsn()") == stopped.lsn.to_string()).then_some(())
        });

        leader.sql("SELECT pg_switch_wal()");
        leader.done(Order::Kill);
        let crashed = leader.end_of_wal();
        assert!(crashed.lsn > stopped.lsn);
        assert_eq!(crashed.lsn.0 % (16 << 20), 0, "a switch fills its segment");
    });
}

/// What `pg_waldump` finds, as a second opinion: start and length of the last record.
fn by_waldump(member: &Member, end: WalPosition) -> Lsn {
    let segment = (end.lsn.0 - 1) / (16 << 20);
    let start = format!("0/{:X}", segment * (16 << 20));
    let mut command = Command::new(member.program("pg_waldump"));
    command.arg("-p").arg(member.path("data/pgdata/pg_wal"));
    command.args(["-t", &end.timeline.to_string(), "-s", &start]);
    let output = command.output().unwrap();
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = listed.lines().last().unwrap();
    let after =
        |key: &str| last.split(key).nth(1).unwrap().split([',', '/']).next().unwrap().trim().to_owned();
    let lsn: Lsn = last.split("lsn: ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    let length: u64 = last
        .split("len (rec/tot):")
        .nth(1)
        .unwrap()
        .split('/')
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let _rmgr = after("rmgr:");
    // The test's last records are short: they cross no page.
    Lsn((lsn.0 + length).next_multiple_of(8))
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_new_leader_is_followed_and_the_old_one_left() {
    with_each_version(|member| {
        let (leader, second) = pair(member);
        let third = crate::join(member, &leader, 1);
        leader.sql("CREATE TABLE t (i int)");
        let end = leader.end_of_wal();
        for standby in [&second, &third] {
            until("replication", || (standby.end_of_wal() >= end).then_some(()));
            standby.seal(2);
        }
        second.lead(2, 3);
        third.follow(&second, 2);
        second.sql("INSERT INTO t VALUES (1)");
        until("the row", || third.try_sql("SELECT count(*) FROM t").is_ok_and(|n| n == "1").then_some(()));
        assert_eq!(third.end_of_wal().timeline.0.get(), 3);
        assert_eq!(leader.sql("SELECT count(*) FROM pg_stat_replication"), "0");
        assert!(
            matches!(third.report().server, Server::Standby { following: Some(up), .. } if up == second.upstream())
        );
    });
}
