//! Each rule of docs/ha.md by itself: one member, one view, what it does and what it must not do.

#![allow(clippy::unwrap_used, reason = "a test: what it builds is known to be there")]

mod joining;
mod promise;
mod scene;

use std::time::Duration;

use proto::{
    clock::BootTime,
    ha::{
        self, Response,
        action::Action,
        document::Document,
        lease::{HolderField, LeaseWrite, Observed, Recorded, ResourceVersion, Sighting, WriteId},
        memory::Memory,
        profile::Profile,
        question::{Question, Refused, Reply, SurveyId, Testimony},
        view::{Supervisor, View},
        volume::Room,
    },
    identity::{DataId, Epoch, Ordinal},
    postgres::{SystemIdentifier, Timeline},
    wire::supervisor::{Data, Ended, Fence, Order, Server},
};
use scene::{NOW, SECOND, SYSTEM, at, change, document, held, holder, member, primary, sealed};

fn decide(view: &View) -> Vec<Action> {
    ha::decide(&Memory::default(), view).actions
}

fn writes(actions: &[Action]) -> Vec<&LeaseWrite> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::WriteLease(write) => Some(write),
            _ => None,
        })
        .collect()
}

fn orders(actions: &[Action]) -> Vec<&Order> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Order(order) => Some(order),
            _ => None,
        })
        .collect()
}

/// Decides again and again, answering every survey from `answers`, until the Lease is written or time runs out.
fn contend(mut view: View, answers: &[(u8, Reply)]) -> Option<LeaseWrite> {
    let mut memory = Memory::default();
    for _ in 0..30 {
        let decision = ha::decide(&memory, &view);
        memory = decision.memory;
        if let Some(write) = writes(&decision.actions).first() {
            return Some((*write).clone());
        }
        for action in &decision.actions {
            if let Action::Ask { member, question: Question::Survey { id, .. } } = action
                && let Some((_, reply)) = answers.iter().find(|(from, _)| Ordinal(*from) == *member)
            {
                view.peers.entry(*member).or_default().survey = Some((*id, reply.clone()));
            }
        }
        view.now = view.now + Duration::from_millis(100);
        view.wal.end = view.wal.end.map(|(_, end)| (view.now, end));
        change_time(&mut view);
    }
    None
}

fn change_time(view: &mut View) {
    let now = view.now;
    change(view, |report| report.at = now);
    if let Sighting::Seen(observed) = &mut view.lease.sighting {
        observed.confirmed = now;
    }
}

fn surveyed(member: u8, end: u64) -> (u8, Reply) {
    let data_id = DataId(u64::from(member));
    let position = at(5, end);
    (
        member,
        Reply::Surveyed(Testimony {
            data_id,
            system_identifier: SYSTEM,
            position,
            sealed: Epoch(4),
            room: Room::Ample,
        }),
    )
}

#[test]
fn w1_the_claim_replaces_the_version_that_was_judged() {
    let view = member(1, Sighting::Seen(held(11, document())));
    let write = contend(view, &[surveyed(2, 500)]).expect("2 of {1, 2} are a read quorum");
    assert_eq!(write.basis(), Some(&ResourceVersion("v1".to_owned())));
    assert_eq!(write.contents().holder, Some(holder(1)));
    assert_eq!(write.contents().epoch, Epoch(5));
    assert_eq!(write.contents().document.timeline, Timeline::new(6).unwrap());
    assert_eq!(write.contents().document.configurations, document().configurations);
}

