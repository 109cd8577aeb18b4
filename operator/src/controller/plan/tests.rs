//! The plan as tables: world in, decision out.

use std::collections::BTreeSet;

use proto::{
    postgres::SystemIdentifier,
    wire::http::{Role, State},
};
use serde_json::json;

use super::*;
use crate::{
    controller::{
        members::{Sidecar, Trouble, VolumeFacts},
        newcomer::Newcomer,
    },
    fixtures::{self, says},
};

fn member(ordinal: u8, role: Role, state: State) -> Member {
    Member {
        pod: Some(PodFacts {
            name: format!("orders-db-{ordinal}"),
            uid: format!("uid-{ordinal}"),
            node: None,
            leaving: false,
            outdated: false,
            agent: Sidecar::Current,
            ready: true,
            age_seconds: 3_600,
            precedes_settings: false,
            trouble: None,
        }),
        volume: Some(VolumeFacts {
            name: format!("data-orders-db-{ordinal}"),
            uid: format!("volume-{ordinal}"),
            leaving: false,
            size: Some("50Gi".to_owned()),
            system_identifier: Some("77".to_owned()),
        }),
        status: Some(says(ordinal, role, state)),
    }
}

/// `n` members, all serving, the first as primary.
pub(in crate::controller) fn serving(n: u8) -> Members {
    (0..n)
        .map(|ordinal| match ordinal {
            0 => (Ordinal(0), member(0, Role::Primary, State::Running)),
            _ => (Ordinal(ordinal), member(ordinal, Role::Replica, State::Streaming)),
        })
        .collect()
}

fn pod(members: &mut Members, ordinal: u8) -> &mut PodFacts {
    members.get_mut(&Ordinal(ordinal)).unwrap().pod.as_mut().unwrap()
}

struct World {
    cluster: Cluster,
    members: Members,
    lease: LeaseFacts,
    identity: Identity,
    pods: u8,
    requested: Option<&'static str>,
    accepted: Option<&'static str>,
    newcomers: Newcomers,
}

impl World {
    fn new(replicas: u8, pods: u8) -> Self {
        Self {
            cluster: fixtures::cluster_with(&json!({"replicas": replicas})),
            members: serving(pods),
            lease: LeaseFacts::Written {
                members: (0..pods).map(Ordinal).collect(),
                holder: Some("orders-db-0".to_owned()),
                system_identifier: SystemIdentifier(77),
            },
            identity: Identity::Known(SystemIdentifier(77)),
            pods,
            requested: None,
            accepted: None,
            newcomers: Newcomers::default(),
        }
    }

    fn plan(&self) -> Plan {
        plan(&Facts {
            cluster: &self.cluster,
            members: &self.members,
            lease: &self.lease,
            identity: &self.identity,
            set: Some(SetFacts { pods: self.pods, template_size: Some("50Gi".to_owned()) }),
            requested: self.requested,
            accepted: self.accepted,
            agent_image: "agent",
            restore: None,
            newcomers: self.newcomers.clone(),
        })
    }

    fn members_of_lease(&mut self, ordinals: impl IntoIterator<Item = u8>) {
        if let LeaseFacts::Written { members, .. } = &mut self.lease {
            *members = ordinals.into_iter().map(Ordinal).collect();
        }
    }
}

fn restarted(step: &Step) -> Option<&str> {
    match step {
        Step::Restart { pod, .. } => Some(pod),
        _ => None,
    }
}

#[test]
fn a_world_at_rest_needs_nothing() {
    let plan = World::new(3, 3).plan();
    assert_eq!((plan.shape.pods, plan.lease), (3, LeaseStep::Keep));
    assert_eq!((plan.step, plan.progress), (Step::None, None));
    assert!(plan.annotate.is_empty() && plan.grow.is_empty());
}

#[test]
fn growing_adds_pods_at_once() {
    let plan = World::new(5, 3).plan();
    assert_eq!(plan.shape.pods, 5);
    assert_eq!(plan.progress.unwrap().kind, ProgressKind::Scaling);
}

#[test]
fn an_instance_gets_no_pod_on_a_volume_that_is_not_its_own_yet() {
    let mut world = World::new(6, 3);
    world.newcomers.insert(Ordinal(4), Newcomer::Leaving);
    let plan = world.plan();
    assert_eq!(plan.shape.pods, 4);
    assert!(plan.progress.unwrap().message.contains("orders-db-4 could not be made of a VolumeSnapshot"));
    world.newcomers.insert(Ordinal(3), Newcomer::Made { job: "job".to_owned() });
    assert_eq!(world.plan().shape.pods, 3);
    // Who has a pod already keeps it, whatever is said of its volume.
    world.newcomers.insert(Ordinal(1), Newcomer::Leaving);
    assert_eq!(world.plan().shape.pods, 3);
}

