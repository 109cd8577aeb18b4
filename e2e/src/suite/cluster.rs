//! The part of the test command that needs a cluster: the lab, or the one that KUBECONFIG names.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::{Run, step};
use crate::cargo::{cargo, workspace};
use crate::lab::{Node, paths};

/// On a clean machine Kubernetes is compiled: about ten minutes on two cores.
const UP_LIMIT: Duration = Duration::from_mins(30);
/// On a clean machine agent and operator are compiled as they ship: about ten minutes on two cores.
const IMAGES_LIMIT: Duration = Duration::from_mins(30);
/// Every cluster test, one after the other: some 55 minutes on two cores.
const TESTS_LIMIT: Duration = Duration::from_mins(70);
/// Ends processes and removes mounts: seconds, unless something hangs.
const DOWN_LIMIT: Duration = Duration::from_mins(5);
/// Looking at a broken cluster must not take long.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// How much of each log is shown after a failure.
const LOG_LINES: usize = 25;
/// What all cluster tests start with: compiled and imported before them, so that their limits are for tests.
const IMAGES: &[&str] = &["agent", "operator", "s3", "tools", "16", "17"];

/// After these there is nothing to look at: they come last.
const ENDS_THE_LAB: &[&str] = &["up_down_and_crash"];

/// Proof that this run began to bring up the lab, and so has to take it down.
pub(super) struct BroughtUp;

impl Run {
    pub(super) async fn cluster(&mut self) -> Result<()> {
        if std::env::var_os("KUBECONFIG").is_none() && !self.lab_is_up().await? {
            return Ok(());
        }
        let (ending, playing): (Vec<_>, Vec<_>) =
            cluster_tests()?.into_iter().partition(|name| ENDS_THE_LAB.contains(&name.as_str()));
        if !self.ignored_tests("cluster tests", &playing).await? {
            self.show_what_matters().await;
        }
        self.ignored_tests("tests that end the lab", &ending).await.map(drop)
    }

    async fn ignored_tests(&mut self, name: &str, binaries: &[String]) -> Result<bool> {
        let mut command = cargo();
        // The whole workspace, as the unit tests: one package alone gets other features, and with them
        // every dependency would be compiled once more.
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
        command.args(binaries.iter().map(|name| format!("--test={name}")));
        command.args(["--", "--ignored", "--test-threads=1", "--show-output"]).args(&self.options.filter);
        self.tests(name, command, TESTS_LIMIT, binaries).await
    }

    async fn lab_is_up(&mut self) -> Result<bool> {
        if !paths::complete().exists() {
            self.lab = Some(BroughtUp);
        }
        let up = self.check("lab up", self.lab(&["up"]), UP_LIMIT).await?;
        let ready = up && {
            let load: Vec<&str> = ["load-image"].iter().chain(IMAGES).copied().collect();
            self.check("images", self.lab(&load), IMAGES_LIMIT).await?
        };
        if !ready {
            self.show_what_matters().await;
        }
        Ok(ready)
    }

    /// Takes down what this run brought up.
    pub(super) async fn finish_cluster(&mut self) {
        if self.lab.take().is_none() {
            return;
        }
        if let Err(error) = self.check("lab down", self.lab(&["down"]), DOWN_LIMIT).await {
            self.failed(&format!("lab down: {error:#}"));
        }
    }

    /// After a failure: what runs, what happened, and the ends of all logs of the lab.
    async fn show_what_matters(&self) {
        let looks: [&[&str]; 3] = [
            &["status"],
            &["kubectl", "get", "pods,pvc,databases", "--all-namespaces", "--output=wide"],
            &["kubectl", "get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"],
        ];
        for look in looks {
            let name = format!("after the failure: {}", look.join(" "));
            if let Err(error) = step::run(&name, self.lab(look), LOOK_LIMIT, |_| {}).await {
                println!("-- cannot look: {error:#}");
            }
        }
        // Those of the lab's processes, and then what the pods on each node say.
        let folders = std::iter::once(paths::at("logs"))
            .chain(Node::all().into_iter().map(|node| node.dir().join("logs")));
        for folder in folders {
            if let Err(error) = show_logs(&folder) {
                println!("-- cannot show the logs: {error:#}");
            }
        }
    }

    /// This program again: its own process can be ended and its output read.
    fn lab(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(workspace());
        command
    }
}

/// The test binaries that hold cluster tests.
fn cluster_tests() -> Result<Vec<String>> {
    let folder = workspace().join("e2e/tests");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let (Some(stem), Some("rs")) = (path.file_stem(), path.extension().and_then(|end| end.to_str()))
        else {
            continue;
        };
        if fs::read_to_string(&path)?.contains("#[ignore") {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn show_logs(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            show_logs(&path)?;
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        println!("\n== the end of {}", path.display());
        lines[lines.len().saturating_sub(LOG_LINES)..].iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binaries_with_cluster_tests_are_found() {
        assert!(cluster_tests().unwrap().contains(&"images".to_owned()));
    }
}
