//! What may go wrong with a Database, each with its end: found before it begins, since another one may have taken
//! the API server away by then.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use proto::{
    ha::profile::Profile,
    pod::{AGENT_CONTAINER, POSTGRES_CONTAINER},
    wire::config::Durability,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    database::{Database, Pod},
    fault::node_of,
    stage::Stage,
    switchover, verdict,
    wait::say,
};
use crate::{
    fault::{
        LONGEST, api_server,
        cluster::Fault,
        container::Container,
        disk::Disk,
        kubelet, node,
        partition::{self, Direction, From},
    },
    lab::{Lab, Node},
};

/// Of the Database that is broken.
pub const INSTANCES: usize = 3;
/// From the end of a trouble until all instances serve. Kubernetes restarts a container that ended several times only
/// after up to five minutes.
pub const WHOLE_LIMIT: Duration = Duration::from_mins(7);
/// The process name of both programs of ours in a pod.
const AGENT: &str = "agent";
/// As in `manifests/`.
const OPERATORS: u8 = 2;
/// Of PostgreSQL's.
const POSTMASTER: &str = "postgres";

/// Whom it hits, by what it is when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// What leads.
    Primary,
    /// One that does not.
    Standby,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// SIGKILL to PostgreSQL's first process.
    PostmasterKilled(Who),
    /// SIGKILL to PID 1 of PostgreSQL's container.
    ContainerKilled(Who),
    /// SIGKILL to the agent.
    AgentKilled(Who),
    /// `kubectl delete pod`.
    PodDeleted(Who),
    /// The node loses power, and boots again at the end.
    NodeOff(Who),
    /// The node stands still, as a paused virtual machine.
    NodeFrozen(Who),
    /// The node's kubelet is gone.
    KubeletGone(Who),
    /// The node is cut off.
    Cut(Who, From, Direction),
    /// SIGSTOP to the agent.
    AgentStopped(Who),
    /// SIGSTOP to PID 1 of PostgreSQL's container.
    SupervisorStopped(Who),
    /// Everything in PostgreSQL's container stands still.
    ContainerFrozen(Who),
    /// Every write to the volume waits, beyond the reach of SIGKILL.
    DiskHangs(Who),
    /// Nothing is free on the volume.
    DiskFull(Who),
    /// Connections to the API server are refused.
    ApiDown,
    /// The API server takes connections and answers nothing.
    ApiHangs,
    /// The API server answers 503.
    ApiFails,
    /// The API server refuses every write.
    ApiReadOnly,
    /// There is no operator.
    OperatorAbsent,
    /// Somebody asks for another primary.
    Switchover,
}

/// How the Database of a [`Ground`] fails over.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Manner {
    /// `spec.failover.profile` of the Database
    #[arg(long, value_parser = word::<Profile>, default_value = "Standard")]
    pub profile: Profile,
    /// `spec.durability` of the Database; with Async what was acknowledged may be lost, which counts as a failure
    #[arg(long, value_parser = word::<Durability>, default_value = "Preferred")]
    pub durability: Durability,
}

/// As it is written in a spec.
///
/// # Errors
/// If there is no such word.
pub fn word<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(json!(text))
}

/// What a trouble acts on.
pub struct Ground {
    /// The cluster.
    pub stage: Stage,
    /// Its machine.
    pub lab: Lab,
    /// The Database.
    pub database: Database,
}

impl Ground {
    /// A Database of three instances, whole.
    pub async fn prepare(stage: Stage, namespace: &str, name: &str, manner: Manner) -> Result<Self> {
        let lab =
            stage.cluster.lab_for(Fault::Node).context("these faults need the lab: unset KUBECONFIG")?;
        let lab = lab.clone();
        let database = stage.database(namespace, name).await?;
        let spec = json!({
            "replicas": INSTANCES,
            "version": "16",
            "storage": {"size": "2Gi"},
            "durability": manner.durability,
            "failover": {"profile": manner.profile},
        });
        database.apply(&spec).await?;
        verdict::whole(&database, INSTANCES, WHOLE_LIMIT).await.context("before any fault")?;
        Ok(Self { stage, lab, database })
    }
}

/// A trouble whose place is known.
#[derive(Debug)]
pub struct Prepared {
    /// Which.
    pub trouble: Trouble,
    /// Whom it hits, if anybody in particular.
    pub pod: Option<Pod>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Nowhere,
    Node(Node),
    Container(Container),
    Disk(Disk),
}

