//! The status as tables: world in, what people read out.

use std::collections::BTreeSet;

use proto::{
    postgres::{SystemIdentifier, Timeline},
    wire::{
        http::{Lag, State},
        supervisor::Space,
    },
};
use serde_json::json;

use super::*;
use crate::{
    build::Shape,
    controller::{
        members::Trouble,
        plan::{LeaseStep, Progress, Step, tests::serving},
    },
    fixtures,
};

pub(super) struct World {
    pub(super) cluster: Cluster,
    members: Members,
    lease: LeaseFacts,
    pub(super) identity: Identity,
    plan: Plan,
    beginning: Beginning,
    pub(super) repository: Option<RepositoryFacts>,
    pub(super) drill: Option<RestoreDrill>,
    refused: Option<String>,
}

impl World {
    pub(super) fn at_rest() -> Self {
        let mut members = serving(3);
        for (ordinal, member) in &mut members {
            let status = member.status.as_mut().unwrap();
            status.timeline = Timeline::new(4);
            status.lag = (ordinal.0 > 0).then_some(Lag { bytes: u64::from(ordinal.0) << 20, seconds: 0.1 });
            status.durable = (ordinal.0 == 0).then_some(true);
        }
        let shape: Shape = fixtures::shape();
        Self {
            cluster: fixtures::cluster(),
            members,
            lease: LeaseFacts::Written {
                members: BTreeSet::new(),
                holder: None,
                system_identifier: SystemIdentifier(77),
            },
            identity: Identity::Known(SystemIdentifier(77)),
            plan: Plan {
                shape,
                lease: LeaseStep::Keep,
                annotate: Vec::new(),
                grow: Vec::new(),
                newcomers: std::collections::BTreeMap::default(),
                step: Step::None,
                progress: None,
            },
            beginning: Beginning::Empty,
            repository: None,
            drill: None,
            refused: None,
        }
    }

    pub(super) fn status_after(&self, previous: Option<&DatabaseStatus>, second: i64) -> DatabaseStatus {
        let view = View {
            beginning: &self.beginning,
            repository: self.repository.as_ref(),
            drill: self.drill.as_ref(),
            cluster: &self.cluster,
            members: &self.members,
            lease: &self.lease,
            identity: &self.identity,
            plan: &self.plan,
            refused: self.refused.clone(),
            set_warning: None,
        };
        status(&view, previous, Timestamp::from_second(second).unwrap())
    }

    pub(super) fn status(&self) -> DatabaseStatus {
        self.status_after(None, 0)
    }

    pub(super) fn member(&mut self, ordinal: u8) -> &mut Member {
        self.members.get_mut(&Ordinal(ordinal)).unwrap()
    }
}

pub(super) fn condition<'a>(status: &'a DatabaseStatus, type_: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == type_).unwrap()
}

pub(super) fn reason<'a>(status: &'a DatabaseStatus, type_: &str) -> (&'a str, &'a str) {
    let condition = condition(status, type_);
    (condition.status.as_str(), condition.reason.as_str())
}

#[test]
fn a_cluster_at_rest_reads_well() {
    insta::assert_yaml_snapshot!(World::at_rest().status());
}

#[test]
fn the_same_world_gives_the_same_status_later() {
    let world = World::at_rest();
    let first = world.status_after(None, 100);
    assert_eq!(world.status_after(Some(&first), 5_000), first);
}

#[test]
fn a_condition_keeps_its_time_until_it_flips() {
    let mut world = World::at_rest();
    let first = world.status_after(None, 100);
    world.member(0).status.as_mut().unwrap().state = State::Stopping;
    let second = world.status_after(Some(&first), 200);
    assert_eq!(reason(&second, AVAILABLE), ("False", "NoPrimary"));
    let time = |status: &DatabaseStatus, type_| condition(status, type_).last_transition_time.0.as_second();
    assert_eq!((time(&second, AVAILABLE), time(&second, PROGRESSING)), (200, 200));
    world.member(1).status = None;
    let third = world.status_after(Some(&second), 300);
    assert_eq!((time(&third, AVAILABLE), time(&third, DEGRADED)), (200, 200));
}

