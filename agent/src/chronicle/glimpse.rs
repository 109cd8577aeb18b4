//! One view in phrases, by what they are about. Pure: a moment is a phrase that was not there a view ago.

use std::collections::BTreeMap;

use proto::{
    ha::{
        action::Summary,
        configuration::Configuration,
        document::Document,
        lease::{HolderField, LeaseVersion, Observed, Recorded, Sighting, Vacancy},
        memory::Memory,
        question::Reply,
        view::{LocalWal, PeerReplies, RelayReply, Supervisor, View},
    },
    identity::Ordinal,
    wire::{
        chronicle::Topic,
        http::Role,
        supervisor::{Data, Ended, Order, Report, Server},
    },
};

/// Two things of one topic are told apart by a number: members by their ordinal, the own end of WAL by [`OWN_END`].
type Place = (Topic, u8);
/// Beyond any ordinal.
const OWN_END: u8 = u8::MAX;
/// Beside it.
const OWN_SEAL: u8 = u8::MAX - 1;
/// Beside it.
const OWN_PROMISE: u8 = u8::MAX - 2;
/// What one member answers to surveys, seals and renewals are different things.
const SEALS: u8 = 100;
/// See [`SEALS`].
const RELAYS: u8 = 200;

/// What there is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Glimpse(BTreeMap<Place, String>);

impl Glimpse {
    /// Of a view and what was decided on it.
    pub(super) fn of(view: &View, memory: &Memory, summary: &Summary) -> Self {
        let mut glimpse = Self::default();
        glimpse.of_lease(&view.lease.sighting, &view.me.database);
        glimpse.of_contest(&view.lease.sighting, memory);
        glimpse.of_votes(&view.wal, &view.peers);
        if let Some(promise) = &memory.promise {
            let what = format!("promised to leave epoch {} alone for a while", promise.epoch);
            glimpse.say(Topic::Vote, OWN_PROMISE, what);
        }
        glimpse.of_supervisor(&view.supervisor);
        glimpse.say(Topic::Role, 0, role(summary.role, summary.by_promise));
        if let Some(label) = view.label {
            glimpse.say(Topic::Label, 0, format!("labelled {}", label.label()));
        }
        match summary.durable {
            Some(true) => glimpse.say(Topic::Durability, 0, "commits wait for standbys".to_owned()),
            Some(false) => glimpse.say(Topic::Durability, 0, "commits wait for nobody".to_owned()),
            None => {}
        }
        if let Some(why) = &summary.failover_blocked {
            glimpse.say(Topic::Durability, 1, format!("nobody could take over: {why}"));
        }
        glimpse
    }

    /// What is said here and was not before.
    pub(super) fn news(&self, before: &Self) -> Vec<(Topic, String)> {
        let new = self.0.iter().filter(|(place, what)| before.0.get(place) != Some(what));
        new.map(|((topic, _), what)| (*topic, what.clone())).collect()
    }

    fn say(&mut self, topic: Topic, place: u8, what: String) {
        self.0.insert((topic, place), what);
    }

    pub(super) fn of_lease(&mut self, sighting: &Sighting, database: &str) {
        let observed = match sighting {
            Sighting::NotYet => return,
            Sighting::Missing(_) => return self.say(Topic::Lease, 0, "does not exist".to_owned()),
            Sighting::Seen(observed) => observed,
        };
        self.say(Topic::Lease, 0, holder(&observed.version, database));
        let Recorded::Document(document) = &observed.version.recorded else { return };
        if let Some(opening) = document.history.last() {
            let who = member(document, opening.primary, database);
            let (epoch, timeline, switch) = (opening.epoch, opening.timeline, opening.switch);
            self.say(
                Topic::Open,
                0,
                format!("{who} opened epoch {epoch}: timeline {timeline} from {switch}"),
            );
        }
        let all: Vec<_> = document.configurations.iter().map(|c| waits(document, c)).collect();
        let all = if all.is_empty() { "wait for nobody (Async)".to_owned() } else { all.join("; and ") };
        self.say(Topic::Configuration, 0, all);
    }

