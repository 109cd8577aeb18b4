//! The cluster's DNS: CoreDNS as a process of the control plane. Names outside the cluster do not exist.

use std::path::Path;

use anyhow::Result;

use super::addresses::DNS;
use super::{control_plane, paths, pki};

/// Starts CoreDNS, which serves as soon as it has seen the API server.
pub(super) fn start(programs: &Path) -> Result<()> {
    let file = paths::at("Corefile");
    paths::write(&file, &corefile())?;
    let mut process = control_plane::process(programs, "coredns", &[format!("-conf={}", file.display())]);
    process.name = "coredns".into();
    process.start()
}

/// Answers are kept for five seconds at most, as in the clusters of kubeadm for Services: a name that moves
/// with the primary must not be found stale for longer than in production.
fn corefile() -> String {
    format!(
        ".:53 {{
    bind {DNS}
    errors
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {}
        ttl 5
    }}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
",
        pki::kubeconfig("coredns").display()
    )
}

/// What CoreDNS reads.
pub(super) const PERMISSIONS: &str = r#"
{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"system:coredns"},"rules":[
  {"apiGroups":[""],"resources":["services","pods","namespaces"],"verbs":["list","watch"]},
  {"apiGroups":["discovery.k8s.io"],"resources":["endpointslices"],"verbs":["list","watch"]}]},
{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"system:coredns"},
 "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:coredns"},
 "subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"system:coredns"}]}]}
"#;
