//! The images that the lab's pods run: built for real, so root and the package mirrors are needed.

use std::process::Command;

use e2e::images::{self, Name, oci, store::Store};

#[tokio::test]
#[ignore = "needs root, debootstrap and the package mirrors"]
async fn an_archive_of_postgresql_holds_its_programs() {
    let store = Store::open(&images::cache().unwrap()).unwrap();
    let image = images::build(&store, Name::Postgres("16.13".parse().unwrap())).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    oci::write_archive(&store, std::slice::from_ref(&image), &archive).await.unwrap();
    assert!(
        Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder.path()).status().unwrap().success()
    );
    let layer = Command::new("tar")
        .arg("-tf")
        .arg(folder.path().join(image.layers()[1].layout_path()))
        .output()
        .unwrap();
    let names = String::from_utf8(layer.stdout).unwrap();
    for program in
        ["postgres", "initdb", "psql", "pg_basebackup", "pg_rewind", "pg_waldump", "pg_controldata"]
    {
        assert!(names.contains(&format!("./usr/lib/postgresql/16/bin/{program}\n")), "{program} is missing");
    }
}
