//! What changed from one status to the next that a person would ask about later. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use proto::api::status::{
    AVAILABLE, CONTINUOUS_ARCHIVING, DEGRADED, DatabaseStatus, DrillResult, PROGRESSING,
};

use super::context::News;

/// The news, in the order in which they should be told. Failovers and durability are told by the agents: they
/// know more, and are there when the operator is not.
pub(crate) fn news(previous: Option<&DatabaseStatus>, current: &DatabaseStatus) -> Vec<News> {
    let mut news = Vec::new();
    news.extend(availability(previous, current));
    news.extend(health(previous, current));
    news.extend(refusal(previous, current));
    news.extend(archiving(previous, current));
    news.extend(drill(previous, current));
    news
}

fn condition<'a>(status: &'a DatabaseStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Writes became possible or impossible. Not knowing is no news.
fn availability(previous: Option<&DatabaseStatus>, current: &DatabaseStatus) -> Option<News> {
    let now = condition(current, AVAILABLE)?;
    let before = condition(previous?, AVAILABLE)?;
    match (before.status.as_str(), now.status.as_str()) {
        ("False", "True") => Some(News::normal("Available", now.message.clone())),
        ("True", "False") => Some(News::warning("Unavailable", now.message.clone())),
        _ => None,
    }
}

/// Trouble is told by its own name, also when one trouble follows another.
fn health(previous: Option<&DatabaseStatus>, current: &DatabaseStatus) -> Option<News> {
    let now = condition(current, DEGRADED)?;
    let before = previous.and_then(|previous| condition(previous, DEGRADED));
    if now.status == "False" {
        let recovered = before.is_some_and(|before| before.status == "True");
        return recovered.then(|| News::normal("Healthy", now.message.clone()));
    }
    let told = before.is_some_and(|before| before.reason == now.reason);
    let reason = trouble_reason(&now.reason).filter(|_| !told)?;
    Some(News::warning(reason, now.message.clone()))
}

/// Reasons of Degraded that deserve an event of their own. Instances that are merely missing for a moment do not.
fn trouble_reason(reason: &str) -> Option<&'static str> {
    const REASONS: [&str; 14] = [
        "LastBackupFailed",
        "RestoreFailed",
        "ImagePullFailed",
        "InvalidImageName",
        "CrashLoop",
        "ContainerNotCreated",
        "VolumeNotProvisioned",
        "Unschedulable",
        "PodNotStarting",
        "PodsNotCreated",
        "DataContradiction",
        "LeaseMissing",
        "LeaseUnreadable",
        "SettingsRefused",
    ];
    REASONS.into_iter().find(|known| *known == reason)
}

/// The API server or the spec's own rules refused what was to be written.
fn refusal(previous: Option<&DatabaseStatus>, current: &DatabaseStatus) -> Option<News> {
    const REASONS: [&str; 4] = ["Refused", "InvalidSpec", "RestoreSourceMissing", "RestoreSourceInvalid"];
    let now = condition(current, PROGRESSING)?;
    let told = previous
        .and_then(|previous| condition(previous, PROGRESSING))
        .is_some_and(|before| before.reason == now.reason && before.message == now.message);
    let reason = REASONS.into_iter().find(|reason| *reason == now.reason)?;
    (!told).then(|| News::warning(reason, now.message.clone()))
}

/// The write-ahead log stopped or began to reach the store. Not knowing is no news.
fn archiving(previous: Option<&DatabaseStatus>, current: &DatabaseStatus) -> Option<News> {
    let now = condition(current, CONTINUOUS_ARCHIVING)?;
    let before = previous.and_then(|previous| condition(previous, CONTINUOUS_ARCHIVING));
    let before = before.map(|before| (before.status.as_str(), before.reason.as_str()));
    match (before, now.status.as_str()) {
        _ if now.reason == "Disabled" => None,
        (Some(("False", reason)), "False") if reason == now.reason => None,
        (_, "False") => Some(News::warning("ArchivingFailed", now.message.clone())),
        (Some(("False", _)), "True") => Some(News::normal("ArchivingWorks", now.message.clone())),
        _ => None,
    }
}

