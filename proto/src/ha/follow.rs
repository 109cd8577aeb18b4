//! Following a leader that has opened: attach, rewind or copy anew (ha.md sections 4.3 and 8).
//!
//! A member attaches only to a leader of an epoch at least as high as its `sealed`, which the supervisor raises
//! and fsyncs before it attaches, rewinds or copies (findings-open 1).

use std::time::Duration;

use super::{
    action::{Action, Event},
    ancestry::{Fate, fate},
    document::{Document, Opening},
    members,
    turn::Turn,
    view::{SealedEnd, View},
};
use crate::{
    clock::BootTime,
    identity::Ordinal,
    wire::supervisor::{Data, Durable, JobKind, Order, Report, Server},
};

/// A rewind that failed this often gives way to a copy.
const REWINDS: u32 = 2;
/// A server that was rewound or copied, and has not become consistent after this, is copied anew: the leader
/// that it came from is gone.
const STUCK_AFTER_REMAKE: Duration = Duration::from_mins(1);
/// The same if it is not known whether it was rewound (the agent restarted meanwhile): it may as well be at the
/// recovery from a crash, which takes minutes after many writes and must not cost a copy of everything.
const STUCK_STARTING: Duration = Duration::from_mins(10);
/// A member that receives nothing for this long from a leader that lives is copied anew, if nobody counts on it:
/// the WAL that it needs is gone.
const RECLONE_AFTER: Duration = Duration::from_mins(2);
/// The pause after a copy, and after each further one twice as long: copies that fail, or help nothing, must not
/// keep the leader busy with sending everything again and again.
const COPY_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause: a repaired leader must not wait for ever.
const MAX_COPY_PAUSE: Duration = Duration::from_mins(30);
/// A member that streams this long after a copy was worth it: the next one begins at once.
const COPY_PROVEN: Duration = Duration::from_mins(10);
/// An ordered stop of a standby takes no longer.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Follows the leader of `opening`, which runs in `leader`'s pod.
pub(super) fn follow(turn: &mut Turn<'_>, document: &Document, opening: Opening, leader: Ordinal) {
    let Some(report) = turn.view.report() else {
        turn.doing("waiting for my supervisor");
        return;
    };
    note_jobs(turn, report, opening);
    match &report.data {
        Data::Unread => turn.doing("waiting for my data directory"),
        Data::Empty => copy(turn, document, opening, leader),
        Data::Unusable { reason, .. } => {
            give_up_data(turn, reason);
            copy(turn, document, opening, leader);
        }
        Data::Present(durable) if durable.system_identifier != document.system_identifier => {
            // W4: never crossed by itself.
            turn.doing("my data belongs to another cluster: it is left alone until somebody removes it");
        }
        Data::Present(_) if turn.memory.recloning => copy(turn, document, opening, leader),
        Data::Present(durable) => attach(turn, document, opening, leader, report, durable),
    }
}

/// Takes note of a job that made the data anew: what was known of its end is void.
fn note_jobs(turn: &mut Turn<'_>, report: &Report, opening: Opening) {
    let starting = matches!(report.server, Server::Starting);
    turn.memory.starting_since = match starting {
        true => turn.memory.starting_since.or(Some(turn.view.now)),
        false => None,
    };
    let Some(job) = &report.last_job else { return };
    let remakes = matches!(job.kind, JobKind::Rewind | JobKind::Clone | JobKind::Initdb);
    if !remakes || turn.memory.remade_at.is_some_and(|noted| noted >= job.at) {
        return;
    }
    turn.memory.remade_at = Some(job.at);
    if job.kind == JobKind::Clone {
        turn.memory.copies = turn.memory.copies.saturating_add(1);
    }
    match (job.kind, &job.error) {
        (JobKind::Rewind, Some(_)) => turn.memory.failed_rewinds += 1,
        (_, Some(_)) => {}
        (_, None) => {
            turn.memory.failed_rewinds = 0;
            turn.memory.recloning = false;
            turn.memory.joined = sealed(report).filter(|sealed| *sealed == opening.epoch);
        }
    }
}

fn sealed(report: &Report) -> Option<crate::identity::Epoch> {
    match &report.data {
        Data::Present(durable) => Some(durable.sealed),
        Data::Unread | Data::Empty | Data::Unusable { .. } => None,
    }
}

fn copy(turn: &mut Turn<'_>, document: &Document, opening: Opening, leader: Ordinal) {
    turn.doing(format!("copying the data of member {leader}"));
    let view = turn.view;
    let recorded = view.config.system_identifier;
    if recorded.is_some_and(|recorded| recorded != document.system_identifier) {
        turn.doing("the Lease and the configuration name different clusters: copying nothing");
    } else if !opening.checkpointed {
        turn.doing(format!("waiting until member {leader} is promoted"));
    } else if !matches!(view.server(), Some(Server::Stopped { .. })) {
        stop(turn);
    } else if let Some(left) = pause_left(turn) {
        turn.doing(format!("pausing {} s before another copy of member {leader}", left.as_secs()));
    } else {
        turn.order(Order::Clone {
            upstream: view.upstream(leader),
            system_identifier: document.system_identifier,
            epoch: opening.epoch,
        });
    }
}

/// How long the budget still forbids a copy.
fn pause_left(turn: &Turn<'_>) -> Option<Duration> {
    let doublings = turn.memory.copies.checked_sub(1)?;
    let pause = COPY_PAUSE.saturating_mul(1 << doublings.min(16)).min(MAX_COPY_PAUSE);
    let until = turn.memory.remade_at? + pause;
    (turn.view.now < until).then(|| until.remaining(turn.view.now))
}

