//! The part of the status that is about restore drills. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::api::status::{DatabaseStatus, DrillResult, RESTORE_PROVEN, RestoreDrill};

use super::{Fact, View};

/// What is known of drills.
#[derive(Default)]
pub(super) struct Drills {
    pub(super) last: Option<RestoreDrill>,
    pub(super) proven: Option<Time>,
}

/// A drill is recorded once, with what its pod said: soon after, the pod and then its Job are gone.
pub(super) fn recorded(view: &View<'_>, previous: Option<&DatabaseStatus>) -> Drills {
    if !wanted(view) {
        return Drills::default();
    }
    let before = previous.and_then(|previous| previous.restore_drill.as_ref());
    let last = view.drill.filter(|drill| before.is_none_or(|before| follows(drill, before))).or(before);
    let ended =
        last.filter(|drill| drill.result == DrillResult::Proven).and_then(|drill| drill.ended_at.clone());
    let proven = ended.or_else(|| previous?.last_proven_restore_time.clone());
    Drills { last: last.cloned(), proven }
}

fn wanted(view: &View<'_>) -> bool {
    view.cluster.spec.backup.as_ref().is_some_and(|backup| backup.drill.is_some())
}

fn follows(drill: &RestoreDrill, before: &RestoreDrill) -> bool {
    let ended = |drill: &RestoreDrill| drill.ended_at.as_ref().map(|time| time.0);
    drill.job != before.job && ended(drill) > ended(before)
}

/// Whether the last drill proved a restore, for those that want drills.
pub(super) fn proven(view: &View<'_>, drills: &Drills) -> Option<Fact> {
    let backup = view.cluster.spec.backup.as_ref().filter(|_| wanted(view))?;
    let fact = |holds, reason, message| Some(Fact::new(RESTORE_PROVEN, holds, reason, message));
    if !backup.enabled {
        return fact(None, "Disabled", "spec.backup.enabled is false".to_owned());
    }
    let Some(drill) = &drills.last else {
        return fact(None, "NoDrillYet", "no restore drill has ended yet".to_owned());
    };
    let took = drill.duration.as_deref().unwrap_or("unknown time");
    match drill.result {
        DrillResult::Proven => fact(Some(true), "Proven", format!("{}, in {took}", drill.message)),
        DrillResult::Failed => {
            let message = format!("the restore drill {} proved nothing: {}", drill.job, drill.message);
            fact(Some(false), "DrillFailed", message)
        }
    }
}

#[cfg(test)]
mod tests;
