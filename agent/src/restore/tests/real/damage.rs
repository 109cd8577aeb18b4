//! A page that does not match its checksum: the backup that met it is kept, marked, and begun with only by name.

use std::os::unix::fs::FileExt;

use super::{snapshot::table, *};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run by `cargo lab test`"]
async fn a_backup_of_a_damaged_page_is_marked_and_the_one_before_it_preferred() {
    for bin_dir in installations() {
        eprintln!("with {}", bin_dir.display());
        let mut scene = Scene::new(&bin_dir);
        let pg = scene.path("pg");
        let client = scene.start(&pg, true).await;
        table(&client).await;
        insert(&client, 1_000).await;
        assert_eq!(scene.back_up("good").await.damage, None);
        let path: String = client.query_one("SELECT pg_relation_filepath('t')", &[]).await.unwrap().get(0);
        drop(client);
        scene.stop(rustix::process::Signal::INT);
        let file = fs::OpenOptions::new().write(true).open(pg.join(path)).unwrap();
        file.write_all_at(&[0xA5; 64], 4_096).unwrap();

        let client = scene.start(&pg, true).await;
        let last = insert(&client, 1_000).await;
        let damage = scene.back_up("bad").await.damage.expect("the server has met the page");
        assert!(damage.contains("checksum"), "{damage}");
        scene.wait_archived(&client).await;
        drop(client);
        scene.stop(rustix::process::Signal::INT);

        let latest = scene.restored("latest", RestoreTarget::Latest);
        assert_eq!(scene.last_row(&latest).await, last, "from the good one and the log");
        let named = scene.restore("named", RestoreTarget::Immediate, Some("bad"));
        assert!(named.status.success(), "{}", String::from_utf8_lossy(&named.stderr));
    }
}