#[test]
fn the_status_claims_nothing_that_was_not_observed() {
    let mut world = World::at_rest();
    for ordinal in 0..3 {
        world.member(ordinal).status = None;
    }
    let status = world.status();
    assert_eq!((status.primary.as_ref(), status.version.as_ref(), status.lag.as_ref()), (None, None, None));
    assert_eq!((status.ready.as_deref(), status.replicas), (Some("0/3"), 3));
    assert_eq!(reason(&status, AVAILABLE), ("Unknown", "AgentsSilent"));
    assert_eq!(reason(&status, DURABLE), ("Unknown", "NoPrimary"));
    assert_eq!(reason(&status, FAILOVER_BLOCKED), ("Unknown", "NoPrimary"));
    assert_eq!(status.instances[0].message.as_deref(), Some("the agent does not answer"));
}

#[test]
fn the_phase_is_one_word_for_the_conditions() {
    let progress = |kind| Some(Progress { kind, message: "…".to_owned() });
    let mut world = World::at_rest();
    assert_eq!(world.status().phase, Phase::Running);
    world.plan.progress = progress(ProgressKind::Updating);
    assert_eq!(world.status().phase, Phase::Updating);
    world.plan.progress = progress(ProgressKind::Scaling);
    assert_eq!(world.status().phase, Phase::Scaling);
    world.plan.progress = None;
    world.member(2).status = None;
    assert_eq!(world.status().phase, Phase::Degraded);
    world.member(0).status = None;
    assert_eq!(world.status().phase, Phase::FailingOver);
    world.identity = Identity::Unborn;
    assert_eq!(world.status().phase, Phase::Pending);
    world.cluster = fixtures::cluster_with(&json!({"paused": true}));
    assert_eq!(world.status().phase, Phase::Paused);
}

#[test]
fn what_a_person_must_act_on_comes_first() {
    let mut world = World::at_rest();
    assert_eq!(reason(&world.status(), DEGRADED), ("False", "AllServe"));
    world.member(1).status.as_mut().unwrap().state = State::Starting;
    assert_eq!(reason(&world.status(), DEGRADED), ("True", "InstancesMissing"));
    let refusal = "invalid value for parameter \"work_mem\": \"lots\"";
    world.member(2).status.as_mut().unwrap().configuration_error = Some(refusal.to_owned());
    let status = world.status();
    assert_eq!(reason(&status, DEGRADED), ("True", "SettingsRefused"));
    assert!(condition(&status, DEGRADED).message.contains(refusal));
    world.member(1).pod.as_mut().unwrap().trouble =
        Some(Trouble { reason: "ImagePullFailed", message: "no such image".to_owned() });
    assert_eq!(reason(&world.status(), DEGRADED), ("True", "ImagePullFailed"));
    world.lease = LeaseFacts::Missing;
    assert_eq!(reason(&world.status(), DEGRADED), ("True", "LeaseMissing"));
    world.identity = Identity::Contradiction(BTreeSet::from([SystemIdentifier(1), SystemIdentifier(2)]));
    assert_eq!(reason(&world.status(), DEGRADED), ("True", "DataContradiction"));
}

#[test]
fn a_refused_write_is_told_with_its_causes() {
    let mut world = World::at_rest();
    world.refused = Some("could not write StatefulSet orders-db: forbidden".to_owned());
    let status = world.status();
    assert_eq!(reason(&status, PROGRESSING), ("False", "Refused"));
    assert!(condition(&status, PROGRESSING).message.contains("forbidden"));
}

#[test]
fn an_invalid_spec_leaves_the_rest_as_last_observed() {
    let before = World::at_rest().status();
    let after = invalid("spec.replicas is 0", Some(7), Some(&before), Timestamp::UNIX_EPOCH);
    assert_eq!((after.phase, after.observed_generation), (Phase::Invalid, Some(7)));
    assert_eq!(reason(&after, PROGRESSING), ("False", "InvalidSpec"));
    assert_eq!((after.primary, after.instances), (before.primary, before.instances));
}

#[test]
fn a_full_volume_is_told_with_what_to_do() {
    let mut world = World::at_rest();
    let space = |available_bytes| Space { total_bytes: 1 << 30, available_bytes };
    world.member(1).status.as_mut().unwrap().disk = Some(space(200 << 20));
    assert_eq!(condition(&world.status(), DEGRADED).status, "False");
    world.member(1).status.as_mut().unwrap().disk = Some(space(12 << 20));
    let status = world.status();
    let degraded = condition(&status, DEGRADED);
    assert_eq!(degraded.reason, "DiskFull");
    assert!(degraded.message.contains("orders-db-1"), "{}", degraded.message);
    assert!(degraded.message.contains("raise spec.storage.size"), "{}", degraded.message);
}
