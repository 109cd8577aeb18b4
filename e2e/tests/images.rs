//! The images that the lab's pods run: built for real, so root and the package mirrors are needed.

use std::process::Command;

use e2e::images::{self, oci, store::Store};
use e2e::lab::cache;

#[tokio::test]
#[ignore = "needs root, debootstrap and the package mirrors"]
async fn an_archive_of_postgresql_holds_its_programs() {
    let store = Store::open(&cache::root().unwrap().join("images")).unwrap();
    let [image] = &images::build(&store, &["16.13".parse().unwrap()]).await.unwrap()[..] else {
        unreachable!()
    };
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    oci::write_archive(&store, std::slice::from_ref(image), &archive).await.unwrap();
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

/// What the images of agent and operator may weigh on a node.
const OWN_LIMIT: u64 = 25_000_000;

#[tokio::test]
#[ignore = "compiles agent and operator as they ship"]
async fn own_images_are_small_and_the_same_from_another_cache() {
    let names = ["agent".parse().unwrap(), "operator".parse().unwrap()];
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = images::build(&Store::open(one.path()).unwrap(), &names).await.unwrap();
    let again = images::build(&Store::open(two.path()).unwrap(), &names).await.unwrap();
    for (first, again) in first.iter().zip(&again) {
        println!("{} {} bytes", first.reference, first.size());
        assert_eq!(first.manifest, again.manifest, "{}", first.reference);
        assert!(first.size() <= OWN_LIMIT, "{} has {} bytes", first.reference, first.size());
    }
    assert_eq!(first.len(), 2);
}
