//! What the operator asks (`proto::wire::backup`), on the port that wants a certificate of the Database's CA.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use proto::wire::{
    backup::{
        BACKUPS_PATH, BackupPhase, BackupState, BackupSummary, REPOSITORY_PATH, RETENTION_PATH, Repository,
        Retention, RetentionReport, StartBackup,
    },
    peer::Refused,
    snapshot::{SNAPSHOT_PATH, SnapshotTaken},
};

use super::{Backups, BeginError, catalog, retention, snapshot::entry};
use crate::{
    archive::{connection::Repository as OpenRepository, store::StoreError},
    chain::Chain,
};

type Refusal = (StatusCode, Json<Refused>);

/// The routes.
pub(crate) fn routes(backups: Backups) -> Router {
    Router::new()
        .route(BACKUPS_PATH, post(begin))
        .route(&format!("{BACKUPS_PATH}/{{name}}"), get(state))
        .route(&format!("{BACKUPS_PATH}/{{name}}{SNAPSHOT_PATH}"), post(taken))
        .route(REPOSITORY_PATH, get(repository))
        .route(RETENTION_PATH, post(retain))
        .with_state(backups)
}

async fn begin(
    State(backups): State<Backups>,
    Json(wish): Json<StartBackup>,
) -> Result<(StatusCode, Json<BackupState>), Refusal> {
    backups
        .begin(wish)
        .await
        .map(|state| (StatusCode::ACCEPTED, Json(state)))
        .map_err(|error| refusal(&error))
}

async fn taken(
    State(backups): State<Backups>,
    Path(name): Path<String>,
    Json(taken): Json<SnapshotTaken>,
) -> Result<Json<BackupState>, Refusal> {
    backups.taken(name, taken).map(Json).map_err(|error| refusal(&error))
}

async fn state(
    State(backups): State<Backups>,
    Path(name): Path<String>,
) -> Result<Json<BackupState>, Refusal> {
    if let Some(state) = backups.state().filter(|state| state.name == name) {
        return Ok(Json(state));
    }
    let repository = backups.repository().map_err(|error| refusal(&error))?;
    let summary = completed(&repository, &name).await.map_err(unanswered)?.ok_or_else(|| {
        let message = format!("no backup {name} runs here or is in the repository");
        (StatusCode::NOT_FOUND, Json(Refused { message }))
    })?;
    Ok(Json(BackupState {
        name: summary.name.clone(),
        kind: summary.kind,
        phase: BackupPhase::Completed,
        started_at: summary.started_at,
        bytes_done: summary.size_bytes,
        bytes_total: Some(summary.size_bytes),
        stored_bytes: summary.stored_bytes,
        start: Some(summary.start),
        stop: Some(summary.stop),
        error: None,
        summary: Some(summary),
    }))
}

/// Of either method.
async fn completed(repository: &OpenRepository, name: &str) -> Result<Option<BackupSummary>, StoreError> {
    let OpenRepository { store, root } = repository;
    if let Some(contents) = catalog::backup(store, root, name).await? {
        return Ok(Some(contents.summary));
    }
    Ok(entry::entry(store, root, name).await?.map(|entry| entry.summary))
}

async fn repository(State(backups): State<Backups>) -> Result<Json<Repository>, Refusal> {
    let repository = backups.repository().map_err(|error| refusal(&error))?;
    catalog::describe(&repository).await.map(Json).map_err(unanswered)
}

async fn retain(
    State(backups): State<Backups>,
    Json(wish): Json<Retention>,
) -> Result<Json<RetentionReport>, Refusal> {
    let repository = backups.repository().map_err(|error| refusal(&error))?;
    let running = backups.state().map(|state| state.name);
    retention::apply(&repository, wish, running.as_deref()).await.map(Json).map_err(unanswered)
}

fn refusal(error: &BeginError) -> Refusal {
    let code = match error {
        BeginError::Name(_) => StatusCode::BAD_REQUEST,
        BeginError::Busy(_) | BeginError::Taken(_) | BeginError::NotAwaited(_) => StatusCode::CONFLICT,
        BeginError::NoArchive | BeginError::NotRunning | BeginError::Store(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    (code, Json(Refused { message: Chain(error).to_string() }))
}

#[allow(clippy::needless_pass_by_value)] // as map_err wants it
fn unanswered(error: StoreError) -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, Json(Refused { message: Chain(&error).to_string() }))
}
