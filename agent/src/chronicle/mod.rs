//! What this member saw and did that a person would ask about after a failover: a bounded ring in memory, told to
//! whoever has a certificate (`GET /timeline`), and merged over all members by `agent timeline`.
//!
//! | file | does |
//! |---|---|
//! | [`glimpse`] | what there is to be told of one view; what differs from the last one is a moment |
//! | [`table`] | lays the accounts of members beside each other |
//! | [`command`] | asks all members and prints |
//!
//! Failure modes: an agent that restarts begins a new ring; the same lines are in its log.

pub(crate) mod command;
mod glimpse;
mod table;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use glimpse::Glimpse;
use proto::{
    clock::BootTime,
    ha::{
        action::{Action, Summary},
        memory::Memory,
        view::View,
    },
    identity::Epoch,
    wire::chronicle::{Chronicle as Told, Moment, Topic},
};

use crate::{boot_clock, journal::Entry};

/// A failover is about forty moments of each member: this is the last ten or so, in some 60 KiB.
const KEPT: usize = 400;

/// The ring; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Chronicle(Arc<Mutex<Ring>>);

#[derive(Debug)]
struct Ring {
    pod: String,
    database: String,
    began: BootTime,
    forgotten: u64,
    noted: VecDeque<Noted>,
    last: Glimpse,
}

#[derive(Debug)]
struct Noted {
    at: BootTime,
    epoch: Epoch,
    topic: Topic,
    what: String,
}

impl Chronicle {
    /// An empty one.
    pub(crate) fn new(pod: &str, database: &str) -> Self {
        Self(Arc::new(Mutex::new(Ring {
            pod: pod.to_owned(),
            database: database.to_owned(),
            began: boot_clock::now(),
            forgotten: 0,
            noted: VecDeque::new(),
            last: Glimpse::default(),
        })))
    }

    /// Notes what is different from the last look.
    pub(crate) fn look(&self, view: &View, memory: &Memory, summary: &Summary) {
        let mut ring = self.ring();
        let glimpse = Glimpse::of(view, memory, summary);
        for (topic, what) in glimpse.news(&ring.last) {
            ring.note(view.now, summary.epoch, topic, what);
        }
        ring.last = glimpse;
    }

    /// Notes what is about to be done, if it is of the kind that is asked about.
    pub(crate) fn begins(&self, action: &Action, epoch: Epoch) {
        let mut ring = self.ring();
        let (topic, what) = match action {
            Action::Order(order) => match glimpse::order(order) {
                Some(what) => (Topic::Order, what),
                None => return,
            },
            Action::Initdb => (Topic::Order, "make a new data directory".to_owned()),
            Action::Emit(event) => {
                let entry = Entry::of(event, &ring.database);
                (Topic::Event, format!("{}: {}", entry.reason, entry.note))
            }
            _ => return,
        };
        // Orders are given again until a report shows their effect.
        if !ring.noted.back().is_some_and(|last| last.topic == topic && last.what == what) {
            ring.note(boot_clock::now(), epoch, topic, what);
        }
    }

    /// All of it, as of now.
    pub(crate) fn tell(&self) -> Told {
        let (now, ring) = (boot_clock::now(), self.ring());
        let age_us = |at| u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX);
        let told = |noted: &Noted| Moment {
            age_us: age_us(noted.at),
            epoch: noted.epoch,
            topic: noted.topic,
            what: noted.what.clone(),
        };
        Told {
            pod: ring.pod.clone(),
            running_us: age_us(ring.began),
            forgotten: ring.forgotten,
            moments: ring.noted.iter().map(told).collect(),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn note(&mut self, at: BootTime, epoch: Epoch, topic: Topic, what: String) {
        tracing::info!(topic = topic.word(), %epoch, "{what}");
        if self.noted.len() == KEPT {
            self.noted.pop_front();
            self.forgotten += 1;
        }
        self.noted.push_back(Noted { at, epoch, topic, what });
    }
}

#[cfg(test)]
mod tests;
