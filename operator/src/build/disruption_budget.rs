//! The PodDisruptionBudget: at most one member at a time leaves by eviction.
//!
//! It covers the primary as well. Refusing to evict a primary would block every drain; the agent hands
//! leadership over on eviction instead, and the budget keeps the next member in place until the last is back.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::cluster::Cluster;

/// Pods that are not ready anyway may always be evicted: they protect nothing, and a broken one must not
/// block the drain that would repair it.
const ALWAYS_EVICT_BROKEN: &str = "AlwaysAllow";

/// The budget over all members.
pub(super) fn disruption_budget(cluster: &Cluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: cluster.owned(cluster.name().to_owned()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(cluster.pod_selector()),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some(ALWAYS_EVICT_BROKEN.to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
