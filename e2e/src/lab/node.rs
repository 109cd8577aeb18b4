//! A worker node: a network namespace and a control group with a containerd, a kubelet and a kube-proxy.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::addresses::{self, DNS};
use super::cgroup::Cgroup;
use super::process::Process;
use super::{image, network, paths, pki, proxy};

/// How many nodes a lab has: three, since that is the least on which one can be lost and a majority be left.
const COUNT: u8 = 3;

/// A worker node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    number: u8,
    name: String,
}

impl Node {
    /// All nodes of a lab.
    pub fn all() -> Vec<Self> {
        (1..=COUNT).map(|number| Self { number, name: format!("node{number}") }).collect()
    }

    /// What Kubernetes calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, which its pods of the host network share.
    pub fn address(&self) -> Ipv4Addr {
        addresses::node(self.number)
    }

    /// The range of its pods.
    pub fn pods(&self) -> String {
        addresses::pods(self.number)
    }

    /// The lab's other nodes.
    pub fn others(&self) -> impl Iterator<Item = Self> {
        Self::all().into_iter().filter(|other| other.number != self.number)
    }

    /// Where it keeps its files.
    pub fn dir(&self) -> PathBuf {
        paths::at(&self.name)
    }

    /// The file of its network namespace.
    pub fn namespace(&self) -> PathBuf {
        network::namespace(&self.name)
    }

    /// The group of everything on it.
    pub fn cgroup(&self) -> Cgroup {
        Cgroup::node(&self.name)
    }

    /// The group of its system processes; pods are in groups beside it.
    pub fn system_cgroup(&self) -> Cgroup {
        self.cgroup().below("system")
    }

    /// kubelet's folder: pods, volumes and the sockets of CSI drivers are in it.
    pub fn kubelet_dir(&self) -> PathBuf {
        self.dir().join("kubelet")
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.dir().join("containerd.sock")
    }

    /// A process of this node, named `<node>.<name>` in logs and records.
    pub fn process(&self, name: &str, command: Vec<String>) -> Process {
        Process {
            name: self.process_name(name),
            namespace: self.namespace(),
            cgroup: self.system_cgroup(),
            command,
        }
    }

    /// The full name of a process of this node.
    pub fn process_name(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// The end of the log of one of its processes.
    pub fn last_words(&self, name: &str) -> String {
        let log = fs::read(paths::log(&self.process_name(name))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().last().unwrap_or("its log is empty").to_owned()
    }

    /// Makes its files and control groups.
    pub fn prepare(&self) -> Result<()> {
        for folder in ["cni", "containerd", "logs"] {
            make_folder(&self.dir().join(folder))?;
        }
        make_folder(&self.kubelet_dir())?;
        self.system_cgroup().create()?;
        self.write("cni/lab.conflist", &network::cni(self))?;
        self.write("containerd.toml", &self.containerd_configuration())?;
        self.write("kubelet.json", &self.kubelet_configuration())
    }

    /// Starts containerd, which needs no API server.
    pub fn start_containerd(&self) -> Result<()> {
        let configuration = self.dir().join("containerd.toml").display().to_string();
        self.process("containerd", vec!["containerd".into(), "--config".into(), configuration]).start()
    }

    /// Starts kubelet and kube-proxy.
    pub fn start_kubelet(&self, programs: &Path) -> Result<()> {
        proxy::start_on(programs, self)?;
        let command = vec![
            programs.join("kubelet").display().to_string(),
            format!("--config={}", self.dir().join("kubelet.json").display()),
            format!("--kubeconfig={}", pki::kubeconfig(&self.name).display()),
            format!("--root-dir={}", self.kubelet_dir().display()),
            format!("--cert-dir={}", self.kubelet_dir().join("pki").display()),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.address()),
        ];
        self.process("kubelet", command).start()
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        paths::write(&self.dir().join(name), content)
    }

    fn containerd_configuration(&self) -> String {
        let dir = self.dir();
        let dir = dir.display();
        format!(
            r#"version = 2
root = "{dir}/containerd/root"
state = "{dir}/containerd/state"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true # a container of a machine that may not lower the score does not start otherwise
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{dir}/containerd/runc"
      SystemdCgroup = false
"#,
            socket = self.containerd_socket().display(),
            pause = image::PAUSE,
        )
    }

    fn kubelet_configuration(&self) -> String {
        let (certificate, key) = pki::pair(&self.name);
        let runtime = format!("unix://{}", self.containerd_socket().display());
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address(),
            "authentication": { "anonymous": { "enabled": false }, "x509": { "clientCAFile": pki::authority() } },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": certificate,
            "tlsPrivateKeyFile": key,
            "containerRuntimeEndpoint": runtime,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": "", // nothing of the host's
            "podLogsDir": self.dir().join("logs"),
            "volumePluginDir": self.dir().join("flexvolume"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup().path(),
            "failCgroupV1": false,
            "failSwapOn": false,
            "oomScoreAdj": 0,
            // An expanded volume grows at the next look at its pod, which by default comes once a minute.
            "syncFrequency": "10s",
            // All nodes are on the disk of the machine: they must not evict for it early.
            "evictionHard": { "memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%" },
            // Images are imported once and cannot be pulled again.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        })
        .to_string()
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}