impl Trouble {
    /// Whom it hits.
    pub fn who(self) -> Option<Who> {
        match self {
            Self::PostmasterKilled(who)
            | Self::ContainerKilled(who)
            | Self::AgentKilled(who)
            | Self::PodDeleted(who)
            | Self::NodeOff(who)
            | Self::NodeFrozen(who)
            | Self::KubeletGone(who)
            | Self::Cut(who, ..)
            | Self::AgentStopped(who)
            | Self::SupervisorStopped(who)
            | Self::ContainerFrozen(who)
            | Self::DiskHangs(who)
            | Self::DiskFull(who) => Some(who),
            Self::ApiDown
            | Self::ApiHangs
            | Self::ApiFails
            | Self::ApiReadOnly
            | Self::OperatorAbsent
            | Self::Switchover => None,
        }
    }

    /// Finds its place as things are now.
    pub async fn prepare(self, ground: &Ground) -> Result<Prepared> {
        let pod = match self.who() {
            Some(Who::Primary) => Some(ground.database.primary().await?),
            Some(Who::Standby) => Some(ground.database.standby().await?),
            None => None,
        };
        let place = match &pod {
            Some(pod) => self.place(ground, pod).await?,
            None => Place::Nowhere,
        };
        Ok(Prepared { trouble: self, pod, place })
    }

    async fn place(self, ground: &Ground, pod: &Pod) -> Result<Place> {
        let container = async |name: &str| {
            let found = Container::find(&ground.lab, &ground.database.namespace, &pod.name, name).await?;
            Ok(Place::Container(found))
        };
        match self {
            Self::NodeOff(_) | Self::NodeFrozen(_) | Self::KubeletGone(_) | Self::Cut(..) => {
                Ok(Place::Node(ground.lab.node(&node_of(pod)?)?.clone()))
            }
            Self::AgentKilled(_) | Self::AgentStopped(_) => container(AGENT_CONTAINER).await,
            Self::PostmasterKilled(_)
            | Self::ContainerKilled(_)
            | Self::SupervisorStopped(_)
            | Self::ContainerFrozen(_) => container(POSTGRES_CONTAINER).await,
            Self::DiskHangs(_) | Self::DiskFull(_) => {
                Ok(Place::Disk(Disk::of_claim(&ground.database.namespace, &format!("data-{}", pod.name))?))
            }
            _ => Ok(Place::Nowhere),
        }
    }
}

impl Prepared {
    /// Begins it.
    pub async fn begin(&self, ground: &Ground) -> Result<()> {
        say(&format!("begins: {self}"));
        self.act(ground).await.with_context(|| format!("cannot begin: {self}"))
    }

    async fn act(&self, ground: &Ground) -> Result<()> {
        match (self.trouble, &self.place) {
            (Trouble::PostmasterKilled(_), Place::Container(container)) => killed(container, POSTMASTER),
            (Trouble::ContainerKilled(_) | Trouble::AgentKilled(_), Place::Container(container)) => {
                killed(container, AGENT)
            }
            (Trouble::AgentStopped(_) | Trouble::SupervisorStopped(_), Place::Container(container)) => {
                container.stop(AGENT, LONGEST).await.map(drop)
            }
            (Trouble::ContainerFrozen(_), Place::Container(container)) => container.freeze(LONGEST).await,
            (Trouble::DiskHangs(_), Place::Disk(disk)) => disk.freeze(LONGEST).await,
            (Trouble::DiskFull(_), Place::Disk(disk)) => disk.fill().map(drop),
            (Trouble::NodeOff(_), Place::Node(node)) => node::off(node).await,
            (Trouble::NodeFrozen(_), Place::Node(node)) => node::freeze(node, LONGEST).await,
            (Trouble::KubeletGone(_), Place::Node(node)) => kubelet::stop(node).await,
            (Trouble::Cut(_, from, direction), Place::Node(node)) => {
                partition::cut(node, from, direction, LONGEST).await
            }
            (Trouble::PodDeleted(_), _) => {
                ground.database.delete_pod(self.pod.as_ref().context("no pod was prepared")?).await
            }
            (Trouble::ApiDown, _) => api_server::stop().await,
            (Trouble::ApiHangs, _) => api_server::pause(LONGEST).await,
            (Trouble::ApiFails, _) => api_server::fail_all().await,
            (Trouble::ApiReadOnly, _) => api_server::refuse_writes().await,
            (Trouble::OperatorAbsent, _) => ground.stage.scale_operator(0).await,
            (Trouble::Switchover, _) => ask_for_another(ground).await,
            (trouble, place) => anyhow::bail!("{trouble} cannot be made at {place:?}"),
        }
    }

