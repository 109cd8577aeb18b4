//! What changed from one status to the next that a person would ask about later. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use proto::{
    api::status::{AVAILABLE, DEGRADED, DURABLE, DatabaseStatus, PROGRESSING},
    wire::peer::Takeover,
};

use super::context::News;

/// The news, in the order in which they should be told. `takeover` is what the primary says about how it became one.
pub(crate) fn news(
    previous: Option<&DatabaseStatus>,
    current: &DatabaseStatus,
    takeover: Option<&Takeover>,
) -> Vec<News> {
    let mut news: Vec<_> = leadership(previous, current, takeover).into_iter().collect();
    let conditions = [
        (AVAILABLE, "True", "Available", "Unavailable"),
        (DEGRADED, "False", "Healthy", ""),
        (DURABLE, "True", "DurabilityRestored", "DurabilityReduced"),
    ];
    for (type_, good, well, badly) in conditions {
        news.extend(change(previous, current, type_, good, well, badly));
    }
    news.extend(refusal(previous, current));
    news
}

/// A new primary, told once: when the epoch in the status grows.
fn leadership(
    previous: Option<&DatabaseStatus>,
    current: &DatabaseStatus,
    takeover: Option<&Takeover>,
) -> Option<News> {
    let before = previous.and_then(|previous| previous.epoch);
    let (primary, epoch) = (current.primary.as_ref()?, current.epoch?);
    if before == Some(epoch) {
        return None;
    }
    let Some(takeover) = takeover.filter(|_| before.is_some()) else {
        return before.is_none().then(|| News::normal("PrimaryElected", format!("{primary} accepts writes")));
    };
    let from = takeover.from.as_deref().unwrap_or("nobody known");
    let message = format!(
        "{} took over from {from} within {:.1} s: {}; timeline {}, epoch {epoch}",
        takeover.to, takeover.seconds, takeover.reason, takeover.timeline
    );
    Some(match takeover.planned {
        true => News::normal("SwitchoverCompleted", message),
        false => News::warning("FailoverCompleted", message),
    })
}

fn condition<'a>(status: &'a DatabaseStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// A flip of a condition. Trouble is told with its own reason, also when one trouble follows another.
fn change(
    previous: Option<&DatabaseStatus>,
    current: &DatabaseStatus,
    type_: &str,
    good: &str,
    well: &'static str,
    badly: &'static str,
) -> Option<News> {
    let now = condition(current, type_)?;
    let before = previous.and_then(|previous| condition(previous, type_));
    if now.status == good {
        let recovered = before.is_some_and(|before| before.status != good);
        return recovered.then(|| News::normal(well, now.message.clone()));
    }
    if type_ == DEGRADED {
        let other = before.is_none_or(|before| before.reason != now.reason);
        return trouble_reason(&now.reason)
            .filter(|_| other)
            .map(|reason| News::warning(reason, now.message.clone()));
    }
    let was_good = before.is_some_and(|before| before.status == good);
    (was_good && now.status == "False").then(|| News::warning(badly, now.message.clone()))
}

/// Reasons of Degraded that deserve an event of their own. Instances that are merely missing for a moment do not.
fn trouble_reason(reason: &str) -> Option<&'static str> {
    const REASONS: [&str; 12] = [
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
    let now = condition(current, PROGRESSING)?;
    let told = previous
        .and_then(|previous| condition(previous, PROGRESSING))
        .is_some_and(|before| before.reason == now.reason && before.message == now.message);
    let reason = ["Refused", "InvalidSpec"].into_iter().find(|reason| *reason == now.reason)?;
    (!told).then(|| News::warning(reason, now.message.clone()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proto::postgres::Timeline;

    use super::*;

    fn status(epoch: Option<i64>, conditions: &[(&str, &str, &str)]) -> DatabaseStatus {
        let condition = |(type_, status, reason): &(&str, &str, &str)| Condition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: "details".to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        DatabaseStatus {
            primary: epoch.map(|_| "orders-db-1".to_owned()),
            epoch,
            conditions: conditions.iter().map(condition).collect(),
            ..DatabaseStatus::default()
        }
    }

    fn takeover(planned: bool) -> Takeover {
        Takeover {
            planned,
            from: Some("orders-db-0".to_owned()),
            to: "orders-db-1".to_owned(),
            reason: "the lease expired".to_owned(),
            seconds: 10.74,
            timeline: Timeline::new(2).unwrap(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    fn reasons(previous: Option<&DatabaseStatus>, current: &DatabaseStatus) -> Vec<&'static str> {
        news(previous, current, Some(&takeover(false))).into_iter().map(|news| news.reason).collect()
    }

    #[test]
    fn a_failover_is_told_once_with_its_story() {
        let (before, after) = (status(Some(1), &[]), status(Some(2), &[]));
        let told = news(Some(&before), &after, Some(&takeover(false)));
        assert_eq!(
            told,
            [News::warning(
                "FailoverCompleted",
                "orders-db-1 took over from orders-db-0 within 10.7 s: the lease expired; timeline 2, epoch 2"
            )]
        );
        assert_eq!(news(Some(&before), &after, Some(&takeover(true)))[0].reason, "SwitchoverCompleted");
        assert_eq!(reasons(Some(&after), &after), Vec::<&str>::new());
    }

    #[test]
    fn the_first_primary_is_no_failover() {
        assert_eq!(reasons(None, &status(Some(1), &[])), ["PrimaryElected"]);
    }

    #[test]
    fn conditions_are_told_when_they_flip_and_troubles_by_name() {
        let good = status(Some(1), &[(AVAILABLE, "True", "PrimaryServes"), (DEGRADED, "False", "AllServe")]);
        let bad =
            status(Some(1), &[(AVAILABLE, "False", "NoPrimary"), (DEGRADED, "True", "ImagePullFailed")]);
        let worse = status(Some(1), &[(AVAILABLE, "False", "NoPrimary"), (DEGRADED, "True", "CrashLoop")]);
        assert_eq!(reasons(Some(&good), &bad), ["Unavailable", "ImagePullFailed"]);
        assert_eq!(reasons(Some(&bad), &worse), ["CrashLoop"]);
        assert_eq!(reasons(Some(&worse), &good), ["Available", "Healthy"]);
        let missing = status(Some(1), &[(DEGRADED, "True", "InstancesMissing")]);
        assert_eq!(reasons(Some(&good), &missing), Vec::<&str>::new());
    }
}
