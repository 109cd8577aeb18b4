//! Step 3 (pure): what shape the children get, and which single disruptive step is allowed now, if any.
//!
//! A disruptive step (restart, hand-over, deletion) happens only when every other member serves, one per
//! reconcile, and the next reconcile looks again before the next step.

mod upgrade;

use std::collections::BTreeSet;

use proto::{
    identity::{Epoch, Ordinal},
    pod::PGDATA,
    wire::config::AcceptLoss,
};

use super::{
    members::{Member, Members, PodFacts},
    newcomer::{self, Newcomers},
    record::{Identity, LeaseFacts},
};
use crate::{
    build::{self, RestoreShape, Shape},
    cluster::{Cluster, MAX_REPLICAS},
};

/// A pod that was made with the settings of now is left alone for this long before it may be restarted for one of
/// them, so that a setting that a restart does not settle cannot make a member restart without end.
const RESTART_PAUSE_SECONDS: i64 = 60;

/// What the plan is made of.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) members: &'a Members,
    pub(crate) lease: &'a LeaseFacts,
    pub(crate) identity: &'a Identity,
    /// Replicas and volume size that the StatefulSet has now.
    pub(crate) set: Option<SetFacts>,
    /// Value of the annotation that asks for a switchover.
    pub(crate) requested: Option<&'a str>,
    /// Value of the annotation that accepts the loss of data.
    pub(crate) accepted: Option<&'a str>,
    pub(crate) agent_image: &'a str,
    /// Backups that the first instance begins with.
    pub(crate) restore: Option<RestoreShape>,
    /// How new instances get their data.
    pub(crate) newcomers: Newcomers,
}

/// The StatefulSet as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetFacts {
    pub(crate) pods: u8,
    pub(crate) template_size: Option<String>,
}

/// The outcome.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) lease: LeaseStep,
    /// Volumes that do not carry the system identifier yet.
    pub(crate) annotate: Vec<String>,
    /// Volumes to grow to the wanted size.
    pub(crate) grow: Vec<String>,
    /// What to do for new instances.
    pub(crate) newcomers: Newcomers,
    pub(crate) step: Step,
    /// What is going on, and what it waits for.
    pub(crate) progress: Option<Progress>,
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseStep {
    /// Leave it to the agents.
    Keep,
    /// First time in the Database's life.
    Create,
    /// Made for an earlier Database of this name that never came to life.
    Replace,
}

/// At most one disruptive step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    None,
    /// Delete the pod, if it still is the one of this UID.
    Restart {
        pod: String,
        uid: String,
        why: String,
    },
    /// Give the pod a newer agent, if it still is the one of this UID; its server goes on.
    ReplaceAgent {
        pod: String,
        uid: String,
        /// ID of the container that goes.
        container: Option<String>,
    },
    /// Ask the leader to hand over.
    SwitchOver {
        leader: Ordinal,
        pod: String,
        candidate: Option<String>,
        requested: bool,
        why: String,
    },
    /// The asked-for switchover makes no sense: say so and forget it.
    DropRequest {
        message: String,
    },
    /// The loss of data need not be accepted any more, or makes no sense: say so and forget it.
    DropAcceptance {
        message: String,
    },
    /// Delete the volume of a member that left, if it still is the one of this UID.
    DeleteVolume {
        name: String,
        uid: String,
    },
}

/// Something under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) kind: ProgressKind,
    pub(crate) message: String,
}

/// What kind, which decides about the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressKind {
    Scaling,
    Updating,
    Switchover,
    /// Settings are read in by servers that go on serving.
    Configuring,
}

/// Decides.
pub(crate) fn plan(facts: &Facts<'_>) -> Plan {
    let pods = pods(facts);
    let shape = Shape {
        system_identifier: facts.identity.known(),
        pods,
        template_size: template_size(facts),
        accept_loss: facts.accepted.and_then(|text| acceptance(facts, text)),
        agent_image: facts.agent_image.to_owned(),
        restore: facts.restore.clone(),
    };
    let (step, progress) = step(facts, pods);
    Plan {
        shape,
        lease: lease_step(facts),
        annotate: annotate(facts),
        grow: grow(facts),
        newcomers: facts.newcomers.clone(),
        step,
        progress,
    }
}

