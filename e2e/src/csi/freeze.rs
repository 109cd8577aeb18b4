//! Stops all writes to a mounted disk for a while, as a hung disk would.
//!
//! A process that writes to a frozen file system sleeps beyond the reach of SIGKILL, so a freeze that nobody
//! undoes would outlive every test, shell and cluster. Hence a detached timer is armed *before* each freeze: it
//! thaws the disk at its limit even if all else has died. A mark beside the disk file says that it is frozen;
//! the timer ends within a second of its mark's removal.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::tool::{self, ToolError};

/// How the names of marks begin; the rest makes each its own.
const MARK: &str = "frozen.";
/// A freeze first writes back everything that is dirty.
const FREEZE_LIMIT: Duration = Duration::from_secs(30);
/// A thaw only wakes the writers.
const THAW_LIMIT: Duration = Duration::from_secs(10);

/// The timer: waits for `$2` seconds or until its mark `$1` is gone, and if it is not, thaws `$3`.
const TIMER: &str = r#"
n=0
while [ -e "$1" ] && [ "$n" -lt "$2" ]; do sleep 1; n=$((n+1)); done
if [ -e "$1" ]; then fsfreeze --unfreeze "$3"; rm -f "$1"; fi
"#;

/// Why a disk was not frozen or thawed.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// It is frozen already.
    #[error("{0} is frozen already: thaw it first")]
    Already(PathBuf),
    /// It thawed by itself, so what was done meanwhile was not done to a frozen disk.
    #[error("{0} is not frozen, or thawed at its limit")]
    NotFrozen(PathBuf),
    /// The mark of a freeze could not be written, read or removed.
    #[error("marking {disk} as frozen or thawed failed")]
    Mark {
        /// The disk file.
        disk: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The timer could not be started.
    #[error("arming the timer that thaws {disk} failed, so it was not frozen")]
    Timer {
        /// The disk file.
        disk: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `fsfreeze` failed.
    #[error("freezing or thawing {point} failed")]
    Tool {
        /// Where the disk is mounted.
        point: PathBuf,
        /// The tool's failure.
        #[source]
        source: ToolError,
    },
}

/// Freezes `disk`, mounted on `point`, for at most `limit` (whole seconds).
pub async fn freeze(disk: &Path, point: &Path, limit: Duration) -> Result<(), FreezeError> {
    let mark = disk.with_file_name(format!("{MARK}{:016x}", rand::random::<u64>()));
    let marking = |source| FreezeError::Mark { disk: disk.to_owned(), source };
    fs::write(&mark, "").map_err(marking)?;
    arm(&mark, limit, point).map_err(|source| FreezeError::Timer { disk: disk.to_owned(), source })?;
    match tool::run("fsfreeze", ["--freeze".as_ref(), point.as_os_str()], FREEZE_LIMIT).await {
        // The timer stays armed: a freeze that only seems to have failed is undone as well.
        Err(source @ ToolError::TooSlow { .. }) => Err(FreezeError::Tool { point: point.to_owned(), source }),
        Err(source) => {
            fs::remove_file(&mark).map_err(marking)?;
            Err(explain(point, source, "busy", FreezeError::Already))
        }
        Ok(()) => Ok(()),
    }
}

/// Thaws `disk`, mounted on `point`.
pub async fn thaw(disk: &Path, point: &Path) -> Result<(), FreezeError> {
    let thawed = tool::run("fsfreeze", ["--unfreeze".as_ref(), point.as_os_str()], THAW_LIMIT).await;
    if !matches!(thawed, Err(ToolError::TooSlow { .. })) {
        for mark in marks(disk).map_err(|source| FreezeError::Mark { disk: disk.to_owned(), source })? {
            // The timer may have removed it a moment ago.
            let _ = fs::remove_file(mark);
        }
    }
    thawed.map_err(|source| explain(point, source, "Invalid argument", FreezeError::NotFrozen))
}

/// Whether `disk` is frozen by this module.
pub fn is_frozen(disk: &Path) -> Result<bool, FreezeError> {
    let marks = marks(disk).map_err(|source| FreezeError::Mark { disk: disk.to_owned(), source })?;
    Ok(!marks.is_empty())
}

/// `fsfreeze` tells the states apart only by the text of the system's error.
fn explain(
    point: &Path,
    source: ToolError,
    text: &str,
    state: impl FnOnce(PathBuf) -> FreezeError,
) -> FreezeError {
    match &source {
        ToolError::Failed { complaint, .. } if complaint.contains(text) => state(point.to_owned()),
        _ => FreezeError::Tool { point: point.to_owned(), source },
    }
}

/// Starts the timer in its own process group, so that no signal meant for us reaches it.
fn arm(mark: &Path, limit: Duration, point: &Path) -> io::Result<()> {
    let seconds = OsString::from(limit.as_secs().max(1).to_string());
    let mut timer = Command::new("setsid")
        .args(["--fork", "sh", "-c", TIMER, "thaw-timer"])
        .args([mark.as_os_str(), &seconds, point.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    // setsid forks and ends at once: the timer is not our child, and nothing is left to reap.
    match timer.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("setsid ended with {status}"))),
    }
}

fn marks(disk: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = disk.parent().unwrap_or(Path::new("/"));
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    let is_mark = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with(MARK);
    Ok(entries.iter().filter(|e| is_mark(e)).map(fs::DirEntry::path).collect())
}
