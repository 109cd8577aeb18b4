//! The control plane: etcd, the API server, the controllers and the scheduler, in a namespace of their own.

use std::path::Path;

use anyhow::{Context, Result};

use super::addresses::{API_SERVER, SERVICES};
use super::cgroup::Cgroup;
use super::process::Process;
use super::{command, network, paths, pki};

/// The process that the faults of the API server act on.
pub(crate) const API_SERVER_PROCESS: &str = "kube-apiserver";

/// Where etcd listens, for the API server only: in the namespace's loopback.
pub(super) const ETCD: &str = "http://127.0.0.1:2379";

/// One line per request, without bodies: enough to count who wrote what.
const AUDIT_POLICY: &str = r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}"#;

/// Starts etcd and the API server, which the others wait for.
pub(super) async fn start(programs: &Path) -> Result<()> {
    mount_etcd().await?;
    let policy = paths::at("audit-policy.json");
    paths::write(&policy, AUDIT_POLICY)?;
    process(programs, "etcd", &etcd()).start()?;
    start_api_server(programs)
}

/// Starts what acts through the API server.
pub(super) fn start_controllers(programs: &Path) -> Result<()> {
    process(programs, "kube-controller-manager", &controller_manager()).start()?;
    process(programs, "kube-scheduler", &scheduler()).start()
}

/// Starts the API server again after it has been stopped.
pub(crate) fn start_api_server(programs: &Path) -> Result<()> {
    process(programs, API_SERVER_PROCESS, &api_server()).start()
}

/// A process of the control plane.
pub(crate) fn process(programs: &Path, program: &str, arguments: &[String]) -> Process {
    let mut command = vec![programs.join(program).display().to_string()];
    command.extend_from_slice(arguments);
    Process { name: program.to_owned(), namespace: network::control_plane(), cgroup: cgroup(), command }
}

/// The control group of the control plane.
pub(super) fn cgroup() -> Cgroup {
    Cgroup::lab().below("control-plane")
}

/// In memory: the cluster is as short-lived as the machine, and an fsync for every write would make all of
/// it as slow as the disk that the builds use at the same time.
async fn mount_etcd() -> Result<()> {
    let folder = paths::at("etcd");
    if folder.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let options = ["-t", "tmpfs", "-o", "size=1g,mode=700", "matriarch-lab"];
    command::run("mount", &[options.as_slice(), &[&folder.to_string_lossy()]].concat()).await.map(drop)
}

fn etcd() -> Vec<String> {
    vec![
        format!("--data-dir={}", paths::at("etcd/data").display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

fn api_server() -> Vec<String> {
    let (certificate, key) = pki::pair("kube-apiserver");
    let (kubelet_certificate, kubelet_key) = pki::pair("kubelet-client");
    let token_keys = paths::at("pki/service-accounts");
    vec![
        format!("--bind-address={API_SERVER}"),
        format!("--advertise-address={API_SERVER}"),
        format!("--etcd-servers={ETCD}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(), // PodSecurity is on by default
        "--allow-privileged=true".into(), // for CSI drivers; namespaces forbid it to others
        "--enable-aggregator-routing=true".into(), // webhooks are reached at their pods
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--client-ca-file={}", pki::authority().display()),
        format!("--tls-cert-file={}", certificate.display()),
        format!("--tls-private-key-file={}", key.display()),
        format!("--kubelet-certificate-authority={}", pki::authority().display()),
        format!("--kubelet-client-certificate={}", kubelet_certificate.display()),
        format!("--kubelet-client-key={}", kubelet_key.display()),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}.pub", token_keys.display()),
        format!("--service-account-signing-key-file={}.key", token_keys.display()),
        format!("--audit-policy-file={}", paths::at("audit-policy.json").display()),
        format!("--audit-log-path={}", paths::at("logs/audit.log").display()),
        "--audit-log-maxsize=500".into(),
        "--audit-log-maxbackup=1".into(),
    ]
}

fn controller_manager() -> Vec<String> {
    vec![
        format!("--kubeconfig={}", pki::kubeconfig("kube-controller-manager").display()),
        "--bind-address=127.0.0.1".into(),
        "--leader-elect=false".into(),
        "--use-service-account-credentials=true".into(),
        format!("--root-ca-file={}", pki::authority().display()),
        format!("--service-account-private-key-file={}", paths::at("pki/service-accounts.key").display()),
        format!("--cluster-signing-cert-file={}", pki::authority().display()),
        format!("--cluster-signing-key-file={}", paths::at("pki/ca.key").display()),
        format!("--flex-volume-plugin-dir={}", paths::at("flexvolume").display()),
    ]
}

fn scheduler() -> Vec<String> {
    vec![
        format!("--kubeconfig={}", pki::kubeconfig("kube-scheduler").display()),
        "--bind-address=127.0.0.1".into(),
        "--leader-elect=false".into(),
    ]
}
