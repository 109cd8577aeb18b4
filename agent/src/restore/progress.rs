//! How far a restore is: in a file that the sidecar shows, and in the log.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use proto::wire::backup::{RestorePhase, RestoreProgress};

use crate::supervisor::durable;

/// The file is written this often at most, except for a new phase.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Progress {
    path: PathBuf,
    shared: Arc<Mutex<(RestoreProgress, Option<Instant>)>>,
}

impl Progress {
    /// Nothing done yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        let progress = RestoreProgress {
            phase: RestorePhase::Choosing,
            backup: None,
            bytes_done: 0,
            bytes_total: None,
            wal: None,
            timeline: None,
            error: None,
            at: Timestamp::now(),
        };
        Self { path, shared: Arc::new(Mutex::new((progress, None))) }
    }

    /// As it is.
    pub(crate) fn now(&self) -> RestoreProgress {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Changes it. A file that cannot be written is nothing to end a restore for.
    pub(crate) fn note(&self, change: impl FnOnce(&mut RestoreProgress)) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (progress, written) = &mut *shared;
        let phase = progress.phase;
        change(progress);
        progress.at = Timestamp::now();
        let due = written.is_none_or(|written| written.elapsed() >= WRITE_EVERY);
        if phase == progress.phase && !due {
            return;
        }
        *written = Some(Instant::now());
        tracing::info!(?progress, "restoring");
        let text = serde_json::to_vec(progress).unwrap_or_default();
        if let Err(error) = durable::write_file(&self.path, &text) {
            tracing::warn!(error = %crate::chain::Chain(&error), "cannot tell how far the restore is");
        }
    }
}
