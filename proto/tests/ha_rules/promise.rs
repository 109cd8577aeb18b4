//! Relay or promise (docs/ha.md section 6).

use std::{collections::BTreeSet, time::Duration};

use proto::{
    clock::BootTime,
    ha::{
        self, Response,
        action::Action,
        configuration::Configuration,
        lease::{HolderField, LeaseVersion, Observed, Recorded, ResourceVersion, Sighting, WriteId},
        memory::{Memory, Promise},
        profile::Profile,
        question::{Question, Refused, Relay, Reply, SurveyId},
        view::{RelayReply, View},
    },
    identity::{DataId, Epoch, Ordinal},
    wire::{
        config::AcceptLoss,
        supervisor::{Data, Order},
    },
};

use crate::{
    contend, orders,
    scene::{NOW, SECOND, change, document, held, member, primary},
    surveyed, writes,
};

const LEASE: Duration = Profile::Standard.timing().lease;

/// Member 0, which last renewed `age` seconds ago, after its own write has landed; with what it remembers.
fn silenced(age: u64) -> (Memory, View) {
    let mut view = primary(age);
    view.now = BootTime(NOW.0 - age * SECOND);
    let first = ha::decide(&Memory::default(), &changed(&view));
    let write = writes(&first.actions)[0].clone();
    let mut landed = changed(&view);
    if let Sighting::Seen(observed) = &mut landed.lease.sighting {
        observed.version.resource_version = ResourceVersion("v2".to_owned());
        observed.version.write_id = Some(write.contents().write_id);
    }
    let memory = ha::decide(&first.memory, &landed).memory;
    landed.now = NOW;
    landed.lease.next_write = WriteId(200);
    change(&mut landed, |report| report.at = NOW);
    (memory, landed)
}

/// With a renewal due at once.
fn changed(view: &View) -> View {
    let mut view = view.clone();
    let at = view.now;
    change(&mut view, |report| report.at = at);
    if let Sighting::Seen(observed) = &mut view.lease.sighting {
        observed.version.duration = Profile::Tolerant.timing().lease;
    }
    view
}

fn relays(actions: &[Action]) -> Vec<(Ordinal, Relay)> {
    let relay = |action: &Action| match action {
        Action::Ask { member, question: Question::Relay(relay) } => Some((*member, (**relay).clone())),
        _ => None,
    };
    actions.iter().filter_map(relay).collect()
}

fn asked() -> Relay {
    let (memory, view) = silenced(5);
    relays(&ha::decide(&memory, &view).actions).remove(0).1
}

fn promised(memory: &Memory, view: &View) -> (Memory, Reply) {
    ha::conclude_relay(memory, view, &asked(), None)
}

#[test]
fn members_are_asked_between_a_missed_renewal_and_f() {
    let (memory, mut view) = silenced(4);
    assert_eq!(relays(&ha::decide(&memory, &view).actions), []);
    view.now = NOW + Duration::from_millis(500);
    change(&mut view, |report| report.at = NOW + Duration::from_millis(500));
    let asked = relays(&ha::decide(&memory, &view).actions);
    assert_eq!(asked.iter().map(|(member, _)| member.0).collect::<Vec<_>>(), [1, 2]);
    let Relay { renewal, span, asked_at } = &asked[0].1;
    assert_eq!((*span, *asked_at, &renewal.basis.0[..]), (LEASE, view.now, "v2"));
    // Nothing is asked for a server that does not answer (L5), or after F.
    change(&mut view, |report| report.at = NOW - Duration::from_secs(4));
    assert_eq!(relays(&ha::decide(&memory, &view).actions), []);
    let (memory, view) = silenced(8);
    assert_eq!(relays(&ha::decide(&memory, &view).actions), []);
}

/// What the fence is armed with after member `from` has promised at the age of five seconds.
fn armed(from: u8, how: impl Fn(&mut RelayReply), configurations: Vec<Configuration>) -> Option<BootTime> {
    let (mut memory, mut view) = silenced(5);
    if let Sighting::Seen(Observed { version: LeaseVersion { recorded, .. }, .. }) = &mut view.lease.sighting
        && let Recorded::Document(document) = recorded
    {
        document.configurations = configurations;
    }
    memory.electorates = None;
    let (_, relay) = relays(&ha::decide(&memory, &view).actions).remove(0);
    let mut reply = RelayReply::new(&relay, Reply::Promised { data_id: DataId(u64::from(from)) });
    how(&mut reply);
    view.peers.entry(Ordinal(from)).or_default().relay = Some(reply);
    let actions = ha::decide(&memory, &view).actions;
    orders(&actions).into_iter().find_map(|order| match order {
        Order::Arm { fast_stop_at, .. } if *fast_stop_at > NOW + Duration::from_secs(2) => {
            Some(*fast_stop_at)
        }
        _ => None,
    })
}

