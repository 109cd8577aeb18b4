//! What a member answers to others (ha.md section 4: survey and seal; L4).
//!
//! Most questions need the supervisor: [`answer`] says which order, and [`conclude`] turns its answer into the
//! reply. A question that cannot be answered now is refused with a sentence; the asker asks again.

use super::{
    memory::{Memory, Paced},
    promise::{self, Bound},
    question::{self, Question, Refused, Relay, Reply, Testimony},
    view::View,
    volume,
};
use crate::{
    identity::Epoch,
    wire::supervisor::{Answer, Data, Durable, Order, Refusal, Server},
};

/// What to do about a question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Response {
    /// Reply at once.
    Reply(Reply),
    /// Give this to the supervisor and its answer to [`conclude`].
    Order(Order),
    /// Try to write this, and give what the Lease then shows to [`super::conclude_relay`].
    Relay(Box<Relay>),
}

/// Answers a question of a peer. Never changes anything but through the order that it returns.
pub fn answer(memory: &Memory, view: &View, question: &Question) -> (Memory, Response) {
    let mut memory = memory.clone();
    let response = match question {
        Question::Survey { expired, .. } => {
            let may = may_answer(&memory, view, None, *expired);
            may.map_or_else(Response::Reply, |_| Response::Order(Order::EndOfWal))
        }
        Question::Seal { epoch, expired } => {
            // Somebody claims what I may believe to hold or to follow: look at once.
            memory.paced.remove(&Paced::Read);
            let may = may_answer(&memory, view, Some(*epoch), *expired);
            if may.is_ok() {
                memory.seal_ordered = memory.seal_ordered.max(*epoch);
            }
            may.map_or_else(Response::Reply, |_| Response::Order(Order::Seal { epoch: *epoch }))
        }
        Question::Relay(relay) => match promise::objection(&memory, view, relay) {
            Some(refused) => Response::Reply(Reply::Refused(refused)),
            None => Response::Relay(relay.clone()),
        },
    };
    (memory, response)
}

/// Turns the supervisor's answer to the order of [`answer`] into the reply.
pub fn conclude(view: &View, question: &Question, result: &Result<Answer, Refusal>) -> Reply {
    let Some(durable) = view.durable() else {
        return refused(None, "no data here any more");
    };
    match (question, result) {
        (Question::Survey { .. }, Ok(Answer::EndOfWal(position))) => Reply::Surveyed(Testimony {
            data_id: durable.data_id,
            system_identifier: durable.system_identifier,
            position: *position,
            sealed: durable.sealed,
            room: volume::room(view),
        }),
        (Question::Seal { .. }, Ok(Answer::Sealed(position))) => {
            Reply::Sealed { data_id: durable.data_id, position: *position }
        }
        (_, Err(refusal)) => refused(Some(durable.sealed), &refusal.message),
        (_, Ok(_)) => refused(Some(durable.sealed), "the supervisor answered something else"),
    }
}

/// Whether a survey (without an epoch) or a seal may be answered.
fn may_answer<'a>(
    memory: &Memory,
    view: &'a View,
    epoch: Option<Epoch>,
    expired: bool,
) -> Result<&'a Durable, Reply> {
    let report = view.report().ok_or_else(|| refused(None, "the supervisor does not answer"))?;
    let durable = match &report.data {
        Data::Present(durable) => durable,
        Data::Empty if epoch.is_none() => return Err(Reply::Empty),
        Data::Empty => return Err(refused(None, "no data here")),
        Data::Unread => return Err(refused(None, "the disk has not answered yet")),
        Data::Unusable { reason, sealed } => return Err(refused(Some(*sealed), reason)),
    };
    let sealed = Some(durable.sealed);
    if let Some(bound) = promise::bound(memory, view).filter(|_| expired) {
        let (promised, why) = (bound == Bound::Promised, bound.why().to_owned());
        return Err(Reply::Refused(Refused { sealed, promised, why }));
    }
    // Sealed for a number that nobody can have claimed, no member could be followed ever again.
    if epoch.is_some_and(|epoch| !question::is_plausible(epoch, view.lease_epoch().max(durable.sealed))) {
        return Err(refused(sealed, "no claim can have an epoch so far above the Lease's"));
    }
    if epoch.is_some_and(|epoch| epoch < durable.sealed) {
        return Err(refused(sealed, "sealed for a higher epoch"));
    }
    if matches!(report.server, Server::Primary { .. }) {
        return Err(refused(sealed, "it is a primary"));
    }
    Ok(durable)
}

fn refused(sealed: Option<Epoch>, why: &str) -> Reply {
    Reply::Refused(Refused { sealed, promised: false, why: why.to_owned() })
}