/// Members that are still in the Lease keep their pods: configuration first, then the pod.
fn pods(facts: &Facts<'_>) -> u8 {
    let wanted = facts.cluster.spec.replicas;
    let current = facts.set.as_ref().map_or(wanted, |set| set.pods);
    if current <= wanted {
        // A volume that is not an instance's yet keeps it, and those after it, waiting.
        let first = facts.newcomers.keys().next();
        return first.map_or(wanted, |first| first.0.clamp(current, wanted));
    }
    match facts.lease {
        LeaseFacts::Written { members, holder, .. } => {
            let holder = holder.as_deref().and_then(|pod| facts.cluster.ordinal_of(pod));
            let last = members.iter().copied().chain(holder).max().map_or(0, |ordinal| ordinal.0 + 1);
            last.clamp(wanted, current)
        }
        LeaseFacts::NeverInitialised { .. } => wanted,
        // Without knowing who counts, nobody is taken away.
        LeaseFacts::Missing | LeaseFacts::Unreadable => current,
    }
}

fn template_size(facts: &Facts<'_>) -> String {
    let live = facts.set.as_ref().and_then(|set| set.template_size.clone());
    live.unwrap_or_else(|| facts.cluster.spec.storage_quantity.clone())
}

/// W4: created once in a Database's life. If an identifier is recorded, only its holder may make it again.
fn lease_step(facts: &Facts<'_>) -> LeaseStep {
    match (facts.lease, facts.identity) {
        (LeaseFacts::Missing, Identity::Unborn) => LeaseStep::Create,
        (LeaseFacts::NeverInitialised { uid }, Identity::Unborn) if *uid != facts.cluster.spec.uid => {
            LeaseStep::Replace
        }
        _ => LeaseStep::Keep,
    }
}

fn annotate(facts: &Facts<'_>) -> Vec<String> {
    let Some(identifier) = facts.identity.known() else { return Vec::new() };
    let identifier = identifier.to_string();
    let volumes = facts.members.values().filter_map(|member| member.volume.as_ref());
    volumes
        .filter(|volume| !volume.leaving && volume.system_identifier.as_ref() != Some(&identifier))
        .map(|volume| volume.name.clone())
        .collect()
}

fn grow(facts: &Facts<'_>) -> Vec<String> {
    let wanted = facts.cluster.spec.storage_size;
    let volumes = facts.members.values().filter_map(|member| member.volume.as_ref());
    volumes
        .filter(|volume| !volume.leaving)
        .filter(|volume| {
            volume.size.as_ref().and_then(|size| size.parse().ok()).is_some_and(|size| wanted > size)
        })
        .map(|volume| volume.name.clone())
        .collect()
}

type Decision = (Step, Option<Progress>);

fn step(facts: &Facts<'_>, pods: u8) -> Decision {
    if let Identity::Contradiction(_) = facts.identity {
        return (Step::None, None);
    }
    accepted(facts)
        .or_else(|| requested(facts))
        .or_else(|| leaving_leader(facts))
        .or_else(|| rollout(facts))
        .or_else(|| upgrade::upgrade(facts))
        .or_else(|| scaling(facts, pods))
        .or_else(|| configuring(facts))
        .unwrap_or((Step::None, None))
}

fn primary<'a>(facts: &Facts<'a>) -> Option<(Ordinal, &'a PodFacts, &'a Member)> {
    facts.members.iter().find_map(|(ordinal, member)| {
        let pod = member.pod.as_ref()?;
        member.is_primary().then_some((*ordinal, pod, member))
    })
}

/// What `<pod>@<epoch>` says, if the pod is one of this Database.
fn acceptance(facts: &Facts<'_>, text: &str) -> Option<AcceptLoss> {
    let (pod, epoch) = text.split_once('@')?;
    let member = facts.cluster.ordinal_of(pod).filter(|ordinal| facts.members.contains_key(ordinal))?;
    Some(AcceptLoss { member, epoch: Epoch(epoch.parse().ok()?) })
}

