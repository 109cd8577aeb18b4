//! The storage driver as kubelets and sidecars see it: its gRPC calls, against real loop devices and XFS.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use e2e::csi::{
    freeze,
    message::{
        AccessMode, AccessModeKind, AccessType, CapacityRange, ContentSource, ControllerExpandVolumeRequest,
        CreateSnapshotRequest, CreateVolumeRequest, DeleteSnapshotRequest, DeleteVolumeRequest, InfoRequest,
        MountVolume, NodeExpandVolumeRequest, NodeGetInfoRequest, NodeGetVolumeStatsRequest,
        NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
        NodeUnstageVolumeRequest, SnapshotSource, TopologyRequirement, Volume, VolumeCapability,
        VolumeContentSource, VolumeSource,
    },
    rpc::{
        controller::controller_client::ControllerClient, node::node_client::NodeClient,
        registration::registration_client::RegistrationClient,
    },
    serve::{self, Setup},
    store::Store,
    topology,
};
use e2e::lab::mounts;
use tokio::task::JoinHandle;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

const MIB: i64 = 1024 * 1024;

/// A driver of its own in a folder of its own, with nodes `a` and `b`.
struct Driver {
    folder: tempfile::TempDir,
    server: JoinHandle<()>,
    controller: ControllerClient<Channel>,
    a: NodeClient<Channel>,
    b: NodeClient<Channel>,
}

impl Driver {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = |name: &str| folder.path().join(name);
        let setup = Setup {
            folder: folder.path().join("disks"),
            controller: folder.path().join("controller.sock"),
            kubelets: BTreeMap::from(["a", "b"].map(|n| (n.to_owned(), kubelet(n)))),
        };
        let sockets = [setup.controller.clone(), kubelet_socket(&folder, "a"), kubelet_socket(&folder, "b")];
        let server = tokio::spawn(async move { serve::run(setup).await.unwrap() });
        let [controller, a, b] =
            [connect(&sockets[0]).await, connect(&sockets[1]).await, connect(&sockets[2]).await];
        Self {
            folder,
            server,
            controller: ControllerClient::new(controller),
            a: NodeClient::new(a),
            b: NodeClient::new(b),
        }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn disk(&self, volume: &str) -> PathBuf {
        self.folder.path().join("disks/volumes").join(volume).join("disk")
    }

    async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Code> {
        let created = self.controller.clone().create_volume(request).await;
        created.map(|r| r.into_inner().volume.unwrap()).map_err(|s| s.code())
    }

    async fn stage(&self, volume: &str) -> Result<String, tonic::Status> {
        let staged = self.at(&format!("staged-{volume}"));
        self.a.clone().node_stage_volume(stage(volume, &staged)).await?;
        Ok(staged)
    }

    async fn unstage(&self, volume: &str) -> Result<(), tonic::Status> {
        let staging_target_path = self.at(&format!("staged-{volume}"));
        let request = NodeUnstageVolumeRequest { volume_id: volume.into(), staging_target_path };
        self.a.clone().node_unstage_volume(request).await.map(drop)
    }

    /// Ends the driver and takes everything away; that it is gone is part of every test.
    async fn end(self) {
        self.server.abort();
        release_disks(self.folder.path()).await.unwrap();
    }
}

impl Drop for Driver {
    /// After a failed test: no mount may stay.
    fn drop(&mut self) {
        let folder = self.folder.path().to_owned();
        let cleanup = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(release_disks(&folder)).unwrap();
        });
        let _ = cleanup.join();
    }
}

/// As `lab down` does it.
async fn release_disks(folder: &Path) -> anyhow::Result<()> {
    mounts::unfreeze_all(folder).await?;
    mounts::unmount_all(folder).await?;
    mounts::detach_loops(folder).await
}

fn kubelet_socket(folder: &tempfile::TempDir, node: &str) -> PathBuf {
    serve::kubelet_socket(&folder.path().join(node))
}