    /// Phrases that stay the same while it lasts: one that grew older each time would be news each time.
    fn of_contest(&mut self, sighting: &Sighting, memory: &Memory) {
        let Sighting::Seen(Observed { version, .. }) = sighting else { return };
        let contends =
            memory.contest.as_ref().is_some_and(|c| c.resource_version == version.resource_version);
        if contends {
            let (epoch, lease) = (version.epoch, version.duration);
            let what = match &version.holder {
                HolderField::Nobody => "contends: the Lease is free".to_owned(),
                HolderField::Run(_) | HolderField::Nonsense(_) => {
                    format!("contends: epoch {epoch} was not renewed for {lease:?} and counts as over")
                }
            };
            self.say(Topic::Gone, 0, what);
        } else if memory.takeover.as_ref().is_some_and(|takeover| takeover.vacancy == Vacancy::Own) {
            self.say(
                Topic::Gone,
                0,
                "claims anew what it held itself: its own server is proven dead".to_owned(),
            );
        }
    }

    pub(super) fn of_votes(&mut self, wal: &LocalWal, peers: &BTreeMap<Ordinal, PeerReplies>) {
        if let Some((_, position)) = wal.end {
            self.say(Topic::Vote, OWN_END, format!("my WAL ends at {position}"));
        }
        if let Some(sealed) = wal.sealed {
            self.say(
                Topic::Vote,
                OWN_SEAL,
                format!("sealed for epoch {} at {}", sealed.epoch, sealed.position),
            );
        }
        for (ordinal, replies) in peers {
            if let Some((_, reply)) = &replies.survey {
                self.say(Topic::Vote, ordinal.0, answer(*ordinal, "survey", reply));
            }
            // A renewal that was relayed is one of many; only what is not the rule is told.
            if let Some(RelayReply { reply: reply @ (Reply::Promised { .. } | Reply::Refused(_)), .. }) =
                &replies.relay
            {
                self.say(Topic::Vote, RELAYS + ordinal.0, answer(*ordinal, "relayed renewal", reply));
            }
            if let Some((epoch, reply)) = &replies.seal {
                self.say(
                    Topic::Vote,
                    SEALS + ordinal.0,
                    answer(*ordinal, &format!("seal for epoch {epoch}"), reply),
                );
            }
        }
    }

    fn of_supervisor(&mut self, supervisor: &Supervisor) {
        match supervisor {
            Supervisor::Unknown => self.say(Topic::Supervisor, 0, "does not answer".to_owned()),
            Supervisor::Dead => {
                self.say(Topic::Supervisor, 0, "is dead, and every PostgreSQL process with it".to_owned());
            }
            Supervisor::Reported(report) => {
                self.say(Topic::Supervisor, 0, format!("answers (run {})", report.run));
                self.of_report(report);
            }
        }
    }

    fn of_report(&mut self, report: &Report) {
        self.say(Topic::Server, 0, server(&report.server));
        if let Some(error) = report.last_job.as_ref().and_then(|job| job.error.as_ref()) {
            self.say(Topic::Server, 1, error.clone());
        }
        if let Data::Unusable { reason, .. } = &report.data {
            self.say(Topic::Server, 2, format!("data of no use: {reason}"));
        }
        if report.fence_count > 0 {
            self.say(
                Topic::Fence,
                0,
                format!("a missed renewal ended the server ({} in this run)", report.fence_count),
            );
        }
        if report.terminating {
            self.say(Topic::Supervisor, 1, "was asked to end the container".to_owned());
        }
    }
}

pub(super) fn role(role: Role, by_promise: bool) -> String {
    let how = if by_promise { ", by promise of other members: its renewals do not land" } else { "" };
    format!("is {} to clients{how}", role.label())
}

