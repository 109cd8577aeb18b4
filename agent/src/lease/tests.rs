//! The Lease task against a scripted API server: whatever goes wrong is told as it is, and none of it is a loss.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::http::{Method, Request as HttpRequest, Response};
use kube::{Client, client::Body};
use proto::{
    ha::{
        document::Document,
        lease::{Claimable, Contents, HolderField, Recorded, Renewal, ResourceVersion},
    },
    identity::Epoch,
    postgres::{SystemIdentifier, Timeline},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::*;

pub(super) const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const UID: &str = "uid-1";

/// What happens to the next write.
#[derive(Clone, Copy)]
enum Fault {
    /// Refused with this code; nothing lands.
    Code(u16),
    /// Lands, but the answer is this code.
    LandsThen(u16),
    /// Lands, but the body of the answer is cut off.
    LandsThenCut,
    /// Never lands and is never answered.
    Silence,
    /// Lands, and is never answered.
    LandsThenSilence,
}

/// What happens to every request of one client for a while.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weather {
    /// Refused with this code; nothing lands.
    Code(u16),
    /// Writes land, but the answer to everything is this code.
    LandsThen(u16),
    /// Answered in order, after this.
    Slow(Duration),
    /// Nothing is ever answered, and nothing lands.
    Silence,
    /// Writes land, but the body of every answer is cut off.
    Cut,
    /// Reads show the past.
    Stale,
}

/// The weather over one client, and what a stale read shows.
#[derive(Clone, Default)]
pub(super) struct Sky(Arc<Mutex<(Option<Weather>, Option<Value>)>>);

impl Sky {
    pub(super) fn turn(&self, weather: Option<Weather>) {
        *self.0.lock().unwrap() = (weather, None);
    }

    fn weather(&self) -> Option<Weather> {
        self.0.lock().unwrap().0
    }

    /// What was there at the first read under this weather.
    fn past(&self, now: Option<Value>) -> Option<Value> {
        let mut sky = self.0.lock().unwrap();
        if sky.1.is_none() {
            sky.1 = now;
        }
        sky.1.clone()
    }
}

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<Store>>);

#[derive(Default)]
struct Store {
    lease: Option<Value>,
    version: u64,
    faults: VecDeque<Fault>,
    writes: usize,
    reads_hang: bool,
}

impl Server {
    pub(super) fn born() -> Self {
        let server = Self::default();
        server.put(json!({
            "metadata": {
                "name": "db", "namespace": "prod", "labels": {"keep": "me"},
                "annotations": {"db.example.com/never-initialised": UID},
            },
            "spec": {"holderIdentity": "", "leaseTransitions": 0},
        }));
        server
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.0.lock().unwrap()
    }

    fn put(&self, mut lease: Value) -> Value {
        let mut store = self.store();
        store.version += 1;
        lease["metadata"]["resourceVersion"] = json!(store.version.to_string());
        store.lease = Some(lease.clone());
        lease
    }

    fn fail(&self, fault: Fault) {
        self.store().faults.push_back(fault);
    }

    fn client(&self) -> Client {
        self.client_under(&Sky::default())
    }

