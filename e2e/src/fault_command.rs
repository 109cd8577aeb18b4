//! `lab fault ...`: one subcommand per fault and one per undoing.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use e2e::fault::container::Container;
use e2e::fault::disk::Disk;
use e2e::fault::partition::{Direction, From};
use e2e::fault::{LONGEST, api_server, kubelet, node, partition};
use e2e::lab::Lab;

/// After how long a fault that freezes or cuts off is undone by itself.
#[derive(Args)]
pub(crate) struct Limit {
    /// Undo it by itself after so many seconds
    #[arg(long = "for", value_name = "SECONDS", default_value_t = LONGEST.as_secs())]
    seconds: u64,
}

/// A container of a pod.
#[derive(Args)]
pub(crate) struct Place {
    namespace: String,
    pod: String,
    container: String,
}

/// A volume of a pod.
#[derive(Args)]
pub(crate) struct Claim {
    namespace: String,
    claim: String,
}

#[derive(Subcommand)]
pub(crate) enum Fault {
    /// Takes the power from a node
    NodeOff { node: String },
    /// Boots a node that is off
    NodeOn { node: String },
    /// Stops everything on a node where it is
    NodeFreeze {
        node: String,
        #[command(flatten)]
        limit: Limit,
    },
    /// Lets a frozen node go on
    NodeThaw { node: String },
    /// Kills a node's kubelet
    KubeletStop { node: String },
    /// Starts a node's kubelet again
    KubeletStart { node: String },
    /// Cuts a node off
    Cut {
        node: String,
        #[arg(long, value_enum)]
        from: From,
        #[arg(long, value_enum, default_value_t = Direction::Both)]
        direction: Direction,
        #[command(flatten)]
        limit: Limit,
    },
    /// Joins a node again that was cut off
    Heal {
        node: String,
        #[arg(long, value_enum)]
        from: From,
    },
    /// Kills the API server
    ApiStop,
    /// Starts the API server again
    ApiStart,
    /// Lets the API server hang
    ApiPause {
        #[command(flatten)]
        limit: Limit,
    },
    /// Lets a hanging API server go on
    ApiResume,
    /// Answers 503 to every request in the API server's place
    ApiFail,
    /// Puts the API server back in its place
    ApiRecover,
    /// Lets every write to the API server fail, as when etcd is full
    ApiRefuseWrites,
    /// Lets writes to the API server succeed again
    ApiAcceptWrites,
    /// Kills a process in a container, by its name or by how its command line begins
    Kill {
        #[command(flatten)]
        place: Place,
        process: String,
    },
    /// Stops a process in a container where it is
    Stop {
        #[command(flatten)]
        place: Place,
        process: String,
        #[command(flatten)]
        limit: Limit,
    },
    /// Lets a stopped process go on
    Resume {
        #[command(flatten)]
        place: Place,
        process: String,
    },
    /// Stops everything in a container where it is
    Freeze {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        limit: Limit,
    },
    /// Lets a frozen container go on
    Thaw {
        #[command(flatten)]
        place: Place,
    },
    /// Lets every write to a volume wait
    DiskFreeze {
        #[command(flatten)]
        claim: Claim,
        #[command(flatten)]
        limit: Limit,
    },
    /// Lets the writes to a frozen volume go on
    DiskThaw {
        #[command(flatten)]
        claim: Claim,
    },
    /// Leaves no room in a volume
    DiskFill {
        #[command(flatten)]
        claim: Claim,
    },
    /// Gives the room in a filled volume back
    DiskUnfill {
        #[command(flatten)]
        claim: Claim,
    },
}

impl Fault {
    /// Makes the fault, or undoes it.
    pub(crate) async fn act(self, lab: &Lab) -> Result<()> {
        match self {
            Self::NodeOff { node } => node::off(lab.node(&node)?).await,
            Self::NodeOn { node } => node::on(lab, lab.node(&node)?).await,
            Self::NodeFreeze { node, limit } => node::freeze(lab.node(&node)?, limit.into()).await,
            Self::NodeThaw { node } => node::thaw(lab.node(&node)?).await,
            Self::KubeletStop { node } => kubelet::stop(lab.node(&node)?).await,
            Self::KubeletStart { node } => kubelet::start(lab, lab.node(&node)?),
            Self::Cut { node, from, direction, limit } => {
                partition::cut(lab.node(&node)?, from, direction, limit.into()).await
            }
            Self::Heal { node, from } => partition::heal(lab.node(&node)?, from).await,
            Self::ApiStop => api_server::stop().await,
            Self::ApiStart => api_server::start(lab).await,
            Self::ApiPause { limit } => api_server::pause(limit.into()).await,
            Self::ApiResume => api_server::resume().await,
            Self::ApiFail => api_server::fail_all().await,
            Self::ApiRecover => api_server::recover(lab).await,
            Self::ApiRefuseWrites => api_server::refuse_writes().await,
            Self::ApiAcceptWrites => api_server::accept_writes().await,
            Self::Kill { place, process } => place.find(lab).await?.kill(&process).map(drop),
            Self::Stop { place, process, limit } => {
                place.find(lab).await?.stop(&process, limit.into()).await.map(drop)
            }
            Self::Resume { place, process } => place.find(lab).await?.resume(&process).await,
            Self::Freeze { place, limit } => place.find(lab).await?.freeze(limit.into()).await,
            Self::Thaw { place } => place.find(lab).await?.thaw().await,
            Self::DiskFreeze { claim, limit } => claim.find()?.freeze(limit.into()).await,
            Self::DiskThaw { claim } => claim.find()?.thaw().await,
            Self::DiskFill { claim } => claim.find()?.fill().map(drop),
            Self::DiskUnfill { claim } => claim.find()?.unfill(),
        }
    }
}

impl Place {
    async fn find(&self, lab: &Lab) -> Result<Container> {
        Container::find(lab, &self.namespace, &self.pod, &self.container).await
    }
}

impl Claim {
    fn find(&self) -> Result<Disk> {
        Disk::of_claim(&self.namespace, &self.claim)
    }
}

impl std::convert::From<Limit> for Duration {
    fn from(limit: Limit) -> Self {
        Self::from_secs(limit.seconds)
    }
}