/// Gives this data up, and says so once.
fn give_up_data(turn: &mut Turn<'_>, why: &str) {
    if !turn.memory.recloning {
        turn.memory.recloning = true;
        turn.actions.push(Action::Emit(Event::Recloning { why: why.to_owned() }));
    }
}

/// Whether some configuration that may be in force counts on my data: then it is never thrown away.
fn is_counted_on(document: &Document, durable: &Durable) -> bool {
    let id = durable.data_id;
    document.configurations.iter().any(|c| c.standbys.contains(&id) || c.primary == id)
}

fn attach(
    turn: &mut Turn<'_>,
    document: &Document,
    opening: Opening,
    leader: Ordinal,
    report: &Report,
    durable: &Durable,
) {
    if durable.sealed > opening.epoch {
        // The Lease shows an older epoch than I was sealed for: a newer claim is coming.
        turn.doing("sealed for a newer epoch: waiting for it to be opened");
        return;
    }
    let upstream = turn.view.upstream(leader);
    match &report.server {
        Server::Standby { following: Some(now), streaming, .. }
            if *now == upstream && durable.sealed == opening.epoch =>
        {
            steady(turn, document, durable, leader, *streaming);
        }
        Server::Stopped { .. } if known_fate(turn, document, opening, durable) == Some(Fate::Rewind) => {
            rewind(turn, document, opening, leader);
        }
        Server::Stopped { .. } => {
            turn.doing("starting closed");
            turn.order(Order::Start);
        }
        Server::Starting | Server::Standby { .. } => {
            join(turn, document, opening, leader, durable);
        }
        Server::Primary { .. } => turn.order(Order::Kill),
        Server::Stopping | Server::Dying => turn.doing("waiting for my server to end"),
    }
}

/// What the sealed end of my WAL means under this leader; `None` while it is not known.
fn known_fate(turn: &Turn<'_>, document: &Document, opening: Opening, durable: &Durable) -> Option<Fate> {
    if turn.memory.joined == Some(opening.epoch) {
        return Some(Fate::Follow);
    }
    let sealed = valid_seal(turn.view, turn.memory.remade_at, opening)?;
    Some(fate(&document.history, durable.opened, sealed.position))
}

fn valid_seal(view: &View, remade_at: Option<BootTime>, opening: Opening) -> Option<SealedEnd> {
    view.sealed_end(opening.epoch).filter(|sealed| remade_at.is_none_or(|remade| sealed.at > remade))
}

/// A closed server (or one of an older leader) becomes a follower of this one.
fn join(turn: &mut Turn<'_>, document: &Document, opening: Opening, leader: Ordinal, durable: &Durable) {
    match known_fate(turn, document, opening, durable) {
        Some(Fate::Follow) => {
            turn.doing(format!("attaching to member {leader}"));
            let upstream = turn.view.upstream(leader);
            turn.order(Order::Follow { upstream, epoch: opening.epoch });
        }
        Some(Fate::Rewind) => {
            turn.doing("stopping to rewind");
            stop(turn);
        }
        None if is_stuck(turn) && !is_counted_on(document, durable) => {
            give_up_data(turn, "it never became consistent after a rewind");
        }
        None => {
            turn.doing("finding the end of my WAL");
            turn.order(Order::Seal { epoch: opening.epoch });
        }
    }
}

/// Whether my server will hardly become consistent by itself.
fn is_stuck(turn: &Turn<'_>) -> bool {
    let patience = match turn.memory.remade_at {
        Some(_) => STUCK_AFTER_REMAKE,
        None => STUCK_STARTING,
    };
    turn.memory.starting_since.is_some_and(|since| turn.view.now > since + patience)
}

fn rewind(turn: &mut Turn<'_>, document: &Document, opening: Opening, leader: Ordinal) {
    if turn.memory.failed_rewinds >= REWINDS {
        give_up_data(turn, "it could not be rewound");
        copy(turn, document, opening, leader);
        return;
    }
    if !opening.checkpointed {
        turn.doing(format!("waiting for a checkpoint of member {leader}, to rewind to it"));
        return;
    }
    turn.doing(format!("rewinding to member {leader}"));
    let upstream = turn.view.upstream(leader);
    turn.order(Order::Rewind { upstream, epoch: opening.epoch });
}

fn stop(turn: &mut Turn<'_>) {
    turn.order(Order::Stop { checkpoint: false, kill_at: turn.view.now + STOP_LIMIT });
}

/// Attached. A member that nothing reaches any more is copied anew, but never one that is counted on.
fn steady(turn: &mut Turn<'_>, document: &Document, durable: &Durable, leader: Ordinal, streaming: bool) {
    turn.memory.failures = 0;
    // Whoever may lead next keeps what the others need from then on.
    members::keep_slots(turn, document);
    turn.memory.followed |= streaming;
    if streaming {
        turn.memory.idle_since = None;
        if turn.memory.remade_at.is_none_or(|remade| turn.view.now > remade + COPY_PROVEN) {
            turn.memory.copies = 0;
        }
        turn.doing(format!("following member {leader}"));
        return;
    }
    turn.doing(format!("waiting for WAL from member {leader}"));
    let since = *turn.memory.idle_since.get_or_insert(turn.view.now);
    if turn.view.now > since + RECLONE_AFTER && !is_counted_on(document, durable) {
        turn.memory.idle_since = None;
        give_up_data(turn, "the WAL that it needs is gone from the leader");
    }
}
