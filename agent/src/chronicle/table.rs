//! Lays the accounts of all members beside each other, in the order of time.

use std::{fmt::Write, time::Duration};

use jiff::{SignedDuration, Timestamp};
use proto::{
    identity::Epoch,
    wire::chronicle::{Chronicle, Topic},
};

/// Moments further apart than this belong to different stories: an empty line stands between them.
const STORY_GAP: Duration = Duration::from_secs(30);

/// An account, and when it was received: ages count from there.
pub(super) struct Account {
    pub(super) received: Timestamp,
    pub(super) chronicle: Chronicle,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    at: Timestamp,
    pod: String,
    epoch: Epoch,
    topic: Topic,
    what: String,
}

/// The table, for people, with what happened within `last` before now.
pub(super) fn print(accounts: &[Account], silent: &[String], now: Timestamp, last: Duration) -> String {
    let mut text = heading(accounts, silent);
    let since = now.saturating_sub(SignedDuration::try_from(last).unwrap_or(SignedDuration::MAX));
    let rows = rows(accounts, since.unwrap_or(Timestamp::MIN));
    if rows.is_empty() {
        let _ = writeln!(text, "nothing happened within {last:?}");
        return text;
    }
    let width = rows.iter().map(|row| row.pod.len()).max().unwrap_or_default().max("MEMBER".len());
    let _ = writeln!(
        text,
        "{:<12} {:>9}  {:<width$} {:>5}  {:<10} WHAT",
        "TIME (UTC)", "AFTER", "MEMBER", "EPOCH", "ABOUT"
    );
    let mut before = None;
    for row in &rows {
        let after = before.map_or(SignedDuration::ZERO, |before| row.at.duration_since(before));
        if after > SignedDuration::try_from(STORY_GAP).unwrap_or(SignedDuration::MAX) {
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "{:<12} {:>+9.3}  {:<width$} {:>5}  {:<10} {}",
            row.at.strftime("%H:%M:%S%.3f").to_string(),
            after.as_secs_f64(),
            row.pod,
            row.epoch.to_string(),
            row.topic.word(),
            row.what
        );
        before = Some(row.at);
    }
    text
}

fn heading(accounts: &[Account], silent: &[String]) -> String {
    let mut text = String::new();
    for Account { chronicle, .. } in accounts {
        let running = Duration::from_secs(chronicle.running_us / 1_000_000);
        let _ = write!(text, "{}: remembers {running:?}", chronicle.pod);
        if chronicle.forgotten > 0 {
            let _ = write!(text, ", but for {} moments at its beginning", chronicle.forgotten);
        }
        text.push('\n');
    }
    for pod in silent {
        let _ = writeln!(text, "{pod}: does not answer; see kubectl logs {pod} -c agent");
    }
    text.push('\n');
    text
}

fn rows(accounts: &[Account], since: Timestamp) -> Vec<Row> {
    let mut rows: Vec<Row> = accounts.iter().flat_map(account_rows).filter(|row| row.at >= since).collect();
    rows.sort();
    rows
}

fn account_rows(account: &Account) -> impl Iterator<Item = Row> {
    account.chronicle.moments.iter().map(|moment| {
        let age = SignedDuration::from_micros(i64::try_from(moment.age_us).unwrap_or(i64::MAX));
        Row {
            at: account.received.saturating_sub(age).unwrap_or(Timestamp::MIN),
            pod: account.chronicle.pod.clone(),
            epoch: moment.epoch,
            topic: moment.topic,
            what: moment.what.clone(),
        }
    })
}

#[cfg(test)]
mod tests {
    use proto::wire::chronicle::Moment;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_750_000_000 + second).unwrap()
    }

    fn account(pod: &str, received: i64, moments: &[(u64, Topic, &str)]) -> Account {
        let moment = |(age, topic, what): &(u64, Topic, &str)| Moment {
            age_us: age * 1_000_000,
            epoch: Epoch(4),
            topic: *topic,
            what: (*what).to_owned(),
        };
        let moments = moments.iter().map(moment).collect();
        let chronicle = Chronicle { pod: pod.to_owned(), running_us: 3_600_000_000, forgotten: 7, moments };
        Account { received: at(received), chronicle }
    }

    #[test]
    fn a_failover_reads_in_the_order_of_time() {
        let accounts = [
            account(
                "db-1",
                100,
                &[
                    (99, Topic::Role, "is replica to clients"),
                    (12, Topic::Gone, "contends: the Lease is free"),
                    (10, Topic::Role, "is primary to clients"),
                ],
            ),
            // Answered a second later: its ages are a second more for the same moment.
            account("db-2", 101, &[(12, Topic::Vote, "sealed for epoch 5 at 0/3000028@4")]),
        ];
        let text = print(&accounts, &["db-0".to_owned()], at(101), Duration::from_mins(1));
        insta::assert_snapshot!(text);
        let nothing = print(&accounts, &[], at(101), Duration::from_secs(1));
        assert!(nothing.contains("nothing happened within 1s"), "{nothing}");
    }
}