#[test]
fn a_pod_stays_as_long_as_the_lease_counts_on_its_member() {
    let mut world = World::new(2, 5);
    for (counted, pods) in
        [(vec![0, 1, 2, 3, 4], 5), (vec![0, 1, 2, 4], 5), (vec![0, 1, 2], 3), (vec![0, 1], 2)]
    {
        world.members_of_lease(counted.clone());
        assert_eq!(world.plan().shape.pods, pods, "{counted:?}");
    }
}

#[test]
fn a_holder_keeps_its_pod_even_if_it_is_no_member_any_more() {
    let mut world = World::new(1, 3);
    world.lease = LeaseFacts::Written {
        members: BTreeSet::from([Ordinal(0)]),
        holder: Some("orders-db-2".to_owned()),
        system_identifier: SystemIdentifier(77),
    };
    assert_eq!(world.plan().shape.pods, 3);
}

#[test]
fn without_a_readable_lease_no_pod_is_taken_away() {
    let mut world = World::new(1, 3);
    for lease in [LeaseFacts::Missing, LeaseFacts::Unreadable] {
        world.lease = lease;
        assert_eq!(world.plan().shape.pods, 3);
    }
    world.lease = LeaseFacts::NeverInitialised { uid: "4bd1".to_owned() };
    assert_eq!(world.plan().shape.pods, 1);
}

#[test]
fn a_primary_that_is_to_leave_hands_over_to_one_that_stays() {
    let mut world = World::new(2, 3);
    world.members = Members::from([
        (Ordinal(0), member(0, Role::Replica, State::Starting)),
        (Ordinal(1), member(1, Role::Replica, State::Streaming)),
        (Ordinal(2), member(2, Role::Primary, State::Running)),
    ]);
    let Step::SwitchOver { pod, candidate, requested, .. } = world.plan().step else { panic!() };
    assert_eq!((pod.as_str(), candidate.as_deref(), requested), ("orders-db-2", Some("orders-db-1"), false));
}

#[test]
fn the_lease_is_made_once_in_a_life() {
    let mut world = World::new(1, 1);
    let other = LeaseFacts::NeverInitialised { uid: "older".to_owned() };
    let mine = LeaseFacts::NeverInitialised { uid: "4bd1".to_owned() };
    let known = Identity::Known(SystemIdentifier(77));
    for (lease, identity, step) in [
        (LeaseFacts::Missing, Identity::Unborn, LeaseStep::Create),
        (LeaseFacts::Missing, known.clone(), LeaseStep::Keep),
        (other.clone(), Identity::Unborn, LeaseStep::Replace),
        (other, known, LeaseStep::Keep),
        (mine, Identity::Unborn, LeaseStep::Keep),
        (LeaseFacts::Unreadable, Identity::Unborn, LeaseStep::Keep),
    ] {
        (world.lease, world.identity) = (lease, identity);
        assert_eq!(world.plan().lease, step, "{:?} {:?}", world.lease, world.identity);
    }
}

#[test]
fn volumes_get_the_identifier_and_the_wanted_size() {
    let mut world = World::new(3, 3);
    world.cluster = fixtures::cluster_with(&json!({"storage": {"size": "60Gi"}}));
    world.members.get_mut(&Ordinal(1)).unwrap().volume.as_mut().unwrap().system_identifier = None;
    world.members.get_mut(&Ordinal(2)).unwrap().volume.as_mut().unwrap().size = Some("0.06Ti".to_owned());
    let plan = world.plan();
    assert_eq!(plan.annotate, ["data-orders-db-1"]);
    assert_eq!(plan.grow, ["data-orders-db-0", "data-orders-db-1"]);
    assert_eq!(plan.shape.template_size, "50Gi");
}

#[test]
fn a_rollout_takes_replicas_from_the_end_and_the_primary_last() {
    let mut world = World::new(3, 3);
    for ordinal in 0..3 {
        pod(&mut world.members, ordinal).outdated = true;
    }
    assert_eq!(restarted(&world.plan().step), Some("orders-db-2"));
    pod(&mut world.members, 2).outdated = false;
    assert_eq!(restarted(&world.plan().step), Some("orders-db-1"));
    pod(&mut world.members, 1).outdated = false;
    let Step::SwitchOver { pod: leader, candidate: None, requested: false, .. } = world.plan().step else {
        panic!()
    };
    assert_eq!(leader, "orders-db-0");
}

