//! The supervisor against real PostgreSQL. Each test runs with every installation that is found.
#![allow(missing_docs)] // tests are named, not documented
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod fencing;
mod making;
mod member;
mod recovering;
mod sealing;
mod serving;

use std::time::Duration;

use member::{Certificates, Member, installations};

/// Runs a test with each version.
fn with_each_version(test: impl Fn(&dyn Fn() -> Member)) {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let certificates = Certificates::new();
        test(&|| Member::new(&bin_dir, &certificates));
    }
}

/// A primary in epoch 1 on timeline 2, and a standby that follows it.
fn pair(member: &dyn Fn() -> Member) -> (Member, Member) {
    let leader = member();
    leader.initdb();
    leader.start();
    leader.lead(1, 2);
    let follower = join(member, &leader, 1);
    (leader, follower)
}

/// A clone of `leader` that follows it.
fn join(member: &dyn Fn() -> Member, leader: &Member, epoch: u32) -> Member {
    let follower = member();
    follower.clone_from(leader, epoch);
    follower.start_with(&[("max_standby_streaming_delay", "-1")]);
    follower.follow(leader, epoch);
    follower
}

/// Makes commits of `leader` wait for `follower`.
fn synchronous(leader: &Member, follower: &Member) {
    leader.configure(Some(&format!("ANY 1 ({})", follower.durable().data_id)));
    member::until("a synchronous standby", || {
        (leader.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'") == "1")
            .then_some(())
    });
}

/// Long enough that a commit that does not wait would have returned.
const WELL_WAITED: Duration = Duration::from_secs(2);
