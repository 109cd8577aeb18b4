//! The lab's storage as pods see it, through kubelet, the API server and the real sidecars.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::time::Duration;

use anyhow::Result;
use e2e::{
    fault::{
        cluster::{Cluster, Fault},
        disk::Disk,
    },
    images::{self, Name},
    lab::storage,
    scenario::kubectl::Kubectl,
};

/// Provisioning, formatting and starting a pod take 3 s on an idle machine; others may be building on it.
const READY: &str = "--timeout=120s";

/// A namespace of the lab for one test.
#[derive(Clone)]
struct Space {
    kubectl: Kubectl,
    name: &'static str,
}

impl Space {
    /// Nothing where the cluster is not the lab.
    async fn create(name: &'static str) -> Option<Self> {
        let cluster = Cluster::connect().await.unwrap();
        let lab = cluster.lab_for(Fault::Disk)?;
        images::ensure(lab, &[Name::Tools]).await.unwrap();
        let space = Self { kubectl: Kubectl::new(lab.programs().join("kubectl"), lab.kubeconfig()), name };
        space.kubectl(&["delete", "namespace", name, "--ignore-not-found", READY]).await.unwrap();
        space.kubectl(&["create", "namespace", name]).await.unwrap();
        space.kubectl.wait_until_usable(name).await.unwrap();
        Some(space)
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(&[&["--namespace", self.name], arguments].concat()).await
    }

    async fn apply(&self, manifest: &str) {
        let arguments = ["--namespace", self.name, "apply", "--filename", "-"];
        self.kubectl.run_with(&arguments, manifest).await.unwrap();
    }

    /// A claim of `size`, and a pod of the same name that uses it at `/data` as an ordinary user.
    async fn claim_and_pod(&self, name: &str, size: &str, source: &str) {
        self.apply(&format!(
            "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}}}, \
              spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: {size}}}}}{source}}}}}"
        ))
        .await;
        self.pod(name).await;
    }