#[test]
fn a_member_that_answers_nonsense_neither_counts_nor_moves_the_numbers() {
    let mad = |epoch, timeline| {
        Reply::Surveyed(Testimony {
            data_id: DataId(2),
            system_identifier: SYSTEM,
            position: at(timeline, 400),
            sealed: Epoch(epoch),
            room: Room::Ample,
        })
    };
    let wrong_kind = Reply::Sealed { data_id: DataId(2), position: at(5, 900) };
    let view = member(1, Sighting::Seen(held(11, document())));
    for nonsense in [mad(u32::MAX, 5), mad(4, u32::MAX), wrong_kind, Reply::Empty] {
        assert_eq!(contend(view.clone(), &[(2, nonsense.clone())]), None, "{nonsense:?} is no vote");
    }
    let refused =
        Reply::Refused(Refused { sealed: Some(Epoch(u32::MAX)), promised: false, why: "mad".to_owned() });
    let write = contend(view.clone(), &[surveyed(2, 500), (0, refused)]).unwrap();
    assert_eq!(write.contents().epoch, Epoch(5));
    let seal = Question::Seal { epoch: Epoch(u32::MAX), expired: false };
    let (_, response) = ha::answer(&Memory::default(), &view, &seal);
    assert!(matches!(response, Response::Reply(Reply::Refused(_))), "{response:?}");
}

#[test]
fn a_living_lease_is_not_contended_for() {
    let actions = decide(&member(1, Sighting::Seen(held(9, document()))));
    assert!(!actions.iter().any(|action| matches!(action, Action::Ask { .. } | Action::WriteLease(_))));
}

#[test]
fn a1_nobody_is_asked_before_a_read_after_l_confirms() {
    let observed = Observed { confirmed: BootTime(NOW.0 - 2 * SECOND), ..held(11, document()) };
    let actions = decide(&member(1, Sighting::Seen(observed)));
    assert_eq!(actions, [Action::ReadLease]);
}

#[test]
fn no_claim_without_a_read_quorum() {
    let view = member(1, Sighting::Seen(held(11, document())));
    assert_eq!(contend(view.clone(), &[]), None);
    // Review S-3: a member's new data is somebody else.
    let (_, reply) = surveyed(2, 500);
    let Reply::Surveyed(testimony) = reply else { unreachable!() };
    let stranger = Reply::Surveyed(Testimony { data_id: DataId(99), ..testimony });
    assert_eq!(contend(view, &[(2, stranger)]), None);
}

#[test]
fn a_fallback_lets_nobody_but_its_primary_lead() {
    let mut alone = document();
    alone.configurations[0].k = 0;
    alone.configurations[0].standbys.clear();
    let view = member(1, Sighting::Seen(held(11, alone)));
    assert!(
        ha::decide(&Memory::default(), &view).actions.iter().all(|a| !matches!(a, Action::WriteLease(_)))
    );
    assert_eq!(contend(view, &[surveyed(2, 500)]), None);
}

#[test]
fn s3_the_claim_is_above_everything_that_was_seen() {
    let view = member(1, Sighting::Seen(held(11, document())));
    let data_id = DataId(2);
    let seen = Testimony {
        data_id,
        system_identifier: SYSTEM,
        position: at(8, 400),
        sealed: Epoch(9),
        room: Room::Ample,
    };
    let write = contend(view, &[(2, Reply::Surveyed(seen))]).unwrap();
    assert_eq!(write.contents().epoch, Epoch(10));
    assert_eq!(write.contents().document.timeline, Timeline::new(9).unwrap());
}

#[test]
fn s10_an_unlisted_member_does_not_contend() {
    let mut view = member(1, Sighting::Seen(held(11, document())));
    let stranger = |data: &mut Data| {
        if let Data::Present(durable) = data {
            durable.data_id = DataId(77);
        }
    };
    change(&mut view, |report| stranger(&mut report.data));
    assert_eq!(contend(view, &[surveyed(2, 500), surveyed(0, 500)]), None);
}

#[test]
fn w2_a_read_extends_no_deadline() {
    // Review S-1: renewals are swallowed, reads show the one before.
    let mut view = primary(0);
    let mut memory = ha::decide(&Memory::default(), &view).memory;
    for tenth in 0..60 {
        view.now = NOW + Duration::from_millis(tenth * 100);
        view.lease.next_write = WriteId(100 + i64::try_from(tenth).unwrap());
        change_time(&mut view);
        memory = ha::decide(&memory, &view).memory;
    }
    let tenure = memory.tenure.unwrap();
    assert_eq!(tenure.renewed_at, NOW);
    assert!(memory.writes.len() > 3, "it went on trying");
}

