//! A newer agent takes the place of the old one beside a server that goes on: one pod at a time, standbys first. The
//! supervisor stays what it is until the pod is made anew (docs/architecture.md).

use super::{Decision, Facts, ProgressKind, Step, is_stuck, not_serving, progress};
use crate::controller::members::{Member, PodFacts, Sidecar};

/// The next agent to replace, if any is outdated.
pub(super) fn upgrade(facts: &Facts<'_>) -> Option<Decision> {
    let pods: Vec<(&Member, &PodFacts)> = facts
        .members
        .values()
        .filter_map(|member| Some((member, member.pod.as_ref().filter(|pod| !pod.leaving)?)))
        .collect();
    let replacing = pods.iter().find(|(_, pod)| pod.agent == Sidecar::Replacing);
    let due = || pods.iter().filter(|(_, pod)| matches!(pod.agent, Sidecar::Outdated { .. }));
    if replacing.is_none() && due().next().is_none() {
        return None;
    }
    // An image that cannot be had is corrected by another one: nothing is lost by it.
    if let Some((_, pod)) = due().find(|(member, _)| is_stuck(member)) {
        return Some(replace(facts, pod));
    }
    if let Some((_, pod)) = replacing {
        return Some(waiting(&format!("the new agent of {} starts", pod.name)));
    }
    if let Some(absent) = not_serving(facts) {
        return Some(waiting(&format!("the next new agent waits for {absent}")));
    }
    let (_, next) = due().rev().find(|(member, _)| !member.is_primary()).or_else(|| due().next())?;
    Some(replace(facts, next))
}

fn replace(facts: &Facts<'_>, pod: &PodFacts) -> Decision {
    let container = match &pod.agent {
        Sidecar::Outdated { container } => container.clone(),
        Sidecar::Current | Sidecar::Replacing => None,
    };
    let step = Step::ReplaceAgent { pod: pod.name.clone(), uid: pod.uid.clone(), container };
    let message = format!("{} gets the agent {}; its server goes on", pod.name, facts.agent_image);
    (step, progress(ProgressKind::Updating, &message))
}

fn waiting(message: &str) -> Decision {
    (Step::None, progress(ProgressKind::Updating, message))
}
