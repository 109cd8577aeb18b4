//! The API server away: relay and promise (docs/ha.md section 6). An outage alone, for everybody or for the
//! primary, costs nothing; with more broken, S1 to S3 hold.

use proptest::prelude::*;
use proto::{
    clock::BootTime,
    ha::{
        self,
        lease::{Observed, Sighting},
        profile::{Profile, Timing},
        question::{Question, Relay, Reply},
        view::RelayReply,
    },
    identity::Ordinal,
    wire::config::Durability,
};

use crate::{
    SECOND, fault,
    faults::Fault,
    formed,
    mutants::Mutant,
    runs, survive,
    world::{Message, World, config},
};

impl World {
    fn timing(&self) -> Timing {
        self.config.profile.timing()
    }

    /// A member sets out to write another's renewal.
    pub(crate) fn relay(&mut self, member: usize, asker: usize, relay: Box<Relay>) {
        let timing = self.timing();
        let limit = u64::try_from(ha::relay_for(&timing).as_micros()).unwrap();
        let agent = self.nodes[member].agent.as_ref().unwrap().started;
        let deadline = self.now + limit;
        if self.reaches_api(member) {
            let delay = self.latency();
            self.send(delay, Message::RelayArrives { member, asker, agent, relay, deadline });
        } else {
            // Refused, or never answered.
            let wait = if self.dice.percent(50) { self.latency() } else { limit };
            self.send(wait, Message::RelayDone { member, asker, agent, relay, shown: None });
        }
    }

    /// The API server gets it: a read, and a write if the version is still the one.
    pub(crate) fn relay_arrives(
        &mut self,
        member: usize,
        asker: usize,
        agent: BootTime,
        relay: Box<Relay>,
        deadline: u64,
    ) {
        let reached = self.reaches_api(member);
        if let Sighting::Seen(seen) = self.sighting(BootTime::default())
            && let Some(write) = relay.renewal.judge(&seen.version)
            && reached
            && !self.api_read_only
        {
            self.store(write.contents());
        }
        let lost = self.writes_lost;
        let shown = match self.sighting(BootTime::default()) {
            Sighting::Seen(seen) if reached && !self.dice.percent(lost) => Some(seen.version),
            _ => None,
        };
        let wait = if shown.is_some() { self.latency() } else { deadline.saturating_sub(self.now) };
        self.send(wait, Message::RelayDone { member, asker, agent, relay, shown });
    }

    /// The member knows what became of it.
    pub(crate) fn relay_done(
        &mut self,
        member: usize,
        asker: usize,
        agent: BootTime,
        relay: &Relay,
        shown: Option<proto::ha::lease::LeaseVersion>,
    ) {
        let same = self.nodes[member].agent.as_ref().is_some_and(|now| now.started == agent);
        if !same || !self.awake(member) {
            return;
        }
        let view = self.view(member);
        let span = if self.is(Mutant::PromiseTooShort) { self.timing().fast_stop } else { relay.span };
        let agent = self.nodes[member].agent.as_mut().unwrap();
        let heard = Relay { span, ..relay.clone() };
        let (memory, reply) = ha::conclude_relay(&agent.memory, &view, &heard, shown);
        agent.memory = memory;
        let question = Question::Relay(Box::new(relay.clone()));
        let delay = self.latency();
        self.send(delay, Message::Reply { from: member, to: asker, question, reply });
    }

    /// The asker hears of it.
    pub(crate) fn note_relay(&mut self, from: usize, to: usize, relay: &Relay, reply: Reply) {
        let anybody = self.is(Mutant::PromiseOfOne) && matches!(reply, Reply::Promised { .. });
        let ids: Vec<_> = self.nodes.iter().map(|node| node.disk.as_ref().map(|disk| disk.data_id)).collect();
        let now = self.local(to);
        let Some(agent) = &mut self.nodes[to].agent else { return };
        if let Reply::Shown(version) = &reply
            && relay.asked_at >= agent.sighted_at
        {
            let (version, confirmed) = ((**version).clone(), relay.asked_at);
            agent.sighting = Sighting::Seen(Observed { version, first_seen: now, confirmed });
            agent.sighted_at = now;
        }
        let heard = |member: usize| Ordinal(u8::try_from(member).unwrap());
        agent.peers.entry(heard(from)).or_default().relay = Some(RelayReply::new(relay, reply));
        for (member, id) in ids.into_iter().enumerate().filter(|(member, _)| anybody && *member != to) {
            if let Some(data_id) = id {
                let forged = RelayReply::new(relay, Reply::Promised { data_id });
                agent.peers.entry(heard(member)).or_default().relay = Some(forged);
            }
        }
    }

    fn fences(&self) -> u64 {
        self.nodes.iter().filter_map(|node| node.life.as_ref()).map(|life| life.fences).sum()
    }

