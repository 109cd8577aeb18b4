//! Contending for a Lease that came free: survey, then claim (ha.md sections 4.1 and 4.2).
//!
//! Nothing before the claim has an effect on anybody. Rank and delay order the start; they never veto.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    configuration::Configuration,
    document::Document,
    lease::{Claimable, Contents, Observed, Vacancy},
    memory::{Contest, Survey, Takeover},
    promise,
    question::{self, Refused, Reply, SurveyId, Testimony},
    turn::Turn,
    view::{Me, View},
    volume,
};
use crate::{
    clock::BootTime,
    identity::{DataId, Epoch, Ordinal},
    pod::ANNOTATION_ACCEPT_DATA_LOSS,
    postgres::{Timeline, WalPosition},
    wire::{
        config::Durability,
        supervisor::{Order, Server},
    },
};

/// Contenders of successive rank start this far apart, so that the first one's claim is seen by the next.
const RANK_DELAY: Duration = Duration::from_millis(150);
/// All but the named candidate of a switchover start this much later.
const CANDIDATE_LEAD: Duration = Duration::from_millis(600);
/// How long the answers of all are waited for, when those that came would do.
const SURVEY_PATIENCE: Duration = Duration::from_millis(300);
/// The same when a human has accepted the loss of what others have: one that has promised must be heard.
const ACCEPTED_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a member that is ahead is left to claim by itself.
const AHEAD_PATIENCE: Duration = Duration::from_millis(1_200);
/// A survey whose answers are older is asked anew.
const SURVEY_MAX_AGE: Duration = Duration::from_secs(2);
/// An end of local WAL older than this is read anew.
const END_MAX_AGE: Duration = Duration::from_millis(500);

/// Contends for `claimable`; the document says who may, and what a read quorum is.
pub(super) fn contend(turn: &mut Turn<'_>, observed: &Observed, claimable: Claimable, document: &Document) {
    let expired = claimable.vacancy() == Vacancy::Expired || document.presumed;
    if let Err(why) = may_contend(turn, expired, document) {
        turn.doing(why);
        return;
    }
    let contest = enter(turn, observed);
    let view = turn.view;
    if view.now < contest.since + start_delay(view, document) {
        turn.doing("letting a better placed member claim first");
        return;
    }
    let Some(mine) = own_end(turn) else {
        turn.doing("finding the end of my WAL");
        return;
    };
    let survey = survey(turn, contest, expired, document);
    match verdict(view, document, survey, mine) {
        Verdict::Go(found) => claim(turn, observed, claimable, document, &found),
        Verdict::Wait(why) => turn.doing(why),
        Verdict::Blocked(why) => {
            let why = format!("{why}; {}", remedy(view, document));
            turn.summary.failover_blocked = Some(why.clone());
            turn.doing(why);
        }
    }
}

