//! Why a pod does not start, in words that say what to do. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerStateWaiting, Pod};
use kube::ResourceExt;
use proto::pod::POSTGRES_CONTAINER;

use super::members::Trouble;

/// Scheduling and mounting fail once or twice in any normal start (a volume binds after the pod was first
/// looked at), so what lasts less than this is not worth telling.
const PATIENCE_SECONDS: i64 = 8;

/// Providing a volume takes a cloud some seconds. One that takes longer may never come, and nobody says so: a
/// provisioner that does not run complains of nothing. Less than the half minute within which it must be told.
const BINDING_SECONDS: i64 = 15;

/// What the scheduler says of a claim that no volume fits.
const UNBOUND: [&str; 2] =
    ["unbound immediate PersistentVolumeClaims", "find available persistent volumes to bind"];

/// The first thing that keeps `pod` from starting, most certain first. `unbound` are the claims without a volume.
pub(super) fn trouble(
    pod: &Pod,
    age_seconds: i64,
    warnings: &BTreeMap<String, String>,
    unbound: &BTreeSet<String>,
) -> Option<Trouble> {
    if let Some(trouble) = waiting_containers(pod) {
        return Some(trouble);
    }
    if age_seconds < PATIENCE_SECONDS {
        return None;
    }
    volume(pod, warnings)
        .or_else(|| unschedulable(pod))
        .or_else(|| (age_seconds >= BINDING_SECONDS).then(|| waiting_volume(pod, unbound)).flatten())
        .or_else(|| mounting(pod, warnings))
}

fn waiting_containers(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let statuses = init.chain(status.container_statuses.iter().flatten());
    let mut waiting = statuses.filter_map(|container| {
        Some((container.name.as_str(), container.image.as_str(), container.state.as_ref()?.waiting.as_ref()?))
    });
    waiting.find_map(|(name, image, waiting)| container_trouble(&pod.name_any(), name, image, waiting))
}

fn container_trouble(
    pod: &str,
    container: &str,
    image: &str,
    waiting: &ContainerStateWaiting,
) -> Option<Trouble> {
    let detail = waiting.message.as_deref().unwrap_or("no details given");
    let (reason, message) = match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "RegistryUnavailable" => {
            ("ImagePullFailed", image_pull(pod, container, image, detail))
        }
        "InvalidImageName" => (
            "InvalidImageName",
            format!(
                "{pod}: {image:?} is not an image name: correct {} ({detail})",
                source_of_image(container)
            ),
        ),
        "CrashLoopBackOff" => (
            "CrashLoop",
            format!(
                "container {container} of {pod} ends again and again: see kubectl logs {pod} -c {container} --previous"
            ),
        ),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            ("ContainerNotCreated", format!("container {container} of {pod} cannot be created: {detail}"))
        }
        _ => return None,
    };
    Some(Trouble { reason, message })
}

/// Kubelet alternates between the error and "Back-off ...: ErrImagePull: " before the same error; without the
/// prefix the message stays the same.
fn image_pull(pod: &str, container: &str, image: &str, detail: &str) -> String {
    let cause = detail.split_once("ErrImagePull: ").map_or(detail, |(_, cause)| cause);
    format!("{pod} cannot pull {image}: check {} and the registry ({cause})", source_of_image(container))
}

/// Where the image of a container is said.
fn source_of_image(container: &str) -> &'static str {
    match container {
        POSTGRES_CONTAINER => "spec.version or spec.image",
        _ => "AGENT_IMAGE of the operator",
    }
}

/// The claim says it better than the scheduler, which only knows that something is unbound.
fn volume(pod: &Pod, warnings: &BTreeMap<String, String>) -> Option<Trouble> {
    claims(pod).find_map(|claim| {
        let warning = warnings.get(&format!("PersistentVolumeClaim/{claim}"))?;
        let message = format!(
            "the volume {claim} of {} is not provided: check spec.storage and the StorageClass ({warning})",
            pod.name_any()
        );
        Some(Trouble { reason: "VolumeNotProvisioned", message })
    })
}

fn waiting_volume(pod: &Pod, unbound: &BTreeSet<String>) -> Option<Trouble> {
    let claim = claims(pod).find(|claim| unbound.contains(*claim))?;
    let message = format!(
        "the volume {claim} of {} does not come: check spec.storage, and that the provisioner of its StorageClass \
         runs (kubectl describe pvc {claim})",
        pod.name_any()
    );
    Some(Trouble { reason: "VolumeNotProvisioned", message })
}

