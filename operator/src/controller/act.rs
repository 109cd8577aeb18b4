//! The one disruptive step of a plan (client). It was decided on quorum reads of this same reconcile, and each
//! deletion carries the UID that was judged.

use jiff::civil::Date;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use proto::{
    api::database::Database,
    identity::Ordinal,
    pod::{AGENT_CONTAINER, ANNOTATION_ACCEPT_DATA_LOSS, INSTALL_CONTAINER},
    wire::peer::Switchover,
};
use serde_json::json;

use super::{
    ANNOTATION_REPLACED_AGENT, ANNOTATION_SWITCHOVER,
    apply::{ApplyError, delete_exactly},
    context::{Context, News},
    observe::{Observed, addresses},
    plan::Step,
};
use crate::{
    agents::{AgentError, Target},
    chain::chain,
    cluster::Cluster,
    deadline::{CallError, within},
};

/// A step was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActError {
    /// A deletion.
    #[error("could not carry out the next step")]
    Delete(#[source] ApplyError),
    /// The annotation stays and the request is repeated.
    #[error("could not remove the annotation {annotation}")]
    Annotation {
        annotation: &'static str,
        #[source]
        source: CallError,
    },
    /// The old one goes on.
    #[error("could not replace the agent of {pod}")]
    Agent {
        pod: String,
        #[source]
        source: CallError,
    },
    /// A hand-over that the operator needs.
    #[error("could not ask {pod} to hand over")]
    SwitchOver {
        pod: String,
        #[source]
        source: AgentError,
    },
}

/// Carries it out and says what to tell.
pub(crate) async fn act(
    context: &Context,
    cluster: &Cluster,
    observed: &Observed,
    step: &Step,
    today: Date,
) -> Result<Vec<News>, ActError> {
    let namespace = cluster.namespace();
    match step {
        Step::None => Ok(Vec::new()),
        Step::Restart { pod, uid, why } => {
            delete_exactly::<Pod>(context, namespace, pod, uid).await.map_err(ActError::Delete)?;
            Ok(vec![News::normal("InstanceRestarting", format!("{pod} restarts: {why}"))])
        }
        Step::ReplaceAgent { pod, uid, container } => {
            replace_agent(context, namespace, pod, uid, container.as_deref()).await?;
            let message = format!("{pod} gets the agent {}; its server goes on", context.agent_image);
            Ok(vec![News::normal("AgentReplaced", message)])
        }
        Step::DeleteVolume { name, uid } => {
            delete_exactly::<PersistentVolumeClaim>(context, namespace, name, uid)
                .await
                .map_err(ActError::Delete)?;
            Ok(vec![News::normal(
                "VolumeDeleted",
                format!("{name} is deleted: its instance left, deletionPolicy is Delete"),
            )])
        }
        Step::DropRequest { message } => {
            forget(context, cluster, ANNOTATION_SWITCHOVER).await?;
            Ok(vec![News::warning("SwitchoverRefused", message.clone())])
        }
        Step::DropAcceptance { message } => {
            forget(context, cluster, ANNOTATION_ACCEPT_DATA_LOSS).await?;
            Ok(vec![News::warning("DataLossNotAsked", message.clone())])
        }
        Step::SwitchOver { leader, pod, candidate, requested, why } => {
            let request = Switchover { leader: Some(pod.clone()), candidate: candidate.clone() };
            let answer = ask(context, cluster, observed, *leader, &request, today).await;
            match requested {
                true => answered(context, cluster, answer, pod).await,
                false => {
                    answer.map_err(|source| ActError::SwitchOver { pod: pod.clone(), source }).map(|_| {
                        vec![News::normal(
                            "SwitchoverRequested",
                            format!("{pod} is asked to hand over: {why}"),
                        )]
                    })
                }
            }
        }
    }
}

/// The kubelet ends the old container and starts the new one; images are the only thing that it takes of a pod's
/// containers once they run.
async fn replace_agent(
    context: &Context,
    namespace: &str,
    pod: &str,
    uid: &str,
    container: Option<&str>,
) -> Result<(), ActError> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let image = &context.agent_image;
    let patch = json!({
        "metadata": {"uid": uid, "annotations": {ANNOTATION_REPLACED_AGENT: container}},
        "spec": {"initContainers": [
            {"name": INSTALL_CONTAINER, "image": image},
            {"name": AGENT_CONTAINER, "image": image},
        ]},
    });
    within(api.patch(pod, &PatchParams::default(), &Patch::Strategic(patch)))
        .await
        .map(drop)
        .map_err(|source| ActError::Agent { pod: pod.to_owned(), source })
}

async fn ask(
    context: &Context,
    cluster: &Cluster,
    observed: &Observed,
    leader: Ordinal,
    request: &Switchover,
    today: Date,
) -> Result<String, AgentError> {
    let authority = observed.secrets.stored_authority().ok_or(AgentError::NoAddress)?;
    let target =
        Target { namespace: cluster.namespace(), database: cluster.name(), authority: &authority, today };
    let address = addresses(cluster, &observed.pods).get(&leader).copied().flatten();
    context.agents.switch_over(target, (leader, address), request).await.map(|accepted| accepted.message)
}

/// A request by a person is made once: it is answered by an event and forgotten, whatever the outcome. Repeating
/// one whose outcome is unknown could move the primary twice. Only one that never reached the agent is tried again.
async fn answered(
    context: &Context,
    cluster: &Cluster,
    answer: Result<String, AgentError>,
    pod: &str,
) -> Result<Vec<News>, ActError> {
    let news = match answer {
        Ok(message) => News::normal("SwitchoverRequested", message),
        Err(AgentError::Refused(message)) => News::warning("SwitchoverRefused", message),
        Err(error @ AgentError::NoOutcome(_)) => {
            News::warning("SwitchoverRequested", format!("{pod} was asked to hand over: {}", chain(&error)))
        }
        Err(source) => return Err(ActError::SwitchOver { pod: pod.to_owned(), source }),
    };
    forget(context, cluster, ANNOTATION_SWITCHOVER).await?;
    Ok(vec![news])
}

async fn forget(context: &Context, cluster: &Cluster, annotation: &'static str) -> Result<(), ActError> {
    let api: Api<Database> = Api::namespaced(context.client.clone(), cluster.namespace());
    let none = json!({"metadata": {"uid": cluster.spec.uid, "annotations": {annotation: null}}});
    within(api.patch_metadata(cluster.name(), &PatchParams::default(), &Patch::Merge(none)))
        .await
        .map(drop)
        .map_err(|source| ActError::Annotation { annotation, source })
}
