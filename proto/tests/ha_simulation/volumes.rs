//! Volumes that hang or have no room left. Processes that wait for a hung one cannot be reaped.

use proto::{
    clock::BootTime,
    wire::{
        config::Durability,
        supervisor::{Ended, Space},
    },
};

use crate::{
    SECOND,
    faults::Fault,
    formed,
    server::{Life, Process},
    world::{World, config},
};

/// What a volume of the world holds when nothing is wrong with it.
const TOTAL: u64 = 1 << 30;

/// A member's volume, apart from what lies on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    /// When it last answered, by the clock of its node, if it hangs.
    pub(crate) hung_since: Option<BootTime>,
    pub(crate) available: u64,
}

impl Default for Volume {
    fn default() -> Self {
        Self { hung_since: None, available: TOTAL }
    }
}

impl Volume {
    pub(crate) fn space(&self) -> Space {
        Space { total_bytes: TOTAL, available_bytes: self.available }
    }
}

impl Life {
    /// SIGKILL to everything: what waits for a hung volume stays.
    pub(crate) fn kill(&mut self, volume: Volume, cause: Ended) {
        self.work = None;
        self.end(cause, None);
        if volume.hung_since.is_some() {
            self.process = Process::Dying;
        }
    }
}

impl World {
    pub(crate) fn hang(&mut self, node: usize) {
        self.nodes[node].volume.hung_since = Some(self.local(node));
    }

    pub(crate) fn hangs(&self, node: usize) -> bool {
        self.nodes[node].volume.hung_since.is_some()
    }

    /// Space comes and hung volumes answer; what SIGKILL was pending on is reaped.
    pub(crate) fn mend_volumes(&mut self) {
        for node in &mut self.nodes {
            node.volume = Volume::default();
            if let Some(life) = node.life.as_mut().filter(|life| life.process == Process::Dying) {
                life.process = Process::Stopped { last: Some(Ended::Ordered), shutdown: None };
            }
        }
    }

    /// Whether a record can be written here. A server that finds no space for WAL panics.
    pub(crate) fn writes_wal(&mut self, node: usize) -> bool {
        let volume = self.nodes[node].volume;
        if volume.available == 0
            && let Some(life) = &mut self.nodes[node].life
        {
            life.kill(volume, Ended::Crashed("PANIC: no space left on device".to_owned()));
        }
        volume.available > 0 && volume.hung_since.is_none()
    }
}

#[test]
fn the_volume_of_the_primary_hangs_and_another_leads() {
    let mut world = formed(10, Durability::Preferred);
    let (old, begin) = (world.primary().unwrap(), world.now);
    world.apply(Fault::HangVolume(old));
    world.until(9 * SECOND, "another leads", |world| world.primary().is_some_and(|new| new != old));
    assert!(world.now - begin > 6 * SECOND, "not before ioTimeout");
    world.run(30 * SECOND);
    assert_eq!(world.nodes[old].life.as_ref().unwrap().process, Process::Dying, "not started on it");
    world.heal();
    world.until(40 * SECOND, "all stream again", |world| world.is_healthy(3));
}

#[test]
fn a_hung_volume_ends_nothing_if_nobody_else_could_lead() {
    let mut world = World::new(11, 1, config(1, Durability::Preferred));
    world.until(20 * SECOND, "one", |world| world.is_healthy(1));
    let epoch = world.journal.last_epoch;
    world.apply(Fault::HangVolume(0));
    world.run(60 * SECOND);
    world.heal();
    world.until(5 * SECOND, "goes on", |world| world.is_healthy(1));
    assert_eq!((world.journal.last_epoch, world.nodes[0].life.as_ref().unwrap().fences), (epoch, 0));
}

#[test]
fn a_claimant_whose_volume_hangs_gives_the_lease_back() {
    let mut world = formed(12, Durability::Preferred);
    let old = world.primary().unwrap();
    let others: Vec<usize> = (0..3).filter(|node| *node != old).collect();
    world.apply(Fault::HangVolume(others[0]));
    world.run(7 * SECOND);
    world.apply(Fault::CrashPostgres(old));
    world.until(8 * SECOND, "one with a volume leads", |world| {
        world.primary().is_some_and(|new| new != others[0])
    });
}

#[test]
fn a_full_volume_hands_over_to_one_with_room() {
    // All of it, so that the server panics; or a little left, in which it would go on with errors.
    for left in [0, 20 << 20] {
        let mut world = formed(13, Durability::Preferred);
        let old = world.primary().unwrap();
        world.apply(Fault::FillVolume(old, left));
        world.until(6 * SECOND, "another leads", |world| world.primary().is_some_and(|new| new != old));
        let epoch = world.journal.last_epoch;
        world.run(60 * SECOND);
        assert_eq!(world.journal.last_epoch, epoch, "it does not come back before there is room");
        world.heal();
        world.until(40 * SECOND, "all stream again", |world| world.is_healthy(3));
    }
}

#[test]
fn when_all_volumes_are_full_nobody_leads_until_there_is_room() {
    let mut world = formed(14, Durability::Preferred);
    for node in 0..3 {
        world.apply(Fault::FillVolume(node, 0));
    }
    world.until(10 * SECOND, "nobody leads", |world| world.primary().is_none());
    world.run(5 * SECOND);
    let epoch = world.journal.last_epoch;
    world.run(300 * SECOND);
    assert_eq!(world.journal.last_epoch, epoch, "no loop of claims");
    world.heal();
    world.until(40 * SECOND, "all is well by itself", |world| world.is_healthy(3));
}

#[test]
fn a_server_that_dies_again_and_again_gets_pauses_and_comes_back() {
    let mut world = World::new(15, 1, config(1, Durability::Preferred));
    world.until(20 * SECOND, "one", |world| world.is_healthy(1));
    let mut crashes = 0;
    for _ in 0..1_500 {
        world.run(SECOND / 5);
        if world.primary().is_some() {
            world.apply(Fault::CrashPostgres(0));
            crashes += 1;
        }
    }
    // 300 s of half a second, one, two ... thirty seconds, and then thirty each.
    assert!((8..25).contains(&crashes), "{crashes} starts");
    world.until(40 * SECOND, "it comes back", |world| world.is_healthy(1));
}
