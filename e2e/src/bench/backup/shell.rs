//! Scripts in the container of PostgreSQL, as people run them by `kubectl exec`. Times are taken in the container: those
//! of `kubectl` and the API server are no part of them.

use std::time::Duration;

use anyhow::{Context, Result};
use proto::pod::POSTGRES_CONTAINER;

use crate::scenario::database::Database;

/// What ends a script in the container, in seconds: `kubectl` waits a little longer, and would leave it running.
const SCRIPT_LIMIT: &str = "280";
/// What every script begins with: a failure ends it, and programs connect as the superuser, through the socket of
/// `PGHOST`.
const PREAMBLE: &str = "set -euo pipefail\nexport PGUSER=postgres\n";

/// The container.
pub(super) struct Shell {
    database: Database,
    pod: String,
}

impl Shell {
    /// That of `pod`.
    pub(super) fn of(database: &Database, pod: &str) -> Self {
        Self { database: database.clone(), pod: pod.to_owned() }
    }

    /// Runs a script and returns what it printed.
    pub(super) async fn run(&self, script: &str, input: &str) -> Result<String> {
        let script = format!("{PREAMBLE}{script}");
        let mut arguments = vec!["--namespace", &self.database.namespace, "exec", "--stdin", &self.pod];
        arguments.extend([
            "--container",
            POSTGRES_CONTAINER,
            "--",
            "timeout",
            SCRIPT_LIMIT,
            "bash",
            "-c",
            &script,
        ]);
        self.database.kubectl.run_with(&arguments, input).await
    }

    /// How long a script takes, without what is done before it.
    pub(super) async fn timed(&self, before: &str, script: &str, input: &str) -> Result<Duration> {
        let timed = format!(
            "{before}\nbegun=$(date +%s%N)\n{script}\necho \"took $((($(date +%s%N) - begun) / 1000))\""
        );
        took(&self.run(&timed, input).await?)
    }
}

/// Out of the last line.
fn took(output: &str) -> Result<Duration> {
    let last = output.lines().last().unwrap_or_default();
    let micros = last.strip_prefix("took ").and_then(|number| number.parse().ok());
    micros.map(Duration::from_micros).with_context(|| format!("no time in {last:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_behind_what_programs_print() {
        assert_eq!(took("hello\ntook 1500\n").unwrap(), Duration::from_micros(1_500));
        assert!(took("took 1\nhello\n").is_err());
        assert!(took("").is_err());
    }
}
