//! What can go wrong, and what people ask for.

use proto::{
    ha::profile::Profile, ha::view::SwitchoverRequest, identity::Ordinal, postgres::WalPosition,
    wire::supervisor::Ended,
};

use crate::{
    hand::Edit,
    server::{Life, Process},
    world::World,
};

/// Something done to the world.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    CrashPostgres(usize),
    KillContainer(usize),
    RestartAgent(usize),
    DeletePod(usize),
    WipeVolume(usize),
    CutApi(usize),
    Isolate(usize),
    CutPeers(usize, usize),
    ApiDown,
    /// Reads are answered, writes fail.
    ApiReadOnly,
    LoseWriteAnswers,
    Freeze(usize, u64),
    /// A paused virtual machine: its clock stands still meanwhile.
    Pause(usize, u64),
    /// Nothing on the volume answers, SIGKILL included.
    HangVolume(usize),
    /// This much is left on the volume.
    FillVolume(usize, u64),
    Switchover(Option<u8>),
    Scale(u8),
    Profile(Profile),
    DeleteLease,
    EditLease(Edit),
    Heal,
}

impl World {
    pub(crate) fn apply(&mut self, fault: Fault) {
        if self.trace {
            eprintln!("{:>9} FAULT {fault:?}", self.now / 1000);
        }
        match fault {
            Fault::HangVolume(node) => self.hang(node),
            Fault::FillVolume(node, available) => self.nodes[node].volume.available = available,
            // Kubelet ends no container whose processes cannot be reaped.
            Fault::CrashPostgres(node)
            | Fault::KillContainer(node)
            | Fault::DeletePod(node)
            | Fault::WipeVolume(node)
                if self.hangs(node) => {}
            Fault::CrashPostgres(node) => {
                if let Some(life) = &mut self.nodes[node].life
                    && !matches!(life.process, Process::Stopped { .. })
                {
                    life.work = None;
                    life.end(Ended::Crashed("killed".to_owned()), None::<WalPosition>);
                }
            }
            Fault::KillContainer(node) => {
                self.nodes[node].life = None;
                self.nodes[node].restart_at = self.now + 700_000;
            }
            Fault::RestartAgent(node) => {
                self.nodes[node].agent = None;
                self.nodes[node].agent_at = self.now + 300_000;
            }
            Fault::DeletePod(node) => {
                self.apply(Fault::KillContainer(node));
                self.apply(Fault::RestartAgent(node));
                self.nodes[node].pod_uid = self.dice.next();
                self.nodes[node].restart_at = self.now + 2_500_000;
                self.nodes[node].agent_at = self.now + 2_000_000;
                self.nodes[node].label = None;
            }
            Fault::WipeVolume(node) => {
                self.apply(Fault::DeletePod(node));
                self.nodes[node].disk = None;
            }
            Fault::CutApi(node) => {
                self.api_cut.insert(node);
            }
            Fault::Isolate(node) => {
                self.api_cut.insert(node);
                for other in 0..self.nodes.len() {
                    self.cut.insert((node.min(other), node.max(other)));
                }
            }
            Fault::CutPeers(a, b) => {
                self.cut.insert((a.min(b), a.max(b)));
            }
            Fault::ApiDown => self.api_up = false,
            Fault::ApiReadOnly => self.api_read_only = true,
            Fault::LoseWriteAnswers => self.writes_lost = 50,
            Fault::Freeze(node, micros) => {
                self.honest = false;
                self.nodes[node].frozen_until = self.now + micros;
            }
            Fault::Pause(node, micros) => {
                self.apply(Fault::Freeze(node, micros));
                let clock = &mut self.nodes[node].clock;
                clock.0 = clock.0.saturating_sub(micros / 100 * clock.1);
            }
            Fault::Switchover(to) => self.switchover(to),
            Fault::Scale(replicas) => self.config.replicas = replicas,
            Fault::Profile(profile) => self.config.profile = profile,
            Fault::DeleteLease => self.delete_lease(),
            Fault::EditLease(edit) => self.edit_lease(edit),
            Fault::Heal => self.heal(),
        }
    }

    fn switchover(&mut self, to: Option<u8>) {
        let id = self.dice.next();
        if let Some(agent) = self.primary().and_then(|node| self.nodes[node].agent.as_mut()) {
            agent.switchover = Some(SwitchoverRequest { id, to: to.map(Ordinal) });
        }
    }

    pub(crate) fn heal(&mut self) {
        self.api_up = true;
        self.api_read_only = false;
        self.api_cut.clear();
        self.cut.clear();
        self.writes_lost = 0;
        self.mend_volumes();
        for node in &mut self.nodes {
            node.frozen_until = node.frozen_until.min(self.now + 1_000_000);
        }
    }

    /// Who accepts writes by its own account.
    pub(crate) fn primary(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|node| {
            let node = &self.nodes[*node];
            let leads = node
                .agent
                .as_ref()
                .and_then(|agent| agent.summary.as_ref())
                .is_some_and(|summary| summary.role == proto::wire::http::Role::Primary);
            leads && node.life.as_ref().is_some_and(Life::is_primary)
        })
    }

    /// How many members stream from the primary with everything but its newest records.
    pub(crate) fn streaming(&self) -> usize {
        let Some(primary) = self.primary() else { return 0 };
        let length = self.nodes[primary].disk.as_ref().map_or(0, |disk| disk.log.len());
        let follows = |node: usize| {
            let this = &self.nodes[node];
            let attached = this.life.as_ref().is_some_and(|life| {
                life.streaming
                    && life.process == Process::Standby
                    && life.upstream().is_some_and(|(ordinal, _)| usize::from(ordinal.0) == primary)
            });
            attached && this.disk.as_ref().is_some_and(|disk| disk.log.len() + 5 > length)
        };
        (0..self.nodes.len()).filter(|node| *node != primary && follows(*node)).count()
    }

    /// One primary, everybody else streaming, one settled configuration with all of them, labels right.
    pub(crate) fn is_healthy(&self, members: usize) -> bool {
        use proto::wire::{config::Durability, http::Role};
        let Some(primary) = self.primary() else { return false };
        let Some(contents) = &self.lease.contents else { return false };
        let document = &contents.document;
        let configured = match (self.config.durability, &document.configurations[..]) {
            (Durability::Async, []) => true,
            (Durability::Preferred | Durability::Required, [only]) => only.standbys.len() == members - 1,
            _ => false,
        };
        let labelled = |index: usize| {
            let wanted = if index == primary { Role::Primary } else { Role::Replica };
            self.nodes[index].label == Some(wanted)
        };
        configured
            && document.members.len() == members
            && self.streaming() == members - 1
            && (0..members).all(labelled)
    }
}
