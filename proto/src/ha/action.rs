//! What a decision asks of the driver.
//!
//! Each action is an intent and harmless to repeat: one that was lost is simply decided again, and one that is
//! still under way may be dropped when it comes again.

use std::time::Duration;

use super::{lease::LeaseWrite, question::Question, sync_names::SyncNames};
use crate::{
    clock::BootTime,
    identity::{Epoch, Ordinal},
    postgres::Timeline,
    wire::{http::Role, supervisor::Order},
};

/// One intent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// GET the Lease (linearizable: no resourceVersion in the request).
    ReadLease,
    /// PUT (or, without a basis, POST) the Lease.
    WriteLease(LeaseWrite),
    /// Ask another member.
    Ask {
        /// Whom.
        member: Ordinal,
        /// What.
        question: Question,
    },
    /// Hand to the supervisor. [`Order::Seal`] and [`Order::EndOfWal`] answer into [`super::view::LocalWal`].
    Order(Order),
    /// Order an initdb; the driver adds verifiers and names.
    Initdb,
    /// Make the server's `synchronous_standby_names` these, through [`Order::Configure`].
    SetSynchronousNames(SyncNames),
    /// Commit something and see it wait in `SyncRep`, then give the commit up
    /// ([`super::view::SqlFacts::commits_wait`]).
    ProbeSyncWait,
    /// In a new session: read the names, write with `synchronous_commit = local`, read the end of WAL
    /// ([`super::view::SqlFacts::verified`]). Refused by the driver unless the names read are `names`.
    VerifyLocalWrite {
        /// Under which epoch.
        epoch: Epoch,
        /// The names that must be shown.
        names: String,
    },
    /// Run a CHECKPOINT, so that pg_rewind against this server sees its timeline.
    Checkpoint {
        /// Once for each.
        epoch: Epoch,
    },
    /// Make physical slots for these members.
    EnsureSlots(Vec<Ordinal>),
    /// Drop the slot of a member that is gone for good.
    DropSlot(Ordinal),
    /// Put this role on my pod's label.
    SetRole(Role),
    /// Take `primary` off every other pod of the Database; may fail.
    ClearStaleLabels,
    /// Tell people.
    Emit(Event),
}

/// Something that a person would ask about later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// I lead and accept writes.
    TookOver(TookOver),
    /// The switchover request was refused or came to nothing: what, why.
    SwitchoverFailed {
        /// Which request.
        id: u64,
        /// A sentence.
        why: String,
    },
    /// The switchover request has been carried out as far as I can: I have released.
    SwitchoverReleased {
        /// Which request.
        id: u64,
    },
    /// I stopped leading, on purpose or not.
    SteppedDown {
        /// Which epoch ended.
        epoch: Epoch,
        /// A sentence.
        why: String,
    },
    /// Commits no longer wait for a standby (`Preferred` fell back).
    DurabilityLost {
        /// Which standbys are missing, as a sentence.
        why: String,
    },
    /// I lead although acknowledged commits may be on members that are away: a human wanted that.
    LossAccepted {
        /// Who may have them, as a sentence.
        why: String,
    },
    /// Commits wait for standbys again.
    DurabilityRestored,
    /// My data is thrown away and copied anew.
    Recloning {
        /// A sentence.
        why: String,
    },
}

/// A completed take-over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TookOver {
    /// Who led before, if known.
    pub from: Option<Ordinal>,
    /// Who leads now: me.
    pub to: Ordinal,
    /// Whether somebody or something asked for it.
    pub planned: bool,
    /// Why the earlier leader lost it.
    pub reason: String,
    /// From the moment I first saw it gone until I accepted writes.
    pub duration: Duration,
    /// Timeline that began.
    pub timeline: Timeline,
    /// Epoch that began.
    pub epoch: Epoch,
}

/// What a decision comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// To be given to the next decision.
    pub memory: super::memory::Memory,
    /// In this order.
    pub actions: Vec<Action>,
    /// For HTTP, metrics and people.
    pub summary: Summary,
}

/// What this member is, for those who ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Summary {
    /// [`Role::Primary`] only while the lease is valid and PostgreSQL accepts writes.
    pub role: Role,
    /// Epoch of the Lease as seen here.
    pub epoch: Epoch,
    /// Who holds a Lease that counts as alive here and has opened.
    pub leader: Option<Ordinal>,
    /// What is under way, or why nothing moves: a phrase.
    pub doing: String,
    /// Primary: commits wait for at least one standby. `None` for others.
    pub durable: Option<bool>,
    /// Why nobody but the last primary could lead.
    pub failover_blocked: Option<String>,
    /// Primary: until when it may accept without a further renewal.
    pub lease_valid_until: Option<BootTime>,
    /// Primary: that is so because other members promised, since no renewal lands.
    pub by_promise: bool,
}