/// The names of the claims that the pod uses.
fn claims(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

fn unschedulable(pod: &Pod) -> Option<Trouble> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let refused = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let detail = refused.message.as_deref().unwrap_or("no details given");
    let pod = pod.name_any();
    let advice = match detail {
        text if text.contains("volume node affinity conflict") => format!(
            "its volume lies on a node that cannot run it; if that node is gone for good, delete the volume claim \
             and the pod, and it is copied anew (kubectl delete pvc data-{pod}; kubectl delete pod {pod})"
        ),
        text if UNBOUND.iter().any(|words| text.contains(words)) => {
            "its volume is not bound: check spec.storage and the StorageClass".to_owned()
        }
        text if text.contains("Insufficient") => "add nodes or lower spec.resources".to_owned(),
        _ => "check nodes, taints, spec.affinity and spec.resources".to_owned(),
    };
    Some(Trouble { reason: "Unschedulable", message: format!("{pod} fits on no node: {advice} ({detail})") })
}

fn mounting(pod: &Pod, warnings: &BTreeMap<String, String>) -> Option<Trouble> {
    let warning = warnings.get(&format!("Pod/{}", pod.name_any()))?;
    Some(Trouble {
        reason: "PodNotStarting",
        message: format!("{} does not start: {warning}", pod.name_any()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "orders-db-1"},
            "spec": {"containers": [], "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-orders-db-1"}}
            ]},
            "status": status,
        }))
        .unwrap()
    }

    fn waiting(reason: &str) -> Pod {
        pod(&json!({"containerStatuses": [{
            "name": "postgres", "image": "postgres:99", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": "not found"}},
        }]}))
    }

    #[test]
    fn containers_that_wait_say_why_at_once() {
        for (reason, expected, advice) in [
            ("ImagePullBackOff", "ImagePullFailed", "check spec.version or spec.image"),
            ("InvalidImageName", "InvalidImageName", "correct spec.version or spec.image"),
            ("CrashLoopBackOff", "CrashLoop", "kubectl logs orders-db-1 -c postgres --previous"),
            ("CreateContainerConfigError", "ContainerNotCreated", "not found"),
        ] {
            let trouble = trouble(&waiting(reason), 0, &BTreeMap::new(), &BTreeSet::new()).unwrap();
            assert_eq!(trouble.reason, expected);
            assert!(trouble.message.contains(advice), "{}", trouble.message);
        }
        assert_eq!(trouble(&waiting("PodInitializing"), 60, &BTreeMap::new(), &BTreeSet::new()), None);
    }

    #[test]
    fn a_failing_pull_reads_the_same_between_tries() {
        let error = "failed to resolve reference";
        let backing_off = format!("Back-off pulling image \"x\": ErrImagePull: {error}");
        assert_eq!(image_pull("p", "install", "x", error), image_pull("p", "install", "x", &backing_off));
        assert!(image_pull("p", "install", "x", error).contains("AGENT_IMAGE of the operator"));
    }

    #[test]
    fn scheduling_is_told_after_a_moment_and_with_advice() {
        let pod = pod(&json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
        }]}));
        assert_eq!(trouble(&pod, 1, &BTreeMap::new(), &BTreeSet::new()), None);
        let trouble = trouble(&pod, 60, &BTreeMap::new(), &BTreeSet::new()).unwrap();
        assert_eq!(trouble.reason, "Unschedulable");
        assert!(trouble.message.contains("kubectl delete pvc data-orders-db-1"), "{}", trouble.message);
    }

    #[test]
    fn a_claims_own_warning_wins_over_the_schedulers() {
        let pod = pod(&json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "message": "unbound immediate PersistentVolumeClaims",
        }]}));
        let warning = r#"storageclass.storage.k8s.io "nope" not found"#;
        let warnings =
            BTreeMap::from([("PersistentVolumeClaim/data-orders-db-1".to_owned(), warning.to_owned())]);
        let trouble = trouble(&pod, 60, &warnings, &BTreeSet::new()).unwrap();
        assert_eq!(trouble.reason, "VolumeNotProvisioned");
        assert!(trouble.message.contains(warning), "{}", trouble.message);
    }

    #[test]
    fn a_volume_that_nobody_speaks_of_is_told_within_half_a_minute() {
        let unbound = BTreeSet::from(["data-orders-db-1".to_owned()]);
        let pod = pod(&json!({"phase": "Pending"}));
        assert_eq!(trouble(&pod, 10, &BTreeMap::new(), &unbound), None);
        let told = trouble(&pod, 25, &BTreeMap::new(), &unbound).unwrap();
        assert_eq!(told.reason, "VolumeNotProvisioned");
        assert!(told.message.contains("kubectl describe pvc data-orders-db-1"), "{}", told.message);
        assert_eq!(trouble(&pod, 25, &BTreeMap::new(), &BTreeSet::new()), None);
    }

    #[test]
    fn a_class_without_provisioner_is_no_matter_of_nodes() {
        let message = "0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind.";
        let conditions = json!([{"type": "PodScheduled", "status": "False", "message": message}]);
        let pod = pod(&json!({"conditions": conditions}));
        let told = trouble(&pod, 60, &BTreeMap::new(), &BTreeSet::new()).unwrap();
        assert!(told.message.contains("check spec.storage and the StorageClass"), "{}", told.message);
    }
}
