//! Runs the programs that the lab is driven by (`ip`, `ctr`, `mount`, ...): each call has a deadline and
//! an error that holds the command line and what the program said.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// How long a small program may take. Generous, since the machine may be building at the same time:
/// the limit is there so that a program that hangs is named and not waited for.
pub const LIMIT: Duration = Duration::from_mins(1);

/// Runs a small program and returns what it printed.
pub async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    output(command, LIMIT).await
}

/// Runs `command` to its end and returns its standard output, or an error that says what it printed.
pub async fn output(mut command: Command, limit: Duration) -> Result<String> {
    let line = command_line(&command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let finished = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("`{line}` did not end within {} s", limit.as_secs()))?
        .with_context(|| format!("cannot run `{line}`"))?;
    if !finished.status.success() {
        let said = String::from_utf8_lossy(&finished.stderr);
        bail!("`{line}` failed ({}): {}", finished.status, last_lines(&said));
    }
    Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
}

fn command_line(command: &Command) -> String {
    let command = command.as_std();
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The end of what a program said: where its reason stands.
fn last_lines(said: &str) -> String {
    const KEPT: usize = 10;
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(KEPT)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_names_the_command_and_what_it_said() {
        let error = run("sh", &["-c", "echo reason >&2; exit 3"]).await.unwrap_err();
        assert!(error.to_string().contains("exit 3"), "{error}");
        assert!(error.to_string().ends_with("reason"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = output(command, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}
