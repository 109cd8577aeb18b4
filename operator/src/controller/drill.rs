//! How restore drills ended: from their Jobs and the last words of their pods (pure), and the end of those pods, with
//! which their volumes go (client).

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition},
        core::v1::{ContainerState, ContainerStateTerminated, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use proto::{
    api::status::{DrillResult, RestoreDrill},
    pod::DRILL_CONTAINER,
    wire::drill::{DrillReport, Proof},
};

use super::{
    apply::{ApplyError, delete_exactly},
    context::Context,
    observe::LiveDrill,
};
use crate::backup::rounded;

/// Why the Job controller ended a Job that ran for too long.
const TOO_LONG: &str = "DeadlineExceeded";

/// The drill that began last of those that have ended.
pub(crate) fn last_drill(live: &LiveDrill) -> Option<RestoreDrill> {
    let ended = live.jobs.iter().filter_map(|job| Some((job, end(job)?)));
    let (job, end) = ended.max_by_key(|(job, _)| job.creation_timestamp().map(|time| time.0))?;
    Some(drill(job, end, &live.pods))
}

/// How the Job ended, if it did: its pods are gone or over by then.
fn end(job: &Job) -> Option<&JobCondition> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|told| matches!(told.type_.as_str(), "Complete" | "Failed") && told.status == "True")
}

fn drill(job: &Job, end: &JobCondition, pods: &[Pod]) -> RestoreDrill {
    let mut pods: Vec<_> = pods.iter().filter(|pod| is_of(pod, job)).collect();
    pods.sort_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let report = pods.iter().rev().find_map(|pod| report(pod));
    let complete = end.type_ == "Complete";
    let message = match &report {
        Some(DrillReport { proof: Some(proof), backup, .. }) if complete => proven(backup.as_deref(), proof),
        // Then it was interrupted, and says no more than that.
        _ if end.reason.as_deref() == Some(TOO_LONG) => unreported(end),
        Some(DrillReport { error: Some(error), .. }) => error.clone(),
        _ if complete => "everything was restored and checked; the details were lost with the pod".to_owned(),
        _ => pods.iter().rev().find_map(|pod| trouble(pod)).unwrap_or_else(|| unreported(end)),
    };
    let started = report.as_ref().map(|report| report.started_at);
    let started = started.or_else(|| Some(job.status.as_ref()?.start_time.as_ref()?.0));
    let ended = report.as_ref().map(|report| report.ended_at);
    let ended = ended.or_else(|| Some(end.last_transition_time.as_ref()?.0));
    RestoreDrill {
        job: job.name_any(),
        result: if complete { DrillResult::Proven } else { DrillResult::Failed },
        message,
        restored_to: report.as_ref().and_then(|report| report.proof.as_ref()?.last_commit).map(whole),
        backup_id: report.and_then(|report| report.backup),
        started_at: started.map(whole),
        ended_at: ended.map(whole),
        duration: started.zip(ended).map(|(started, ended)| rounded(ended.duration_since(started))),
    }
}

fn is_of(pod: &Pod, job: &Job) -> bool {
    pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
}

/// Whole seconds, as the API server stores them: otherwise every comparison would see a change.
fn whole(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn report(pod: &Pod) -> Option<DrillReport> {
    serde_json::from_str(last_words(pod)?.message.as_ref()?).ok()
}

fn last_words(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find(|container| container.name == DRILL_CONTAINER)?.state.as_ref()?.terminated.as_ref()
}

fn proven(backup: Option<&str>, proof: &Proof) -> String {
    let backup = backup.unwrap_or("a backup");
    let up_to = proof.last_commit.map(|time| format!(" up to {}", time.strftime("%Y-%m-%dT%H:%M:%SZ")));
    let checked = match &proof.without_amcheck {
        None => " and checked by pg_amcheck".to_owned(),
        Some(why) => format!("; without pg_amcheck ({why})"),
    };
    format!(
        "{backup} was restored{} and started: {} rows in {} tables of {} databases were read{checked}",
        up_to.unwrap_or_default(),
        proof.rows,
        proof.tables,
        proof.databases
    )
}

/// What Kubernetes says of a pod that said nothing itself.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut containers = init.chain(status.container_statuses.iter().flatten());
    let of_container = containers.find_map(|container| {
        let why = state(container.state.as_ref()?)?;
        Some(format!("container {} of {}: {why}", container.name, pod.name_any()))
    });
    let mut conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.find(|told| told.type_ == "PodScheduled" && told.status == "False");
    of_container.or_else(|| Some(format!("{}: {}", pod.name_any(), unscheduled?.message.as_ref()?)))
}

fn state(state: &ContainerState) -> Option<String> {
    let (reason, message) = match (&state.terminated, &state.waiting) {
        (Some(ended), _) if ended.exit_code != 0 => (ended.reason.clone(), ended.message.clone()),
        (_, Some(waiting)) => (waiting.reason.clone(), waiting.message.clone()),
        _ => return None,
    };
    Some([reason, message].into_iter().flatten().collect::<Vec<_>>().join(": "))
}

fn unreported(end: &JobCondition) -> String {
    let why = end.message.as_deref().or(end.reason.as_deref()).unwrap_or("no reason is given");
    format!("the pod ended without a report: {why}")
}

/// Deletes the pods of drills that are over, once what they said is recorded: their volumes stay as long as they do.
pub(crate) async fn tidy(context: &Context, namespace: &str, live: &LiveDrill) -> Result<(), ApplyError> {
    for pod in over(live) {
        let uid = pod.uid().unwrap_or_default();
        delete_exactly::<Pod>(context, namespace, &pod.name_any(), &uid).await?;
    }
    Ok(())
}

fn over(live: &LiveDrill) -> impl Iterator<Item = &Pod> {
    let ended: Vec<_> = live.jobs.iter().filter(|job| end(job).is_some()).collect();
    let leaving = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    live.pods.iter().filter(move |pod| !leaving(pod) && ended.iter().any(|job| is_of(pod, job)))
}

#[cfg(test)]
mod tests;
