//! What a member answers to others (ha.md section 4: survey and seal; L4).
//!
//! Most questions need the supervisor: [`answer`] says which order, and [`conclude`] turns its answer into the
//! reply. A question that cannot be answered now is refused with a sentence; the asker asks again.

use super::{
    memory::{Memory, Paced},
    question::{Question, Refused, Reply, Testimony},
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
}

/// Answers a question of a peer. Never changes anything but through the order that it returns.
pub fn answer(memory: &Memory, view: &View, question: &Question) -> (Memory, Response) {
    let mut memory = memory.clone();
    let response = match (may_answer(view, question), question) {
        (Err(reply), _) => Response::Reply(reply),
        (Ok(_), Question::Survey { .. }) => Response::Order(Order::EndOfWal),
        (Ok(_), Question::Seal { epoch, .. }) => Response::Order(Order::Seal { epoch: *epoch }),
    };
    // Somebody claims what I may believe to hold or to follow: look at once.
    if matches!(question, Question::Seal { .. }) {
        memory.paced.remove(&Paced::Read);
    }
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

fn may_answer<'a>(view: &'a View, question: &Question) -> Result<&'a Durable, Reply> {
    let report = view.report().ok_or_else(|| refused(None, "the supervisor does not answer"))?;
    let durable = match &report.data {
        Data::Present(durable) => durable,
        Data::Empty if matches!(question, Question::Survey { .. }) => return Err(Reply::Empty),
        Data::Empty => return Err(refused(None, "no data here")),
        Data::Unread => return Err(refused(None, "the disk has not answered yet")),
        Data::Unusable { reason, sealed } => return Err(refused(Some(*sealed), reason)),
    };
    let sealed = Some(durable.sealed);
    let (expired, epoch) = match question {
        Question::Survey { expired, .. } => (*expired, None),
        Question::Seal { epoch, expired } => (*expired, Some(*epoch)),
    };
    // L4: a promise to the last primary may have been forgotten.
    if expired && view.now < view.started_at + super::fence::longest_lease(view) {
        return Err(refused(sealed, "started too recently to know what it promised (L4)"));
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
    Reply::Refused(Refused { sealed, why: why.to_owned() })
}
