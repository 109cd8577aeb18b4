//! The fence ends a server whose agent is silent, whoever of supervisor, twin or PostgreSQL hangs.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    thread::sleep,
    time::{Duration, Instant},
};

use proto::{
    identity::Epoch,
    postgres::Timeline,
    wire::supervisor::{Ended, Order, Server, ServerConfig},
};
use rustix::fs::{FlockOperation, flock};

use crate::{
    member::{Member, config, signal, until},
    with_each_version,
};

fn led(member: &dyn Fn() -> Member) -> Member {
    let db = member();
    db.initdb();
    db.start();
    db.lead(1, 2);
    db
}

/// No process that ever belonged to this PostgreSQL is alive.
fn lock_is_free(db: &Member) -> bool {
    let file = File::options().write(true).open(db.path("run/postgres.lock")).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn stopped_by(db: &Member, cause: &Ended) {
    let report = db.wait_for("the end", |report| matches!(report.server, Server::Stopped { .. }));
    assert!(
        matches!(&report.server, Server::Stopped { last: Some(last), .. } if last == cause),
        "{report:?}"
    );
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_silent_agent_ends_the_sessions() {
    with_each_version(|member| {
        let db = led(member);
        let mut session = db.psql("SELECT pg_sleep(60)").spawn().unwrap();
        db.arm(1, Duration::from_millis(600), Duration::from_secs(20));
        let armed = Instant::now();
        sleep(Duration::from_millis(300));
        assert_eq!(db.sql("SELECT 1"), "1");
        until("the session to end", || session.try_wait().unwrap());
        let after = armed.elapsed();
        eprintln!("sessions ended {after:?} after the fence was armed for 600 ms");
        assert!(after >= Duration::from_millis(500) && after < Duration::from_secs(2), "{after:?}");
        stopped_by(&db, &Ended::Fenced);
        let report = db.report();
        assert_eq!((report.fence_count, report.fence), (1, None));
        eprintln!("worst lateness {} us", report.worst_lateness_us);
        // It starts again, closed.
        db.done(Order::Start);
        db.wait_standby();
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn renewals_keep_the_server() {
    with_each_version(|member| {
        let db = led(member);
        for _ in 0..6 {
            db.arm(1, Duration::from_millis(900), Duration::from_millis(1400));
            sleep(Duration::from_millis(400));
        }
        assert_eq!(db.sql("SELECT 1"), "1");
        assert_eq!(db.report().fence_count, 0);
    });
}

/// A claim that came to nothing leaves its fence behind.
#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_fence_passes_over_a_standby() {
    with_each_version(|member| {
        let db = member();
        db.initdb();
        db.start();
        db.wait_standby();
        db.arm(1, Duration::from_millis(200), Duration::from_millis(400));
        db.wait_for("the fence to pass", |report| report.fence.is_none());
        sleep(Duration::from_millis(500));
        assert_eq!(db.sql("SELECT 1"), "1");
        assert_eq!(db.report().fence_count, 0);
        let late = Order::Promote { epoch: Epoch(1), timeline: Timeline::new(2).unwrap() };
        assert!(db.job(late).unwrap_err().contains("no fence"));
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn what_ignores_the_fast_stop_is_killed() {
    with_each_version(|member| {
        let db = led(member);
        signal(db.process("postgres -D").or_else(|| db.process("-D")).unwrap(), "STOP");
        db.arm(1, Duration::from_millis(300), Duration::from_millis(900));
        let armed = Instant::now();
        until("the lock", || lock_is_free(&db).then_some(()));
        let after = armed.elapsed();
        eprintln!("everything was dead {after:?} after the fence was armed for 900 ms");
        assert!(after >= Duration::from_millis(800) && after < Duration::from_millis(2500), "{after:?}");
        stopped_by(&db, &Ended::Fenced);
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn the_twin_fences_when_the_supervisor_is_stopped() {
    with_each_version(|member| {
        let db = led(member);
        db.arm(1, Duration::from_millis(500), Duration::from_millis(1500));
        let armed = Instant::now();
        signal(db.pid(), "STOP");
        let mut session = db.psql("SELECT pg_sleep(60)").spawn().unwrap();
        until("the session to end", || session.try_wait().unwrap());
        eprintln!("the twin ended the sessions after {:?}", armed.elapsed());
        until("the lock", || lock_is_free(&db).then_some(()));
        let after = armed.elapsed();
        eprintln!("the twin had everything dead {after:?} after the fence was armed for 500 and 1500 ms");
        assert!(after < Duration::from_secs(3), "{after:?}");
        assert!(db.try_sql("SELECT 1").is_err());
        signal(db.pid(), "CONT");
        stopped_by(&db, &Ended::Fenced);
        // A new twin keeps the next server.
        db.done(Order::Start);
        db.wait_standby();
        until("a twin", || db.process("twin"));
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_dead_twin_is_replaced_and_knows_the_fence() {
    with_each_version(|member| {
        let db = led(member);
        db.arm(1, Duration::from_millis(1500), Duration::from_secs(2));
        let twin = db.process("twin").unwrap();
        signal(twin, "KILL");
        until("another twin", || db.process("twin").filter(|other| *other != twin));
        sleep(Duration::from_millis(200));
        signal(db.pid(), "STOP");
        until("the lock", || lock_is_free(&db).then_some(()));
        signal(db.pid(), "CONT");
    });
}

/// Review K-1: the archiver's child survives the postmaster and holds the lock.
#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn nothing_survives_the_postmaster() {
    with_each_version(|member| {
        let db = member();
        db.initdb();
        // An agent that takes the question and never answers.
        let socket = db.path("run/archive.sock");
        let _silent = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        db.start();
        db.lead(1, 2);
        db.accept(Order::Configure(ServerConfig { archive: true, ..config(Some(""), &[]) }));
        db.sql("SELECT pg_switch_wal()");
        until("the archiver's child", || db.process("push"));
        assert!(!lock_is_free(&db));
        let killed = Instant::now();
        signal(db.process("-D").unwrap(), "KILL");
        stopped_crashed(&db);
        eprintln!("proof of death {:?} after SIGKILL to the postmaster", killed.elapsed());
        assert!(lock_is_free(&db));
        assert!(db.process("push").is_none());
    });
}

fn stopped_crashed(db: &Member) {
    let report = db.wait_for("the end", |report| matches!(report.server, Server::Stopped { .. }));
    assert!(
        matches!(report.server, Server::Stopped { last: Some(Ended::Crashed(_)), shutdown: None }),
        "{report:?}"
    );
}

/// A crash of one backend must not let the server become writable by itself again (S4).
#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn a_crashed_backend_ends_the_server() {
    with_each_version(|member| {
        let db = led(member);
        let mut session = db.psql("SELECT pg_sleep(60)").spawn().unwrap();
        let backend = until("the backend", || db.process("SELECT"));
        signal(backend, "KILL");
        stopped_crashed(&db);
        session.wait().unwrap();
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
fn the_lock_proves_the_death_of_a_container() {
    with_each_version(|member| {
        let mut db = led(member);
        assert!(!lock_is_free(&db));
        let run = db.report().run;
        db.kill_container();
        until("the lock", || lock_is_free(&db).then_some(()));
        db.run();
        assert_ne!(db.report().run, run);
        db.start();
        db.wait_standby();
        assert_eq!(db.sql("SELECT pg_is_in_recovery()"), "t");
    });
}
