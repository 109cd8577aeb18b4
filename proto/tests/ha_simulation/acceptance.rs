//! A human accepts the loss of what only members that are away have (docs/ha.md section 5).

use proto::{
    ha::action::Event,
    identity::{Epoch, Ordinal},
    wire::config::{AcceptLoss, Durability},
};

use crate::{SECOND, faults::Fault, formed, world::World};

/// Member 0 went on alone, and is gone: nobody else may lead.
fn blocked() -> (World, Epoch) {
    let mut world = formed(41, Durability::Preferred);
    world.apply(Fault::CutPeers(0, 1));
    world.apply(Fault::CutPeers(0, 2));
    world.until(20 * SECOND, "commits go on alone", |world| {
        let configurations = &world.lease.contents.as_ref().unwrap().document.configurations;
        matches!(&configurations[..], [only] if only.k == 0)
    });
    world.apply(Fault::DeletePod(0));
    world.nodes[0].restart_at = u64::MAX;
    world.nodes[0].agent_at = u64::MAX;
    world.run(30 * SECOND);
    assert_eq!(world.primary(), None);
    let epoch = world.lease.contents.as_ref().unwrap().epoch;
    (world, epoch)
}

fn accept(world: &mut World, member: u8, epoch: Epoch) {
    world.config.accept_loss = Some(AcceptLoss { member: Ordinal(member), epoch });
}

#[test]
fn the_named_member_leads_and_who_was_away_joins_it() {
    let (mut world, epoch) = blocked();
    accept(&mut world, 2, epoch);
    // What is given up is no longer looked for.
    world.journal.acknowledged.clear();
    world.until(6 * SECOND, "the named member leads", |world| world.primary() == Some(2));
    let told =
        world.journal.events.iter().filter(|(_, _, event)| matches!(event, Event::LossAccepted { .. }));
    assert_eq!(told.count(), 1);
    let lost = world.nodes[0].disk.as_ref().unwrap().position();
    world.heal();
    world.nodes[0].restart_at = 0;
    world.nodes[0].agent_at = 0;
    world.until(60 * SECOND, "all stream", |world| world.is_healthy(3));
    assert!(world.nodes[0].disk.as_ref().unwrap().position().timeline > lost.timeline);
    // It was for once: the next loss is not accepted by it.
    let opened = world.lease.contents.as_ref().unwrap().document.history.last().unwrap().epoch;
    assert!(opened > epoch);
}

#[test]
fn another_epoch_or_member_accepts_nothing() {
    for (member, later) in [(2, 1), (0, 0)] {
        let (mut world, epoch) = blocked();
        accept(&mut world, member, Epoch(epoch.0 + later));
        world.run(30 * SECOND);
        assert_eq!(world.primary(), None);
    }
}

/// Without this the primary that was cut off would lead beside the named member.
#[test]
fn a_member_that_has_promised_is_heard() {
    let mut world = formed(42, Durability::Preferred);
    world.apply(Fault::CutApi(0));
    world.apply(Fault::CutApi(1));
    world.apply(Fault::CutPeers(0, 2));
    world.run(40 * SECOND);
    assert_eq!(world.primary(), Some(0), "by the promise of member 1");
    let epoch = world.lease.contents.as_ref().unwrap().epoch;
    accept(&mut world, 2, epoch);
    world.run(30 * SECOND);
    assert_eq!(world.primary(), Some(0));
}