#[test]
fn k_promises_count_from_when_they_were_asked_for() {
    let of = |k, standbys: [u64; 2]| {
        let standbys = standbys.map(DataId).into();
        vec![Configuration { epoch: Epoch(4), primary: DataId(0), k, standbys }]
    };
    let extended = Some(NOW + Profile::Standard.timing().fast_stop);
    assert_eq!(armed(1, |_| {}, of(1, [1, 2])), extended);
    assert_eq!(armed(1, |_| {}, of(2, [1, 2])), None, "one of two");
    assert_eq!(armed(1, |_| {}, of(1, [2, 3])), None, "not of S");
    assert_eq!(armed(1, |_| {}, Vec::new()), None, "Async: not all");
    let alone = vec![Configuration::alone(Epoch(4), DataId(0))];
    assert_eq!(armed(1, |_| {}, alone), None, "k = 0: not all");
    assert_eq!(armed(1, |reply| reply.epoch = Epoch(3), of(1, [1, 2])), None, "of another epoch");
    assert_eq!(armed(1, |reply| reply.span /= 2, of(1, [1, 2])), None, "for too short");
}

#[test]
fn a_write_that_may_have_landed_says_who_could_elect_as_well() {
    let (mut memory, mut view) = silenced(5);
    let (_, relay) = relays(&ha::decide(&memory, &view).actions).remove(0);
    let mut pending = document();
    pending.configurations[0].standbys = BTreeSet::from([DataId(2)]);
    let electorate = ha::configuration::Electorate::of(&pending);
    memory.electorates = Some((ResourceVersion("v2".to_owned()), BTreeSet::from([electorate])));
    view.peers.entry(Ordinal(1)).or_default().relay =
        Some(RelayReply::new(&relay, Reply::Promised { data_id: DataId(1) }));
    let tenure = ha::decide(&memory, &view).memory.tenure.unwrap();
    assert_eq!(tenure.promised, None);
}

#[test]
fn who_promised_takes_no_part_in_an_expiry() {
    let view = member(1, Sighting::Seen(held(5, document())));
    let (memory, reply) = promised(&Memory::default(), &view);
    assert_eq!(reply, Reply::Promised { data_id: DataId(1) });
    let survey = |expired| Question::Survey { id: SurveyId(WriteId(1)), expired };
    let seal = |expired| Question::Seal { epoch: Epoch(5), expired };
    for question in [survey(true), seal(true)] {
        let (_, response) = ha::answer(&memory, &view, &question);
        assert!(matches!(response, Response::Reply(Reply::Refused(Refused { promised: true, .. }))));
    }
    // The primary itself has ended and said so.
    for question in [survey(false), seal(false)] {
        assert!(matches!(ha::answer(&memory, &view, &question).1, Response::Order(_)), "{question:?}");
    }
    // Neither does it contend before the promise is over.
    let mut expired = member(1, Sighting::Seen(held(60, document())));
    assert_eq!(surveys(&memory, expired.clone()), None);
    expired.now = NOW + LEASE;
    assert_eq!(surveys(&memory, expired), Some(true));
}

/// Whether member 1 surveys within a second, and on which ground.
fn surveys(memory: &Memory, mut view: View) -> Option<bool> {
    let mut memory = memory.clone();
    (0..10).find_map(|_| {
        view.now = view.now + Duration::from_millis(100);
        view.wal.end = view.wal.end.map(|(_, end)| (view.now, end));
        let decision = ha::decide(&memory, &view);
        memory = decision.memory;
        decision.actions.iter().find_map(|action| match action {
            Action::Ask { question: Question::Survey { expired, .. }, .. } => Some(*expired),
            _ => None,
        })
    })
}

#[test]
fn an_answer_of_the_api_server_is_passed_on_and_binds_nobody() {
    let view = member(1, Sighting::NotYet);
    let shown = |version: &str| {
        let version = LeaseVersion {
            resource_version: ResourceVersion(version.to_owned()),
            ..held(0, document()).version
        };
        ha::conclude_relay(&Memory::default(), &view, &asked(), Some(version))
    };
    let (memory, reply) = shown("v3");
    assert!(matches!(reply, Reply::Shown(_)) && memory == Memory::default());
    // Reads are answered, writes are not (review A-3).
    assert!(matches!(shown("v2").1, Reply::Promised { .. }));
}

#[test]
fn who_may_count_for_another_does_not_promise() {
    let view = member(1, Sighting::Seen(held(60, document())));
    let refused = |memory: &Memory, view: &View| matches!(promised(memory, view).1, Reply::Refused(_));
    // Review S-4b: sealed for a higher epoch; or about to be.
    let mut sealed = view.clone();
    change(&mut sealed, |report| {
        if let Data::Present(durable) = &mut report.data {
            durable.sealed = Epoch(5);
        }
    });
    let relay = Question::Relay(Box::new(asked()));
    assert!(matches!(ha::answer(&Memory::default(), &sealed, &relay).1, Response::Reply(Reply::Refused(_))));
    assert!(refused(&Memory::default(), &sealed));
    let question = Question::Seal { epoch: Epoch(5), expired: true };
    let (sealing, response) = ha::answer(&Memory::default(), &view, &question);
    assert!(matches!(response, Response::Order(_)) && refused(&sealing, &view));
    // A candidate whose claim may still land.
    let survey = ha::decide(&Memory::default(), &view);
    assert!(!refused(&survey.memory, &view));
    let claimed = claiming(view.clone());
    assert!(refused(&claimed, &view));
    // The Lease shows a higher epoch.
    let mut later = held(0, document());
    later.version.epoch = Epoch(5);
    assert!(refused(&Memory::default(), &member(1, Sighting::Seen(later))));
}