async fn connect(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(error) => assert!(Instant::now() < deadline, "no driver at {}: {error}", socket.display()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: AccessModeKind::SingleNodeWriter.into() }),
    }
}

fn range(required: i64) -> CapacityRange {
    CapacityRange { required_bytes: required, limit_bytes: 0 }
}

fn volume(name: &str, bytes: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(range(bytes)),
        volume_capabilities: vec![capability()],
        accessibility_requirements: Some(TopologyRequirement {
            requisite: vec![topology::of("a"), topology::of("b")],
            preferred: vec![topology::of("a")],
        }),
        ..Default::default()
    }
}

fn copy_of(source: ContentSource, name: &str, bytes: i64) -> CreateVolumeRequest {
    let volume_content_source = Some(VolumeContentSource { source: Some(source) });
    CreateVolumeRequest { volume_content_source, ..volume(name, bytes) }
}

fn from_snapshot(snapshot: &str) -> ContentSource {
    ContentSource::Snapshot(SnapshotSource { snapshot_id: snapshot.into() })
}

fn stage(volume: &str, point: &str) -> NodeStageVolumeRequest {
    NodeStageVolumeRequest {
        volume_id: volume.into(),
        staging_target_path: point.into(),
        volume_capability: Some(capability()),
    }
}

/// Whether a timer waits to thaw a disk in `folder`.
fn timer_runs(folder: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok());
    let folder = folder.to_string_lossy();
    lines.into_iter().any(|line| line.contains("thaw-timer") && line.contains(&*folder))
}

/// Writes until the disk is full; returns how much went in.
fn fill(path: &Path) -> u64 {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let block = vec![7; 1 << 20];
    loop {
        if let Err(error) = file.write_all(&block) {
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
            return file.metadata().unwrap().len();
        }
    }
}

#[tokio::test]
#[ignore = "needs root and loop devices; run by `cargo lab test`"]
async fn kubelet_learns_who_the_driver_is_and_on_which_node() {
    let driver = Driver::start().await;
    let socket = kubelet_socket(&driver.folder, "b");
    let mut registration = RegistrationClient::new(connect(&socket).await);
    let info = registration.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.kind.as_str(), info.name.as_str()), ("CSIPlugin", e2e::csi::DRIVER));
    assert_eq!(info.endpoint, socket.to_string_lossy());
    let node = driver.b.clone().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(node.node_id, "b");
    assert_eq!(node.accessible_topology, Some(topology::of("b")));
    driver.end().await;
}