/// A human's word that data may be lost is kept until somebody leads, and never longer.
fn accepted(facts: &Facts<'_>) -> Option<Decision> {
    let text = facts.accepted?;
    let message = match (acceptance(facts, text), primary(facts)) {
        (None, _) => format!(
            "{text:?} accepts no loss of data: the condition FailoverBlocked says which <pod>@<epoch> would"
        ),
        (Some(_), Some((_, pod, _))) => {
            format!("{} leads: the loss of data that {text:?} accepts is no longer asked for", pod.name)
        }
        (Some(_), None) => return None,
    };
    Some((Step::DropAcceptance { message }, None))
}

fn requested(facts: &Facts<'_>) -> Option<Decision> {
    let candidate = facts.requested?;
    let candidate = Some(candidate.to_owned()).filter(|name| !name.is_empty());
    if let Some(name) = &candidate {
        let member = facts.cluster.ordinal_of(name).and_then(|ordinal| facts.members.get(&ordinal));
        if member.is_none() {
            let message = format!("switchover asked for to {name}, which is no instance of this Database");
            return Some((Step::DropRequest { message }, None));
        }
    }
    let Some((leader, pod, _)) = primary(facts) else {
        return Some((Step::None, progress(ProgressKind::Switchover, "the switchover waits for a primary")));
    };
    if candidate.as_ref() == Some(&pod.name) {
        let message = format!("switchover asked for to {}, which is the primary already", pod.name);
        return Some((Step::DropRequest { message }, None));
    }
    let why = "asked for by annotation".to_owned();
    let step = Step::SwitchOver { leader, pod: pod.name.clone(), candidate, requested: true, why };
    Some((step, progress(ProgressKind::Switchover, "switchover asked for by annotation")))
}

/// A primary that is to leave hands over to a member that stays.
fn leaving_leader(facts: &Facts<'_>) -> Option<Decision> {
    let (leader, pod, _) = primary(facts).filter(|(ordinal, ..)| ordinal.0 >= facts.cluster.spec.replicas)?;
    let message = format!("{} is the primary and is to leave", pod.name);
    let heir = facts.members.iter().find(|(ordinal, member)| {
        ordinal.0 < facts.cluster.spec.replicas && member.streams() && !member.is_leaving()
    });
    let candidate = heir.and_then(|(_, member)| member.pod.as_ref()).map(|pod| pod.name.clone());
    let step = match candidate {
        Some(candidate) => Step::SwitchOver {
            leader,
            pod: pod.name.clone(),
            candidate: Some(candidate),
            requested: false,
            why: message.clone(),
        },
        None => Step::None,
    };
    Some((step, progress(ProgressKind::Scaling, &message)))
}

/// Why a member has to restart.
fn restart_reason(member: &Member) -> Option<String> {
    let pod = member.pod.as_ref().filter(|pod| !pod.leaving)?;
    let status = member.status.as_ref();
    let settings = status.map(|status| status.pending_restart.as_slice()).unwrap_or_default();
    if member.volume.as_ref().is_some_and(|volume| volume.leaving) {
        return Some("its volume was deleted and is made anew".to_owned());
    }
    if pod.outdated {
        return Some("the pod's template changed".to_owned());
    }
    let rested = pod.precedes_settings || pod.age_seconds >= RESTART_PAUSE_SECONDS;
    (rested && !settings.is_empty()).then(|| format!("a restart applies {}", settings.join(", ")))
}

/// Replicas first, from the highest ordinal; the primary last, after a hand-over.
fn rollout(facts: &Facts<'_>) -> Option<Decision> {
    let due: Vec<_> = facts
        .members
        .iter()
        .filter_map(|(ordinal, member)| {
            Some((*ordinal, member, member.pod.as_ref()?, restart_reason(member)?))
        })
        .collect();
    let (_, _, _, first_reason) = due.first()?;
    if let Some((_, _, pod, why)) = due.iter().find(|(_, member, pod, _)| pod.outdated && is_stuck(member)) {
        return Some(restart(pod, why));
    }
    if let Some(absent) = not_serving(facts) {
        let message = format!("restart waits for {absent} ({first_reason})");
        return Some((Step::None, progress(ProgressKind::Updating, &message)));
    }
    if let Some((_, _, pod, why)) = due.iter().rev().find(|(_, member, ..)| !member.is_primary()) {
        return Some(restart(pod, why));
    }
    let (leader, _, pod, why) = due.first()?;
    let others = facts.members.iter().any(|(ordinal, member)| ordinal != leader && member.streams());
    Some(match others {
        true => (
            Step::SwitchOver {
                leader: *leader,
                pod: pod.name.clone(),
                candidate: None,
                requested: false,
                why: why.clone(),
            },
            progress(ProgressKind::Updating, &format!("{} hands over before it restarts: {why}", pod.name)),
        ),
        false => lone_primary(facts, *leader, pod, why),
    })
}

