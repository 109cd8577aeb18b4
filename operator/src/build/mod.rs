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
use proto::{postgres::SystemIdentifier, wire::config::AcceptLoss};

use crate::cluster::Cluster;
pub(crate) use config::{config_map_name, generation};
pub(crate) use lease::empty_lease;
pub(crate) use secret::{
    ANNOTATION_NOT_AFTER, KEY_CA, KEY_CA_KEY, app_secret, authority_secret, names as secret_names,
    superuser_secret, tls_secret,
};
pub(crate) use service::{READ_WRITE, hosts};
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
    /// Who may lead although acknowledged commits are lost by it.
    pub(crate) accept_loss: Option<AcceptLoss>,
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        authority::{Authority, Issued},
        fixtures,
    };

    #[test]
    fn the_sample_is_built_as_reviewed() {
        let children = children(&fixtures::cluster(), &fixtures::shape());
        insta::assert_yaml_snapshot!("service_account", children.service_account);
        insta::assert_yaml_snapshot!("role", children.role);
        insta::assert_yaml_snapshot!("role_binding", children.role_binding);
        insta::assert_yaml_snapshot!("services", children.services);
        insta::assert_yaml_snapshot!("config_map", children.config_map);
        insta::assert_yaml_snapshot!("disruption_budget", children.disruption_budget);
        insta::assert_yaml_snapshot!("stateful_set", children.stateful_set);
        insta::assert_yaml_snapshot!("lease", empty_lease(&fixtures::cluster()));
    }

    /// Data as text, so that reviewers can read it.
    fn readable(secret: &Secret) -> Value {
        let data = secret.data.iter().flatten();
        let data: Vec<_> = data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0))).collect();
        json!({"metadata": secret.metadata, "type": secret.type_, "data": data})
    }

    #[test]
    fn the_samples_secrets_are_built_as_reviewed() {
        let cluster = fixtures::cluster();
        let authority = Authority::stored("CA CERTIFICATE".to_owned(), "CA KEY".to_owned());
        let issued = Issued {
            certificate: "CERTIFICATE".to_owned(),
            key: "KEY".to_owned(),
            not_after: jiff::civil::date(2026, 5, 30),
        };
        insta::assert_yaml_snapshot!("superuser_secret", readable(&superuser_secret(&cluster, "PASSWORD")));
        insta::assert_yaml_snapshot!("app_secret", readable(&app_secret(&cluster, "PASSWORD")));
        insta::assert_yaml_snapshot!("authority_secret", readable(&authority_secret(&cluster, &authority)));
        insta::assert_yaml_snapshot!("tls_secret", readable(&tls_secret(&cluster, &authority, &issued)));
    }

    #[test]
    fn what_the_user_says_about_placement_replaces_the_defaults() {
        let affinity = json!({"nodeAffinity": {}});
        let spread = json!([{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]);
        let cluster = fixtures::cluster_with(&json!({
            "affinity": affinity,
            "topologySpread": spread,
            "tolerations": [{"key": "db", "operator": "Exists"}],
            "resources": {"limits": {"memory": "2Gi"}},
        }));
        let set = serde_json::to_value(children(&cluster, &fixtures::shape()).stateful_set).unwrap();
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["affinity"], affinity);
        assert_eq!(pod["topologySpreadConstraints"], spread);
        assert_eq!(pod["tolerations"][0]["key"], "db");
        assert_eq!(pod["containers"][0]["resources"]["limits"]["memory"], "2Gi");
    }
}
