//! The images that the lab's pods run: built for real, so root and the package mirrors are needed.

use std::process::Command;

use e2e::fault::cluster::Cluster;
use e2e::images::{self, Name, oci, postgres::Release, store::Store};
use e2e::lab::cache;
use e2e::scenario::stage::Stage;
use serde_json::json;

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

/// What a replica needs besides the server; each must run, so that nothing it is linked to is missing.
const PROGRAMS: &str =
    "pg_amcheck pg_basebackup pg_controldata pg_ctl pg_dump pg_rewind pg_upgrade pg_waldump pgbench psql";
const NAMESPACE: &str = "images-test";

/// As an agent does it: no root, nothing but volumes to write to. Loading the library that streams shows
/// that it finds libpq, whose lack no other program would notice.
fn server_pod(release: Release) -> String {
    let script = format!(
        "set -e; test \"$(id -un)\" = postgres; initdb --data-checksums --locale=C.UTF-8 >/dev/null; \
         pg_ctl start --wait --log=/tmp/log --options='-c listen_addresses= -k /tmp' >/dev/null; \
         psql -h /tmp -Atqc \"load 'libpqwalreceiver'\" -c 'show server_version'; pg_ctl stop >/dev/null; \
         for program in {PROGRAMS}; do $program --version >/dev/null; done"
    );
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod_name(release)},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "postgres",
                "image": release.reference(),
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", script],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "data", "mountPath": "/var/lib/postgresql"},
                    {"name": "scratch", "mountPath": "/tmp"},
                ],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "scratch", "emptyDir": {}}],
        },
    })
    .to_string()
}

fn pod_name(release: Release) -> String {
    format!("postgres-{release}").replace('.', "-")
}

#[tokio::test]
#[ignore = "needs the lab"]
async fn a_server_of_every_major_runs_without_root() {
    let Cluster::Lab(lab) = Cluster::connect().await.unwrap() else {
        println!("skipped: the images of every major are imported into the lab only");
        return;
    };
    let releases: Vec<Release> =
        ["14", "15", "16.13", "16", "17", "18"].iter().map(|name| name.parse().unwrap()).collect();
    let names: Vec<Name> = releases.iter().map(|release| Name::Postgres(*release)).collect();
    images::ensure(&lab, &names).await.unwrap();
    let stage = Stage::attach().await.unwrap();
    stage.without(NAMESPACE).await.unwrap();
    stage.namespace(NAMESPACE).await.unwrap();
    for release in &releases {
        stage.kubectl.run_with(&["-n", NAMESPACE, "apply", "-f", "-"], &server_pod(*release)).await.unwrap();
    }
    for release in &releases {
        let pod = format!("pod/{}", pod_name(*release));
        let done =
            ["-n", NAMESPACE, "wait", &pod, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s"];
        let waited = stage.kubectl.run(&done).await;
        let said = stage.kubectl.run(&["-n", NAMESPACE, "logs", &pod]).await.unwrap();
        assert!(waited.is_ok(), "{pod}: {waited:?}: {said}");
        assert_eq!(said.lines().last(), Some(release.to_string().as_str()), "{pod}: {said}");
    }
    stage.without(NAMESPACE).await.unwrap();
}
