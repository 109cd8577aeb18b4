//! Where the time of a failover goes, by the new leader's own account.

use std::time::{Duration, Instant};

use proto::wire::chronicle::Topic;

use crate::scenario::chronicle::Happened;

/// The parts of an outage, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stages {
    /// From the fault until the new leader takes the old one for gone and contends.
    pub(super) detect: Duration,
    /// Until the Lease shows that it has opened its epoch.
    pub(super) elect: Duration,
    /// Until it accepts writes.
    pub(super) promote: Duration,
    /// Until a client's write is acknowledged: label, Service, a new connection.
    pub(super) route: Duration,
}

/// Finds them in what `leader` did after the fault; nothing if it did not take over.
pub(super) fn stages(
    fault: Instant,
    restored: Instant,
    leader: &str,
    happened: &[Happened],
) -> Option<Stages> {
    let after = |moment: Instant, topic: Topic, says: &str| {
        let of_leader = happened.iter().filter(|it| it.pod == leader && it.at >= moment);
        of_leader.filter(|it| it.topic == topic && it.what.contains(says)).map(|it| it.at).min()
    };
    // A failed attempt may come before the one that counts: from the first contest to the last open before writes.
    let contends = after(fault, Topic::Gone, "")?;
    let opened = after(contends, Topic::Open, &format!("{leader} opened"))?;
    let leads = after(opened, Topic::Role, "is primary")?;
    Some(Stages {
        detect: contends - fault,
        elect: opened - contends,
        promote: leads - opened,
        route: restored.saturating_duration_since(leads),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_add_up_to_the_outage() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let it = |millis, pod: &str, topic, what: &str| Happened {
            at: at(millis),
            pod: pod.to_owned(),
            topic,
            what: what.to_owned(),
        };
        let happened = [
            it(10, "db-1", Topic::Role, "is primary to clients"),
            it(300, "db-2", Topic::Gone, "contends: the Lease is free"),
            it(200, "db-1", Topic::Gone, "contends: the Lease is free"),
            it(500, "db-1", Topic::Open, "db-1 opened epoch 5: timeline 6 from 0/3000028"),
            it(510, "db-2", Topic::Open, "db-1 opened epoch 5: timeline 6 from 0/3000028"),
            it(900, "db-1", Topic::Role, "is primary to clients"),
        ];
        let millis = Duration::from_millis;
        let expected =
            Stages { detect: millis(100), elect: millis(300), promote: millis(400), route: millis(250) };
        assert_eq!(stages(at(100), at(1150), "db-1", &happened), Some(expected));
        assert_eq!(stages(at(100), at(1150), "db-2", &happened), None, "it only contended");
    }
}