    /// A client of an API server with a Lease `db` in each of these namespaces.
    fn client_of_all(namespaces: &[(&'static str, Self)]) -> Client {
        let all = namespaces.to_vec();
        let service = tower::service_fn(move |request: HttpRequest<Body>| {
            let of = |namespace| format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/db");
            let found = all.iter().find(|(namespace, _)| of(namespace) == request.uri().path()).cloned();
            async move {
                Ok::<_, Infallible>(match found {
                    Some((_, server)) => server.answer(request).await,
                    None => status(404),
                })
            }
        });
        Client::new(service, "default")
    }

    /// A client whose requests go through this weather.
    pub(super) fn client_under(&self, sky: &Sky) -> Client {
        let (server, sky) = (self.clone(), sky.clone());
        let service = tower::service_fn(move |request: HttpRequest<Body>| {
            let (server, sky) = (server.clone(), sky.clone());
            async move { Ok::<_, Infallible>(server.answer_under(&sky, request).await) }
        });
        Client::new(service, "prod")
    }

    async fn answer_under(&self, sky: &Sky, request: HttpRequest<Body>) -> Response<Body> {
        let reads = request.method() == Method::GET;
        match sky.weather() {
            Some(Weather::Code(code)) => status(code),
            Some(Weather::LandsThen(code)) => {
                self.answer(request).await;
                status(code)
            }
            Some(Weather::Slow(delay)) => {
                sleep(delay).await;
                self.answer(request).await
            }
            Some(Weather::Silence) => std::future::pending().await,
            Some(Weather::Cut) => {
                self.answer(request).await;
                Response::new(Body::from(b"{\"metadata\": {\"na".to_vec()))
            }
            Some(Weather::Stale) if reads => {
                let now = self.store().lease.clone();
                sky.past(now).map_or_else(|| status(404), |lease| reply(200, &lease))
            }
            Some(Weather::Stale) | None => self.answer(request).await,
        }
    }

    /// What a holder elsewhere writes.
    pub(super) fn write_as_holder(&self, contents: &Contents) {
        let lease = self.store().lease.clone().unwrap();
        let metadata = serde_json::from_value(lease["metadata"].clone()).unwrap();
        self.put(serde_json::to_value(record::object(&metadata, contents)).unwrap());
    }

    pub(super) fn version(&self) -> u64 {
        self.store().version
    }

    /// Who holds the Lease, in which epoch.
    pub(super) fn leader(&self) -> (String, u64) {
        let lease = self.store().lease.clone().unwrap();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        (holder, lease["spec"]["leaseTransitions"].as_u64().unwrap())
    }

    async fn answer(&self, request: HttpRequest<Body>) -> Response<Body> {
        if request.method() == Method::GET {
            if self.store().reads_hang {
                std::future::pending::<()>().await;
            }
            let lease = self.store().lease.clone();
            return lease.map_or_else(|| status(404), |lease| reply(200, &lease));
        }
        let create = request.method() == Method::POST;
        let body = request.into_body().collect_bytes().await.unwrap();
        let wanted: Value = serde_json::from_slice(&body).unwrap();
        self.store().writes += 1;
        let fault = self.store().faults.pop_front();
        match fault {
            None => self.write(wanted, create),
            Some(Fault::Code(code)) => status(code),
            Some(Fault::LandsThen(code)) => {
                self.write(wanted, create);
                status(code)
            }
            Some(Fault::LandsThenCut) => {
                self.write(wanted, create);
                Response::new(Body::from(b"{\"metadata\": {\"na".to_vec()))
            }
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::LandsThenSilence) => {
                self.write(wanted, create);
                std::future::pending().await
            }
        }
    }

    fn write(&self, wanted: Value, create: bool) -> Response<Body> {
        let current = self.store().lease.clone();
        let fits = match &current {
            None => create,
            Some(current) => {
                !create && current["metadata"]["resourceVersion"] == wanted["metadata"]["resourceVersion"]
            }
        };
        if fits { reply(200, &self.put(wanted)) } else { status(409) }
    }
}

fn reply(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()
}

fn status(code: u16) -> Response<Body> {
    let reason = if code == 404 { "NotFound" } else { "Other" };
    reply(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}),
    )
}