#[test]
fn w2_a_write_counts_from_before_it_was_sent_once_its_id_is_seen() {
    let mut view = primary(3);
    let first = ha::decide(&Memory::default(), &view);
    assert_eq!(writes(&first.actions).len(), 1);
    view.now = NOW + Duration::from_secs(3);
    change_time(&mut view);
    if let Sighting::Seen(observed) = &mut view.lease.sighting {
        observed.version.write_id = Some(WriteId(99));
        observed.version.resource_version = ResourceVersion("v2".to_owned());
    }
    let second = ha::decide(&first.memory, &view);
    assert_eq!(second.memory.tenure.unwrap().renewed_at, NOW);
}

#[test]
fn w3_only_another_holder_is_a_loss() {
    let mut view = primary(3);
    view.lease.sighting = Sighting::Missing(NOW);
    assert!(!orders(&decide(&view)).contains(&&Order::Kill));
    let mut taken = held(0, document());
    taken.version.holder = HolderField::Run(holder(1));
    view.lease.sighting = Sighting::Seen(taken);
    assert!(orders(&decide(&view)).contains(&&Order::Kill));
}

#[test]
fn w4_without_a_document_nobody_leads() {
    let mut observed = held(60, document());
    observed.version.holder = HolderField::Nobody;
    observed.version.recorded = Recorded::Unreadable("lost".to_owned());
    let view = member(1, Sighting::Seen(observed));
    assert_eq!(contend(view, &[surveyed(0, 500), surveyed(2, 500)]), None);
}

#[test]
fn w4_the_valid_holder_restores_the_document_and_the_lease() {
    let known = ha::decide(&Memory::default(), &primary(1)).memory;
    let mut view = primary(1);
    if let Sighting::Seen(observed) = &mut view.lease.sighting {
        observed.version.recorded = Recorded::Unreadable("edited".to_owned());
    }
    let restored = ha::decide(&known, &view).actions;
    assert_eq!(writes(&restored)[0].contents().document, document());
    view.lease.sighting = Sighting::Missing(NOW);
    let created = ha::decide(&known, &view).actions;
    assert_eq!((writes(&created)[0].basis(), &writes(&created)[0].contents().document), (None, &document()));
    // Not after its deadline.
    view.now = NOW + Duration::from_secs(7);
    assert_eq!(writes(&ha::decide(&known, &view).actions), Vec::<&LeaseWrite>::new());
}

#[test]
fn w4_who_may_have_given_the_lease_back_does_not_restore_it() {
    let known = ha::decide(&Memory::default(), &primary(1)).memory;
    let mut view = primary(1);
    change(&mut view, |report| {
        report.server = Server::Stopped { last: Some(Ended::Ordered), shutdown: None }
    });
    let released = ha::decide(&known, &view);
    assert_eq!(writes(&released.actions).len(), 1);
    // No answer, and the next read finds no Lease: another may have led, and acknowledged, in between.
    view.lease.sighting = Sighting::Missing(NOW);
    view.now = NOW + Duration::from_secs(1);
    assert_eq!(writes(&ha::decide(&released.memory, &view).actions), Vec::<&LeaseWrite>::new());
    // Nor does a server that was restarted since: it would resume in place.
    change(&mut view, |report| {
        report.server = Server::Standby { following: None, streaming: false, replayed: None };
    });
    assert_eq!(writes(&ha::decide(&known, &view).actions), Vec::<&LeaseWrite>::new());
}

#[test]
fn an_agent_that_restarted_beside_its_primary_leaves_the_label_while_it_looks() {
    let unlabels = |view: &View| {
        let actions = ha::decide(&Memory::default(), view).actions;
        actions.contains(&Action::SetRole(proto::wire::http::Role::None))
    };
    let mut view = primary(0);
    view.started_at = NOW;
    view.sql = None;
    assert!(!unlabels(&view), "nothing says that it does not lead");
    view.started_at = BootTime(0);
    assert!(unlabels(&view), "it has looked for long enough");
    view.started_at = NOW;
    change(&mut view, |report| report.server = Server::Dying);
    assert!(unlabels(&view), "it leads no more");
}