    /// Runs for `micros`; says for how long at most nothing was acknowledged.
    fn longest_pause(&mut self, micros: u64) -> u64 {
        let (end, mut longest, mut last) = (self.now + micros, 0, self.now);
        while self.now < end {
            let before = self.journal.acknowledged.len();
            self.step();
            if self.journal.acknowledged.len() > before {
                last = self.now;
            }
            longest = longest.max(self.now - last);
        }
        longest
    }

    /// `faults` happen, for 90 seconds; then all is healed. Nobody must have noticed.
    fn endures(&mut self, name: &str, faults: &[Fault]) {
        let before = (self.primary(), self.journal.last_epoch, self.fences());
        for fault in faults {
            self.apply(*fault);
        }
        let pause = self.longest_pause(90 * SECOND);
        assert!(pause < 2 * SECOND, "{name}: {} ms without a commit\n{}", pause / 1000, self.describe());
        self.heal();
        self.run(30 * SECOND);
        assert_eq!((self.primary(), self.journal.last_epoch, self.fences()), before, "{name}");
    }
}

pub(crate) const MODES: [Durability; 3] = [Durability::Preferred, Durability::Required, Durability::Async];
const OUTAGES: [Fault; 3] = [Fault::ApiDown, Fault::ApiReadOnly, Fault::CutApi(0)];

/// Takes a member away for good.
fn lose(world: &mut World, member: usize) {
    world.nodes[member].deleted = true;
    world.nodes[member].life = None;
    world.nodes[member].agent = None;
}

#[test]
fn an_outage_alone_costs_nothing() {
    for (durability, outage) in MODES.into_iter().flat_map(|mode| OUTAGES.map(|outage| (mode, outage))) {
        for profile in [Profile::Fast, Profile::Standard, Profile::Tolerant] {
            let mut world = formed(31, durability);
            world.config.profile = profile;
            world.run(20 * SECOND);
            world.endures(&format!("{durability:?} {profile:?} {outage:?}"), &[outage]);
            world.until(30 * SECOND, "healthy", |world| world.is_healthy(3));
        }
    }
}

#[test]
fn nor_does_one_with_a_replica_lost() {
    for (durability, outage) in [Durability::Preferred, Durability::Required]
        .into_iter()
        .flat_map(|mode| OUTAGES.map(|outage| (mode, outage)))
    {
        for lost_before in [0, 60 * SECOND] {
            let mut world = formed(32, durability);
            lose(&mut world, 2);
            world.run(lost_before);
            world.endures(&format!("{durability:?} {outage:?}, member 2 lost"), &[outage]);
        }
    }
}

/// For whoever is on call: who leads by promise says so, and who is relayed for does not.
#[test]
fn who_leads_by_promise_says_so() {
    for (outage, by_promise) in
        [(Fault::ApiDown, true), (Fault::ApiReadOnly, true), (Fault::CutApi(0), false)]
    {
        let mut world = formed(38, Durability::Preferred);
        let says = |world: &World| {
            let summary = world.nodes[0].agent.as_ref().and_then(|agent| agent.summary.as_ref());
            summary.map(|summary| summary.by_promise)
        };
        world.apply(outage);
        world.run(20 * SECOND);
        assert_eq!(says(&world), Some(by_promise), "{outage:?}");
        world.heal();
        world.run(5 * SECOND);
        assert_eq!(says(&world), Some(false), "{outage:?} is over");
    }
}

/// The lost one may be alive with an API server of its own, and nothing but its promise keeps it from leading.
#[test]
fn async_with_a_replica_lost_fences() {
    let mut world = formed(33, Durability::Async);
    lose(&mut world, 2);
    world.apply(Fault::ApiDown);
    world.run(20 * SECOND);
    assert_eq!((world.primary(), world.fences()), (None, 1));
    world.heal();
    world.until(20 * SECOND, "somebody leads again", |world| world.primary().is_some());
}

#[test]
fn a_database_of_one_goes_on() {
    let mut world = World::new(34, 1, config(1, Durability::Preferred));
    world.until(20 * SECOND, "one", |world| world.is_healthy(1));
    world.endures("one member", &[Fault::ApiDown]);
}

/// Both others may be alive and elect each other: nobody whom the primary can ask has promised.
#[test]
fn a_primary_that_reaches_nobody_fences() {
    let mut world = formed(35, Durability::Preferred);
    world.apply(Fault::ApiDown);
    world.apply(Fault::CutPeers(0, 1));
    world.apply(Fault::CutPeers(0, 2));
    world.run(10 * SECOND);
    assert_eq!((world.primary(), world.fences()), (None, 1));
}

/// Promises end: a primary that is lost under them is followed by another once the API server is back.
#[test]
fn the_primary_is_lost_during_an_outage() {
    let mut world = formed(36, Durability::Preferred);
    world.apply(Fault::ApiDown);
    world.run(40 * SECOND);
    lose(&mut world, 0);
    world.run(5 * SECOND);
    world.heal();
    let outage = world.until(14 * SECOND, "another leads", |world| world.primary().is_some());
    eprintln!("led again {} ms after the API server was back", outage / 1000);
}