struct Bench {
    server: Server,
    requests: LeaseRequests,
    state: watch::Receiver<LeaseState>,
    next_id: i64,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Server::born()).await
    }

    async fn with(server: Server) -> Self {
        let client = server.client();
        Self::calling(server, client, "prod").await
    }

    async fn calling(server: Server, client: Client, namespace: &str) -> Self {
        let calls = LeaseCalls::new(client, namespace, "db");
        let pace = Pace { poll_every: Duration::from_mins(10), try_for: Duration::from_millis(300) };
        let (requests, state, task) = lease(calls, UID, pace);
        tokio::spawn(task.run());
        let mut bench = Self { server, requests, state, next_id: 1_700_000_000_000_000 };
        bench.wait(|state| !matches!(state.sighting, Sighting::NotYet)).await;
        bench
    }

    async fn wait(&mut self, what: impl Fn(&LeaseState) -> bool) -> LeaseState {
        timeout(PATIENCE, self.state.wait_for(|state| what(state))).await.unwrap().unwrap().clone()
    }

    fn seen(&self) -> Observed {
        match &self.state.borrow().sighting {
            Sighting::Seen(observed) => observed.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Claims what was seen last, and waits until it is known what became of it.
    async fn claim(&mut self) -> WriteEnd {
        self.next_id += 1;
        let id = WriteId(self.next_id);
        let claimable = Claimable::judge(&self.seen(), boot_clock::now()).unwrap();
        self.requests.send(Request::Write(claimable.claim(contents(id))));
        self.wait(|state| {
            state.last_write.as_ref().is_some_and(|end| end.id == id && end.outcome != Outcome::Doubtful)
        })
        .await
        .last_write
        .unwrap()
    }
}

fn contents(write_id: WriteId) -> Contents {
    let document = Document {
        timeline: Timeline::FIRST,
        members: [].into(),
        configurations: vec![],
        history: vec![],
        system_identifier: SystemIdentifier(7),
        leader_lsn: None,
        release: None,
        presumed: false,
    };
    Contents { holder: None, epoch: Epoch(1), write_id, duration: Duration::from_secs(10), document }
}

#[tokio::test]
async fn a_write_replaces_everything_but_what_the_operator_owns() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.seen().version.recorded, Recorded::NeverInitialised);
    assert_eq!(bench.seen().version.holder, HolderField::Nobody);
    let before = boot_clock::now();
    let end = bench.claim().await;
    assert_eq!(end.outcome, Outcome::Landed);
    assert!(end.sent >= before);
    let seen = bench.seen();
    assert_eq!(seen.version.write_id, Some(end.id));
    assert_eq!((seen.version.epoch, seen.version.duration), (Epoch(1), Duration::from_secs(10)));
    assert!(matches!(seen.version.recorded, Recorded::Document(_)));
    assert_eq!(seen.confirmed, end.sent);
    let lease = bench.server.store().lease.clone().unwrap();
    assert_eq!(lease["metadata"]["labels"]["keep"], "me");
    assert!(lease["metadata"]["annotations"].get("db.example.com/never-initialised").is_none());
}

/// Two Databases of one name in two namespaces.
#[tokio::test]
async fn a_lease_of_the_same_name_elsewhere_is_another() {
    let (ours, theirs) = (Server::born(), Server::born());
    let client = Server::client_of_all(&[("prod", ours.clone()), ("staging", theirs.clone())]);
    let mut bench = Bench::calling(ours.clone(), client.clone(), "prod").await;
    assert_eq!(bench.claim().await.outcome, Outcome::Landed);
    assert_eq!((ours.version(), theirs.version()), (2, 1));
    let mut twin = Bench::calling(theirs.clone(), client, "staging").await;
    assert_eq!(
        twin.seen().version.recorded,
        Recorded::NeverInitialised,
        "what happened to ours is nothing to it"
    );
    assert_eq!(twin.claim().await.outcome, Outcome::Landed);
    assert_eq!((ours.version(), theirs.version()), (2, 2));
}

#[tokio::test]
async fn refusals_never_land() {
    for code in [401, 403, 409, 422, 429] {
        let mut bench = Bench::new().await;
        bench.server.fail(Fault::Code(code));
        assert_eq!(bench.claim().await.outcome, Outcome::Refused, "{code}");
        assert_eq!(bench.claim().await.outcome, Outcome::Landed, "after {code}");
        assert_eq!(bench.server.store().writes, 2, "nothing is repeated behind our back");
    }
}

#[tokio::test]
async fn a_refusal_of_a_write_that_landed_is_seen_through() {
    // The API server's own second attempt meets its first one.
    let mut bench = Bench::new().await;
    bench.server.fail(Fault::LandsThen(409));
    assert_eq!(bench.claim().await.outcome, Outcome::Landed);
}

#[tokio::test]
async fn what_has_no_answer_is_unknown_until_it_is_seen() {
    for fault in [Fault::LandsThen(500), Fault::LandsThen(503), Fault::LandsThenCut, Fault::LandsThenSilence]
    {
        let mut bench = Bench::new().await;
        bench.server.fail(fault);
        let end = bench.claim().await;
        assert!(matches!(end.outcome, Outcome::Unknown | Outcome::Landed));
        let landed = |state: &LeaseState| {
            state.last_write.as_ref().is_some_and(|write| write.outcome == Outcome::Landed)
        };
        bench.wait(landed).await;
        assert_eq!(bench.seen().version.write_id, Some(end.id));
    }
    for fault in [Fault::Code(500), Fault::Code(503), Fault::Silence] {
        let mut bench = Bench::new().await;
        bench.server.fail(fault);
        let end = bench.claim().await;
        bench.wait(|state| state.answered.is_some_and(|at| at > end.sent)).await;
        // It may still land: nobody may call it refused.
        assert_eq!(bench.state.borrow().last_write.as_ref().unwrap().outcome, Outcome::Unknown);
        assert_eq!(bench.claim().await.outcome, Outcome::Landed);
    }
}

