//! What is asked about backups. Which member answers does not matter for what lies in the store.

use std::{net::IpAddr, time::Duration};

use proto::{
    identity::Ordinal,
    wire::{
        backup::{
            BACKUPS_PATH, BackupState, REPOSITORY_PATH, RETENTION_PATH, Repository, Retention,
            RetentionReport, StartBackup,
        },
        peer::Refused,
        snapshot::{SNAPSHOT_PATH, SnapshotTaken},
    },
};
use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use super::{AgentError, Agents, Target};

/// A backup is begun, and its state told, from memory or with one look into the store.
const BACKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// The agent lists the store and reads what describes each backup.
const REPOSITORY_TIMEOUT: Duration = Duration::from_secs(30);
/// Thousands of files are deleted. What is left when this ends is deleted the next time.
const RETENTION_TIMEOUT: Duration = Duration::from_mins(5);

/// A member and where its pod is.
pub(crate) type Address = (Ordinal, Option<IpAddr>);

impl Agents {
    /// Begins a backup; asking twice for the same name is harmless.
    pub(crate) async fn start_backup(
        &self,
        target: Target<'_>,
        member: Address,
        request: &StartBackup,
    ) -> Result<BackupState, AgentError> {
        let asked = (Method::POST, BACKUPS_PATH, BACKUP_TIMEOUT);
        self.exchange(target, member, asked, Some(request)).await?.ok_or_else(not_found)
    }

    /// How far a backup is; `None` if the member knows of none.
    pub(crate) async fn backup(
        &self,
        target: Target<'_>,
        member: Address,
        name: &str,
    ) -> Result<Option<BackupState>, AgentError> {
        let path = format!("{BACKUPS_PATH}/{name}");
        self.exchange(target, member, (Method::GET, &path, BACKUP_TIMEOUT), None::<&()>).await
    }

    /// The VolumeSnapshot of the member's volume is taken. Telling it twice is harmless.
    pub(crate) async fn snapshot_taken(
        &self,
        target: Target<'_>,
        member: Address,
        name: &str,
        taken: &SnapshotTaken,
    ) -> Result<BackupState, AgentError> {
        let path = format!("{BACKUPS_PATH}/{name}{SNAPSHOT_PATH}");
        self.exchange(target, member, (Method::POST, &path, BACKUP_TIMEOUT), Some(taken))
            .await?
            .ok_or_else(not_found)
    }

    /// What lies in the store.
    pub(crate) async fn repository(
        &self,
        target: Target<'_>,
        member: Address,
    ) -> Result<Repository, AgentError> {
        let asked = (Method::GET, REPOSITORY_PATH, REPOSITORY_TIMEOUT);
        self.exchange(target, member, asked, None::<&()>).await?.ok_or_else(not_found)
    }

    /// Deletes what nobody needs any more.
    pub(crate) async fn retention(
        &self,
        target: Target<'_>,
        member: Address,
        request: Retention,
    ) -> Result<RetentionReport, AgentError> {
        let asked = (Method::POST, RETENTION_PATH, RETENTION_TIMEOUT);
        self.exchange(target, member, asked, Some(&request)).await?.ok_or_else(not_found)
    }

    /// One request; `None` for 404.
    async fn exchange<T: DeserializeOwned>(
        &self,
        target: Target<'_>,
        member: Address,
        (method, path, limit): (Method, &str, Duration),
        body: Option<&impl Serialize>,
    ) -> Result<Option<T>, AgentError> {
        let link = self.link(target)?;
        let mut request = link.client.request(method, link.url(target, member, path)?).timeout(limit);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(AgentError::Silent)?;
        match answer.status() {
            status if status.is_success() => answer.json().await.map(Some).map_err(AgentError::Silent),
            StatusCode::NOT_FOUND => Ok(None),
            _ => {
                let refused: Refused = answer.json().await.map_err(AgentError::Silent)?;
                Err(AgentError::Refused(refused.message))
            }
        }
    }
}

/// An agent of an earlier version.
fn not_found() -> AgentError {
    AgentError::Refused("the agent knows nothing of backups yet: its pod has to restart".to_owned())
}