/// A switchover has to wait: who stops now could not release.
#[test]
fn a_switchover_waits_for_the_api_server() {
    let mut world = formed(37, Durability::Preferred);
    world.apply(Fault::ApiReadOnly);
    world.run(15 * SECOND);
    world.apply(Fault::Switchover(Some(1)));
    let pause = world.longest_pause(30 * SECOND);
    assert!(pause < 2 * SECOND, "{} ms without a commit", pause / 1000);
    world.heal();
    world.until(10 * SECOND, "the switchover is made", |world| world.primary() == Some(1));
}

/// Member 0 leads by the promise of a standby that has no API server, and then loses sight of it. Another standby
/// has one and asks. S1 says that it must not lead before member 0 has ended.
fn led_by_one_promise(seed: u64, mutant: Option<Mutant>, restart: bool) -> World {
    let mut wanted = config(5, Durability::Preferred);
    wanted.min_sync_replicas = if mutant == Some(Mutant::PromiseOfOne) { 3 } else { 1 };
    wanted.profile = Profile::Tolerant;
    let mut world = World::new(seed, 5, wanted);
    world.until(60 * SECOND, "five members form", |world| world.is_healthy(5));
    // Rates 10 % apart are what L1 allows.
    for (node, rate) in [(0, 95), (1, 105), (2, 105), (3, 105), (4, 105)] {
        let (now, elapsed) = (world.local(node), world.now / 100 * rate);
        world.nodes[node].clock = (now.0.saturating_sub(elapsed), rate);
    }
    world.mutant = mutant;
    // Nobody gets ahead of anybody, so that an election takes no time for copying.
    world.write_every = u64::MAX;
    world.apply(Fault::CutApi(0));
    world.apply(Fault::CutApi(1));
    for other in 2..5 {
        world.apply(Fault::CutPeers(0, other));
        // Otherwise they hear of the promise, and wait even where it is not enough.
        if mutant == Some(Mutant::PromiseOfOne) {
            world.apply(Fault::CutPeers(1, other));
        }
    }
    // Long enough for the others to find the Lease expired.
    let after = 45 * SECOND + world.dice.below(20 * SECOND);
    world.run(after);
    if restart {
        world.apply(Fault::RestartAgent(1));
    } else {
        world.apply(Fault::CutPeers(0, 1));
    }
    world.run(60 * SECOND);
    world
}

#[test]
fn nobody_leads_beside_a_primary_that_was_promised() {
    for seed in 0..4 {
        for restart in [false, true] {
            let world = led_by_one_promise(seed, None, restart);
            assert!(restart || world.primary().is_some_and(|primary| primary > 0), "{}", world.describe());
        }
    }
}

#[test]
fn promise_of_one() {
    crate::mutants::found(Mutant::PromiseOfOne, 0..8, |mutant, seed| {
        led_by_one_promise(seed, mutant, false);
    });
}

#[test]
fn promise_forgotten() {
    crate::mutants::found(Mutant::PromiseForgotten, 0..8, |mutant, seed| {
        led_by_one_promise(seed, mutant, true);
    });
}

#[test]
fn promise_too_short() {
    crate::mutants::found(Mutant::PromiseTooShort, 0..40, |mutant, seed| {
        led_by_one_promise(seed, mutant, false);
    });
}

pub(crate) fn outage(nodes: usize) -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => fault(nodes),
        2 => Just(Fault::ApiDown),
        2 => Just(Fault::ApiReadOnly),
        2 => (0..nodes).prop_map(Fault::CutApi),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: runs(20), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_faults_with_outages(
        seed in any::<u64>(),
        mode in 0..3_usize,
        faults in prop::collection::vec((0..12 * SECOND, outage(3)), 1..12),
    ) {
        survive(formed(seed, MODES[mode]), faults, 3);
    }

    #[test]
    fn random_faults_with_outages_five_members(
        seed in any::<u64>(),
        faults in prop::collection::vec((0..12 * SECOND, outage(5)), 1..14),
    ) {
        let mut wanted = config(5, Durability::Preferred);
        wanted.min_sync_replicas = 2;
        let mut world = World::new(seed, 5, wanted);
        world.until(60 * SECOND, "five members form", |world| world.is_healthy(5));
        survive(world, faults, 5);
    }
}

/// The API server goes away for four seconds at any moment of a switchover: writers wait for it, and little longer.
#[test]
fn a_switchover_goes_on_once_the_api_server_is_back() {
    for step in 0..20 {
        let mut world = formed(step, Durability::Preferred);
        world.run(20 * SECOND);
        world.apply(Fault::Switchover(None));
        world.run(step * 100_000);
        world.apply(Fault::ApiDown);
        world.run(4 * SECOND);
        world.heal();
        let pause = world.longest_pause(30 * SECOND);
        assert!(pause < 4 * SECOND, "{} ms after it was back\n{}", pause / 1000, world.describe());
        assert!(world.is_healthy(3), "{}", world.describe());
    }
}
