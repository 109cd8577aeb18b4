//! What every reconcile shares.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::{agents::Agents, backup::Repositories, deadline::within, digest::digest, metrics::Metrics};

/// First pause after a failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause: a repaired cause is noticed within this even if nothing else changes.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);
/// Notes of events may have 1 kB.
const LONGEST_NOTE: usize = 1000;

/// Clients, counters, and how often each object failed in a row.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) agents: Agents,
    pub(crate) metrics: Metrics,
    pub(crate) repositories: Repositories,
    /// Image with the agent that pods get.
    pub(crate) agent_image: String,
    recorder: Recorder,
    failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    /// For one process; `instance` is the pod's name.
    pub(crate) fn new(client: Client, metrics: Metrics, agent_image: String, instance: String) -> Self {
        let reporter = Reporter { controller: "matriarch-operator".to_owned(), instance: Some(instance) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            client,
            agents: Agents::default(),
            metrics,
            repositories: Repositories::default(),
            agent_image,
            recorder,
            failures: Mutex::default(),
        }
    }

    /// Tells people. An event that is lost is only logged: nothing depends on it.
    pub(crate) async fn tell(&self, object: &ObjectReference, news: &News) {
        let mut note = news.message.clone();
        note.truncate(note.floor_char_boundary(LONGEST_NOTE));
        let event = Event {
            type_: if news.warning { EventType::Warning } else { EventType::Normal },
            reason: news.reason.to_owned(),
            note: Some(note),
            // The recorder counts events of one reason and action as repetitions and keeps the note of the
            // first, so another note is another action: "x accepts writes" must not stand for y.
            action: format!("Reconcile-{}", digest(&news.message)),
            secondary: None,
        };
        if let Err(error) = within(self.recorder.publish(&event, object)).await {
            tracing::warn!(%error, reason = news.reason, "could not publish an event");
        }
    }

    /// Counts a failure of the object and says how long to wait: doubling, each object for itself.
    pub(crate) fn backoff(&self, key: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.to_owned()).or_default();
        *count = count.saturating_add(1);
        FIRST_BACKOFF.saturating_mul(1 << (*count - 1).min(10)).min(LONGEST_BACKOFF)
    }

    /// The object succeeded, or is gone.
    pub(crate) fn succeeded(&self, key: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Something that a person would ask about later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) warning: bool,
    /// Stable, in CamelCase.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl News {
    /// Something happened as it should.
    pub(crate) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    /// Something needs attention.
    pub(crate) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}