#[tokio::test]
#[ignore = "needs root and loop devices; run by `cargo lab test`"]
async fn a_volume_lives_on_its_node_fills_up_and_grows_in_use() {
    let driver = Driver::start().await;
    let made = driver.create(volume("v", 300 * MIB + 1)).await.unwrap();
    assert_eq!(made.capacity_bytes, 301 * MIB);
    assert_eq!(made.accessible_topology, [topology::of("a")]);
    let elsewhere = driver.b.clone().node_stage_volume(stage("v", &driver.at("x"))).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition);

    let staged = driver.stage("v").await.unwrap();
    driver.stage("v").await.unwrap();
    let target_path = driver.at("pod");
    let publish = NodePublishVolumeRequest {
        volume_id: "v".into(),
        staging_target_path: staged.clone(),
        target_path: target_path.clone(),
        volume_capability: Some(capability()),
        readonly: false,
    };
    driver.a.clone().node_publish_volume(publish.clone()).await.unwrap();
    driver.a.clone().node_publish_volume(publish).await.unwrap();

    let file = Path::new(&target_path).join("data");
    let before = fill(&file);
    assert!(before > 200 << 20 && before < 301 << 20, "{before}");

    let expand =
        ControllerExpandVolumeRequest { volume_id: "v".into(), capacity_range: Some(range(600 * MIB)) };
    let expanded = driver.controller.clone().controller_expand_volume(expand).await.unwrap().into_inner();
    assert_eq!((expanded.capacity_bytes, expanded.node_expansion_required), (600 * MIB, true));
    let grow = NodeExpandVolumeRequest {
        volume_id: "v".into(),
        volume_path: target_path.clone(),
        capacity_range: Some(range(600 * MIB)),
    };
    let grown = driver.a.clone().node_expand_volume(grow).await.unwrap().into_inner();
    assert_eq!(grown.capacity_bytes, 600 * MIB);
    assert!(fill(&file) > before + (200 << 20));

    let stats = NodeGetVolumeStatsRequest { volume_id: "v".into(), volume_path: target_path.clone() };
    let usage = driver.a.clone().node_get_volume_stats(stats).await.unwrap().into_inner().usage;
    assert!(usage[0].total > 400 * MIB && usage[0].available < 2 * MIB, "{usage:?}");

    let delete = DeleteVolumeRequest { volume_id: "v".into() };
    let in_use = driver.controller.clone().delete_volume(delete.clone()).await.unwrap_err();
    assert_eq!(in_use.code(), Code::FailedPrecondition);
    let unpublish = NodeUnpublishVolumeRequest { volume_id: "v".into(), target_path: target_path.clone() };
    for _ in 0..2 {
        driver.a.clone().node_unpublish_volume(unpublish.clone()).await.unwrap();
        driver.unstage("v").await.unwrap();
    }
    assert!(!Path::new(&target_path).exists());
    for _ in 0..2 {
        driver.controller.clone().delete_volume(delete.clone()).await.unwrap();
    }
    assert!(!driver.disk("v").exists());
    driver.end().await;
}

#[tokio::test]
#[ignore = "needs root and loop devices; run by `cargo lab test`"]
async fn a_snapshot_holds_that_moment_and_is_restored_beside_its_source() {
    let driver = Driver::start().await;
    driver.create(volume("v", 300 * MIB)).await.unwrap();
    let staged = driver.stage("v").await.unwrap();
    fs::write(format!("{staged}/data"), "then").unwrap(); // in memory only: the freeze must write it back

    let take = CreateSnapshotRequest { source_volume_id: "v".into(), name: "s".into() };
    let taken = driver.controller.clone().create_snapshot(take.clone()).await.unwrap().into_inner();
    fs::write(format!("{staged}/data"), "now").unwrap();
    let again = driver.controller.clone().create_snapshot(take).await.unwrap().into_inner();
    assert_eq!(taken, again);
    assert_eq!(taken.snapshot.unwrap().size_bytes, 300 * MIB);

    let restored = driver.create(copy_of(from_snapshot("s"), "r", 500 * MIB)).await.unwrap();
    assert_eq!(restored.capacity_bytes, 500 * MIB);
    assert_eq!(restored.content_source, Some(VolumeContentSource { source: Some(from_snapshot("s")) }));
    let cloned = copy_of(ContentSource::Volume(VolumeSource { volume_id: "v".into() }), "c", 0);
    driver.create(cloned).await.unwrap();
    let (restored, cloned) = (driver.stage("r").await.unwrap(), driver.stage("c").await.unwrap());
    assert_eq!(fs::read_to_string(format!("{restored}/data")).unwrap(), "then");
    assert_eq!(fs::read_to_string(format!("{cloned}/data")).unwrap(), "now");
    assert!(fill(&Path::new(&restored).join("fill")) > 400 << 20, "the restored volume has its own size");

    let delete = DeleteSnapshotRequest { snapshot_id: "s".into() };
    for _ in 0..2 {
        driver.controller.clone().delete_snapshot(delete.clone()).await.unwrap();
    }
    let gone = driver.create(copy_of(from_snapshot("s"), "r2", 0)).await;
    assert_eq!(gone, Err(Code::NotFound));
    driver.end().await;
}

