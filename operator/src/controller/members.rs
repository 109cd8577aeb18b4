//! What was observed of each member, side by side: pod, volume and the agent's own words. Pure. Plan and status
//! both look at this and at nothing else of the members.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use proto::{
    identity::Ordinal,
    wire::{
        http::{Role, State},
        peer::Status,
    },
};

use super::{observe::Observed, trouble::trouble};
use crate::{build::volume_name, cluster::Cluster};

/// One member.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Member {
    pub(crate) pod: Option<PodFacts>,
    pub(crate) volume: Option<VolumeFacts>,
    /// What the agent says; `None` if it did not answer.
    pub(crate) status: Option<Status>,
}

/// The pod, as far as anybody decides on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: Option<String>,
    pub(crate) leaving: bool,
    /// Made from another template than the StatefulSet has now.
    pub(crate) outdated: bool,
    pub(crate) ready: bool,
    /// Seconds since it was made, by the API server's clock.
    pub(crate) age_seconds: i64,
    /// Made before the settings were last changed, by the same clock.
    pub(crate) precedes_settings: bool,
    /// Why it cannot start, and what to do.
    pub(crate) trouble: Option<Trouble>,
}

/// The volume claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFacts {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) leaving: bool,
    /// Requested size, as text.
    pub(crate) size: Option<String>,
    /// System identifier in the annotation.
    pub(crate) system_identifier: Option<String>,
}

/// What keeps a pod from starting, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Trouble {
    /// Stable, in CamelCase: reason of condition and event.
    pub(crate) reason: &'static str,
    /// What, and what to do.
    pub(crate) message: String,
}

/// All members that have a pod, a volume, or should have them.
pub(crate) type Members = BTreeMap<Ordinal, Member>;

impl Member {
    /// Accepts writes, or streams and serves reads.
    pub(crate) fn serves(&self) -> bool {
        self.is_primary() || self.streams()
    }

    /// Accepts writes, by its own word.
    pub(crate) fn is_primary(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|status| status.role == Role::Primary && status.state == State::Running)
    }

    /// A standby that streams.
    pub(crate) fn streams(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|status| status.role == Role::Replica && status.state == State::Streaming)
    }

    /// Its pod or its volume is on the way out.
    pub(crate) fn is_leaving(&self) -> bool {
        self.pod.as_ref().is_some_and(|pod| pod.leaving)
    }

    /// What keeps it from starting.
    pub(crate) fn trouble(&self) -> Option<&Trouble> {
        self.pod.as_ref().and_then(|pod| pod.trouble.as_ref())
    }
}

/// Puts the observations side by side.
pub(crate) fn members(cluster: &Cluster, observed: &Observed, now: Timestamp) -> Members {
    let mut members: Members =
        (0..cluster.spec.replicas).map(|ordinal| (Ordinal(ordinal), Member::default())).collect();
    let revision = current_revision(observed);
    let unbound = unbound(observed);
    for pod in &observed.pods {
        let Some(ordinal) = cluster.ordinal_of(&pod.name_any()) else { continue };
        let member = members.entry(ordinal).or_default();
        member.pod = Some(pod_facts(pod, revision.as_deref(), observed, &unbound, now));
        member.status = observed.answers.get(&ordinal).and_then(|answer| answer.as_ref().ok()).cloned();
    }
    for claim in &observed.volumes {
        let ordinal = (0..crate::cluster::MAX_REPLICAS)
            .map(Ordinal)
            .find(|ordinal| volume_name(cluster, *ordinal) == claim.name_any());
        let Some(ordinal) = ordinal else { continue };
        members.entry(ordinal).or_default().volume = Some(volume_facts(claim));
    }
    members
}

/// The revision that pods should have; `None` while the StatefulSet controller has not seen the last change.
fn current_revision(observed: &Observed) -> Option<String> {
    let set = observed.stateful_set.as_ref()?;
    let status = set.status.as_ref()?;
    (status.observed_generation == set.metadata.generation).then(|| status.update_revision.clone()).flatten()
}

/// When the settings that agents read were last written.
fn settings_changed(observed: &Observed) -> Option<Timestamp> {
    let writes = observed.config_map.as_ref()?.managed_fields().iter();
    writes.filter_map(|write| write.time.as_ref().map(|time| time.0)).max()
}

/// Claims that have no volume yet.
fn unbound(observed: &Observed) -> BTreeSet<String> {
    let pending = |claim: &&PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending")
    };
    observed.volumes.iter().filter(pending).map(ResourceExt::name_any).collect()
}

fn pod_facts(
    pod: &Pod,
    revision: Option<&str>,
    observed: &Observed,
    unbound: &BTreeSet<String>,
    now: Timestamp,
) -> PodFacts {
    let of_pod = pod.labels().get("controller-revision-hash").map(String::as_str);
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let created = pod.creation_timestamp().map_or(now, |time| time.0);
    let age_seconds = now.as_second() - created.as_second();
    PodFacts {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        leaving: pod.metadata.deletion_timestamp.is_some(),
        outdated: revision.is_some_and(|revision| of_pod.is_some_and(|of_pod| of_pod != revision)),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        age_seconds,
        precedes_settings: settings_changed(observed).is_some_and(|changed| created < changed),
        trouble: trouble(pod, age_seconds, &observed.warnings, unbound),
    }
}

fn volume_facts(claim: &PersistentVolumeClaim) -> VolumeFacts {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    VolumeFacts {
        name: claim.name_any(),
        uid: claim.uid().unwrap_or_default(),
        leaving: claim.metadata.deletion_timestamp.is_some(),
        size: requests.and_then(|requests| requests.get("storage")).map(|quantity| quantity.0.clone()),
        system_identifier: claim.annotations().get(proto::pod::ANNOTATION_SYSTEM_ID).cloned(),
    }
}
