//! Every child of a Database, built from validated input: pure and infallible, one file per kind of child.

mod access;
mod config;
mod disruption_budget;
mod lease;
mod pod;
mod secret;
mod service;
mod stateful_set;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use proto::postgres::SystemIdentifier;

use crate::cluster::Cluster;
pub(crate) use config::config_map_name;
pub(crate) use lease::empty_lease;
pub(crate) use secret::{
    ANNOTATION_NOT_AFTER, KEY_CA, KEY_CA_KEY, app_secret, authority_secret, names as secret_names, superuser_secret,
    tls_secret,
};
pub(crate) use service::{READ_ONLY, READ_WRITE, hosts};
pub(crate) use stateful_set::{VOLUME_DATA, volume_name};

/// What the plan decided beyond the Database itself.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Recorded identity of the data (W4).
    pub(crate) system_identifier: Option<SystemIdentifier>,
    /// Pods: more than members while members leave.
    pub(crate) pods: u8,
    /// Size in the volume claim template. Kubernetes refuses to change it, so it stays what it was at creation
    /// and each claim is grown by itself.
    pub(crate) template_size: String,
    /// Image with the agent.
    pub(crate) agent_image: String,
}

/// The children that are applied as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Children {
    pub(crate) service_account: ServiceAccount,
    pub(crate) role: Role,
    pub(crate) role_binding: RoleBinding,
    pub(crate) services: Vec<Service>,
    pub(crate) config_map: ConfigMap,
    pub(crate) disruption_budget: PodDisruptionBudget,
    pub(crate) stateful_set: StatefulSet,
}

/// Builds them all.
pub(crate) fn children(cluster: &Cluster, shape: &Shape) -> Children {
    Children {
        service_account: access::service_account(cluster),
        role: access::role(cluster),
        role_binding: access::role_binding(cluster),
        services: service::services(cluster),
        config_map: config::config_map(cluster, shape),
        disruption_budget: disruption_budget::disruption_budget(cluster),
        stateful_set: stateful_set::stateful_set(cluster, shape),
    }
}
