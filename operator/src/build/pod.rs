//! The pod of a member: an init container that installs the agent, the agent as native sidecar, and a stock
//! PostgreSQL image whose PID 1 is the supervisor (ha.md section 1). Satisfies the `restricted` Pod Security
//! Standard.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec,
    SeccompProfile, SecurityContext, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ObjectMeta;
use proto::{
    pod::{LABEL_ROLE, ROLE_NONE},
    wire::supervisor::VERSION,
};
use serde_json::json;

pub(super) mod containers;
pub(super) mod volumes;

use super::Shape;
use crate::{cluster::Cluster, digest::digest};

/// Fingerprint of the template that a pod was made from, with the version of the supervisor's protocol instead of the
/// agent's image: that one changes beside a server that goes on, as long as the supervisor understands it.
pub(crate) const ANNOTATION_TEMPLATE: &str = "db.example.com/template";

/// User and group `postgres` of the stock images (Debian).
const POSTGRES_ID: i64 = 999;

/// Long enough for the checkpoint that a planned stop begins with, on slow disks with large buffers. Nothing
/// waits for it in vain: the pod leaves as soon as it is done, and a crash in between costs a normal failover.
const TERMINATION_GRACE_SECONDS: i64 = 180;

/// The pod template of all members.
pub(super) fn pod_template(cluster: &Cluster, shape: &Shape) -> PodTemplateSpec {
    let mut labels = cluster.labels();
    // Until the agent knows better. It changes the label on the pod itself, never here.
    labels.insert(LABEL_ROLE.to_owned(), ROLE_NONE.to_owned());
    let lasting = pod_spec(cluster, &Shape { agent_image: String::new(), ..shape.clone() });
    let fingerprint = digest(&json!({"labels": labels, "spec": lasting, "supervisor": VERSION}).to_string());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(ANNOTATION_TEMPLATE.to_owned(), fingerprint)])),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(cluster, shape)),
    }
}

fn pod_spec(cluster: &Cluster, shape: &Shape) -> PodSpec {
    PodSpec {
        service_account_name: Some(cluster.name().to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
        security_context: Some(as_postgres()),
        init_containers: Some(containers::init(cluster, shape)),
        containers: vec![containers::postgres(cluster)],
        volumes: Some(volumes::volumes(cluster, shape)),
        affinity: Some(cluster.spec.affinity.clone().unwrap_or_else(|| apart(cluster))),
        topology_spread_constraints: Some(spread(cluster)),
        // Kubernetes' own 300 s for unreachable nodes stay as they are. Failover does not wait for an eviction,
        // a StatefulSet cannot replace a pod whose node is silent anyway, and an eviction that takes effect
        // when the node comes back would only restart a healthy standby.
        tolerations: Some(cluster.spec.tolerations.clone()).filter(|list| !list.is_empty()),
        ..PodSpec::default()
    }
}

/// As whom PostgreSQL runs.
pub(super) fn as_postgres() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(POSTGRES_ID),
        run_as_group: Some(POSTGRES_ID),
        fs_group: Some(POSTGRES_ID),
        // Ownership of a large volume is compared at its root only: walking all files takes minutes.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

/// What every container may do: nothing beyond its own files.
pub(super) fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// Where no member is, as far as there are nodes; a preference, since a smaller cluster is better than none.
pub(super) fn apart(cluster: &Cluster) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(selector(cluster)),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..PodAffinityTerm::default()
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: term,
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn spread(cluster: &Cluster) -> Vec<TopologySpreadConstraint> {
    if !cluster.spec.topology_spread.is_empty() {
        return cluster.spec.topology_spread.clone();
    }
    vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector(cluster)),
        ..TopologySpreadConstraint::default()
    }]
}

fn selector(cluster: &Cluster) -> LabelSelector {
    LabelSelector { match_labels: Some(cluster.pod_selector()), ..LabelSelector::default() }
}
