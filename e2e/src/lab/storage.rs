//! The cluster's storage: the driver, which is this very program, and the sidecars of the CSI project. All are processes
//! of the control plane, since a volume is on the disk of the machine and not of a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::storage::v1::CSINode;
use kube::Client;
use kube::api::{Api, ListParams};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::process::Command;

use super::binaries::GoModule;
use super::cache::{self, Digest};
use super::process::Process;
use super::{Node, api, command, control_plane, network, paths, pki};
use crate::csi::DRIVER;

/// The sidecars, in one folder.
const SIDECARS: GoModule =
    GoModule { name: "csi-sidecars", folder: SIDECARS_SOURCE, packages: "tool", link_flags: "", names: &[] };
const SIDECARS_SOURCE: &str = "storage/sidecars";

/// Who the sidecars are to the API server.
pub(super) const IDENTITY: &str = "csi";

/// The module and the files in it that define snapshots to the API server.
const DEFINITIONS_MODULE: &str = "github.com/kubernetes-csi/external-snapshotter/client/v8";
const DEFINITIONS: [&str; 3] = [
    "snapshot.storage.k8s.io_volumesnapshotclasses.yaml",
    "snapshot.storage.k8s.io_volumesnapshotcontents.yaml",
    "snapshot.storage.k8s.io_volumesnapshots.yaml",
];
/// A module of 100 kB, from a proxy that may be slow.
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(3);

const PERMISSIONS: &str = include_str!("../../storage/permissions.yaml");
const CLASSES: &str = include_str!("../../storage/classes.yaml");

/// The command of this program that is the driver.
pub const DRIVER_COMMAND: &str = "csi-driver";

/// What storage is made of.
pub(super) struct Programs {
    sidecars: PathBuf,
    definitions: PathBuf,
}

/// Builds or finds the programs.
pub(super) async fn programs() -> Result<Programs> {
    Ok(Programs { sidecars: SIDECARS.build().await?, definitions: definitions().await? })
}

/// The folder of all volumes and snapshots.
pub fn folder() -> PathBuf {
    paths::at("disks")
}

/// Starts the driver: before the kubelets, so that each finds it at its first look.
pub(super) fn start_driver(nodes: &[Node]) -> Result<()> {
    let program = paths::at("csi-driver");
    let mut command = vec![
        program.display().to_string(),
        DRIVER_COMMAND.into(),
        format!("--folder={}", folder().display()),
        format!("--controller={}", socket().display()),
    ];
    command.extend(nodes.iter().map(|n| format!("--kubelet={}={}", n.name(), n.kubelet_dir().display())));
    let driver = Process {
        name: DRIVER_COMMAND.into(),
        namespace: network::control_plane(),
        cgroup: control_plane::cgroup(),
        command,
    };
    if !driver.running() {
        copy_own_program(&program)?;
    }
    driver.start()
}

/// A copy of `lab`, since the original may be rebuilt while the lab is up. A test that makes the lab is in a folder
/// below that of `lab`.
fn copy_own_program(to: &Path) -> Result<()> {
    const NAME: &str = "lab";
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let from = match own.file_name() {
        Some(name) if name == NAME => PathBuf::from("/proc/self/exe"), // also where the file was replaced
        _ => own.ancestors().nth(2).unwrap_or(Path::new("/")).join(NAME),
    };
    if !from.exists() {
        bail!("{} is not the program `lab`, and there is no {}: build it", own.display(), from.display());
    }
    fs::copy(&from, to).map(drop).with_context(|| format!("cannot write {}", to.display()))
}

/// Starts the sidecars and tells the API server of classes and snapshots; the API server must be ready.
pub(super) async fn start(client: &Client, programs: &Programs) -> Result<()> {
    for file in DEFINITIONS {
        let path = programs.definitions.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        apply(client, &text).await?;
    }
    apply(client, PERMISSIONS).await?;
    // The API server serves snapshots only a moment after it was told of them.
    api::wait("the API server to serve snapshots", async || {
        apply(client, CLASSES).await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    for (program, own) in sidecars() {
        let mut arguments = vec![
            format!("--kubeconfig={}", pki::kubeconfig(IDENTITY).display()),
            // A test makes many claims at once, and must not wait for a limit meant for busy clusters.
            "--kube-api-qps=50".into(),
            "--kube-api-burst=100".into(),
            "--retry-interval-max=10s".into(),
        ];
        arguments.extend(own);
        control_plane::process(&programs.sidecars, program, &arguments).start()?;
    }
    Ok(())
}

/// Waits until every kubelet has registered the driver.
pub(super) async fn wait_ready(client: &Client, nodes: usize) -> Result<()> {
    let api: Api<CSINode> = Api::all(client.clone());
    api::wait("the storage driver to be registered on every node", async || {
        let list = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let ready = list.iter().filter(|n| n.spec.drivers.iter().any(|d| d.name == DRIVER)).count();
        if ready >= nodes { Ok(()) } else { Err(format!("it is on {ready} of {nodes}")) }
    })
    .await
}

fn socket() -> PathBuf {
    paths::at("csi.sock")
}

/// Each sidecar with its own arguments. Timeouts exceed those of the driver's tools, so that it is the driver who says
/// what takes too long.
fn sidecars() -> [(&'static str, Vec<String>); 4] {
    let address = format!("--csi-address={}", socket().display());
    let timeout = "--timeout=150s".to_owned();
    // On by default, but then the definitions of groups must be there too.
    let no_groups = "--feature-gates=CSIVolumeGroupSnapshot=false".to_owned();
    let provisioner = ["--strict-topology", "--extra-create-metadata", "--default-fstype=xfs"];
    let provisioner = provisioner.map(str::to_owned).into_iter().chain([address.clone(), timeout.clone()]);
    [
        ("csi-provisioner", provisioner.collect()),
        ("csi-resizer", vec![address.clone(), "--resize-timeout=150s".into()]),
        ("csi-snapshotter", vec![address, timeout, no_groups.clone()]),
        ("snapshot-controller", vec![no_groups]),
    ]
}

/// The folder with the definitions of snapshots, taken from the module whose version the sidecars' module fixes.
async fn definitions() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(SIDECARS_SOURCE);
    let versions = source.join("go.mod");
    let versions = fs::read(&versions).with_context(|| format!("cannot read {}", versions.display()))?;
    cache::ensure("csi-definitions", &Digest::of([versions.as_slice()]), async |out: &Path| {
        let mut download = Command::new("go");
        download.args(["mod", "download", DEFINITIONS_MODULE]).current_dir(&source);
        command::output(download, DOWNLOAD_LIMIT).await?;
        let mut locate = Command::new("go");
        locate.args(["list", "-m", "-f", "{{.Dir}}", DEFINITIONS_MODULE]).current_dir(&source);
        let module = command::output(locate, DOWNLOAD_LIMIT).await?;
        for file in DEFINITIONS {
            let from = Path::new(module.trim()).join("config/crd").join(file);
            fs::copy(&from, out.join(file)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(())
    })
    .await
}

/// Applies the objects of a YAML stream.
async fn apply(client: &Client, stream: &str) -> Result<()> {
    let documents = serde_yaml_ng::Deserializer::from_str(stream);
    let items = documents.map(Value::deserialize).collect::<Result<Vec<_>, _>>()?;
    api::apply(client, &json!({ "items": items }).to_string()).await
}
