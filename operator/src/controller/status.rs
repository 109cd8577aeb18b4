//! Step 6 (pure): the status, from what was observed and nothing else, and the news in it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use proto::{
    api::{
        database::Database,
        quantity::Bytes,
        status::{
            AVAILABLE, DEGRADED, DURABLE, DatabaseStatus, FAILOVER_BLOCKED, Instance, InstanceRole,
            PROGRESSING, Phase, RestoreDrill, coarse_lag,
        },
    },
    ha::volume::{FULL_BELOW, Room},
    identity::Ordinal,
    wire::{http::Role, peer::Status},
};

use super::{
    last_backup::LastBackup,
    members::{Member, Members},
    plan::{Plan, ProgressKind},
    record::{Identity, LeaseFacts},
    restoring::Beginning,
};
use crate::{backup::RepositoryFacts, cluster::Cluster};

mod backup;
mod drill;

pub(crate) use backup::archive_of_primary;

/// What the status is made of.
pub(crate) struct View<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) members: &'a Members,
    pub(crate) lease: &'a LeaseFacts,
    pub(crate) identity: &'a Identity,
    pub(crate) plan: &'a Plan,
    pub(crate) beginning: &'a Beginning,
    /// What lies in the store; `None` if this process has not looked yet.
    pub(crate) repository: Option<&'a RepositoryFacts>,
    /// The restore drill that ended last, as far as its Job is still there.
    pub(crate) drill: Option<&'a RestoreDrill>,
    /// What could not be written, with its causes.
    pub(crate) refused: Option<String>,
    /// Warning about the StatefulSet, which then makes no pods.
    pub(crate) set_warning: Option<&'a str>,
}

/// The new status. `previous` gives only the times at which conditions changed, and what was recorded for good.
pub(crate) fn status(view: &View<'_>, previous: Option<&DatabaseStatus>, now: Timestamp) -> DatabaseStatus {
    let wanted = view.cluster.spec.replicas;
    let primary = primary(view.members);
    // Those that are to leave do not count, however well they serve.
    let staying = view.members.iter().filter(|(ordinal, _)| ordinal.0 < wanted);
    let ready_replicas = count(staying.filter(|(_, member)| member.serves()));
    let of_primary = primary.and_then(|(_, member)| member.status.as_ref());
    let identifier = view.identity.known().map(|identifier| identifier.to_string());
    let times = backup::times(view, previous);
    let drills = drill::recorded(view, previous);
    let mut status = DatabaseStatus {
        observed_generation: Some(view.cluster.spec.generation),
        phase: Phase::default(),
        ready: Some(format!("{ready_replicas}/{wanted}")),
        ready_replicas,
        replicas: count(view.members.values().filter(|member| member.pod.is_some())),
        primary: primary.and_then(|(_, member)| member.pod.as_ref()).map(|pod| pod.name.clone()),
        version: of_primary.and_then(|status| status.server_version).map(version),
        lag: slowest(view.members),
        timeline: of_primary.and_then(|status| status.timeline).map(|timeline| i64::from(timeline.0.get())),
        epoch: of_primary.map(|status| i64::from(status.epoch.0)),
        system_identifier: identifier.or_else(|| previous?.system_identifier.clone()),
        last_backup_time: times.last_backup,
        earliest_restorable_time: times.earliest,
        latest_restorable_time: times.latest,
        last_proven_restore_time: drills.proven.clone(),
        restore_drill: drills.last.clone(),
        selector: Some(selector(view.cluster)),
        instances: instances(view),
        conditions: Vec::new(),
    };
    status.conditions = conditions(view)
        .into_iter()
        .chain(backup::archiving(view, now))
        .chain(drill::proven(view, &drills))
        .map(|fact| fact.into_condition(view.cluster.spec.generation, previous, now))
        .collect();
    status.conditions.extend(backup::restorable(view, previous, now));
    status.phase = phase(view, &status);
    status
}

/// The status of a Database that cannot be built: what runs goes on and its description stays as last observed.
pub(crate) fn invalid(
    reason: &str,
    generation: Option<i64>,
    previous: Option<&DatabaseStatus>,
    now: Timestamp,
) -> DatabaseStatus {
    let mut status = previous.cloned().unwrap_or_default();
    status.phase = Phase::Invalid;
    status.observed_generation = generation;
    let fact =
        Fact { type_: PROGRESSING, holds: Some(false), reason: "InvalidSpec", message: reason.to_owned() };
    let condition = fact.into_condition(generation.unwrap_or_default(), previous, now);
    status.conditions.retain(|condition| condition.type_ != PROGRESSING);
    status.conditions.push(condition);
    status
}