#[tokio::test]
async fn a_hung_read_does_not_delay_a_write() {
    let mut bench = Bench::new().await;
    bench.server.store().reads_hang = true;
    bench.requests.send(Request::Refresh);
    let begun = boot_clock::now();
    assert_eq!(bench.claim().await.outcome, Outcome::Landed);
    assert!(boot_clock::now().since(begun) < Duration::from_millis(250), "the read takes 300 ms to give up");
}

#[tokio::test]
async fn one_write_at_a_time() {
    let mut bench = Bench::new().await;
    bench.server.fail(Fault::Silence);
    let claimable = Claimable::judge(&bench.seen(), boot_clock::now()).unwrap();
    bench.requests.send(Request::Write(claimable.clone().claim(contents(WriteId(5)))));
    bench.requests.send(Request::Write(claimable.claim(contents(WriteId(6)))));
    let end = bench.wait(|state| state.last_write.is_some()).await.last_write.unwrap();
    assert_eq!((end.id, end.outcome), (WriteId(6), Outcome::Unsent));
}

#[tokio::test]
async fn the_age_of_a_version_counts_from_when_it_was_first_seen_here() {
    let mut bench = Bench::new().await;
    let first = bench.seen();
    sleep(Duration::from_millis(20)).await;
    let asked = boot_clock::now();
    bench.requests.send(Request::Refresh);
    bench.wait(|state| matches!(&state.sighting, Sighting::Seen(seen) if seen.confirmed >= asked)).await;
    assert_eq!(bench.seen().first_seen, first.first_seen);
    let mut touched = bench.server.store().lease.clone().unwrap();
    touched["metadata"]["labels"]["other"] = json!("label");
    bench.server.put(touched);
    bench.requests.send(Request::Refresh);
    let version = ResourceVersion("2".to_owned());
    bench
        .wait(|state| matches!(&state.sighting, Sighting::Seen(seen) if seen.version.resource_version == version))
        .await;
    assert!(bench.seen().first_seen > first.first_seen);
}

#[tokio::test]
async fn what_cannot_be_read_forbids_leading() {
    let server = Server::born();
    for (annotations, what) in [
        (json!({}), "no annotation"),
        (json!({"db.example.com/never-initialised": "another"}), "belongs to the Database with UID another"),
        (json!({"db.example.com/ha": "{"}), "cannot be read"),
    ] {
        let mut lease = server.store().lease.clone().unwrap();
        lease["metadata"]["annotations"] = annotations;
        server.put(lease);
        let bench = Bench::with(server.clone()).await;
        let recorded = bench.seen().version.recorded;
        assert!(matches!(&recorded, Recorded::Unreadable(why) if why.contains(what)), "{recorded:?}");
    }
    server.store().lease = None;
    let bench = Bench::with(server).await;
    assert!(matches!(bench.state.borrow().sighting, Sighting::Missing(_)));
}

/// The Lease held by a primary, which saw that and cannot reach the API server any more; what it asks others to
/// write.
async fn held() -> (Bench, Renewal) {
    let bench = Bench::new().await;
    let holder = Some("db-0/uid/run".parse().unwrap());
    let claimable = Claimable::judge(&bench.seen(), boot_clock::now()).unwrap();
    let claim = claimable.claim(Contents { holder: holder.clone(), ..contents(WriteId(7)) });
    bench.requests.send(Request::Write(claim));
    let mut bench = bench;
    bench.wait(|state| state.last_write.is_some()).await;
    let basis = bench.seen().version.resource_version;
    (bench, Renewal { basis, contents: Contents { holder, ..contents(WriteId(8)) } })
}

