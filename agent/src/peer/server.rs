//! Answers other members and the operator. Who gets here has shown a certificate of the Database's CA.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::{get, post},
};
use proto::{
    ha::question::{Question, Refused as RefusedQuestion, Reply},
    pod::RUN_DIR,
    wire::{
        chronicle::{Chronicle as Told, TIMELINE_PATH},
        peer::{
            Accepted, QUESTION_PATH, Refused, STATUS_PATH, SWITCH_WAL_PATH, SWITCHOVER_PATH, Status,
            Switchover,
        },
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    archive::Archive,
    backup::{self, Backups},
    chain::Chain,
    chronicle::Chronicle,
    published::Published,
    sql::archiving,
};

/// Most bodies are a few hundred bytes; a renewal to be relayed bears the Lease's document, whose history of a
/// hundred openings takes 11 KiB.
const MAX_BODY: usize = 64 * 1024;
/// The driver turns a question over to the supervisor, which may have to end a WAL receiver, or to the API server
/// for up to 2.5 s. The asker gives up about then.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);
/// A switchover is answered when the old leader has released, which takes a checkpoint on a slow disk at worst.
const SWITCHOVER_TIMEOUT: Duration = Duration::from_mins(1);

/// What the server hands to the driver.
pub(crate) enum Incoming {
    /// A question of the protocol.
    Question(Question, oneshot::Sender<Reply>),
    /// Somebody wants another leader; answered when that came to something.
    Switchover(Switchover, oneshot::Sender<Result<Accepted, SwitchoverRefusal>>),
}

/// Why there is no switchover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SwitchoverRefusal {
    /// The request makes no sense here: this member does not lead, or the names are unknown.
    Misdirected(String),
    /// Nobody could take over, or it failed.
    NotPossible(String),
}

#[derive(Clone)]
struct Shared {
    incoming: mpsc::Sender<Incoming>,
    published: watch::Receiver<Arc<Published>>,
    chronicle: Chronicle,
    archive: Archive,
    backups: Backups,
}

/// The routes.
pub(crate) fn routes(
    incoming: mpsc::Sender<Incoming>,
    published: watch::Receiver<Arc<Published>>,
    chronicle: Chronicle,
    archive: Archive,
    backups: Backups,
) -> Router {
    Router::new()
        .route(QUESTION_PATH, post(question))
        .route(STATUS_PATH, get(status))
        .route(SWITCHOVER_PATH, post(switchover))
        .route(TIMELINE_PATH, get(timeline))
        .route(SWITCH_WAL_PATH, post(switch_wal))
        .with_state(Shared { incoming, published, chronicle, archive, backups: backups.clone() })
        .merge(backup::http::routes(backups))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

async fn question(State(shared): State<Shared>, Json(question): Json<Question>) -> Json<Reply> {
    let (reply, replied) = oneshot::channel();
    let exchange = async {
        shared.incoming.send(Incoming::Question(question, reply)).await.ok()?;
        replied.await.ok()
    };
    let reply = timeout(REPLY_TIMEOUT, exchange).await.ok().flatten();
    Json(reply.unwrap_or_else(|| {
        Reply::Refused(RefusedQuestion {
            sealed: None,
            promised: false,
            why: "the agent did not answer in time".to_owned(),
        })
    }))
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    let status = shared.published.borrow().status.clone();
    let archive = shared.backups.archive_status();
    Json(Status { archive, restore: shared.archive.restore(), ..status })
}

async fn switch_wal() -> Result<StatusCode, (StatusCode, Json<Refused>)> {
    match archiving::switch_wal(RUN_DIR).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => {
            let message = Chain(&error).to_string();
            Err((StatusCode::SERVICE_UNAVAILABLE, Json(Refused { message })))
        }
    }
}

async fn timeline(State(shared): State<Shared>) -> Json<Told> {
    Json(shared.chronicle.tell())
}

async fn switchover(
    State(shared): State<Shared>,
    Json(wish): Json<Switchover>,
) -> Result<(StatusCode, Json<Accepted>), (StatusCode, Json<Refused>)> {
    let refuse = |code, message: String| (code, Json(Refused { message }));
    let (reply, replied) = oneshot::channel();
    let exchange = async {
        shared.incoming.send(Incoming::Switchover(wish, reply)).await.ok()?;
        replied.await.ok()
    };
    match timeout(SWITCHOVER_TIMEOUT, exchange).await {
        Ok(Some(Ok(accepted))) => Ok((StatusCode::ACCEPTED, Json(accepted))),
        Ok(Some(Err(SwitchoverRefusal::Misdirected(why)))) => Err(refuse(StatusCode::CONFLICT, why)),
        Ok(Some(Err(SwitchoverRefusal::NotPossible(why)))) => {
            Err(refuse(StatusCode::PRECONDITION_FAILED, why))
        }
        Ok(None) => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "the agent stops".to_owned())),
        Err(_) => Err(refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no outcome within {SWITCHOVER_TIMEOUT:?}; ask the members for their status"),
        )),
    }
}