#[test]
fn a_rollout_waits_for_everybody_else() {
    for broken in 0..3 {
        let mut world = World::new(3, 3);
        pod(&mut world.members, 1).outdated = true;
        let absent = world.members.get_mut(&Ordinal(broken)).unwrap();
        absent.status.as_mut().unwrap().state = State::Starting;
        let plan = world.plan();
        assert_eq!(plan.step, Step::None, "{broken}");
        assert!(plan.progress.unwrap().message.contains(&format!("waits for orders-db-{broken}")));
    }
}

#[test]
fn a_pod_that_cannot_start_is_replaced_without_waiting() {
    let mut world = World::new(3, 3);
    world.members.get_mut(&Ordinal(0)).unwrap().status = None;
    let stuck = world.members.get_mut(&Ordinal(1)).unwrap();
    stuck.status = None;
    let facts = stuck.pod.as_mut().unwrap();
    facts.outdated = true;
    facts.trouble = Some(Trouble { reason: "ImagePullFailed", message: "no such image".to_owned() });
    assert_eq!(restarted(&world.plan().step), Some("orders-db-1"));
}

fn replaced(step: &Step) -> Option<&str> {
    match step {
        Step::ReplaceAgent { pod, .. } => Some(pod),
        _ => None,
    }
}

fn outdated(container: &str) -> Sidecar {
    Sidecar::Outdated { container: Some(container.to_owned()) }
}

#[test]
fn agents_are_replaced_one_at_a_time_and_the_primarys_last() {
    let mut world = World::new(3, 3);
    for ordinal in 0..3 {
        pod(&mut world.members, ordinal).agent = outdated("old");
    }
    for (ordinal, name) in [(2, "orders-db-2"), (1, "orders-db-1"), (0, "orders-db-0")] {
        let Step::ReplaceAgent { pod: due, uid, container } = world.plan().step else { panic!() };
        assert_eq!((due.as_str(), uid), (name, format!("uid-{ordinal}")));
        assert_eq!(container.as_deref(), Some("old"));
        pod(&mut world.members, ordinal).agent = Sidecar::Replacing;
        let plan = world.plan();
        assert_eq!(plan.step, Step::None, "the old one of {name} still runs");
        assert!(plan.progress.unwrap().message.contains(name));
        pod(&mut world.members, ordinal).agent = Sidecar::Current;
        let answer = world.members.get_mut(&Ordinal(ordinal)).unwrap().status.take();
        assert_eq!(world.plan().step, Step::None, "{name} does not answer yet");
        world.members.get_mut(&Ordinal(ordinal)).unwrap().status = answer;
    }
    assert_eq!(world.plan().progress, None);
}

#[test]
fn an_agent_that_cannot_start_is_replaced_without_waiting_and_a_restart_comes_first() {
    let mut world = World::new(3, 3);
    for ordinal in 0..3 {
        pod(&mut world.members, ordinal).agent = outdated("old");
    }
    world.members.get_mut(&Ordinal(1)).unwrap().status = None;
    assert_eq!(world.plan().step, Step::None);
    pod(&mut world.members, 1).trouble =
        Some(Trouble { reason: "ImagePullFailed", message: "no such image".to_owned() });
    assert_eq!(replaced(&world.plan().step), Some("orders-db-1"));
    pod(&mut world.members, 1).outdated = true;
    assert_eq!(restarted(&world.plan().step), Some("orders-db-1"), "with a pod comes its agent");
}

#[test]
fn settings_that_need_a_restart_get_one_but_not_again_and_again() {
    let mut world = World::new(3, 3);
    let status = |world: &mut World| world.members.get_mut(&Ordinal(2)).unwrap().status.take().unwrap();
    let mut pending = status(&mut world);
    pending.pending_restart = vec!["max_connections".to_owned()];
    world.members.get_mut(&Ordinal(2)).unwrap().status = Some(pending);
    let Step::Restart { pod: name, uid, why } = world.plan().step else { panic!() };
    assert_eq!((name.as_str(), uid.as_str()), ("orders-db-2", "uid-2"));
    assert!(why.contains("max_connections"), "{why}");
    pod(&mut world.members, 2).age_seconds = RESTART_PAUSE_SECONDS - 1;
    assert_eq!(world.plan().step, Step::None, "it has just been restarted with these settings");
    pod(&mut world.members, 2).precedes_settings = true;
    assert!(matches!(world.plan().step, Step::Restart { .. }), "newer settings do not wait");
}