/// The status of a Database that is being deleted: as last observed, and how its last backup stands.
pub(crate) fn deleting(last: &LastBackup, database: &Database, now: Timestamp) -> DatabaseStatus {
    let previous = database.status.as_ref();
    let mut status = previous.cloned().unwrap_or_default();
    status.phase = Phase::Deleting;
    let facts = match last {
        LastBackup::None | LastBackup::Complete(_) => Vec::new(),
        LastBackup::Missing => {
            vec![Fact::new(PROGRESSING, Some(true), "LastBackup", "a last backup is asked for")]
        }
        LastBackup::Underway(message) => {
            vec![Fact::new(PROGRESSING, Some(true), "LastBackup", message.clone())]
        }
        LastBackup::Failed(message) => [(PROGRESSING, false), (DEGRADED, true)]
            .map(|(type_, holds)| Fact::new(type_, Some(holds), "LastBackupFailed", message.clone()))
            .into(),
    };
    for fact in facts {
        let generation = database.metadata.generation.unwrap_or_default();
        let condition = fact.into_condition(generation, previous, now);
        status.conditions.retain(|told| told.type_ != condition.type_);
        status.conditions.push(condition);
    }
    status
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or_default()
}

/// The member that accepts writes, by its own word.
fn primary(members: &Members) -> Option<(Ordinal, &Member)> {
    members.iter().find(|(_, member)| member.is_primary()).map(|(ordinal, member)| (*ordinal, member))
}

/// `160003` is 16.3.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

fn selector(cluster: &Cluster) -> String {
    let labels = cluster.pod_selector();
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn slowest(members: &Members) -> Option<String> {
    let lags = members.values().filter(|member| member.streams()).filter_map(lag_bytes);
    lags.max().map(|bytes| coarse_lag(Bytes(bytes)))
}

fn lag_bytes(member: &Member) -> Option<u64> {
    Some(member.status.as_ref()?.lag?.bytes)
}

fn instances(view: &View<'_>) -> Vec<Instance> {
    let with_pods = view.members.iter().filter(|(_, member)| member.pod.is_some());
    with_pods.map(|(ordinal, member)| instance(view.cluster.pod(*ordinal), member)).collect()
}

fn instance(name: String, member: &Member) -> Instance {
    let status = member.status.as_ref();
    Instance {
        name,
        role: match status.map(|status| status.role) {
            Some(Role::Primary) => InstanceRole::Primary,
            Some(Role::Replica) => InstanceRole::Replica,
            Some(Role::None) | None => InstanceRole::None,
        },
        ready: member.serves(),
        node: member.pod.as_ref().and_then(|pod| pod.node.clone()),
        timeline: status.and_then(|status| status.timeline).map(|timeline| i64::from(timeline.0.get())),
        lag: lag_bytes(member).filter(|_| member.streams()).map(|bytes| coarse_lag(Bytes(bytes))),
        message: message(member),
    }
}

/// What it is busy with, or why it does not serve.
fn message(member: &Member) -> Option<String> {
    let status = member.status.as_ref();
    if let Some(trouble) = member.trouble() {
        return Some(trouble.message.clone());
    }
    if let Some(error) = status.and_then(|status| status.configuration_error.as_ref()) {
        return Some(format!("settings refused: {error}"));
    }
    if member.is_leaving() {
        return Some("the pod is being deleted".to_owned());
    }
    match status {
        Some(status) if member.serves() => (!status.pending_restart.is_empty())
            .then(|| format!("restart pending: {}", status.pending_restart.join(", "))),
        Some(status) => status.doing.clone(),
        None => Some("the agent does not answer".to_owned()),
    }
}

/// A condition before it gets its times. `None`: not known.
struct Fact {
    type_: &'static str,
    holds: Option<bool>,
    reason: &'static str,
    message: String,
}

impl Fact {
    fn new(
        type_: &'static str,
        holds: Option<bool>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, holds, reason, message: message.into() }
    }

    fn into_condition(self, generation: i64, previous: Option<&DatabaseStatus>, now: Timestamp) -> Condition {
        let value = match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let conditions = previous.map(|previous| previous.conditions.as_slice()).unwrap_or_default();
        let same = conditions.iter().find(|before| before.type_ == self.type_ && before.status == value);
        // Whole seconds, as the API server stores them: otherwise every comparison would see a change.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Condition {
            type_: self.type_.to_owned(),
            status: value.to_owned(),
            reason: self.reason.to_owned(),
            message: self.message,
            observed_generation: Some(generation),
            last_transition_time: same.map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    }
}

