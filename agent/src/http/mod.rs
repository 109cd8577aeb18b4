//! Plain HTTP for probes, load balancers and monitors: reads of memory, nothing to break (docs/ha.md section 9).

pub(crate) mod answers;
mod lag;

use std::{collections::BTreeSet, sync::Arc};

use answers::Check;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use lag::MaxLag;
use proto::{
    identity::Ordinal,
    pod::{HTTP_PORT, POSTGRES_PORT, member_host},
    wire::{
        http::{Cluster, ClusterMember, History, Role, State as ServerState},
        peer::Status,
    },
};
use serde::Deserialize;
use tokio::sync::watch;

use crate::{backup::Backups, boot_clock, metrics::Metrics, peer::client::Peers, published::Published};

/// What the handlers read.
#[derive(Clone)]
pub(crate) struct Shared {
    /// What the driver shows.
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// For `GET /metrics`.
    pub(crate) metrics: Arc<Metrics>,
    /// What `GET /metrics` says of archive and backups.
    pub(crate) backups: Backups,
    /// For `GET /cluster`.
    pub(crate) peers: Peers,
    /// Name of the Database.
    pub(crate) database: String,
    /// Its namespace.
    pub(crate) namespace: String,
}

#[derive(Deserialize)]
struct LagQuery {
    lag: Option<String>,
}

/// The routes.
pub(crate) fn routes(shared: Shared) -> Router {
    let mut router = Router::new();
    for path in ["/", "/primary", "/leader", "/read-write", "/master"] {
        router = router.route(path, get(|State(s): State<Shared>| async move { s.check(Check::Primary) }));
    }
    router
        .route("/replica", get(|s, q| async move { with_lag(s, q, Check::Replica) }))
        .route("/read-only", get(|s, q| async move { with_lag(s, q, Check::ReadOnly) }))
        .route("/health", get(|State(s): State<Shared>| async move { s.check(Check::Health) }))
        .route("/liveness", get(|State(s): State<Shared>| async move { s.check(Check::Liveness) }))
        .route("/readiness", get(|State(s): State<Shared>| async move { s.check(Check::Readiness) }))
        .route("/patroni", get(patroni))
        .route("/cluster", get(cluster))
        .route("/history", get(history))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(0))
        .with_state(shared)
}

impl Shared {
    fn shown(&self) -> Arc<Published> {
        Arc::clone(&self.published.borrow())
    }

    fn check(&self, check: Check) -> Response {
        let shown = self.shown();
        let code = match check.passes(&shown, boot_clock::now()) {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        (code, Json(shown.member.clone())).into_response()
    }
}

fn with_lag(
    State(shared): State<Shared>,
    Query(query): Query<LagQuery>,
    check: fn(Option<MaxLag>) -> Check,
) -> Response {
    match query.lag.map(|text| text.parse()).transpose() {
        Ok(limit) => shared.check(check(limit)),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn patroni(State(shared): State<Shared>) -> Response {
    Json(shared.shown().member.clone()).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let archive = (shared.backups.archive_status(), shared.backups.counts());
    match shared.metrics.encode(&shared.shown(), archive, boot_clock::now()) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn history(State(shared): State<Shared>) -> Json<History> {
    let shown = shared.shown();
    let openings = shown.document.iter().flat_map(|document| document.history.windows(2));
    Json(
        openings
            .map(|pair| {
                let reason = format!("epoch {} opened by {}", pair[1].epoch, pair[1].primary);
                (pair[0].timeline, pair[1].switch.0, reason, None, None)
            })
            .collect(),
    )
}

async fn cluster(State(shared): State<Shared>) -> Json<Cluster> {
    let shown = shared.shown();
    let me = shown.status.ordinal;
    let mut ordinals: Vec<_> =
        shown.document.iter().flat_map(|document| document.members.keys().copied()).collect();
    if !ordinals.contains(&me) {
        ordinals.push(me);
    }
    let asked = ordinals.into_iter().map(|ordinal| {
        let (shared, shown) = (&shared, &shown);
        async move {
            let status = match ordinal == me {
                true => Some(shown.status.clone()),
                false => shared.peers.status(ordinal).await.ok(),
            };
            (ordinal, status)
        }
    });
    let answers = futures::future::join_all(asked).await;
    let synchronous = synchronous(answers.iter().filter_map(|(_, status)| status.as_ref()));
    let members = answers
        .iter()
        .map(|(ordinal, status)| shared.cluster_member(*ordinal, status.as_ref(), &synchronous));
    Json(Cluster { members: members.collect(), scope: shared.database.clone() })
}

/// Names of the standbys that commits wait for, as the leader among these says.
fn synchronous<'a>(answers: impl Iterator<Item = &'a Status>) -> BTreeSet<String> {
    let leaders = answers.filter(|status| status.role == Role::Primary);
    let standbys = leaders.flat_map(|leader| &leader.replication);
    let waited_for = standbys.filter(|row| matches!(row.sync_state.as_str(), "sync" | "quorum"));
    waited_for.map(|row| row.application_name.clone()).collect()
}

impl Shared {
    fn cluster_member(
        &self,
        ordinal: Ordinal,
        status: Option<&Status>,
        synchronous: &BTreeSet<String>,
    ) -> ClusterMember {
        let host = member_host(&self.database, ordinal, &self.namespace);
        let name = status.and_then(|status| status.data_id).map(|id| id.to_string());
        let role = match status.map(|status| status.role) {
            Some(Role::Primary) => "leader",
            _ if name.is_some_and(|name| synchronous.contains(&name)) => "sync_standby",
            _ => "replica",
        };
        ClusterMember {
            name: format!("{}-{ordinal}", self.database),
            role: role.to_owned(),
            state: status.map_or(ServerState::Unknown, |status| status.state),
            api_url: format!("http://{host}:{HTTP_PORT}/patroni"),
            host,
            port: POSTGRES_PORT,
            timeline: status.and_then(|status| status.timeline),
            lag: status.and_then(|status| status.lag).map(|lag| lag.bytes),
        }
    }
}

#[cfg(test)]
mod tests;
