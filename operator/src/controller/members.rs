//! What was observed of each member, side by side: pod, volume and the agent's own words. Pure. Plan and status
//! both look at this and at nothing else of the members.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodSpec, PodTemplateSpec};
use kube::{ResourceExt, api::ObjectMeta};
use proto::{
    identity::Ordinal,
    pod::AGENT_CONTAINER,
    wire::{
        http::{Role, State},
        peer::Status,
    },
};

use super::{ANNOTATION_REPLACED_AGENT, observe::Observed, trouble::trouble};
use crate::{
    build::{ANNOTATION_TEMPLATE, volume_name},
    cluster::Cluster,
};

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
    /// Made from another template than the StatefulSet has now, apart from the agent's image.
    pub(crate) outdated: bool,
    pub(crate) agent: Sidecar,
    pub(crate) ready: bool,
    /// Seconds since it was made, by the API server's clock.
    pub(crate) age_seconds: i64,
    /// Made before the settings were last changed, by the same clock.
    pub(crate) precedes_settings: bool,
    /// Why it cannot start, and what to do.
    pub(crate) trouble: Option<Trouble>,
}

/// The agent's container, which changes beside a server that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sidecar {
    /// Of the wanted image, as far as anybody knows.
    Current,
    /// Of another image. Its ID tells it from the one that comes.
    Outdated { container: Option<String> },
    /// The outdated one still runs, or nothing does yet.
    Replacing,
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
    let template = template(observed);
    let unbound = unbound(observed);
    for pod in &observed.pods {
        let Some(ordinal) = cluster.ordinal_of(&pod.name_any()) else { continue };
        let member = members.entry(ordinal).or_default();
        member.pod = Some(pod_facts(pod, template, observed, &unbound, now));
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

/// What pods are made from.
fn template(observed: &Observed) -> Option<&PodTemplateSpec> {
    Some(&observed.stateful_set.as_ref()?.spec.as_ref()?.template)
}

fn fingerprint(metadata: Option<&ObjectMeta>) -> Option<&String> {
    metadata?.annotations.as_ref()?.get(ANNOTATION_TEMPLATE)
}

fn agent_image(spec: Option<&PodSpec>) -> Option<&String> {
    let containers = spec?.init_containers.as_ref()?;
    containers.iter().find(|container| container.name == AGENT_CONTAINER)?.image.as_ref()
}

fn sidecar(pod: &Pod, template: Option<&PodTemplateSpec>) -> Sidecar {
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref());
    let status = statuses.unwrap_or_default().iter().find(|status| status.name == AGENT_CONTAINER);
    let container = status.and_then(|status| status.container_id.clone());
    let wanted = template.and_then(|template| agent_image(template.spec.as_ref()));
    if wanted.is_some() && agent_image(pod.spec.as_ref()) != wanted {
        return Sidecar::Outdated { container };
    }
    match pod.annotations().get(ANNOTATION_REPLACED_AGENT) {
        Some(replaced) if container.as_ref() == Some(replaced) => Sidecar::Replacing,
        _ => Sidecar::Current,
    }
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
    template: Option<&PodTemplateSpec>,
    observed: &Observed,
    unbound: &BTreeSet<String>,
    now: Timestamp,
) -> PodFacts {
    let wanted = template.and_then(|template| fingerprint(template.metadata.as_ref()));
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let created = pod.creation_timestamp().map_or(now, |time| time.0);
    let age_seconds = now.as_second() - created.as_second();
    PodFacts {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        leaving: pod.metadata.deletion_timestamp.is_some(),
        outdated: wanted.is_some() && fingerprint(Some(&pod.metadata)) != wanted,
        agent: sidecar(pod, template),
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::{Value, json};

    use super::*;

    fn pod(image: &str, made_from: &str, container: &str, replaced: Option<&str>) -> Pod {
        let annotations = json!({ANNOTATION_TEMPLATE: made_from, ANNOTATION_REPLACED_AGENT: replaced});
        let statuses = json!([{
            "name": "agent", "containerID": container, "image": "", "imageID": "", "ready": true, "restartCount": 0,
        }]);
        serde_json::from_value(json!({
            "metadata": {"name": "orders-db-0", "annotations": without_null(annotations)},
            "spec": {"containers": [], "initContainers": [{"name": "install"}, {"name": "agent", "image": image}]},
            "status": {"initContainerStatuses": statuses},
        }))
        .unwrap()
    }

    fn without_null(value: Value) -> Value {
        let Value::Object(fields) = value else { return value };
        fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<serde_json::Map<_, _>>().into()
    }

    /// The StatefulSet's pods are made from `a`, with the agent `new`.
    fn judged(pod: Pod) -> PodFacts {
        let set: StatefulSet = serde_json::from_value(json!({"spec": {
            "selector": {}, "serviceName": "", "template": {
                "metadata": {"annotations": {ANNOTATION_TEMPLATE: "a"}},
                "spec": {"containers": [], "initContainers": [{"name": "agent", "image": "new"}]},
            },
        }}))
        .unwrap();
        let observed = Observed { stateful_set: Some(set), pods: vec![pod], ..Observed::default() };
        let members = members(&crate::fixtures::cluster(), &observed, Timestamp::UNIX_EPOCH);
        members[&Ordinal(0)].pod.clone().unwrap()
    }

    #[test]
    fn a_pod_of_another_template_is_outdated_and_one_with_another_agent_is_not() {
        let current = judged(pod("new", "a", "2", Some("1")));
        assert_eq!((current.outdated, current.agent), (false, Sidecar::Current));
        assert!(judged(pod("new", "b", "2", None)).outdated);
        let older = judged(pod("old", "a", "1", None));
        let agent = Sidecar::Outdated { container: Some("1".to_owned()) };
        assert_eq!((older.outdated, older.agent), (false, agent));
    }

    #[test]
    fn an_agent_is_replaced_once_another_container_runs() {
        assert_eq!(judged(pod("new", "a", "1", Some("1"))).agent, Sidecar::Replacing);
        assert_eq!(judged(pod("new", "a", "2", Some("1"))).agent, Sidecar::Current);
        let again = judged(pod("older", "a", "2", Some("1"))).agent;
        assert_eq!(again, Sidecar::Outdated { container: Some("2".to_owned()) });
    }
}