#[test]
fn a_leader_clears_stale_labels_at_once_and_again_since_it_may_fail() {
    let mut view = primary(0);
    let clears = |actions: &[Action]| actions.contains(&Action::ClearStaleLabels);
    let first = ha::decide(&Memory::default(), &view);
    assert!(clears(&first.actions));
    assert!(!clears(&ha::decide(&first.memory, &view).actions));
    view.now = NOW + Duration::from_secs(31);
    change_time(&mut view);
    change(&mut view, |report| report.fence = None);
    let mut memory = first.memory;
    if let Some(tenure) = &mut memory.tenure {
        tenure.renewed_at = view.now;
    }
    assert!(clears(&ha::decide(&memory, &view).actions));
}

#[test]
fn s8_nothing_is_initialised_that_ever_was() {
    let mut observed = held(60, document());
    observed.version.holder = HolderField::Nobody;
    observed.version.recorded = Recorded::NeverInitialised;
    let mut view = member(0, Sighting::Seen(observed));
    view.config.replicas = 1;
    change(&mut view, |report| {
        report.data = Data::Empty;
        report.server = Server::Stopped { last: None, shutdown: None };
    });
    assert!(decide(&view).contains(&Action::Initdb));
    view.config.system_identifier = Some(SYSTEM);
    assert!(!decide(&view).contains(&Action::Initdb));
}

#[test]
fn s8_data_of_another_cluster_is_left_alone() {
    let mut view = member(1, Sighting::Seen(held(1, document())));
    change(&mut view, |report| {
        if let Data::Present(durable) = &mut report.data {
            durable.system_identifier = SystemIdentifier(8);
        }
    });
    assert_eq!(orders(&decide(&view)), Vec::<&Order>::new());
}

#[test]
fn l1_a_shorter_lease_is_written_after_the_fence_has_shrunk() {
    // Review S-9.
    let mut view = primary(0);
    view.config.profile = Profile::Fast;
    let first = ha::decide(&Memory::default(), &view);
    let shrunk = Profile::Fast.timing();
    let kill_at = NOW + Profile::Standard.timing().kill;
    assert!(orders(&first.actions).iter().any(|order| matches!(
        order,
        Order::Arm { kill_at: at, .. } if *at < kill_at
    )));
    assert!(writes(&first.actions).iter().all(|write| write.contents().duration != shrunk.lease));
    change(&mut view, |report| {
        report.fence =
            Some(Fence { epoch: Epoch(4), fast_stop_at: NOW, kill_at: BootTime(NOW.0 - 1) + shrunk.kill });
    });
    let second = ha::decide(&first.memory, &view);
    assert_eq!(writes(&second.actions)[0].contents().duration, shrunk.lease);
}

#[test]
fn l1_a_contender_lives_by_the_lease_that_it_judges() {
    let mut observed = held(11, document());
    observed.version.duration = Profile::Tolerant.timing().lease;
    let mut view = member(1, Sighting::Seen(observed));
    view.config.profile = Profile::Fast;
    assert!(!decide(&view).iter().any(|action| matches!(action, Action::Ask { .. })));
}

/// Member 1 after its open of epoch 5 has landed.
fn opened() -> View {
    let mut after = document();
    after.timeline = Timeline::new(6).unwrap();
    let position = at(5, 500);
    let opening = ha::document::Opening {
        epoch: Epoch(5),
        primary: DataId(1),
        timeline: after.timeline,
        switch: position.lsn,
        checkpointed: false,
    };
    after.history = after.history_of(position, opening);
    let mut observed = held(0, after);
    observed.version.holder = HolderField::Run(holder(1));
    observed.version.epoch = Epoch(5);
    let mut view = member(1, Sighting::Seen(observed));
    view.wal = sealed(5, position);
    view
}

fn promotes(view: &View) -> bool {
    orders(&decide(view)).iter().any(|order| matches!(order, Order::Promote { .. }))
}