    /// Ends it, whatever has become of its place.
    pub async fn end(&self, ground: &Ground) -> Result<()> {
        say(&format!("ends: {self}"));
        self.undo(ground).await.with_context(|| format!("cannot end: {self}"))
    }

    async fn undo(&self, ground: &Ground) -> Result<()> {
        match (self.trouble, &self.place) {
            (Trouble::AgentStopped(_) | Trouble::SupervisorStopped(_), Place::Container(container)) => {
                resumed(container).await
            }
            (Trouble::ContainerFrozen(_), Place::Container(container)) => container.thaw().await,
            (Trouble::DiskHangs(_), Place::Disk(disk)) => disk.thaw().await,
            (Trouble::DiskFull(_), Place::Disk(disk)) => disk.unfill(),
            (Trouble::NodeOff(_), Place::Node(node)) => node::on(&ground.lab, node).await,
            (Trouble::NodeFrozen(_), Place::Node(node)) => node::thaw(node).await,
            (Trouble::KubeletGone(_), Place::Node(node)) => kubelet::start(&ground.lab, node),
            (Trouble::Cut(_, from, _), Place::Node(node)) => partition::heal(node, from).await,
            (Trouble::ApiDown, _) => api_server::start(&ground.lab).await,
            (Trouble::ApiHangs, _) => api_server::resume().await,
            (Trouble::ApiFails, _) => api_server::recover(&ground.lab).await,
            (Trouble::ApiReadOnly, _) => api_server::accept_writes().await,
            (Trouble::OperatorAbsent, _) => ground.stage.scale_operator(OPERATORS).await,
            _ => Ok(()),
        }
    }
}

fn killed(container: &Container, process: &str) -> Result<()> {
    let killed = container.kill(process)?;
    ensure!(killed == 1, "{killed} processes called {process} were killed");
    Ok(())
}

/// A stopped agent fails its liveness probe: the kubelet may have ended it by now.
async fn resumed(container: &Container) -> Result<()> {
    match container.processes(AGENT) {
        Ok(_) => container.resume(AGENT).await,
        Err(_) => Ok(()),
    }
}

/// Begins a switchover and does not wait for it: what comes of it beside another trouble is not the point.
async fn ask_for_another(ground: &Ground) -> Result<()> {
    let (primary, candidate) = (ground.database.primary().await?, ground.database.standby().await?);
    let database = ground.database.clone();
    tokio::spawn(async move {
        if let Err(error) = switchover::by_http(&database, &primary, &candidate).await {
            say(&format!("the switchover to {}: {error:#}", candidate.name));
        }
    });
    Ok(())
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "the primary",
            Self::Standby => "a standby",
        })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PostmasterKilled(who) => write!(f, "SIGKILL to the postmaster of {who}"),
            Self::ContainerKilled(who) => write!(f, "SIGKILL to PID 1 of {who}"),
            Self::AgentKilled(who) => write!(f, "SIGKILL to the agent of {who}"),
            Self::PodDeleted(who) => write!(f, "kubectl delete pod of {who}"),
            Self::NodeOff(who) => write!(f, "no power for the node of {who}"),
            Self::NodeFrozen(who) => write!(f, "the node of {who} stands still"),
            Self::KubeletGone(who) => write!(f, "no kubelet on the node of {who}"),
            Self::Cut(who, from, Direction::Both) => write!(f, "the node of {who} is cut off from {from}"),
            Self::Cut(who, from, direction) => {
                write!(f, "the node of {who} is cut off from {from}, {direction} only")
            }
            Self::AgentStopped(who) => write!(f, "SIGSTOP to the agent of {who}"),
            Self::SupervisorStopped(who) => write!(f, "SIGSTOP to the supervisor of {who}"),
            Self::ContainerFrozen(who) => write!(f, "the postgres container of {who} stands still"),
            Self::DiskHangs(who) => write!(f, "the volume of {who} hangs"),
            Self::DiskFull(who) => write!(f, "the volume of {who} is full"),
            Self::ApiDown => f.write_str("the API server is down"),
            Self::ApiHangs => f.write_str("the API server hangs"),
            Self::ApiFails => f.write_str("the API server answers 503"),
            Self::ApiReadOnly => f.write_str("the API server refuses writes"),
            Self::OperatorAbsent => f.write_str("there is no operator"),
            Self::Switchover => f.write_str("a switchover"),
        }
    }
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.trouble)?;
        match &self.pod {
            Some(pod) => write!(f, " ({} on {})", pod.name, pod.node.as_deref().unwrap_or("no node")),
            None => Ok(()),
        }
    }
}
