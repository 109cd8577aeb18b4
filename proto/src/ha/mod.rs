//! The decision core of docs/ha.md: pure and deterministic, so that it can be simulated and checked as it ships.
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
//! - Sightings come only from linearizable reads and from answers to writes, in the order of their requests. A
//!   watch may say that it is time to read; what it carries is ignored, since it may be old (review S-11).
//! - What a peer answered stays in `view.peers` until it answers the same kind of question again.
//! - Facts may be old, never invented: a failed query leaves the old facts with their old time.
//! - A question of a peer goes to [`answer`]; if that returns an order, the supervisor's answer to it goes to
//!   [`conclude`], and the end of WAL in it to [`view::LocalWal`] as well.
//! - A renewal to be relayed: the Lease is read, written if [`lease::Renewal::judge`] allows, and read again if
//!   the write was not answered, all within [`relay_for`]. What was seen last goes to [`conclude_relay`], whose
//!   memory holds before its reply is sent.
//! - [`question::Reply::Shown`] becomes a sighting, `confirmed` when the question was asked, if the last sighting
//!   came in before that.
//! - [`memory::Memory`] starts as its default whenever the agent starts, and is never stored.
//!
//! # First start, as it goes
//!
//! | member 0 | the others |
//! |---|---|
//! | sees [`lease::Recorded::NeverInitialised`], surveys: nobody has data | the same, wait for member 0 |
//! | `Initdb`, `Start` (closed), `EndOfWal` | |
//! | `WriteLease`: claim of epoch 1, timeline 2 reserved, itself the only member | |
//! | `Seal`, `EnsureSlots`, `WriteLease`: open, configuration k = 0 | |
//! | `Arm`, `Promote`, `SetSynchronousNames`, `VerifyLocalWrite`, `SetRole(Primary)`, `Checkpoint` | |
//! | `WriteLease`: checkpointed | `Clone`, `Start`, `Follow`, `SetRole(Replica)` |
//! | sees them stream: lists them, then step by step k = 0 → k of S (closed, probe, real list) | |
//!
//! # Failover, as it goes (member 0 led epoch 4; 1 and 2 are in S, k = 1)
//!
//! | member 1 | member 2 |
//! |---|---|
//! | the same version for L: `ReadLease` until one sent after L confirms it | the same |
//! | `EndOfWal`, `Ask(Survey)` to 0 and 2: 2 answers, both are 2 of {1, 2} | starts 150 ms later |
//! | `WriteLease`: claim of epoch 5 with the version judged | answers the survey; its own claim would be refused |
//! | `Seal` of itself, `Ask(Seal)` | ends its WAL receiver for good, answers its exact end |
//! | has all that was answered: `WriteLease`: open (5, member 1, k = 1, {2}) beside (4, ...) | |
//! | `Arm`, `Promote` to the reserved timeline under the closed list | sees the open: `Follow` |
//! | `ProbeSyncWait`, real list, `VerifyLocalWrite`, `SetRole(Primary)`, `Emit(TookOver)` | `SetRole(Replica)` |
//! | k of S have flushed: `WriteLease` with the new configuration alone | |

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
pub mod volume;

mod ancestry;
mod answer;
mod bootstrap;
mod contest;
mod follow;
mod handover;
mod lead;
mod members;
mod promise;
mod renewal;
mod standing;
mod sync;
mod takeover;
mod turn;

pub use ancestry::{Fate, fate};
pub use answer::{Response, answer, conclude};
pub use promise::{conclude_relay, relay_for};

/// What an agent that remembers `memory` and observes `view` does next.
pub fn decide(memory: &memory::Memory, view: &view::View) -> action::Decision {
    let mut turn = turn::Turn::new(memory, view);
    renewal::settle(&mut turn);
    standing::act(&mut turn);
    standing::label(&mut turn);
    action::Decision { memory: turn.memory, actions: turn.actions, summary: turn.summary }
}