#[test]
fn settings_that_are_being_read_in_are_progress_and_refused_ones_are_not() {
    let mut world = World::new(3, 3);
    world.members.get_mut(&Ordinal(1)).unwrap().status.as_mut().unwrap().generation = "before".to_owned();
    let plan = world.plan();
    assert_eq!((plan.step, plan.progress.unwrap().kind), (Step::None, ProgressKind::Configuring));
    let refusing = world.members.get_mut(&Ordinal(1)).unwrap().status.as_mut().unwrap();
    refusing.configuration_error = Some("no".to_owned());
    assert_eq!(world.plan().progress, None);
}

#[test]
fn a_deleted_volume_is_made_anew_unless_it_is_the_only_copy() {
    let mut world = World::new(3, 3);
    let leaving = |world: &mut World, ordinal| {
        world.members.get_mut(&Ordinal(ordinal)).unwrap().volume.as_mut().unwrap().leaving = true;
    };
    leaving(&mut world, 1);
    assert_eq!(restarted(&world.plan().step), Some("orders-db-1"));
    let mut single = World::new(1, 1);
    leaving(&mut single, 0);
    let plan = single.plan();
    assert_eq!(plan.step, Step::None);
    assert!(plan.progress.unwrap().message.contains("only copy"));
    pod(&mut single.members, 0).outdated = true;
    assert_eq!(single.plan().step, Step::None);
}

#[test]
fn a_single_instance_restarts_where_it_is() {
    let mut world = World::new(1, 1);
    pod(&mut world.members, 0).outdated = true;
    assert_eq!(restarted(&world.plan().step), Some("orders-db-0"));
}

#[test]
fn a_request_for_a_switchover_is_passed_on_or_refused_with_a_reason() {
    let mut world = World::new(3, 3);
    world.requested = Some("orders-db-2");
    let Step::SwitchOver { leader, candidate, requested: true, .. } = world.plan().step else { panic!() };
    assert_eq!((leader, candidate.as_deref()), (Ordinal(0), Some("orders-db-2")));
    world.requested = Some("");
    assert!(matches!(world.plan().step, Step::SwitchOver { candidate: None, requested: true, .. }));
    for (name, reason) in
        [("orders-db-0", "primary already"), ("orders-db-7", "no instance"), ("x", "no instance")]
    {
        world.requested = Some(name);
        let Step::DropRequest { message } = world.plan().step else { panic!("{name}") };
        assert!(message.contains(reason), "{message}");
    }
    world.requested = Some("");
    world.members.get_mut(&Ordinal(0)).unwrap().status = None;
    assert_eq!(world.plan().step, Step::None);
}

#[test]
fn a_loss_is_accepted_while_nobody_leads() {
    let mut world = World::new(3, 3);
    world.accepted = Some("orders-db-1@4");
    assert!(
        matches!(world.plan().step, Step::DropAcceptance { message } if message.contains("orders-db-0 leads"))
    );
    world.members.get_mut(&Ordinal(0)).unwrap().status = None;
    let plan = world.plan();
    let accepted = AcceptLoss { member: Ordinal(1), epoch: Epoch(4) };
    assert_eq!((plan.shape.accept_loss, plan.step), (Some(accepted), Step::None));
    for nonsense in ["", "orders-db-1", "orders-db-7@4", "orders-db-1@x", "other-1@4"] {
        world.accepted = Some(nonsense);
        let plan = world.plan();
        assert_eq!(plan.shape.accept_loss, None);
        assert!(matches!(plan.step, Step::DropAcceptance { .. }), "{nonsense}");
    }
}

#[test]
fn volumes_of_those_who_left_go_only_if_the_policy_says_so() {
    let mut world = World::new(1, 1);
    let mut left = member(1, Role::None, State::Unknown);
    left.pod = None;
    world.members.insert(Ordinal(1), left);
    assert_eq!(world.plan().step, Step::None);
    world.cluster = fixtures::cluster_with(&json!({"replicas": 1, "deletionPolicy": "Delete"}));
    let expected = Step::DeleteVolume { name: "data-orders-db-1".to_owned(), uid: "volume-1".to_owned() };
    assert_eq!(world.plan().step, expected);
    world.members.get_mut(&Ordinal(1)).unwrap().pod = serving(2).remove(&Ordinal(1)).unwrap().pod;
    assert_eq!(world.plan().step, Step::None);
}

#[test]
fn nothing_disruptive_happens_while_records_contradict_each_other() {
    let mut world = World::new(3, 3);
    pod(&mut world.members, 2).outdated = true;
    world.requested = Some("");
    world.identity = Identity::Contradiction(BTreeSet::from([SystemIdentifier(1), SystemIdentifier(2)]));
    let plan = world.plan();
    assert_eq!((plan.step, plan.shape.system_identifier), (Step::None, None));
}
