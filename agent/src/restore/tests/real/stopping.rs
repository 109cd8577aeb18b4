//! A server that is stopped: what it wrote last is in the store, or is offered again by its next start.

use super::{failover::text, snapshot::table, *};

impl Scene {
    /// A server with rows and a backup of them.
    async fn backed_up(bin_dir: &Path) -> (Self, Client) {
        let mut scene = Self::new(bin_dir);
        let client = scene.start(&scene.path("pg"), true).await;
        table(&client).await;
        scene.back_up("b1").await;
        (scene, client)
    }

    /// What the archive hears of the member.
    fn becomes(&self, state: State, leads: bool) {
        self.shown.as_ref().unwrap().send_modify(|published| {
            let published = Arc::make_mut(published);
            published.status.state = state;
            published.fenced_until = leads.then(|| boot_clock::now() + Duration::from_hours(1));
        });
    }

    /// Stops the server in order, as for an update, and returns the last row and the segment that it is in.
    async fn stop_in_order(&mut self, client: Client, leads: bool) -> (i64, Segment) {
        let last = insert(&client, 1_000).await;
        let segment = text(&client, "SELECT pg_walfile_name(pg_current_wal_lsn())").await.parse().unwrap();
        assert!(!self.archived().await.contains(&segment), "it is not full");
        drop(client);
        self.becomes(State::Stopping, leads);
        self.stop(rustix::process::Signal::INT);
        (last, segment)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_clean_stop_leaves_everything_in_the_store() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let (mut scene, client) = Scene::backed_up(&bin_dir).await;
        let (last, segment) = scene.stop_in_order(client, true).await;
        assert!(scene.archived().await.contains(&segment), "{segment}: {}", scene.log());
        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last);
    }
}

/// A member that may not write any more does not hold up its server, and nothing is lost by that.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn what_was_given_up_at_a_stop_is_archived_after_the_next_start() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let (mut scene, client) = Scene::backed_up(&bin_dir).await;
        let (last, segment) = scene.stop_in_order(client, false).await;
        assert!(!scene.archived().await.contains(&segment));
        assert!(scene.log().contains("holds no valid lease"), "{}", scene.log());

        scene.becomes(State::Running, true);
        let client = scene.start(&scene.path("pg"), true).await;
        scene.wait_archived(&client).await;
        assert!(scene.archived().await.contains(&segment), "{segment}: {}", scene.log());
        drop(client);
        scene.stop(rustix::process::Signal::QUIT);
        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last);
    }
}