/// A restore drill ended.
fn drill(previous: Option<&DatabaseStatus>, current: &DatabaseStatus) -> Option<News> {
    let drill = current.restore_drill.as_ref()?;
    let told = previous.and_then(|previous| previous.restore_drill.as_ref());
    if told.is_some_and(|told| told.job == drill.job) {
        return None;
    }
    Some(match drill.result {
        DrillResult::Proven => News::normal("RestoreProven", drill.message.clone()),
        DrillResult::Failed => {
            News::warning("RestoreDrillFailed", format!("{}: {}", drill.job, drill.message))
        }
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> DatabaseStatus {
        let condition = |(type_, status, reason): &(&str, &str, &str)| Condition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: "details".to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        DatabaseStatus { conditions: conditions.iter().map(condition).collect(), ..DatabaseStatus::default() }
    }

    fn reasons(previous: Option<&DatabaseStatus>, current: &DatabaseStatus) -> Vec<&'static str> {
        news(previous, current).into_iter().map(|news| news.reason).collect()
    }

    #[test]
    fn conditions_are_told_when_they_flip_and_troubles_by_name() {
        let good = status(&[(AVAILABLE, "True", "PrimaryServes"), (DEGRADED, "False", "AllServe")]);
        let bad = status(&[(AVAILABLE, "False", "NoPrimary"), (DEGRADED, "True", "ImagePullFailed")]);
        let worse = status(&[(AVAILABLE, "False", "NoPrimary"), (DEGRADED, "True", "CrashLoop")]);
        assert_eq!(reasons(Some(&good), &bad), ["Unavailable", "ImagePullFailed"]);
        assert_eq!(reasons(Some(&bad), &worse), ["CrashLoop"]);
        assert_eq!(reasons(Some(&worse), &good), ["Available", "Healthy"]);
        assert_eq!(reasons(Some(&bad), &bad), Vec::<&str>::new());
    }

    #[test]
    fn what_is_unknown_or_passes_by_itself_is_no_news() {
        let good = status(&[(AVAILABLE, "True", "PrimaryServes"), (DEGRADED, "False", "AllServe")]);
        let unknown =
            status(&[(AVAILABLE, "Unknown", "AgentsSilent"), (DEGRADED, "True", "InstancesMissing")]);
        assert_eq!(reasons(Some(&good), &unknown), Vec::<&str>::new());
        assert_eq!(reasons(None, &status(&[(AVAILABLE, "False", "NotInitialised")])), Vec::<&str>::new());
    }

    #[test]
    fn trouble_is_told_at_first_sight() {
        assert_eq!(reasons(None, &status(&[(DEGRADED, "True", "Unschedulable")])), ["Unschedulable"]);
    }

    #[test]
    fn archiving_is_told_when_it_stops_and_when_it_works_again() {
        let works = status(&[(CONTINUOUS_ARCHIVING, "True", "Archiving")]);
        let unknown = status(&[(CONTINUOUS_ARCHIVING, "Unknown", "Starting")]);
        let down = status(&[(CONTINUOUS_ARCHIVING, "False", "StoreUnreachable")]);
        let off = status(&[(CONTINUOUS_ARCHIVING, "False", "Disabled")]);
        assert_eq!(reasons(None, &down), ["ArchivingFailed"]);
        assert_eq!(reasons(Some(&works), &down), ["ArchivingFailed"]);
        assert_eq!(reasons(Some(&down), &down), Vec::<&str>::new());
        assert_eq!(reasons(Some(&down), &works), ["ArchivingWorks"]);
        for quiet in [&works, &unknown, &off] {
            assert_eq!(reasons(Some(&unknown), quiet), Vec::<&str>::new());
        }
    }
}