/// A single instance restarts where it is, unless that would take the only copy of the data.
fn lone_primary(facts: &Facts<'_>, leader: Ordinal, pod: &PodFacts, why: &str) -> Decision {
    let volume = facts.members.get(&leader).and_then(|member| member.volume.as_ref());
    if volume.is_some_and(|volume| volume.leaving) {
        let message = format!(
            "the volume of {} is marked for deletion and holds the only copy of the data: it lives as long as the \
             pod; raise spec.replicas, or copy {PGDATA} away, before you restart it",
            pod.name
        );
        return (Step::None, progress(ProgressKind::Updating, &message));
    }
    restart(pod, why)
}

fn restart(pod: &PodFacts, why: &str) -> Decision {
    let step = Step::Restart { pod: pod.name.clone(), uid: pod.uid.clone(), why: why.to_owned() };
    (step, progress(ProgressKind::Updating, &format!("{} restarts: {why}", pod.name)))
}

/// Cannot start as it is, so that a restart costs nothing.
fn is_stuck(member: &Member) -> bool {
    member.trouble().is_some() && !member.serves()
}

/// The first wanted member that does not serve.
fn not_serving(facts: &Facts<'_>) -> Option<String> {
    let wanted = (0..facts.cluster.spec.replicas).map(Ordinal);
    let mut missing = wanted.filter(|ordinal| {
        facts.members.get(ordinal).is_none_or(|member| !member.serves() || member.is_leaving())
    });
    missing.next().map(|ordinal| facts.cluster.pod(ordinal))
}

fn scaling(facts: &Facts<'_>, pods: u8) -> Option<Decision> {
    let wanted = facts.cluster.spec.replicas;
    let leavers: BTreeSet<_> = (wanted..pods).map(|ordinal| facts.cluster.pod(Ordinal(ordinal))).collect();
    if !leavers.is_empty() {
        let names = leavers.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("{names} leave once no configuration counts on them");
        return Some((Step::None, progress(ProgressKind::Scaling, &message)));
    }
    if facts.cluster.spec.deletion_policy.deletes()
        && let Some(volume) = orphan(facts)
    {
        return Some((volume, None));
    }
    let coming = facts.set.as_ref().is_some_and(|set| set.pods < wanted);
    let message = newcomer::progress(facts.cluster, &facts.newcomers);
    let message = message.unwrap_or_else(|| "instances are added".to_owned());
    coming.then(|| (Step::None, progress(ProgressKind::Scaling, &message)))
}

/// Members that have not read the wanted settings in yet. One that refused them is told elsewhere.
fn configuring(facts: &Facts<'_>) -> Option<Decision> {
    let wanted = build::generation(facts.cluster);
    let behind = facts.members.iter().filter(|(_, member)| {
        member.status.as_ref().is_some_and(|status| {
            member.serves() && status.generation != wanted && status.configuration_error.is_none()
        })
    });
    let names: Vec<_> = behind.map(|(ordinal, _)| facts.cluster.pod(*ordinal)).collect();
    let message = format!("{} read in the settings", names.join(", "));
    (!names.is_empty()).then(|| (Step::None, progress(ProgressKind::Configuring, &message)))
}

/// A volume whose member left for good.
fn orphan(facts: &Facts<'_>) -> Option<Step> {
    (facts.cluster.spec.replicas..MAX_REPLICAS).find_map(|ordinal| {
        let member = facts.members.get(&Ordinal(ordinal)).filter(|member| member.pod.is_none())?;
        let volume = member.volume.as_ref().filter(|volume| !volume.leaving)?;
        Some(Step::DeleteVolume { name: volume.name.clone(), uid: volume.uid.clone() })
    })
}

#[allow(clippy::unnecessary_wraps)] // every caller puts it into a Decision
fn progress(kind: ProgressKind, message: &str) -> Option<Progress> {
    Some(Progress { kind, message: message.to_owned() })
}

#[cfg(test)]
pub(super) mod tests;