#[test]
fn l2_no_promotion_without_an_armed_fence_of_this_epoch() {
    let mut view = opened();
    assert!(!promotes(&view));
    let fence = Fence {
        epoch: Epoch(5),
        fast_stop_at: NOW + Duration::from_secs(7),
        kill_at: NOW + Duration::from_millis(8_500),
    };
    change(&mut view, |report| report.fence = Some(Fence { epoch: Epoch(4), ..fence }));
    assert!(!promotes(&view));
    change(&mut view, |report| report.fence = Some(fence));
    assert!(promotes(&view));
}

#[test]
fn l3_no_promotion_after_the_deadline() {
    let mut view = opened();
    change(&mut view, |report| {
        report.fence =
            Some(Fence { epoch: Epoch(5), fast_stop_at: NOW, kill_at: NOW + Duration::from_millis(1_500) });
    });
    assert!(!promotes(&view));
}

#[test]
fn s4_a_claim_alone_promotes_nothing() {
    let mut observed = held(0, document());
    observed.version.holder = HolderField::Run(holder(1));
    observed.version.epoch = Epoch(5);
    let mut view = member(1, Sighting::Seen(observed));
    view.wal = sealed(5, at(5, 500));
    change(&mut view, |report| {
        report.fence = Some(Fence {
            epoch: Epoch(5),
            fast_stop_at: NOW + Duration::from_secs(7),
            kill_at: NOW + Duration::from_millis(8_500),
        });
    });
    assert!(!promotes(&view));
}

/// Somebody edited the holder, or the epoch: neither says that I opened what another did.
#[test]
fn s4_another_members_opening_promotes_nothing() {
    let mut observed = held(0, document());
    observed.version.holder = HolderField::Run(holder(1));
    let mut view = member(1, Sighting::Seen(observed));
    view.wal = sealed(4, at(5, 500));
    change(&mut view, |report| {
        report.fence = Some(Fence {
            epoch: Epoch(4),
            fast_stop_at: NOW + Duration::from_secs(7),
            kill_at: NOW + Duration::from_millis(8_500),
        });
    });
    assert!(!promotes(&view));
    // It claims above that opening, as after any other claim.
    let claim = writes(&decide(&view))[0].contents().clone();
    assert_eq!((claim.epoch, claim.holder), (Epoch(5), Some(holder(1))));
    assert_eq!(claim.document.configurations, document().configurations);
}

/// An epoch set back by hand: what was opened is still counted on from.
#[test]
fn s3_the_claim_is_above_what_was_opened() {
    let mut observed = held(60, document());
    observed.version.epoch = Epoch(1);
    let mut view = member(1, Sighting::Seen(observed));
    change(&mut view, |report| {
        if let Data::Present(durable) = &mut report.data {
            durable.sealed = Epoch(2);
        }
    });
    let mut answer = surveyed(2, 500);
    if let Reply::Surveyed(testimony) = &mut answer.1 {
        testimony.sealed = Epoch(3);
    }
    assert_eq!(contend(view, &[answer]).unwrap().contents().epoch, Epoch(5));
}

#[test]
fn s2_another_timeline_than_the_reserved_one_is_ended() {
    // Review S-2.
    let mut view = primary(1);
    let timeline = Timeline::new(6).unwrap();
    change(&mut view, |report| report.server = Server::Primary { timeline, switch_lsn: None });
    assert!(orders(&decide(&view)).contains(&&Order::Kill));
}

#[test]
fn nobody_resumes_in_place() {
    let mut view = primary(1);
    change(&mut view, |report| {
        report.server = Server::Stopped { last: Some(Ended::Crashed("killed".to_owned())), shutdown: None };
    });
    let actions = decide(&view);
    assert!(!orders(&actions).iter().any(|order| matches!(order, Order::Start | Order::Promote { .. })));
    let claim = writes(&actions)[0].contents();
    assert_eq!((claim.epoch, claim.document.timeline), (Epoch(5), Timeline::new(6).unwrap()));
}