fn holder(version: &LeaseVersion, database: &str) -> String {
    match (&version.holder, &version.recorded) {
        (_, Recorded::Unreadable(why)) => format!("cannot be read: {why}"),
        (HolderField::Nobody, Recorded::Document(document)) => match &document.release {
            Some(release) => format!("released by {database}-{}: {:?}", release.from, release.reason),
            None => "held by nobody".to_owned(),
        },
        (HolderField::Nobody, Recorded::NeverInitialised) => "never held".to_owned(),
        (HolderField::Run(holder), _) => format!("held by {} for epoch {}", holder.pod, version.epoch),
        (HolderField::Nonsense(text), _) => format!("held by {text:?}, which is no member"),
    }
}

fn member(document: &Document, data: proto::identity::DataId, database: &str) -> String {
    match document.ordinal_of(data) {
        Some(ordinal) => format!("{database}-{ordinal}"),
        None => format!("data {data}"),
    }
}

fn waits(document: &Document, configuration: &Configuration) -> String {
    let names: Vec<String> = configuration
        .standbys
        .iter()
        .map(|id| document.ordinal_of(*id).map_or_else(|| id.to_string(), |ordinal| ordinal.to_string()))
        .collect();
    match configuration.k {
        0 => format!("epoch {}: on the primary alone", configuration.epoch),
        k => format!("epoch {}: on the primary and {k} of {{{}}}", configuration.epoch, names.join(", ")),
    }
}

fn answer(ordinal: Ordinal, question: &str, reply: &Reply) -> String {
    match reply {
        Reply::Empty => format!("member {ordinal} to the {question}: no data"),
        Reply::Surveyed(testimony) => format!("member {ordinal} to the {question}: {}", testimony.position),
        Reply::Sealed { position, .. } => format!("member {ordinal} to the {question}: sealed at {position}"),
        Reply::Shown(version) => match version.write_id {
            Some(id) => format!("member {ordinal} to the {question}: the Lease shows write {id}"),
            None => format!("member {ordinal} to the {question}: nobody ever wrote the Lease"),
        },
        Reply::Promised { .. } => format!("member {ordinal} to the {question}: promised to wait"),
        Reply::Refused(refused) => format!("member {ordinal} to the {question}: no, {}", refused.why),
    }
}

pub(super) fn server(server: &Server) -> String {
    match server {
        Server::Stopped { last: None, .. } => "stopped".to_owned(),
        Server::Stopped { last: Some(ended), shutdown } => {
            let end = shutdown.map_or_else(String::new, |position| format!(" at {position}"));
            format!("stopped{end}: {}", ending(ended))
        }
        Server::Dying => "dying".to_owned(),
        Server::Starting => "starting".to_owned(),
        Server::Standby { following: None, .. } => "a standby of nobody".to_owned(),
        Server::Standby { following: Some(upstream), streaming, .. } => {
            let leader = upstream.host.split('.').next().unwrap_or(&upstream.host);
            format!("a standby of {leader}{}", if *streaming { ", streaming" } else { "" })
        }
        Server::Primary { timeline, .. } => format!("a primary on timeline {timeline}"),
        Server::Stopping => "stopping".to_owned(),
    }
}

fn ending(ended: &Ended) -> &str {
    match ended {
        Ended::Ordered => "by order",
        Ended::Fenced => "by the fence",
        Ended::Crashed(how) => how,
    }
}

/// The orders that change something, in words.
pub(super) fn order(order: &Order) -> Option<String> {
    let host = |host: &str| host.split('.').next().unwrap_or(host).to_owned();
    Some(match order {
        Order::Clone { upstream, .. } => format!("copy {} anew", host(&upstream.host)),
        Order::Rewind { upstream, .. } => format!("rewind to {}", host(&upstream.host)),
        Order::Start => "start closed".to_owned(),
        Order::Follow { upstream, epoch } => format!("follow {} (epoch {epoch})", host(&upstream.host)),
        Order::Seal { epoch } => format!("seal for epoch {epoch}"),
        Order::Promote { timeline, .. } => format!("promote to timeline {timeline}"),
        Order::Stop { .. } => "stop".to_owned(),
        Order::Kill => "kill".to_owned(),
        Order::Exit => "end the container".to_owned(),
        _ => return None,
    })
}
