//! The decision core of docs/ha.md: pure, deterministic, model-checked as it ships.
//!
//! No I/O, no clock, no randomness: [`decide`] maps what an agent remembers ([`memory::Memory`]) and observes
//! ([`view::View`]) to what it does next ([`action::Action`]). The driver calls it about every 100 to 200 ms
//! and at each event, carries out the actions, and puts what they bring into the next view.
//!
//! # Contract of the driver
//!
//! - `view.now` is read before the decision, and no action takes effect earlier: deadlines count from it.
//! - Actions are intents. One that fails or is lost is decided again; one that is still under way may be
//!   dropped when it comes again. At most one request about the Lease is under way ([`view::LeaseView::busy`]).
//! - A write's answer becomes a sighting like that of a read, with `first_seen` the arrival of the answer and
//!   `confirmed` the moment before the request was sent. No answer: nothing changes, and the core finds out.
//! - What a peer answered stays in `view.peers` until it answers the same kind of question again.
//! - Facts may be old, never invented: a failed query leaves the old facts with their old time.

pub mod action;
pub mod configuration;
pub mod document;
pub mod fence;
pub mod lease;
pub mod memory;
pub mod profile;
pub mod question;
pub mod sync_names;
pub mod view;

mod ancestry;
mod answer;
mod bootstrap;
mod contest;
mod follow;
mod handover;
mod lead;
mod members;
mod renewal;
mod standing;
mod sync;
mod takeover;
mod turn;

pub use ancestry::{Fate, fate};
pub use answer::{Response, answer, conclude};

/// What an agent that remembers `memory` and observes `view` does next.
pub fn decide(memory: &memory::Memory, view: &view::View) -> action::Decision {
    let mut turn = turn::Turn::new(memory, view);
    renewal::settle(&mut turn);
    standing::act(&mut turn);
    standing::label(&mut turn);
    action::Decision { memory: turn.memory, actions: turn.actions, summary: turn.summary }
}
