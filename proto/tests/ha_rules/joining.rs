//! Joining and coming back: what is copied anew, how often, and what is kept for others.

use std::time::Duration;

use proto::{
    ha::{
        self, Response,
        action::{Action, Event},
        document::{Document, Release, ReleaseReason},
        lease::Sighting,
        memory::Memory,
        question::{Question, Reply},
        view::View,
    },
    identity::{DataId, Epoch, Ordinal},
    wire::supervisor::{Data, JobEnd, JobKind, Order, Server},
};

use crate::{
    change_time, decide, orders,
    scene::{NOW, change, document, held, member, primary},
};

/// Member 2 whose volume is empty, under the leader of `document`.
fn newcomer() -> View {
    let mut view = member(2, Sighting::Seen(held(1, document())));
    change(&mut view, |report| {
        report.data = Data::Empty;
        report.server = Server::Stopped { last: None, shutdown: None };
    });
    view
}

/// So many seconds later, the leader having renewed all the time.
fn led_at(view: &mut View, second: u64) {
    view.now = NOW + Duration::from_secs(second);
    change_time(view);
    if let Sighting::Seen(observed) = &mut view.lease.sighting {
        observed.first_seen = view.now;
    }
}

#[test]
fn copies_that_fail_pause_longer_and_longer_but_never_for_ever() {
    let mut view = newcomer();
    let mut memory = Memory::default();
    let mut begun = Vec::new();
    for second in 0..7_200 {
        led_at(&mut view, second);
        let decision = ha::decide(&memory, &view);
        memory = decision.memory;
        if orders(&decision.actions).iter().any(|order| matches!(order, Order::Clone { .. })) {
            begun.push(second);
            let at = view.now;
            let error = Some("the connection broke".to_owned());
            change(&mut view, |report| report.last_job = Some(JobEnd { kind: JobKind::Clone, at, error }));
        }
    }
    let pauses: Vec<u64> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..4], [2, 4, 8, 16]);
    assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
    assert_eq!(pauses.last(), Some(&1_800));
}

/// Member 1 attached to member 0, which sends nothing.
fn starved() -> View {
    let mut view = member(1, Sighting::Seen(held(1, document())));
    let following = Some(view.upstream(Ordinal(0)));
    change(&mut view, |report| {
        report.server = Server::Standby { following, streaming: false, replayed: None }
    });
    view
}

fn recloned(mut view: View) -> bool {
    let mut memory = Memory::default();
    for second in 0..600 {
        led_at(&mut view, second);
        let decision = ha::decide(&memory, &view);
        memory = decision.memory;
        if decision.actions.iter().any(|action| matches!(action, Action::Emit(Event::Recloning { .. }))) {
            return true;
        }
    }
    false
}

#[test]
fn data_that_is_counted_on_is_never_thrown_away_for_want_of_wal() {
    assert!(!recloned(starved()), "member 1 is in S");
    let mut free = starved();
    let mut without = document();
    without.configurations[0].standbys.remove(&DataId(1));
    free.lease.sighting = Sighting::Seen(held(1, without));
    assert!(recloned(free), "nobody counts on it, and people are told");
}

#[test]
fn data_of_an_interrupted_rewind_is_copied_anew_and_people_are_told() {
    let mut view = newcomer();
    change(&mut view, |report| {
        report.data = Data::Unusable { reason: "a rewind was interrupted".to_owned(), sealed: Epoch(4) };
    });
    let actions = decide(&view);
    assert!(orders(&actions).iter().any(|order| matches!(order, Order::Clone { .. })));
    assert!(actions.iter().any(|action| matches!(action, Action::Emit(Event::Recloning { .. }))));
    let (_, response) =
        ha::answer(&Memory::default(), &view, &Question::Seal { epoch: Epoch(5), expired: false });
    assert!(matches!(response, Response::Reply(Reply::Refused(_))), "it votes for nobody: {response:?}");
}

#[test]
fn a_standby_keeps_slots_for_all_others_before_it_ever_leads() {
    let mut view = starved();
    view.sql = primary(0).sql;
    if let Some(sql) = &mut view.sql {
        sql.in_recovery = true;
        sql.slots = [Ordinal(2), Ordinal(7)].into();
    }
    let actions = decide(&view);
    assert!(actions.contains(&Action::EnsureSlots(vec![Ordinal(0)])), "{actions:?}");
    assert!(actions.contains(&Action::DropSlot(Ordinal(7))), "{actions:?}");
}

#[test]
fn a_reason_of_a_later_version_does_not_make_the_document_unreadable() {
    let mut released = document();
    let reason = ReleaseReason::DiskHung;
    released.release = Some(Release { reason, from: Ordinal(0), prefer: None });
    let later = released.to_json().replace("diskHung", "meteorite");
    assert_eq!(Document::parse(&later).unwrap().release.unwrap().reason, ReleaseReason::Unknown);
}
