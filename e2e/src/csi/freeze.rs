//! Stops all writes to a mounted disk for a while, as a hung disk would.
//!
//! A process that writes to a frozen file system sleeps beyond the reach of SIGKILL, so a freeze that nobody
//! undoes would outlive every test, shell and cluster. Hence a detached timer is armed *before* each freeze: it
//! thaws the disk at its limit even if all else has died. A mark beside the disk file says that it is frozen and by
//! whom it will be thawed; whoever thaws it earlier removes the mark and ends the timer.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use crate::lab::command;

/// How the names of marks begin; the rest makes each its own.
const MARK: &str = "frozen.";
/// A freeze first writes back everything that is dirty.
const FREEZE_LIMIT: Duration = Duration::from_secs(30);
/// A thaw only wakes the writers, and a timer is only started.
const QUICK_LIMIT: Duration = Duration::from_secs(10);

/// The timer: says who it is, lets go of all that it inherited, and after `$2` seconds thaws `$3` unless its mark `$1`
/// has gone.
const TIMER: &str = r#"echo $$
exec >/dev/null 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
cd /
sleep "$2"
if [ -e "$1" ]; then fsfreeze --unfreeze "$3"; rm -f "$1"; fi"#;

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
        /// Why it did not start.
        #[source]
        source: anyhow::Error,
    },
    /// `fsfreeze` failed.
    #[error("freezing or thawing {point} failed")]
    Tool {
        /// Where the disk is mounted.
        point: PathBuf,
        /// The tool's failure.
        #[source]
        source: anyhow::Error,
    },
}

/// Freezes `disk`, mounted on `point`, for at most `limit` (whole seconds).
pub async fn freeze(disk: &Path, point: &Path, limit: Duration) -> Result<(), FreezeError> {
    let mark = disk.with_file_name(format!("{MARK}{:016x}", rand::random::<u64>()));
    let timer = arm(&mark, limit, point)
        .await
        .map_err(|source| FreezeError::Timer { disk: disk.to_owned(), source })?;
    fs::write(&mark, timer).map_err(marking(disk))?;
    let frozen = fsfreeze("--freeze", point, FREEZE_LIMIT, "busy", FreezeError::Already).await;
    if matches!(frozen, Err(FreezeError::Already(_))) {
        unmark(&mark).map_err(marking(disk))?;
    }
    // After any other failure the timer stays armed: a freeze that only seems to have failed is undone as well.
    frozen
}

/// Thaws `disk`, mounted on `point`.
pub async fn thaw(disk: &Path, point: &Path) -> Result<(), FreezeError> {
    let thawed = fsfreeze("--unfreeze", point, QUICK_LIMIT, "Invalid argument", FreezeError::NotFrozen).await;
    if matches!(thawed, Ok(()) | Err(FreezeError::NotFrozen(_))) {
        for mark in marks(disk).map_err(marking(disk))? {
            unmark(&mark).map_err(marking(disk))?;
        }
    }
    thawed
}

/// Whether `disk` is frozen by this module.
pub fn is_frozen(disk: &Path) -> Result<bool, FreezeError> {
    Ok(!marks(disk).map_err(marking(disk))?.is_empty())
}

/// Calls `fsfreeze`, which says only by the text of an error that the disk is in the wanted `state` already.
async fn fsfreeze(
    way: &str,
    point: &Path,
    limit: Duration,
    text: &str,
    state: fn(PathBuf) -> FreezeError,
) -> Result<(), FreezeError> {
    let mut tool = Command::new("fsfreeze");
    tool.arg(way).arg(point).env("LC_ALL", "C");
    match command::output(tool, limit).await {
        Ok(_) => Ok(()),
        Err(failed) if failed.to_string().contains(text) => Err(state(point.to_owned())),
        Err(source) => Err(FreezeError::Tool { point: point.to_owned(), source }),
    }
}

/// Starts the timer in a session of its own, so that no signal meant for us reaches it; returns its process id.
async fn arm(mark: &Path, limit: Duration, point: &Path) -> anyhow::Result<String> {
    let mut timer = Command::new("setsid");
    timer.args(["--fork", "sh", "-c", TIMER, "thaw-timer"]).arg(mark);
    timer.arg(limit.as_secs().max(1).to_string()).arg(point);
    command::output(timer, QUICK_LIMIT).await
}

/// Removes a mark and ends its timer, which may be removing it at this very moment.
fn unmark(mark: &Path) -> io::Result<()> {
    let timer = fs::read_to_string(mark).unwrap_or_default();
    match fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let timer = timer.trim().parse().ok().and_then(Pid::from_raw);
    if let Some(timer) = timer.filter(|id| is_timer_of(*id, mark)) {
        // The leader of its group, in which `sleep` is as well. It may just have ended.
        let _ = kill_process_group(timer, Signal::KILL);
    }
    Ok(())
}

/// Whether the process is that timer, and not one that the kernel gave its id to since.
fn is_timer_of(id: Pid, mark: &Path) -> bool {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == mark.as_os_str().as_encoded_bytes())
}

fn marks(disk: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = disk.parent().unwrap_or(Path::new("/"));
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    let is_mark = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(MARK);
    Ok(entries.iter().filter(|entry| is_mark(entry)).map(fs::DirEntry::path).collect())
}

fn marking(disk: &Path) -> impl Fn(io::Error) -> FreezeError {
    move |source| FreezeError::Mark { disk: disk.to_owned(), source }
}