fn conditions(view: &View<'_>) -> Vec<Fact> {
    vec![available(view), progressing(view), degraded(view), durable(view), failover_blocked(view)]
}

fn available(view: &View<'_>) -> Fact {
    let fact = |holds, reason, message| Fact::new(AVAILABLE, holds, reason, message);
    if let Some((ordinal, _)) = primary(view.members) {
        return fact(Some(true), "PrimaryServes", format!("{} accepts writes", view.cluster.pod(ordinal)));
    }
    let answering = view.members.values().any(|member| member.status.is_some());
    let pods = view.members.values().any(|member| member.pod.as_ref().is_some_and(|pod| pod.ready));
    match (view.identity, answering) {
        (Identity::Unborn, _) => {
            fact(Some(false), "NotInitialised", "the first instance is being made".to_owned())
        }
        (_, true) => fact(Some(false), "NoPrimary", "no instance accepts writes".to_owned()),
        // Ready pods that do not answer the operator may well serve everybody else.
        (_, false) if pods => fact(None, "AgentsSilent", "no instance answers the operator".to_owned()),
        (_, false) => fact(Some(false), "NoInstance", "no instance runs".to_owned()),
    }
}

fn progressing(view: &View<'_>) -> Fact {
    let fact = |holds, reason, message| Fact::new(PROGRESSING, Some(holds), reason, message);
    if let Some(refused) = &view.refused {
        return fact(false, "Refused", refused.clone());
    }
    if view.cluster.spec.paused {
        return fact(false, "Paused", "spec.paused: the operator changes nothing".to_owned());
    }
    if let Beginning::Unknown { reason, message } = view.beginning {
        return fact(false, reason, message.clone());
    }
    if let Some(message) = backup::restoring(view) {
        return fact(true, "Restoring", message);
    }
    if let Some(progress) = &view.plan.progress {
        let reason = match progress.kind {
            ProgressKind::Scaling => "Scaling",
            ProgressKind::Updating => "Updating",
            ProgressKind::Switchover => "Switchover",
            ProgressKind::Configuring => "Configuring",
        };
        return fact(true, reason, progress.message.clone());
    }
    match absent(view) {
        Some(names) => fact(true, "Forming", format!("waiting for {names}")),
        None => fact(false, "AsWanted", "everything is as the spec asks".to_owned()),
    }
}

