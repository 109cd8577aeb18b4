//! Servers whose WAL segments have another size than the usual one, and whose limits are above what `initdb` sets.

use super::{snapshot::table, *};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn segments_of_any_size_are_archived_and_replayed() {
    for (bin_dir, megabytes) in installations().into_iter().flat_map(|dir| [(dir.clone(), 1), (dir, 64)]) {
        eprintln!("with {}, segments of {megabytes} MB", bin_dir.display());
        let mut scene = Scene::made_with(&bin_dir, &[&format!("--wal-segsize={megabytes}")]);
        let limits = ["max_connections=300", "max_prepared_transactions=20", "max_locks_per_transaction=200"];
        let client = scene.start_with(&scene.path("pg"), true, &limits).await;
        table(&client).await;
        scene.back_up("b1").await;
        let last = insert(&client, 50_000).await;
        scene.wait_archived(&client).await;
        drop(client);
        scene.stop(rustix::process::Signal::QUIT);
        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last, "segments of {megabytes} MB");
    }
}