#[tokio::test]
#[ignore = "needs root and loop devices; run by `cargo lab test`"]
async fn a_repeated_request_finds_the_volume_and_another_of_its_name_is_refused() {
    let driver = Driver::start().await;
    let (first, second) =
        tokio::join!(driver.create(volume("v", 300 * MIB)), driver.create(volume("v", 300 * MIB)));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(driver.create(volume("v", 400 * MIB)).await, Err(Code::AlreadyExists));
    assert_eq!(driver.create(volume("../v", 400 * MIB)).await, Err(Code::InvalidArgument));
    let limit = CapacityRange { required_bytes: 0, limit_bytes: 10 * MIB };
    let small = CreateVolumeRequest { capacity_range: Some(limit), ..volume("small", 0) };
    assert_eq!(driver.create(small).await, Err(Code::OutOfRange));
    let nowhere = TopologyRequirement { requisite: vec![topology::of("x")], preferred: vec![] };
    let nowhere = CreateVolumeRequest { accessibility_requirements: Some(nowhere), ..volume("n", 0) };
    assert_eq!(driver.create(nowhere).await, Err(Code::ResourceExhausted));
    assert_eq!(driver.stage("none").await.unwrap_err().code(), Code::NotFound);
    driver.end().await;
}

#[tokio::test]
#[ignore = "needs root and loop devices; run by `cargo lab test`"]
async fn writes_to_a_frozen_disk_wait_until_it_thaws() {
    let driver = Driver::start().await;
    driver.create(volume("v", 300 * MIB)).await.unwrap();
    let staged = PathBuf::from(driver.stage("v").await.unwrap());
    let disk = driver.disk("v");

    freeze::freeze(&disk, &staged, Duration::from_mins(1)).await.unwrap();
    let path = staged.join("late");
    let writer = std::thread::spawn(move || fs::write(path, "x"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!writer.is_finished(), "the write went through a frozen disk");
    let twice = freeze::freeze(&disk, &staged, Duration::from_mins(1)).await;
    assert!(matches!(twice, Err(freeze::FreezeError::Already(_))), "{twice:?}");
    assert_eq!(driver.unstage("v").await.unwrap_err().code(), Code::Unavailable);
    let take = CreateSnapshotRequest { source_volume_id: "v".into(), name: "s".into() };
    let refused = driver.controller.clone().create_snapshot(take).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);

    freeze::thaw(&disk, &staged).await.unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(fs::read_to_string(staged.join("late")).unwrap(), "x");
    driver.unstage("v").await.unwrap();
    driver.end().await;
}

#[tokio::test]
#[ignore = "needs root and loop devices; run by `cargo lab test`"]
async fn a_freeze_that_nobody_undoes_ends_at_its_limit() {
    let driver = Driver::start().await;
    driver.create(volume("v", 300 * MIB)).await.unwrap();
    let staged = PathBuf::from(driver.stage("v").await.unwrap());
    freeze::freeze(&driver.disk("v"), &staged, Duration::from_secs(2)).await.unwrap();
    let start = Instant::now();
    let path = staged.join("late");
    tokio::task::spawn_blocking(move || fs::write(path, "x")).await.unwrap().unwrap();
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_secs(10), "{waited:?}");
    driver.end().await;
}

#[tokio::test]
#[ignore = "needs root and loop devices; run by `cargo lab test`"]
async fn what_a_crash_leaves_is_found_again_or_taken_away() {
    let driver = Driver::start().await;
    driver.create(volume("v", 300 * MIB)).await.unwrap();
    let staged = PathBuf::from(driver.stage("v").await.unwrap());
    freeze::freeze(&driver.disk("v"), &staged, Duration::from_mins(1)).await.unwrap();
    driver.server.abort();
    let store = Store::new(driver.folder.path().join("disks"));
    assert_eq!(store.all_volumes().unwrap().len(), 1);
    assert!(timer_runs(driver.folder.path()));
    release_disks(driver.folder.path()).await.unwrap();
    assert_eq!(mounts::under(driver.folder.path()).unwrap(), []);
    assert!(!timer_runs(driver.folder.path()), "the timer outlived its freeze");
    driver.end().await;
}
