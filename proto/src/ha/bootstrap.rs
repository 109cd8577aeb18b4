//! A Database that was never initialised: who makes the first data directory, or who leads with the data that
//! was found (ha.md section 2, W4; review S-8).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    contest::{self, Highest},
    document::Document,
    lease::{Claimable, Observed},
    memory::Survey,
    question::{Reply, SurveyId, Testimony},
    turn::Turn,
    view::View,
};
use crate::{
    identity::{Epoch, Ordinal},
    postgres::Timeline,
    wire::supervisor::{Data, Durable, Order, Server},
};

/// The member that runs initdb.
const FIRST: Ordinal = Ordinal(0);
/// How long all members are waited for before the first initdb. A member that is unreachable for longer (a
/// volume that never binds) must not hold up the others; if it turns out to have data after all, that data is
/// of another system identifier, and is left alone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nobody has ever led: find out who has data.
pub(super) fn bootstrap(turn: &mut Turn<'_>, observed: &Observed) {
    let survey = survey(turn);
    let members = (0..turn.view.config.replicas).map(Ordinal);
    contest::ask_all(turn, survey, false, members);
    let found = answers(turn.view, survey);
    let data = turn.view.report().map(|report| &report.data);
    match data {
        Some(Data::Empty) => empty(turn, survey, &found),
        Some(Data::Present(durable)) => present(turn, observed, durable, &found),
        Some(Data::Unread | Data::Unusable { .. }) | None => turn.doing("waiting for my data directory"),
    }
}

fn survey(turn: &mut Turn<'_>) -> Survey {
    let new = Survey { id: SurveyId(turn.view.lease.next_write), since: turn.view.now };
    *turn.memory.bootstrap.get_or_insert(new)
}

/// What each member said: its data, or that it has none.
fn answers(view: &View, survey: Survey) -> BTreeMap<Ordinal, Option<Testimony>> {
    let others = (0..view.config.replicas).map(Ordinal).filter(|member| *member != view.me.ordinal);
    others
        .filter_map(|member| match contest::reply(view, member, survey)? {
            Reply::Empty => Some((member, None)),
            Reply::Surveyed(testimony) => Some((member, Some(*testimony))),
            _ => None,
        })
        .collect()
}

/// I have no data: make some if nobody has any and none was ever recorded.
fn empty(turn: &mut Turn<'_>, survey: Survey, found: &BTreeMap<Ordinal, Option<Testimony>>) {
    let view = turn.view;
    let others = usize::from(view.config.replicas).saturating_sub(1);
    if let Some(recorded) = view.config.system_identifier {
        turn.doing(format!("cluster {recorded} was initialised once: waiting for a member with its data"));
    } else if found.values().any(Option::is_some) {
        turn.doing("waiting for the member that has data to lead");
    } else if view.me.ordinal != FIRST {
        turn.doing("waiting for member 0 to initialise the cluster");
    } else if found.len() < others && view.now < survey.since + PATIENCE {
        turn.doing("asking the other members whether they have data");
    } else {
        turn.doing("initialising the cluster");
        turn.order_initdb();
    }
}

/// I have data: of my own initdb a moment ago, or found on a retained volume.
fn present(
    turn: &mut Turn<'_>,
    observed: &Observed,
    durable: &Durable,
    found: &BTreeMap<Ordinal, Option<Testimony>>,
) {
    let view = turn.view;
    if view.config.system_identifier.is_some_and(|recorded| recorded != durable.system_identifier) {
        turn.doing("my data belongs to another cluster");
        return;
    }
    let virgin = durable.opened.is_none() && durable.sealed == Epoch::default();
    let others = usize::from(view.config.replicas).saturating_sub(1);
    if !virgin && found.len() < others {
        let silent = silent(view, survey(turn), found);
        turn.doing(format!(
            "found data of an earlier life: waiting until every member has said what it has ({silent})"
        ));
        return;
    }
    if !matches!(view.server(), Some(Server::Standby { .. })) {
        if matches!(view.server(), Some(Server::Stopped { .. })) {
            turn.order(Order::Start);
        }
        turn.doing("starting closed");
        return;
    }
    let Some(mine) = contest::own_end(turn) else {
        turn.doing("finding the end of my WAL");
        return;
    };
    let older = |testimony: &Testimony| testimony.sealed > durable.sealed || testimony.position > mine;
    let better = found.iter().any(|(ordinal, other)| {
        other.as_ref().is_some_and(|other| {
            other.system_identifier != durable.system_identifier
                || older(other)
                || (other.position == mine && *ordinal < view.me.ordinal)
        })
    });
    if better {
        turn.doing("another member has newer or other data");
        return;
    }
    first_claim(turn, observed, durable, mine.timeline, found);
}

/// Who has not said what it has, and why not: somebody has to bring it back, or empty its volume.
fn silent(view: &View, survey: Survey, found: &BTreeMap<Ordinal, Option<Testimony>>) -> String {
    let others = (0..view.config.replicas).map(Ordinal).filter(|member| *member != view.me.ordinal);
    let silent = others.filter(|member| !found.contains_key(member));
    let told = silent.map(|member| match contest::reply(view, member, survey) {
        Some(Reply::Refused(refused)) => format!("member {member}: {}", refused.why),
        _ => format!("member {member} has not answered"),
    });
    told.collect::<Vec<_>>().join("; ")
}

/// Lists everybody whose data is of this cluster, and claims.
fn first_claim(
    turn: &mut Turn<'_>,
    observed: &Observed,
    durable: &Durable,
    timeline: Timeline,
    found: &BTreeMap<Ordinal, Option<Testimony>>,
) {
    let Ok(claimable) = Claimable::judge(observed, turn.view.now) else { return };
    let others: BTreeMap<Ordinal, Testimony> =
        found.iter().filter_map(|(ordinal, other)| Some((*ordinal, (*other)?))).collect();
    let ids = others.iter().map(|(ordinal, other)| (*ordinal, other.data_id));
    let document = Document {
        timeline,
        members: ids.chain([(turn.view.me.ordinal, durable.data_id)]).collect(),
        configurations: Vec::new(),
        history: Vec::new(),
        system_identifier: durable.system_identifier,
        leader_lsn: None,
        release: None,
        presumed: false,
    };
    let high = Highest {
        epoch: others.values().map(|other| other.sealed).max().unwrap_or_default(),
        timeline: others.values().map(|other| other.position.timeline).max().unwrap_or(timeline),
    };
    let expected: BTreeSet<_> = others.values().map(|other| other.data_id).collect();
    contest::take(turn, observed, claimable, &document, high, expected);
}
