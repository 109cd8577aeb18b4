//! What the agents of one Database may do: its own Lease, its own pods' labels, its own ConfigMap.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use proto::identity::Ordinal;

use super::config_map_name;
use crate::cluster::{Cluster, MAX_REPLICAS};

/// The pods' identity. Only the agent's container gets a token, by a projected volume.
pub(super) fn service_account(cluster: &Cluster) -> ServiceAccount {
    ServiceAccount {
        metadata: cluster.owned(cluster.name().to_owned()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Everything by name, except what cannot be: creating has no name to check.
pub(super) fn role(cluster: &Cluster) -> Role {
    let name = cluster.name().to_owned();
    let pods = (0..MAX_REPLICAS).map(|ordinal| cluster.pod(Ordinal(ordinal))).collect();
    let rules = vec![
        rule("coordination.k8s.io", "leases", &["get", "watch", "update"], Some(vec![name])),
        // W4: the valid holder makes a deleted Lease again.
        rule("coordination.k8s.io", "leases", &["create"], None),
        rule("", "pods", &["get", "patch"], Some(pods)),
        rule("", "configmaps", &["get"], Some(vec![config_map_name(cluster)])),
        // Failovers are told by the agents themselves: the operator may be away just then.
        rule("events.k8s.io", "events", &["create", "patch"], None),
    ];
    Role { metadata: cluster.owned(cluster.name().to_owned()), rules: Some(rules) }
}

/// Gives the role to the pods.
pub(super) fn role_binding(cluster: &Cluster) -> RoleBinding {
    binding(cluster, cluster.name())
}

/// Gives the Role `name` to the ServiceAccount `name`.
pub(super) fn binding(cluster: &Cluster, name: &str) -> RoleBinding {
    RoleBinding {
        metadata: cluster.owned(name.to_owned()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: name.to_owned(),
            namespace: Some(cluster.namespace().to_owned()),
            ..Subject::default()
        }]),
    }
}

pub(super) fn rule(group: &str, resource: &str, verbs: &[&str], names: Option<Vec<String>>) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: names,
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