/// Whether I may contend at all.
fn may_contend(turn: &mut Turn<'_>, expired: bool, document: &Document) -> Result<(), &'static str> {
    let view = turn.view;
    let durable = view.durable().ok_or("no data to lead with")?;
    if durable.system_identifier != document.system_identifier {
        return Err("my data belongs to another cluster");
    }
    if !document.lists(view.me.ordinal, durable.data_id) {
        return Err("not a listed member");
    }
    if view.leaving() {
        return Err("this pod is going away");
    }
    if let Some((why, _)) = volume::unfit(view) {
        return Err(why);
    }
    if let Some(bound) = promise::bound(&turn.memory, view).filter(|_| expired) {
        return Err(bound.why());
    }
    if turn.memory.stand_aside_until.is_some_and(|until| view.now < until) {
        return Err("standing aside for others");
    }
    match view.server() {
        Some(Server::Standby { .. }) => Ok(()),
        Some(Server::Stopped { .. }) => {
            turn.order(Order::Start);
            Err("starting closed")
        }
        _ => Err("waiting for my server to start"),
    }
}

fn enter(turn: &mut Turn<'_>, observed: &Observed) -> Contest {
    let version = &observed.version.resource_version;
    let current = turn.memory.contest.take().filter(|contest| contest.resource_version == *version);
    let contest = current.unwrap_or_else(|| Contest {
        resource_version: version.clone(),
        since: turn.view.now,
        gone_since: observed.first_seen,
        survey: None,
    });
    turn.memory.contest = Some(contest.clone());
    contest
}

/// Who is named starts at once, the others by ordinal, members that should leave last.
fn start_delay(view: &View, document: &Document) -> Duration {
    let me = view.me.ordinal;
    let release = document.release.as_ref();
    let named = release.and_then(|release| release.prefer);
    if named == Some(me) {
        return Duration::ZERO;
    }
    let wanted = |ordinal: &Ordinal| ordinal.0 < view.config.replicas;
    let left = release.map(|release| release.from);
    let before = document.members.keys().filter(|other| {
        **other != me && Some(**other) != left && (!wanted(other), **other) < (!wanted(&me), me)
    });
    let rank = u32::try_from(before.count()).unwrap_or(u32::MAX);
    let head_start = if named.is_some() { CANDIDATE_LEAD } else { Duration::ZERO };
    head_start + RANK_DELAY.saturating_mul(rank)
}

/// The end of my WAL, read a moment ago; asks for it otherwise.
pub(super) fn own_end(turn: &mut Turn<'_>) -> Option<WalPosition> {
    let recent = turn.view.wal.end.filter(|(at, _)| turn.view.now < *at + END_MAX_AGE);
    let valid = recent.filter(|(at, _)| turn.memory.remade_at.is_none_or(|remade| *at > remade));
    if valid.is_none() {
        turn.order(Order::EndOfWal);
    }
    valid.map(|(_, position)| position)
}

/// The survey under way, begun if there is none or it is old; asks whoever has not answered.
fn survey(turn: &mut Turn<'_>, contest: Contest, expired: bool, document: &Document) -> Survey {
    let now = turn.view.now;
    let running = contest.survey.filter(|survey| now < survey.since + SURVEY_MAX_AGE);
    let survey = running.unwrap_or(Survey { id: SurveyId(turn.view.lease.next_write), since: now });
    turn.memory.contest = Some(Contest { survey: Some(survey), ..contest });
    ask_all(turn, survey, expired, document.members.keys().copied());
    survey
}

/// Asks those of `members` that have not answered this survey.
pub(super) fn ask_all(
    turn: &mut Turn<'_>,
    survey: Survey,
    expired: bool,
    members: impl Iterator<Item = Ordinal>,
) {
    let me = turn.view.me.ordinal;
    for member in members.filter(|member| *member != me) {
        let answered = match reply(turn.view, member, survey) {
            Some(Reply::Empty | Reply::Surveyed(_)) => true,
            Some(_) | None => false,
        };
        if !answered {
            turn.survey(member, survey.id, expired);
        }
    }
}

/// What `member` answered to this survey.
pub(super) fn reply(view: &View, member: Ordinal, survey: Survey) -> Option<&Reply> {
    let (id, reply) = view.peers.get(&member)?.survey.as_ref()?;
    (*id == survey.id).then_some(reply)
}

/// Whether a human lets me lead without those who are missing, since nobody has led in the meantime.
pub(super) fn loss_is_accepted(view: &View, document: &Document) -> bool {
    let last = document.history.last().map(|opening| opening.epoch);
    view.config
        .accept_loss
        .is_some_and(|accepted| accepted.member == view.me.ordinal && Some(accepted.epoch) == last)
}

/// What a human can do about it.
fn remedy(view: &View, document: &Document) -> String {
    let last = document.history.last().map_or(0, |opening| opening.epoch.0);
    let Me { database, namespace, pod, .. } = &view.me;
    format!(
        "bring back who is missing, or accept the loss of what only they have: kubectl annotate database \
         {database} --namespace {namespace} {ANNOTATION_ACCEPT_DATA_LOSS}={pod}@{last}"
    )
}

/// Whether `member` is bound to a primary that may still be running.
fn has_promised(view: &View, member: Ordinal, survey: Survey) -> bool {
    matches!(reply(view, member, survey), Some(Reply::Refused(Refused { promised: true, .. })))
}

/// What a survey found.
struct Found {
    answers: BTreeMap<DataId, Testimony>,
    mine: WalPosition,
}

enum Verdict {
    Go(Found),
    Wait(&'static str),
    Blocked(String),
}

fn verdict(view: &View, document: &Document, survey: Survey, mine: WalPosition) -> Verdict {
    let answers = listed_answers(view, document, survey);
    let age = view.now.since(survey.since);
    let silent = document
        .members
        .keys()
        .any(|member| *member != view.me.ordinal && reply(view, *member, survey).is_none());
    if document.members.keys().any(|member| has_promised(view, *member, survey)) {
        return Verdict::Wait("a member has promised the last primary to wait");
    }
    let accepted = loss_is_accepted(view, document);
    if silent && age < if accepted { ACCEPTED_PATIENCE } else { SURVEY_PATIENCE } {
        return Verdict::Wait("waiting for the others' answers");
    }
    let Some(me) = view.durable().map(|durable| durable.data_id) else {
        return Verdict::Wait("no data to lead with");
    };
    let answered: BTreeSet<DataId> = answers.keys().copied().chain([me]).collect();
    if !accepted && !document.has_read_quorum(&answered) {
        return Verdict::Blocked(no_quorum(document, &answered));
    }
    if answers.values().any(|other| other.position > mine) && age < AHEAD_PATIENCE {
        return Verdict::Wait("a member that is ahead may claim first");
    }
    if let Some(behind) = too_far_behind(view, document, mine).filter(|_| !accepted) {
        return Verdict::Blocked(behind);
    }
    Verdict::Go(Found { answers, mine })
}

fn listed_answers(view: &View, document: &Document, survey: Survey) -> BTreeMap<DataId, Testimony> {
    let answer = |ordinal: &Ordinal| match reply(view, *ordinal, survey) {
        Some(Reply::Surveyed(testimony))
            if document.lists(*ordinal, testimony.data_id)
                && testimony.is_plausible(view.lease_epoch(), document.timeline) =>
        {
            Some((testimony.data_id, *testimony))
        }
        _ => None,
    };
    document.members.keys().filter(|ordinal| **ordinal != view.me.ordinal).filter_map(answer).collect()
}

/// Which configuration lacks whom, as a sentence for `FailoverBlocked`.
pub(super) fn no_quorum(document: &Document, answered: &BTreeSet<DataId>) -> String {
    let lacking = document.configurations.iter().find(|c| !c.has_read_quorum(answered));
    lacking.map_or_else(String::new, |c| lacks(document, c, answered))
}

/// Whom this configuration needs beside `answered`.
pub(super) fn lacks(document: &Document, c: &Configuration, answered: &BTreeSet<DataId>) -> String {
    let name = |id: &DataId| match document.ordinal_of(*id) {
        Some(ordinal) => format!("member {ordinal}"),
        None => format!("lost data {id}"),
    };
    let primary = name(&c.primary);
    let missing: Vec<_> = c.standbys.difference(answered).map(name).collect();
    match c.k {
        0 => format!("only {primary} has all acknowledged commits (epoch {})", c.epoch),
        _ => format!("needs {primary}, or more of {} (epoch {})", missing.join(", "), c.epoch),
    }
}

/// `Async`: nothing is in force, so the leader's last known position is the only measure.
fn too_far_behind(view: &View, document: &Document, mine: WalPosition) -> Option<String> {
    if view.config.durability != Durability::Async || !document.configurations.is_empty() {
        return None;
    }
    let behind = document.leader_lsn?.bytes_since(mine.lsn);
    (behind > view.config.max_lag_bytes)
        .then(|| format!("{behind} bytes behind the last leader, more than maxLagBytes"))
}

/// Claims: the epoch and the timeline are above everything seen anywhere (S3).
fn claim(turn: &mut Turn<'_>, observed: &Observed, claimable: Claimable, document: &Document, found: &Found) {
    let view = turn.view;
    let epochs = found.answers.values().map(|testimony| testimony.sealed);
    let refusals = document.members.keys().filter_map(|member| refusal(view, *member));
    let timelines = found.answers.values().map(|testimony| testimony.position.timeline);
    let high = Highest {
        epoch: epochs.chain(refusals).max().unwrap_or_default(),
        timeline: timelines.chain([found.mine.timeline]).max().unwrap_or(Timeline::FIRST),
    };
    let expected = found.answers.keys().copied().collect();
    take(turn, observed, claimable, document, high, expected);
}

/// The highest epoch that a refusal of this member named.
fn refusal(view: &View, member: Ordinal) -> Option<Epoch> {
    let peer = view.peers.get(&member)?;
    let replies = [peer.survey.as_ref().map(|(_, reply)| reply), peer.seal.as_ref().map(|(_, reply)| reply)];
    let sealed = |reply: &Reply| match reply {
        Reply::Refused(refused) => refused.sealed,
        _ => None,
    };
    let plausible = |epoch: &Epoch| question::is_plausible(*epoch, view.lease_epoch());
    replies.into_iter().flatten().filter_map(sealed).filter(plausible).max()
}

/// The highest numbers seen anywhere outside the Lease.
#[derive(Clone, Copy)]
pub(super) struct Highest {
    pub(super) epoch: Epoch,
    pub(super) timeline: Timeline,
}

/// Writes the claim and remembers what it is for.
pub(super) fn take(
    turn: &mut Turn<'_>,
    observed: &Observed,
    claimable: Claimable,
    document: &Document,
    high: Highest,
    expected: BTreeSet<DataId>,
) {
    let view = turn.view;
    let (Some(me), Some(durable)) = (view.holder(), view.durable()) else { return };
    let vacancy = claimable.vacancy();
    let known = observed.version.epoch.max(document.last_opened()).max(durable.sealed);
    let epoch = known.max(high.epoch).next();
    let claimed = Document {
        timeline: document.timeline.max(high.timeline).next(),
        release: None,
        presumed: document.presumed || vacancy == Vacancy::Expired,
        ..document.clone()
    };
    let contents = Contents {
        holder: Some(me),
        epoch,
        write_id: view.lease.next_write,
        duration: view.config.profile.timing().lease,
        document: claimed,
    };
    if turn.write(claimable.claim(contents)) {
        let gone_since =
            turn.memory.contest.as_ref().map_or(observed.first_seen, |contest| contest.gone_since);
        turn.memory.takeover = Some(Takeover {
            epoch,
            since: view.now,
            gone_since,
            from: document.history.last().and_then(|last| document.ordinal_of(last.primary)),
            reason: document.release.as_ref().map(|release| release.reason),
            vacancy,
            expected,
            sealed: BTreeMap::new(),
            own_after: BootTime::default(),
            catching_up: None,
            own_sealed_at: None,
        });
    }
    turn.doing("claiming the Lease");
}
