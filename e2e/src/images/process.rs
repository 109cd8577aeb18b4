//! Runs one program to its end: bounded in time, its output in the error when it fails.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// How much of a failed program's output an error shows: enough for the reason, not the whole build log.
const SHOWN_LINES: usize = 25;

/// Runs `command` and returns its standard output; the process dies with the future or at `limit`.
pub(super) async fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let name = format!("{:?}", command.as_std());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("cannot start {name}: is it installed?"))?;
    let output = tokio::time::timeout(limit, child.wait_with_output())
        .await
        .with_context(|| format!("{name} did not end within {limit:?}"))?
        .with_context(|| format!("cannot wait for {name}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed ({}):\n{}", output.status, last_lines(&stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_shows_what_the_program_said() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo the reason >&2; exit 3"]);
        let text = format!("{:#}", run(&mut shell, Duration::from_secs(5)).await.unwrap_err());
        assert!(text.contains("the reason") && text.contains("exit status: 3"), "{text}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}