    async fn pod(&self, name: &str) {
        self.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, \
              securityContext: {{runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}}, \
              containers: [{{name: main, image: {image}, imagePullPolicy: Never, \
              volumeMounts: [{{name: data, mountPath: /data}}]}}], \
              volumes: [{{name: data, persistentVolumeClaim: {{claimName: {name}}}}}]}}}}",
            image = Name::Tools.reference()
        ))
        .await;
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), READY]).await.unwrap();
    }

    async fn delete_pod(&self, name: &str) {
        self.kubectl(&["delete", "pod", name, READY]).await.unwrap();
    }

    /// Runs a line of shell in the pod.
    async fn sh(&self, pod: &str, line: &str) -> Result<String> {
        self.kubectl(&["exec", pod, "--", "sh", "-c", line]).await
    }

    async fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, &format!("--output=jsonpath={{{path}}}")]).await.unwrap()
    }

    fn disk(&self, claim: &str) -> Disk {
        Disk::of_claim(self.name, claim).unwrap()
    }

    /// Deletes everything; that no volume stays behind is part of every test.
    async fn end(self) {
        self.kubectl(&["delete", "pod,volumesnapshot", "--all", READY]).await.unwrap();
        let volumes = self.kubectl(&["get", "pvc", "--output=jsonpath={.items[*].spec.volumeName}"]).await;
        self.kubectl(&["delete", "pvc", "--all", READY]).await.unwrap();
        for volume in volumes.unwrap().split_whitespace() {
            self.kubectl(&["wait", "--for=delete", &format!("pv/{volume}"), READY]).await.unwrap();
            assert!(!storage::folder().join("volumes").join(volume).exists(), "{volume} is still on disk");
        }
        self.kubectl(&["delete", "namespace", self.name, READY]).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_claim_is_provisioned_filled_expanded_online_and_used_on() {
    let Some(space) = Space::create("storage-expand").await else { return };
    space.claim_and_pod("data", "300Mi", "").await;
    let pod = space.field("pod/data", ".metadata.uid").await;
    let full = space.sh("data", "dd if=/dev/zero of=/data/one bs=1M").await.unwrap_err();
    assert!(format!("{full:#}").contains("No space left on device"), "{full:#}");

    let request = r#"{"spec":{"resources":{"requests":{"storage":"600Mi"}}}}"#;
    space.kubectl(&["patch", "pvc", "data", "--patch", request]).await.unwrap();
    let grown = "--for=jsonpath={.status.capacity.storage}=600Mi";
    space.kubectl(&["wait", grown, "pvc/data", READY]).await.unwrap();
    space.sh("data", "dd if=/dev/zero of=/data/two bs=1M count=250").await.unwrap();

    assert_eq!(space.field("pod/data", ".metadata.uid").await, pod, "the pod was replaced");
    assert_eq!(space.field("pod/data", ".status.containerStatuses[0].restartCount").await, "0");
    space.end().await;
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_snapshot_is_taken_and_restored_with_what_was_there_then() {
    let Some(space) = Space::create("storage-snapshot").await else { return };
    space.claim_and_pod("source", "300Mi", ", storageClassName: fast-ssd").await;
    space.sh("source", "echo then > /data/word").await.unwrap();
    space
        .apply(
            "{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: moment}, \
              spec: {source: {persistentVolumeClaimName: source}}}",
        )
        .await;
    let taken = "--for=jsonpath={.status.readyToUse}=true";
    space.kubectl(&["wait", taken, "volumesnapshot/moment", READY]).await.unwrap();
    space.sh("source", "echo now > /data/word").await.unwrap();

    let from = ", dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: moment}";
    space.claim_and_pod("restored", "400Mi", from).await;
    assert_eq!(space.sh("restored", "cat /data/word").await.unwrap(), "then\n");
    assert_eq!(space.sh("source", "cat /data/word").await.unwrap(), "now\n");
    space.sh("restored", "dd if=/dev/zero of=/data/more bs=1M count=280").await.unwrap();
    space.end().await;
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_write_to_a_frozen_disk_blocks_and_resumes() {
    let Some(space) = Space::create("storage-freeze").await else { return };
    space.claim_and_pod("data", "300Mi", "").await;
    space.sh("data", "echo early > /data/word").await.unwrap();
    let disk = space.disk("data");
    disk.freeze(Duration::from_mins(1)).await.unwrap();
    let late = space.clone();
    let mut writer = tokio::spawn(async move { late.sh("data", "echo late > /data/word").await });
    let early = tokio::time::timeout(Duration::from_secs(5), &mut writer).await;
    assert!(early.is_err(), "the write ended on a frozen disk: {early:?}");
    assert_eq!(space.sh("data", "cat /data/word").await.unwrap(), "early\n", "reads go on");

    disk.thaw().await.unwrap();
    disk.thaw().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), writer).await.unwrap().unwrap().unwrap();
    assert_eq!(space.sh("data", "cat /data/word").await.unwrap(), "late\n");
    space.end().await;
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_filled_disk_takes_no_write_until_it_is_unfilled() {
    let Some(space) = Space::create("storage-fill").await else { return };
    space.claim_and_pod("data", "300Mi", "").await;
    let disk = space.disk("data");
    let taken = disk.fill().unwrap();
    assert!(taken > 200 << 20, "{taken}");
    let full = space.sh("data", "dd if=/dev/zero of=/data/word bs=64k count=16").await.unwrap_err();
    assert!(format!("{full:#}").contains("No space left on device"), "{full:#}");

    disk.unfill().unwrap();
    disk.unfill().unwrap();
    space.sh("data", "dd if=/dev/zero of=/data/word bs=64k count=16").await.unwrap();
    space.end().await;
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_pod_comes_back_to_the_node_of_its_volume() {
    let Some(space) = Space::create("storage-return").await else { return };
    space.claim_and_pod("data", "300Mi", "").await;
    space.sh("data", "echo kept > /data/word").await.unwrap();
    let node = space.field("pod/data", ".spec.nodeName").await;
    for _ in 0..2 {
        space.delete_pod("data").await;
        space.pod("data").await;
        assert_eq!(space.field("pod/data", ".spec.nodeName").await, node);
        assert_eq!(space.sh("data", "cat /data/word").await.unwrap(), "kept\n");
    }
    space.end().await;
}
