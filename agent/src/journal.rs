//! Kubernetes Events about the Database: what a person asks about later.
//!
//! Best effort: an Event that cannot be written is in the log, and nothing waits for it.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use proto::{
    ha::{action, view::Me},
    pod::AGENT_CONTAINER,
};
use tokio::{sync::mpsc, time::timeout};

use crate::chain::Chain;

/// Entries waiting to be written: a failover makes two or three.
const QUEUE: usize = 32;
/// For one Event.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// One entry, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Whether it is bad news.
    pub(crate) warning: bool,
    /// CamelCase, stable: alerts match it.
    pub(crate) reason: &'static str,
    /// A sentence.
    pub(crate) note: String,
}

impl Entry {
    /// Puts an event of the decision core into words.
    pub(crate) fn of(event: &action::Event, database: &str) -> Self {
        use action::Event;
        let entry = |warning, reason, note| Self { warning, reason, note };
        match event {
            Event::TookOver(taken) => {
                let from = taken.from.map_or("nobody".to_owned(), |from| format!("{database}-{from}"));
                let note = format!(
                    "{database}-{} leads instead of {from} after {:.1} s on timeline {} (epoch {}): {}",
                    taken.to,
                    taken.duration.as_secs_f64(),
                    taken.timeline,
                    taken.epoch,
                    taken.reason
                );
                match (taken.planned, taken.from) {
                    (true, _) => entry(false, "SwitchoverCompleted", note),
                    (false, None) => entry(false, "PrimaryStarted", note),
                    (false, Some(_)) => entry(true, "FailoverCompleted", note),
                }
            }
            Event::SwitchoverFailed { why, .. } => entry(true, "SwitchoverFailed", why.clone()),
            Event::SwitchoverReleased { .. } => {
                entry(false, "SwitchoverReleased", "the primary has stopped for a switchover".to_owned())
            }
            Event::SteppedDown { epoch, why } => {
                entry(true, "PrimaryStepped", format!("no longer leads (epoch {epoch}): {why}"))
            }
            Event::DurabilityLost { why } => entry(true, "DurabilityLost", why.clone()),
            Event::LossAccepted { why } => entry(
                true,
                "DataLossAccepted",
                format!(
                    "leads because a human accepted the loss of what only members that are away have: {why}"
                ),
            ),
            Event::DurabilityRestored => {
                entry(false, "DurabilityRestored", "commits wait for standbys again".to_owned())
            }
            Event::Recloning { why } => entry(true, "ReplicaRecloned", why.clone()),
        }
    }
}

/// Handle for entries; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journal(mpsc::Sender<Entry>);

impl Journal {
    /// Notes an entry without waiting; a full queue drops it, the log has it.
    pub(crate) fn note(&self, entry: Entry) {
        if entry.warning {
            tracing::warn!(reason = entry.reason, "{}", entry.note);
        } else {
            tracing::info!(reason = entry.reason, "{}", entry.note);
        }
        if self.0.try_send(entry).is_err() {
            tracing::warn!("too many events at once; the last one is only in this log");
        }
    }
}

/// What the API server takes, in bytes; notes are of ASCII but for what the server says.
const LONGEST_ACTION: usize = 120;

/// Writes the entries.
pub(crate) struct JournalTask {
    recorder: Recorder,
    database: ObjectReference,
    entries: mpsc::Receiver<Entry>,
}

/// Makes the handle and the task to spawn.
pub(crate) fn journal(client: Client, me: &Me, database_uid: &str) -> (Journal, JournalTask) {
    let (entries_in, entries) = mpsc::channel(QUEUE);
    let reporter =
        Reporter { controller: format!("db.example.com/{AGENT_CONTAINER}"), instance: Some(me.pod.clone()) };
    let database = ObjectReference {
        api_version: Some("db.example.com/v1alpha1".to_owned()),
        kind: Some("Database".to_owned()),
        name: Some(me.database.clone()),
        namespace: Some(me.namespace.clone()),
        uid: Some(database_uid.to_owned()),
        ..ObjectReference::default()
    };
    (Journal(entries_in), JournalTask { recorder: Recorder::new(client, reporter), database, entries })
}

impl JournalTask {
    /// Writes until all handles are gone.
    pub(crate) async fn run(mut self) {
        while let Some(entry) = self.entries.recv().await {
            let event = Event {
                type_: if entry.warning { EventType::Warning } else { EventType::Normal },
                reason: entry.reason.to_owned(),
                // The recorder counts events of one reason and action as repetitions and keeps the note of the
                // first: a second failover must not be told in the words of the one before.
                action: entry.note.chars().take(LONGEST_ACTION).collect(),
                note: Some(entry.note),
                secondary: None,
            };
            match timeout(WRITE_TIMEOUT, self.recorder.publish(&event, &self.database)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "an Event could not be written"),
                Err(_) => tracing::warn!("an Event was not written within {WRITE_TIMEOUT:?}"),
            }
        }
    }
}
