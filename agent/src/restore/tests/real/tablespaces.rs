//! Tablespaces outside the data directory are refused before a backup without them looks complete.

use proto::{identity::DataId, wire::snapshot::SnapshotTaken};

use super::*;
use crate::backup::snapshot::Hold;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_server_with_a_tablespace_elsewhere_is_not_backed_up() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let client = scene.start(&scene.path("pg"), true).await;
        let place = scene.path("elsewhere");
        fs::create_dir(&place).unwrap();
        give(&place);
        let create = format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display());
        client.batch_execute(&create).await.unwrap();

        let (peers, state, socket) = (peers(), watch::Sender::new(None), scene.path("run"));
        let run = scene.run(&peers, socket.to_str().unwrap(), &state);
        let copied = run.make("copied").await.unwrap_err().to_string();
        let snapshot = SnapshotTaken { volume_snapshot: "db-held".to_owned(), size_bytes: 1 << 30 };
        let (_tell, taken) = watch::channel(Some(("held".to_owned(), snapshot)));
        let held = run.make_of_snapshot("held", Hold { data: &|| Some(DataId(7)), taken }).await;
        for why in [copied, held.unwrap_err().to_string()] {
            assert!(why.contains("tablespaces outside the data directory"), "{why}");
        }
        let repository = &scene.repository;
        for folder in [repository.root.backups(), repository.root.snapshots()] {
            assert_eq!(repository.store.list(&folder).await.unwrap(), [], "{folder}");
        }

        client.batch_execute("DROP TABLESPACE elsewhere").await.unwrap();
        scene.back_up("copied").await;
    }
}
