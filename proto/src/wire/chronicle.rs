//! What a member remembers of what it saw and did: the answer to `GET /timeline` on [`crate::pod::PEER_PORT`].
//!
//! Moments are told by their *age*, so that whoever asks all members can lay them beside each other although the
//! clocks of nodes differ, by hours if need be.

use serde::{Deserialize, Serialize};

use crate::identity::Epoch;

/// Path of [`Chronicle`].
pub const TIMELINE_PATH: &str = "/timeline";

/// One member's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chronicle {
    /// Name of the pod.
    pub pod: String,
    /// Age of the agent: it knows nothing from before.
    pub running_us: u64,
    /// How many moments it has forgotten, oldest first.
    pub forgotten: u64,
    /// Oldest first.
    pub moments: Vec<Moment>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// How long ago, in microseconds.
    pub age_us: u64,
    /// Epoch of the Lease as the member saw it then.
    pub epoch: Epoch,
    /// About what.
    pub topic: Topic,
    /// A phrase.
    pub what: String,
}

/// What a moment is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Topic {
    /// Who holds the Lease.
    Lease,
    /// The leader counts as gone here, and this member contends.
    Gone,
    /// The Lease shows that an epoch was opened.
    Open,
    /// Whom commits wait for, by the Lease.
    Configuration,
    /// What a member answered to a survey or a seal, and where the own WAL ends.
    Vote,
    /// Something that the supervisor is told to do.
    Order,
    /// The line to the supervisor.
    Supervisor,
    /// The server process.
    Server,
    /// A missed renewal ended the server.
    Fence,
    /// What this member is to a client.
    Role,
    /// The role label of its pod.
    Label,
    /// Whether commits wait for standbys; why nobody could take over.
    Durability,
    /// What people are told by an Event.
    Event,
    /// Something that a younger agent tells and this program does not know.
    #[serde(other)]
    Other,
}

impl Topic {
    /// A word, for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Gone => "gone",
            Self::Open => "open",
            Self::Configuration => "commits",
            Self::Vote => "vote",
            Self::Order => "order",
            Self::Supervisor => "supervisor",
            Self::Server => "server",
            Self::Fence => "fence",
            Self::Role => "role",
            Self::Label => "label",
            Self::Durability => "durable",
            Self::Event => "event",
            Self::Other => "other",
        }
    }
}