/// Memory of member 1 after it sent a claim.
fn claiming(mut view: View) -> Memory {
    let mut memory = Memory::default();
    for _ in 0..30 {
        let decision = ha::decide(&memory, &view);
        memory = decision.memory;
        if !writes(&decision.actions).is_empty() {
            return memory;
        }
        for action in &decision.actions {
            if let Action::Ask { member, question: Question::Survey { id, .. } } = action {
                let (_, reply) = surveyed(member.0, 500);
                view.peers.entry(*member).or_default().survey = Some((*id, reply));
            }
        }
        view.now = view.now + Duration::from_millis(100);
        view.wal.end = view.wal.end.map(|(_, end)| (view.now, end));
    }
    unreachable!("no claim was made")
}

#[test]
fn nobody_claims_while_a_member_says_that_it_has_promised() {
    let refused = Refused { sealed: Some(Epoch(4)), promised: true, why: String::new() };
    let view = member(1, Sighting::Seen(held(60, document())));
    assert!(contend(view.clone(), &[surveyed(2, 500)]).is_some());
    assert_eq!(contend(view, &[surveyed(2, 500), (0, Reply::Refused(refused))]), None);
}

#[test]
fn a_human_may_accept_the_loss_but_not_past_a_promise() {
    let mut alone = document();
    alone.configurations = vec![Configuration::alone(Epoch(4), DataId(0))];
    let mut view = member(1, Sighting::Seen(held(60, alone)));
    let refused = Refused { sealed: Some(Epoch(4)), promised: true, why: String::new() };
    let accept = |member, epoch| Some(AcceptLoss { member: Ordinal(member), epoch: Epoch(epoch) });
    for (accepted, may) in [(None, false), (accept(2, 4), false), (accept(1, 3), false), (accept(1, 4), true)]
    {
        view.config.accept_loss = accepted;
        assert_eq!(contend(view.clone(), &[]).is_some(), may, "{accepted:?}");
    }
    assert_eq!(contend(view.clone(), &[(2, Reply::Refused(refused))]), None);
    // L must have passed.
    view.lease.sighting = Sighting::Seen(held(5, document()));
    assert_eq!(contend(view, &[]), None);
}

#[test]
fn the_ground_of_an_election_is_handed_on() {
    // A claim on expiry that came to nothing was released: still nobody knows whether the primary has ended.
    let mut after = document();
    after.presumed = true;
    let mut observed = held(0, after);
    observed.version.holder = HolderField::Nobody;
    let view = member(1, Sighting::Seen(observed));
    let mut bound =
        Memory { promise: Some(Promise { epoch: Epoch(4), until: NOW + LEASE }), ..Memory::default() };
    assert_eq!(surveys(&bound, view.clone()), None);
    bound.promise = None;
    assert_eq!(surveys(&bound, view.clone()), Some(true));
    let claim = contend(view, &[surveyed(2, 500)]).unwrap();
    assert!(claim.contents().document.presumed);
    let released = contend(
        {
            let mut observed = held(0, document());
            observed.version.holder = HolderField::Nobody;
            member(1, Sighting::Seen(observed))
        },
        &[surveyed(2, 500)],
    );
    assert!(!released.unwrap().contents().document.presumed);
}

#[test]
fn l3_a_fence_that_a_pause_moved_ahead_stays() {
    let mut view = primary(3);
    assert_eq!(orders(&ha::decide(&Memory::default(), &view).actions), Vec::<&Order>::new());
    let memory = ha::decide(&Memory::default(), &view).memory;
    change(&mut view, |report| {
        report.clock_jumped_at = Some(NOW);
        report.fence = report.fence.map(|fence| proto::wire::supervisor::Fence {
            fast_stop_at: fence.fast_stop_at - Duration::from_secs(2),
            kill_at: fence.kill_at - Duration::from_secs(2),
            ..fence
        });
    });
    assert_eq!(orders(&ha::decide(&memory, &view).actions), Vec::<&Order>::new());
}

#[test]
fn a_renewal_on_the_wire_bears_a_document_that_is_one() {
    let question = Question::Relay(Box::new(asked()));
    let text = serde_json::to_string(&question).unwrap();
    assert_eq!(serde_json::from_str::<Question>(&text).unwrap(), question);
    let nonsense = text.replace("\"timeline\":5,\"members\"", "\"timeline\":1,\"members\"");
    assert_ne!(nonsense, text);
    assert!(serde_json::from_str::<Question>(&nonsense).is_err());
    let reply = Reply::Shown(Box::new(held(0, document()).version));
    let text = serde_json::to_string(&reply).unwrap();
    assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
}
