//! The containers of a member's pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, Probe,
        ResourceRequirements,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use proto::pod::{
    AGENT_CONTAINER, ENV_DATABASE, ENV_POD_NAME, ENV_POD_NAMESPACE, ENV_POD_UID, HTTP_PORT,
    INSTALL_CONTAINER, INSTALLED_AGENT, PEER_PORT, POSTGRES_CONTAINER, POSTGRES_PORT, RESTORE_CONTAINER,
    RESTORE_FILE, RUN_DIR,
};

use super::{confined, volumes};
use crate::{build::Shape, cluster::Cluster};

/// The binary in the agent's image.
pub(in crate::build) const AGENT_BINARY: &str = "/agent";

/// Memory that the agent may use.
const AGENT_MEMORY: &str = "64Mi";
/// The same while it reads, compresses and uploads backups: chunks of several parts at once.
const AGENT_MEMORY_WITH_BACKUPS: &str = "192Mi";

/// Everything before the server, in order.
pub(super) fn init(cluster: &Cluster, shape: &Shape) -> Vec<Container> {
    let install = install(&shape.agent_image);
    let agent = agent(cluster, &shape.agent_image);
    [Some(install), Some(agent), shape.restore.as_ref().map(|_| restore(cluster))]
        .into_iter()
        .flatten()
        .collect()
}

/// Puts the binary where both other containers find it.
pub(in crate::build) fn install(agent_image: &str) -> Container {
    Container {
        name: INSTALL_CONTAINER.to_owned(),
        image: Some(agent_image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![AGENT_BINARY.to_owned(), "install".to_owned()]),
        // The copy lies in memory and counts here while it is made.
        resources: Some(small("64Mi")),
        security_context: Some(confined()),
        volume_mounts: Some(vec![volumes::run()]),
        ..Container::default()
    }
}

/// The agent. No startup probe: PostgreSQL's container would wait for it, and the agent answers at once.
fn agent(cluster: &Cluster, agent_image: &str) -> Container {
    Container {
        name: AGENT_CONTAINER.to_owned(),
        image: Some(agent_image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        restart_policy: Some("Always".to_owned()),
        command: Some(vec![AGENT_BINARY.to_owned(), "run".to_owned()]),
        env: Some(environment(cluster)),
        ports: Some(vec![port("http", HTTP_PORT), port("peer", PEER_PORT)]),
        // A stuck agent is restarted after half a minute; its pod was fenced by its supervisor long before.
        liveness_probe: Some(probe("/liveness", 10, 3)),
        // Gates only `-ro` and the disruption budget.
        readiness_probe: Some(probe("/readiness", 2, 2)),
        resources: Some(small(agent_memory(cluster))),
        security_context: Some(confined()),
        volume_mounts: Some(volumes::of_agent(cluster)),
        ..Container::default()
    }
}

fn agent_memory(cluster: &Cluster) -> &'static str {
    match cluster.spec.backup {
        Some(_) => AGENT_MEMORY_WITH_BACKUPS,
        None => AGENT_MEMORY,
    }
}

/// Fills an empty volume from a backup, on the image that will run it and with its resources, since it replays
/// the write-ahead log. Where there is data it does nothing.
fn restore(cluster: &Cluster) -> Container {
    Container {
        name: RESTORE_CONTAINER.to_owned(),
        image: Some(cluster.spec.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![
            INSTALLED_AGENT.to_owned(),
            "restore".to_owned(),
            "--config".to_owned(),
            RESTORE_FILE.to_owned(),
        ]),
        env: Some(environment(cluster)),
        // What it said last is shown where the operator looks.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        resources: cluster.spec.resources.clone(),
        security_context: Some(confined()),
        volume_mounts: Some(volumes::of_restore()),
        ..Container::default()
    }
}

/// A stock image; its own entrypoint is not used.
pub(super) fn postgres(cluster: &Cluster) -> Container {
    Container {
        name: POSTGRES_CONTAINER.to_owned(),
        image: Some(cluster.spec.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![INSTALLED_AGENT.to_owned(), "supervise".to_owned()]),
        // For people who run psql in it: not every image is built with this directory as its default.
        env: Some(vec![variable("PGHOST", RUN_DIR)]),
        ports: Some(vec![port("postgres", POSTGRES_PORT)]),
        resources: cluster.spec.resources.clone(),
        security_context: Some(confined()),
        volume_mounts: Some(volumes::of_postgres()),
        ..Container::default()
    }
}

fn environment(cluster: &Cluster) -> Vec<EnvVar> {
    let mut variables: Vec<_> = [
        (ENV_POD_NAME, "metadata.name"),
        (ENV_POD_NAMESPACE, "metadata.namespace"),
        (ENV_POD_UID, "metadata.uid"),
    ]
    .into_iter()
    .map(|(name, path)| from_field(name, path))
    .collect();
    variables.push(variable(ENV_DATABASE, cluster.name()));
    variables
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

pub(in crate::build) fn from_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()), // part of the key of the list in server-side apply
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(HTTP_PORT)),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// Little, with a bound on memory only: a limit on CPU would throttle exactly the renewals that count.
pub(in crate::build) fn small(memory_limit: &str) -> ResourceRequirements {
    let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([quantity("cpu", "10m"), quantity("memory", "24Mi")])),
        limits: Some(BTreeMap::from([quantity("memory", memory_limit)])),
        ..ResourceRequirements::default()
    }
}
