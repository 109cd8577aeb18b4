//! Runs a system tool (`mount`, `mkfs.xfs`, ...) within a time limit.
//!
//! A tool that touches a hung disk may be beyond even SIGKILL: the caller goes on after the limit and the
//! tool ends when the disk does.

use std::{ffi::OsStr, io, process::Stdio, time::Duration};

use tokio::process::Command;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started.
    #[error("starting {tool} failed: is its package installed (xfsprogs, util-linux, coreutils)?")]
    Start {
        /// The program.
        tool: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It did not end in time.
    #[error("{tool} did not end within {limit:?}: is its disk frozen?")]
    TooSlow {
        /// The program.
        tool: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// It ended with an error.
    #[error("{tool} failed: {complaint}")]
    Failed {
        /// The program.
        tool: &'static str,
        /// What it wrote to standard error.
        complaint: String,
    },
}

/// Runs `tool` to its end.
pub async fn run<A: AsRef<OsStr>>(
    tool: &'static str,
    args: impl IntoIterator<Item = A>,
    limit: Duration,
) -> Result<(), ToolError> {
    let mut command = Command::new(tool);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .map_err(|_| ToolError::TooSlow { tool, limit })?
        .map_err(|source| ToolError::Start { tool, source })?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ToolError::Failed { tool, complaint })
}