async fn relayed(bench: &Bench, renewal: &Renewal) -> Option<LeaseVersion> {
    let calls = LeaseCalls::new(bench.server.client(), "prod", "db");
    relay::Relayer::new(calls, UID).relay(renewal, Duration::from_millis(300)).await
}

#[tokio::test]
async fn a_renewal_is_relayed_for_its_author_and_on_its_version_alone() {
    let (mut bench, renewal) = held().await;
    let shown = relayed(&bench, &renewal).await.unwrap();
    assert!(renewal.has_landed(&shown) && shown.resource_version != renewal.basis);
    let labels = bench.server.store().lease.clone().unwrap()["metadata"]["labels"].clone();
    assert_eq!(labels["keep"], "me");
    // The author learns of it, and can go on by itself.
    let asked_at = boot_clock::now();
    bench.requests.send(Request::Shown(shown.clone(), asked_at));
    bench.wait(|state| matches!(&state.sighting, Sighting::Seen(seen) if seen.confirmed == asked_at)).await;
    assert_eq!(bench.seen().version, shown);
    // The version has moved on: the same renewal is not written again.
    let writes = bench.server.store().writes;
    assert_eq!(relayed(&bench, &renewal).await, Some(shown.clone()));
    let stranger = Contents { holder: Some("db-1/uid/run".parse().unwrap()), ..contents(WriteId(9)) };
    let forged = Renewal { basis: shown.resource_version.clone(), contents: stranger };
    assert_eq!(relayed(&bench, &forged).await, Some(shown));
    assert_eq!(bench.server.store().writes, writes);
}

#[tokio::test]
async fn a_renewal_that_cannot_be_relayed_leaves_its_version_or_nothing() {
    for fault in [Fault::Code(403), Fault::Code(500), Fault::Silence] {
        let (bench, renewal) = held().await;
        bench.server.fail(fault);
        assert_eq!(relayed(&bench, &renewal).await.unwrap().resource_version, renewal.basis);
    }
    let (bench, renewal) = held().await;
    bench.server.fail(Fault::LandsThen(500));
    assert!(renewal.has_landed(&relayed(&bench, &renewal).await.unwrap()));
    let (bench, renewal) = held().await;
    bench.server.store().reads_hang = true;
    assert_eq!(relayed(&bench, &renewal).await, None);
}

#[tokio::test]
async fn what_another_saw_is_not_taken_for_newer_than_it_is() {
    let (mut bench, renewal) = held().await;
    let old = bench.seen().version;
    let asked_at = boot_clock::now();
    relayed(&bench, &renewal).await;
    bench.requests.send(Request::Refresh);
    bench.wait(|state| matches!(&state.sighting, Sighting::Seen(seen) if seen.version != old)).await;
    let newest = bench.seen();
    bench.requests.send(Request::Shown(old, asked_at));
    let later = boot_clock::now();
    bench.requests.send(Request::Refresh);
    bench.wait(|state| matches!(&state.sighting, Sighting::Seen(seen) if seen.confirmed >= later)).await;
    assert_eq!(bench.seen().version, newest.version);
}

#[tokio::test]
async fn fields_edited_to_nonsense_are_read_so_that_nobody_leads_too_soon() {
    let server = Server::born();
    let mut lease = server.store().lease.clone().unwrap();
    lease["spec"] = json!({
        "holderIdentity": "not a holder", "leaseTransitions": -7, "leaseDurationSeconds": 1,
        "renewTime": null,
    });
    server.put(lease);
    let version = Bench::with(server).await.seen().version;
    assert_eq!(version.holder, HolderField::Nonsense("not a holder".to_owned()), "somebody: it must expire");
    assert_eq!((version.epoch, version.write_id), (Epoch(0), None));
    assert_eq!(version.duration, Duration::from_secs(30), "no profile has 1 s: the longest is waited for");
}

/// Counting on from it, no claim could ever be written again.
#[tokio::test]
async fn an_epoch_far_above_what_was_opened_counts_as_none() {
    for (stated, read) in [(3, 3), (i32::MAX, 0)] {
        let server = Server::born();
        server.write_as_holder(&contents(WriteId(1)));
        let mut lease = server.store().lease.clone().unwrap();
        lease["spec"]["leaseTransitions"] = json!(stated);
        server.put(lease);
        assert_eq!(Bench::with(server).await.seen().version.epoch, Epoch(read));
    }
}