/// Wanted members that do not serve.
fn absent(view: &View<'_>) -> Option<String> {
    let wanted = (0..view.cluster.spec.replicas).map(Ordinal);
    let absent = wanted.filter(|ordinal| view.members.get(ordinal).is_none_or(|member| !member.serves()));
    let names: Vec<_> = absent.map(|ordinal| view.cluster.pod(ordinal)).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// First what a person must act on, then what merely is not complete.
fn degraded(view: &View<'_>) -> Fact {
    let fact = |holds, reason, message| Fact::new(DEGRADED, Some(holds), reason, message);
    if let Some((reason, message)) = needs_a_person(view) {
        return fact(true, reason, message);
    }
    if let Some(warning) = view.set_warning {
        return fact(true, "PodsNotCreated", format!("Kubernetes refuses to make the pods: {warning}"));
    }
    match absent(view) {
        Some(names) => {
            let details = view.members.values().filter(|member| !member.serves()).find_map(message);
            let message = details.map_or_else(
                || format!("{names} not serving"),
                |details| format!("{names} not serving: {details}"),
            );
            fact(true, "InstancesMissing", message)
        }
        None => fact(false, "AllServe", "every instance serves".to_owned()),
    }
}

fn needs_a_person(view: &View<'_>) -> Option<(&'static str, String)> {
    if let Identity::Contradiction(identifiers) = view.identity {
        let all: Vec<_> = identifiers.iter().map(ToString::to_string).collect();
        let message = format!(
            "volumes, StatefulSet, Lease or status speak of different data (system identifiers {}); nothing is \
             changed until only one is left: remove the volumes or annotations of the others",
            all.join(" and ")
        );
        return Some(("DataContradiction", message));
    }
    let known = matches!(view.identity, Identity::Known(_));
    match view.lease {
        LeaseFacts::Missing if known => {
            let message = format!(
                "the Lease {} was deleted and no instance makes it again; nobody may lead without it, because it \
                 says who has all acknowledged commits",
                view.cluster.name()
            );
            return Some(("LeaseMissing", message));
        }
        LeaseFacts::Unreadable => {
            let message = format!("the Lease {} is not readable; nobody may lead", view.cluster.name());
            return Some(("LeaseUnreadable", message));
        }
        _ => {}
    }
    if let Some(message) = backup::restore_failed(view) {
        return Some(("RestoreFailed", message));
    }
    let trouble = view.members.values().find_map(Member::trouble);
    if let Some(trouble) = trouble {
        return Some((trouble.reason, trouble.message.clone()));
    }
    if let Some(message) = full_volume(view) {
        return Some(("DiskFull", message));
    }
    let refused = view.members.iter().find_map(|(ordinal, member)| {
        let error = member.status.as_ref()?.configuration_error.as_ref()?;
        Some(format!(
            "{} refused the settings and goes on with the old ones: {error}",
            view.cluster.pod(*ordinal)
        ))
    });
    refused.map(|message| ("SettingsRefused", message))
}

/// The first member whose volume has no room to lead on.
fn full_volume(view: &View<'_>) -> Option<String> {
    view.members.iter().find_map(|(ordinal, member)| {
        let space = member.status.as_ref()?.disk.filter(|space| Room::of(*space) == Room::Full)?;
        let todo = if backup::holds_wal(view) {
            "write-ahead log waits there until the store has it, and none is dropped: give the store back (see \
             ContinuousArchiving), which is enough while an instance leads, and raise spec.storage.size if none does"
        } else {
            "raise spec.storage.size, or free space by SQL while an instance leads"
        };
        // Without the number of free bytes: a message must not change with every write.
        Some(format!(
            "the volume of {} is full (less than {} of {} MiB left): {todo}",
            view.cluster.pod(*ordinal),
            FULL_BELOW >> 20,
            space.total_bytes >> 20
        ))
    })
}

fn durable(view: &View<'_>) -> Fact {
    let said = primary(view.members).and_then(|(_, member)| member.status.as_ref()?.durable);
    match said {
        Some(true) => Fact::new(DURABLE, said, "OnStandbys", "acknowledged commits are on standbys too"),
        Some(false) if view.cluster.spec.replicas == 1 => {
            Fact::new(DURABLE, said, "SingleInstance", "there is one instance only")
        }
        Some(false) => Fact::new(
            DURABLE,
            said,
            "OnPrimaryOnly",
            "acknowledged commits are on the primary alone; they would be lost with it",
        ),
        None => Fact::new(DURABLE, None, "NoPrimary", "no primary says so"),
    }
}

/// Of those who would lead and cannot, the one that has most: what it says names the least loss.
fn most_advanced<'a>(view: &View<'a>) -> Option<&'a Status> {
    let statuses = view.members.values().filter_map(|member| member.status.as_ref());
    statuses.filter(|status| status.failover_blocked.is_some()).max_by_key(|status| status.position)
}

fn failover_blocked(view: &View<'_>) -> Fact {
    let fact = |holds, reason, message: String| Fact::new(FAILOVER_BLOCKED, holds, reason, message);
    let Some((_, member)) = primary(view.members) else {
        return match most_advanced(view).and_then(|status| status.failover_blocked.clone()) {
            Some(why) => fact(Some(true), "NoCandidate", why),
            None => fact(None, "NoPrimary", "no primary says so".to_owned()),
        };
    };
    let blocked = member.status.as_ref().and_then(|status| status.failover_blocked.clone());
    match blocked {
        Some(why) if view.cluster.spec.replicas > 1 => fact(Some(true), "NoCandidate", why),
        Some(_) => fact(Some(true), "SingleInstance", "there is one instance only".to_owned()),
        None if view.members.values().any(Member::streams) => {
            fact(Some(false), "CandidateReady", "another instance could take over".to_owned())
        }
        None => fact(None, "NotKnown", "no standby streams, and the primary does not say".to_owned()),
    }
}

fn phase(view: &View<'_>, status: &DatabaseStatus) -> Phase {
    let progress = view.plan.progress.as_ref().map(|progress| progress.kind);
    let has_primary = status.primary.is_some();
    if view.cluster.spec.paused {
        return Phase::Paused;
    }
    match (has_primary, progress) {
        (false, _) if matches!(view.identity, Identity::Unborn) => Phase::Pending,
        (false, _) => Phase::FailingOver,
        (true, Some(ProgressKind::Scaling)) => Phase::Scaling,
        (true, Some(ProgressKind::Updating | ProgressKind::Switchover)) => Phase::Updating,
        (true, None | Some(ProgressKind::Configuring)) if absent(view).is_some() => Phase::Degraded,
        (true, None | Some(ProgressKind::Configuring)) => Phase::Running,
    }
}

#[cfg(test)]
mod tests;