#[test]
fn l4_who_started_a_moment_ago_takes_no_part_in_an_expiry() {
    let mut view = member(1, Sighting::Seen(held(11, document())));
    view.started_at = BootTime(NOW.0 - 5 * SECOND);
    let id = SurveyId(WriteId(1));
    for question in
        [Question::Survey { id, expired: true }, Question::Seal { epoch: Epoch(5), expired: true }]
    {
        let (_, response) = ha::answer(&Memory::default(), &view, &question);
        assert!(matches!(response, Response::Reply(Reply::Refused(_))), "{question:?}");
    }
    let (_, response) = ha::answer(&Memory::default(), &view, &Question::Survey { id, expired: false });
    assert_eq!(response, Response::Order(Order::EndOfWal));
    assert!(!decide(&view).iter().any(|action| matches!(action, Action::Ask { .. })));
}

#[test]
fn a_member_answers_no_seal_below_its_own() {
    let view = member(1, Sighting::Seen(held(1, document())));
    let question = Question::Seal { epoch: Epoch(3), expired: false };
    let (_, response) = ha::answer(&Memory::default(), &view, &question);
    assert!(matches!(response, Response::Reply(Reply::Refused(Refused { sealed: Some(Epoch(4)), .. }))));
}

#[test]
fn l5_a_silent_supervisor_or_a_dead_server_ends_the_renewals() {
    assert_eq!(writes(&decide(&primary(3))).len(), 1);
    let mut silent = primary(3);
    change(&mut silent, |report| report.at = BootTime(NOW.0 - 5 * SECOND));
    assert_eq!(writes(&decide(&silent)).len(), 0);
    let mut hung = primary(3);
    if let Some(sql) = &mut hung.sql {
        sql.works_at = Some(BootTime(NOW.0 - 30 * SECOND));
    }
    assert_eq!(writes(&decide(&hung)).len(), 0);
}

#[test]
fn a_release_needs_proof_that_nothing_runs() {
    let mut view = primary(1);
    view.supervisor = Supervisor::Unknown;
    assert_eq!(writes(&decide(&view)).len(), 0);
    view.supervisor = Supervisor::Dead;
    let actions = decide(&view);
    assert_eq!(writes(&actions)[0].contents().holder, None);
}

#[test]
fn a_document_that_contradicts_itself_is_no_document() {
    let good = document();
    assert_eq!(Document::parse(&good.to_json()).unwrap(), good);
    let mut twice = good.clone();
    twice.members.insert(Ordinal(1), DataId(0));
    let mut back = good.clone();
    back.timeline = Timeline::FIRST;
    let mut own = good;
    own.configurations[0].standbys.insert(DataId(0));
    for bad in [twice, back, own] {
        assert!(Document::parse(&bad.to_json()).is_err(), "{bad:?}");
    }
    for text in ["", "{}", "null", "[]"] {
        assert!(Document::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn l1_a_longer_lease_is_lived_by_only_after_it_has_landed() {
    let mut view = primary(3);
    view.config.profile = Profile::Tolerant;
    let first = ha::decide(&Memory::default(), &view);
    let (short, long) = (Profile::Standard.timing(), Profile::Tolerant.timing());
    assert_eq!(writes(&first.actions)[0].contents().duration, long.lease, "it is written at once");
    let longest = |actions: &[Action]| {
        orders(actions)
            .iter()
            .filter_map(|order| match order {
                Order::Arm { kill_at, .. } => Some(*kill_at),
                _ => None,
            })
            .max()
    };
    assert!(longest(&first.actions).is_none_or(|kill_at| kill_at <= NOW + short.kill), "not yet lived by");
    if let Sighting::Seen(observed) = &mut view.lease.sighting {
        observed.version.duration = long.lease;
        observed.version.write_id = Some(WriteId(99));
        observed.version.resource_version = ResourceVersion("v2".to_owned());
    }
    let second = ha::decide(&first.memory, &view);
    assert_eq!(longest(&second.actions), Some(NOW + long.kill));
}
