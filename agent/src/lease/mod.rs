//! The Lease: reads it, writes it, and says since when it looks as it does (docs/ha.md sections 2 and 3).
//!
//! One task owns the connection. A read and a write can be under way at once, so that a hung read never delays
//! a renewal; nothing here touches SQL, a disk or DNS. The task decides nothing: it reports a [`Sighting`], and
//! for each write whether it landed.
//!
//! Failure modes: every error but a landed write is "not known to have landed", followed by a read; the write
//! has landed if that read shows the write's own id (W2). Reads sent before the last write ended are thrown
//! away: they may show what was before. The same goes for reads and writes sent before another member's reply
//! showed the Lease, and for such a reply to a question that is older than what was seen last.

pub(crate) mod calls;
mod record;
pub(crate) mod relay;
mod watching;

use std::{pin::Pin, time::Duration};

use calls::{CallError, LeaseCalls};
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use proto::{
    clock::BootTime,
    ha::{
        lease::{LeaseVersion, LeaseWrite, Observed, Sighting, WriteId},
        profile::Timing,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
pub(crate) use watching::Watching;

use crate::{boot_clock, chain::Chain};

/// Requests waiting for the task: the driver has at most one write and one refresh outstanding.
const REQUEST_QUEUE: usize = 8;

/// How fast to go, from the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Between two reads when nothing else asks for one.
    pub(crate) poll_every: Duration,
    /// Longest wait for one answer: after one renewal that is lost, two more tries fit before the fence.
    pub(crate) try_for: Duration,
}

impl Pace {
    /// The pace for a profile.
    pub(crate) fn of(timing: &Timing) -> Self {
        let slack = timing.fast_stop.saturating_sub(timing.renew_every);
        Self { poll_every: timing.renew_every / 2, try_for: slack / 3 }
    }
}

/// What the driver asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Write; dropped with [`Outcome::Unsent`] if a write is under way.
    Write(LeaseWrite),
    /// Read now.
    Refresh,
    /// Go at another pace from now on.
    Pace(Pace),
    /// Another member that was asked at this time has read the Lease since.
    Shown(LeaseVersion, BootTime),
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteEnd {
    /// Which write.
    pub(crate) id: WriteId,
    /// Before its request was sent: what a renewal counts from.
    pub(crate) sent: BootTime,
    /// What became of it.
    pub(crate) outcome: Outcome,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is the current version, by the server's answer or by a read that shows its id.
    Landed,
    /// Refused, but an earlier attempt inside the API server may have landed: the next read tells.
    Doubtful,
    /// Refused, and not what a later read showed: it will never land.
    Refused,
    /// No answer, or an error: it may have landed or still land.
    Unknown,
    /// It was not sent, since another was under way.
    Unsent,
}

/// What the task knows.
#[derive(Clone, Debug)]
pub(crate) struct LeaseState {
    /// The Lease as last seen.
    pub(crate) sighting: Sighting,
    /// How the last write ended.
    pub(crate) last_write: Option<WriteEnd>,
    /// When the last call that got an answer (any version, or a 404) was sent.
    pub(crate) answered: Option<BootTime>,
    /// How long that call took.
    pub(crate) latency: Duration,
    /// Why the last call failed, for people; `None` if it succeeded.
    pub(crate) trouble: Option<String>,
}

type Flight<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Reading {
    sent: BootTime,
    flight: Flight<Result<Option<Lease>, CallError>>,
}

struct Writing {
    id: WriteId,
    sent: BootTime,
    flight: Flight<Result<Lease, CallError>>,
}

/// The task.
pub(crate) struct LeaseTask {
    calls: LeaseCalls,
    database_uid: String,
    pace: Pace,
    requests: mpsc::Receiver<Request>,
    state: watch::Sender<LeaseState>,
    /// Metadata of the last object seen: what a replace keeps.
    metadata: Option<ObjectMeta>,
    reading: Option<Reading>,
    writing: Option<Writing>,
    /// When the last write ended or another member showed the Lease: reads sent before are thrown away.
    settled: BootTime,
    /// When what was seen last came in.
    seen_at: BootTime,
    next_poll: Instant,
}

/// Handle for requests; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LeaseRequests(mpsc::Sender<Request>);

impl LeaseRequests {
    /// Hands a request over without waiting; `false` if the queue is full or the task is gone.
    pub(crate) fn send(&self, request: Request) -> bool {
        self.0.try_send(request).is_ok()
    }
}

/// Makes the handle, what is known, and the task to spawn.
pub(crate) fn lease(
    calls: LeaseCalls,
    database_uid: &str,
    pace: Pace,
) -> (LeaseRequests, watch::Receiver<LeaseState>, LeaseTask) {
    let (requests_in, requests) = mpsc::channel(REQUEST_QUEUE);
    let initial = LeaseState {
        sighting: Sighting::NotYet,
        last_write: None,
        answered: None,
        latency: Duration::ZERO,
        trouble: None,
    };
    let (state, state_out) = watch::channel(initial);
    let task = LeaseTask {
        calls,
        database_uid: database_uid.to_owned(),
        pace,
        requests,
        state,
        metadata: None,
        reading: None,
        writing: None,
        settled: BootTime::default(),
        seen_at: BootTime::default(),
        next_poll: Instant::now(),
    };
    (LeaseRequests(requests_in), state_out, task)
}

/// Polls a flight if there is one, else waits for ever.
async fn land<T>(flight: Option<&mut Flight<T>>) -> T {
    match flight {
        Some(flight) => flight.await,
        None => std::future::pending().await,
    }
}

impl LeaseTask {
    /// Serves until all handles are gone.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                result = land(self.writing.as_mut().map(|w| &mut w.flight)) => self.write_ended(result),
                request = self.requests.recv() => match request {
                    None => return,
                    Some(request) => self.take(request),
                },
                result = land(self.reading.as_mut().map(|r| &mut r.flight)) => self.read_ended(result),
                () = sleep_until(self.next_poll) => self.read(),
            }
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Refresh => self.read(),
            Request::Pace(pace) => self.pace = pace,
            Request::Shown(version, asked_at) => self.shown(version, asked_at),
            Request::Write(write) if self.writing.is_some() => {
                let sent = boot_clock::now();
                self.report(WriteEnd { id: write.contents().write_id, sent, outcome: Outcome::Unsent });
            }
            Request::Write(write) => self.write(&write),
        }
    }

    fn read(&mut self) {
        self.next_poll = Instant::now() + self.pace.poll_every;
        // A read sent before a write ended is worthless: it is replaced, not waited for.
        if self.reading.as_ref().is_some_and(|reading| reading.sent > self.settled) {
            return;
        }
        let (calls, limit) = (self.calls.clone(), self.pace.try_for);
        let flight = Box::pin(async move { calls.get(limit).await });
        self.reading = Some(Reading { sent: boot_clock::now(), flight });
    }

    fn write(&mut self, write: &LeaseWrite) {
        let contents = write.contents();
        let mut metadata = self.metadata.clone().unwrap_or_default();
        metadata.name = Some(self.calls.name().to_owned());
        metadata.resource_version = write.basis().map(|version| version.0.clone());
        let create = write.basis().is_none();
        if create {
            metadata.uid = None;
            metadata.creation_timestamp = None;
        }
        let object = record::object(&metadata, contents);
        let (calls, limit) = (self.calls.clone(), self.pace.try_for);
        let flight = Box::pin(async move {
            if create { calls.create(&object, limit).await } else { calls.replace(&object, limit).await }
        });
        self.writing = Some(Writing { id: contents.write_id, sent: boot_clock::now(), flight });
    }

    fn write_ended(&mut self, result: Result<Lease, CallError>) {
        let Some(Writing { id, sent, .. }) = self.writing.take() else { return };
        let ended = boot_clock::now();
        let overtaken = sent <= self.settled;
        self.settled = ended;
        let outcome = match result {
            Ok(lease) => {
                self.answered(sent, ended);
                if overtaken {
                    self.read();
                } else {
                    self.saw(lease, sent);
                }
                Outcome::Landed
            }
            Err(error) => {
                let refused = error.is_refusal();
                tracing::warn!(error = %Chain(&error), write = %id, "a write of the Lease is not known to have landed");
                self.trouble(&error);
                self.read();
                if refused { Outcome::Doubtful } else { Outcome::Unknown }
            }
        };
        self.report(WriteEnd { id, sent, outcome });
    }

    fn read_ended(&mut self, result: Result<Option<Lease>, CallError>) {
        let Some(Reading { sent, .. }) = self.reading.take() else { return };
        if sent <= self.settled {
            return self.read();
        }
        match result {
            Ok(lease) => {
                self.answered(sent, boot_clock::now());
                self.settle_doubt(lease.as_ref());
                match lease {
                    Some(lease) => self.saw(lease, sent),
                    None => self.missed(sent),
                }
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "the Lease could not be read");
                self.trouble(&error);
            }
        }
    }

    /// A write that was refused has landed after all if its id is there (W2), and never will otherwise.
    fn settle_doubt(&self, read: Option<&Lease>) {
        let shown = read.and_then(|lease| record::version(lease, &self.database_uid).write_id);
        self.state.send_modify(|state| {
            if let Some(write) = &mut state.last_write {
                match (&write.outcome, shown == Some(write.id)) {
                    (Outcome::Doubtful | Outcome::Unknown, true) => write.outcome = Outcome::Landed,
                    (Outcome::Doubtful, false) => write.outcome = Outcome::Refused,
                    _ => {}
                }
            }
        });
    }

    /// Notes a version; its age counts from when it was first seen, unless it is the same as before.
    fn saw(&mut self, lease: Lease, sent: BootTime) {
        let version = record::version(&lease, &self.database_uid);
        self.metadata = Some(lease.metadata);
        self.see(version, sent);
    }

    /// Notes that there is no such object.
    fn missed(&mut self, sent: BootTime) {
        self.seen_at = boot_clock::now();
        self.state.send_modify(|state| state.sighting = Sighting::Missing(sent));
    }

    /// Another member's sighting, unless something newer may have been seen since it was asked.
    fn shown(&mut self, version: LeaseVersion, asked_at: BootTime) {
        if asked_at < self.seen_at {
            return;
        }
        self.settled = boot_clock::now();
        self.see(version, asked_at);
    }

    fn see(&mut self, version: LeaseVersion, sent: BootTime) {
        self.seen_at = boot_clock::now();
        self.state.send_modify(|state| {
            let first_seen = match &state.sighting {
                Sighting::Seen(seen) if seen.version.resource_version == version.resource_version => {
                    seen.first_seen
                }
                _ => boot_clock::now(),
            };
            state.sighting = Sighting::Seen(Observed { version, first_seen, confirmed: sent });
        });
    }

    fn report(&self, end: WriteEnd) {
        self.state.send_modify(|state| state.last_write = Some(end));
    }

    fn answered(&self, sent: BootTime, now: BootTime) {
        self.state.send_modify(|state| {
            state.answered = Some(sent);
            state.latency = now.since(sent);
            state.trouble = None;
        });
    }

    fn trouble(&self, error: &CallError) {
        self.state.send_modify(|state| state.trouble = Some(Chain(error).to_string()));
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod weather;
