//! Whether reconciles that have nothing to do write: counted in the API server's audit log.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Line, WHOLE_LIMIT};
use crate::{
    lab::paths,
    scenario::{database::Database, wait},
};

const OPERATOR: &str = "system:serviceaccount:matriarch-system:matriarch-operator";
/// Longer than the operator leaves a Database at rest alone, so that it also looks by itself.
const WATCHED: Duration = Duration::from_secs(25);

/// What the operator asked of the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Requests {
    reads: usize,
    writes: usize,
}

/// Makes the operator look at a Database at rest, and counts what it writes.
pub(super) async fn line(database: &Database) -> Result<Line> {
    let at_rest = async || {
        let requests = during(async || {
            tokio::time::sleep(WATCHED).await; // the last words of what happened before may come with such a look
            Ok(())
        })
        .await?;
        ensure!(requests.writes == 0, "the operator still writes");
        Ok(())
    };
    wait::until("a Database at rest", WHOLE_LIMIT, at_rest).await?;
    let requests = during(async || {
        let poke = format!("poke={}", jiff::Timestamp::now().as_second());
        database.kubectl(&["annotate", "--overwrite", "db", &database.name, &poke]).await?;
        tokio::time::sleep(WATCHED).await;
        Ok(())
    })
    .await?;
    ensure!(requests.reads > 0, "the operator has not looked");
    Ok(Line {
        what: "writes of reconciles with nothing to do".to_owned(),
        measured: format!("{} beside {} reads", requests.writes, requests.reads),
        target: "0".to_owned(),
        met: requests.writes == 0,
    })
}

async fn during(act: impl AsyncFnOnce() -> Result<()>) -> Result<Requests> {
    let before = audit_log()?.len();
    act().await?;
    let log = audit_log()?;
    // A log that was begun anew meanwhile is all new.
    Ok(requests(&String::from_utf8_lossy(log.get(before..).unwrap_or(&log))))
}

fn audit_log() -> Result<Vec<u8>> {
    let path: PathBuf = paths::at("logs/audit.log");
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Those of the operator about Databases and their children. Its own lease is no part of a reconcile.
fn requests(log: &str) -> Requests {
    let mut requests = Requests::default();
    let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for entry in entries.filter(|entry| entry["user"]["username"] == OPERATOR) {
        match entry["verb"].as_str() {
            _ if entry["objectRef"]["namespace"] == "matriarch-system" => {}
            Some("get" | "list") => requests.reads += 1,
            Some("watch") | None => {}
            Some(_) => requests.writes += 1,
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(user: &str, verb: &str, namespace: &str) -> String {
        json!({"user": {"username": user}, "verb": verb, "objectRef": {"namespace": namespace}}).to_string()
            + "\n"
    }

    #[test]
    fn what_the_operator_writes_about_databases_is_counted() {
        let log = entry(OPERATOR, "get", "bench")
            + &entry(OPERATOR, "patch", "bench")
            + &entry(OPERATOR, "watch", "bench")
            + &entry(OPERATOR, "update", "matriarch-system")
            + &entry("system:kube-controller-manager", "update", "bench")
            + "half a li";
        assert_eq!(requests(&log), Requests { reads: 1, writes: 1 });
    }
}
