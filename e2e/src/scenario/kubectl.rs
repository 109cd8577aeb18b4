//! `kubectl` as people type it: what a test shows to work this way works for them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{io::AsyncWriteExt, process::Command};

/// Above every `--timeout` that a caller gives: it is there so that a kubectl that hangs is named.
const LIMIT: Duration = Duration::from_mins(5);

/// A controller that has just removed a large namespace may come to a new one late.
const USABLE_LIMIT: &str = "--timeout=60s";

/// The program and the cluster that it talks to.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Whether it says that it succeeded.
    pub success: bool,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Kubectl {
    /// Talks to the cluster of `kubeconfig`.
    pub fn new(program: PathBuf, kubeconfig: &Path) -> Self {
        Self { program, kubeconfig: kubeconfig.to_owned() }
    }

    /// Runs a command that must succeed and returns what it printed.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(arguments, "").await
    }

    /// The same with something on its standard input.
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let ended = self.try_with(arguments, input).await?;
        if !ended.success {
            bail!("kubectl {} failed: {}", arguments.join(" "), ended.errors.trim());
        }
        Ok(ended.output)
    }

    /// Waits until pods can be made in a new namespace: they need the ServiceAccount that a controller makes in it.
    pub async fn wait_until_usable(&self, namespace: &str) -> Result<()> {
        let made = ["wait", "--for=create", "serviceaccount/default", USABLE_LIMIT];
        self.run(&[&["--namespace", namespace], made.as_slice()].concat()).await.map(drop)
    }

    /// Runs a command that may fail.
    pub async fn try_with(&self, arguments: &[&str], input: &str) -> Result<Ended> {
        let line = format!("kubectl {}", arguments.join(" "));
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("kubectl without standard input")?;
        stdin.write_all(input.as_bytes()).await.with_context(|| format!("{line} does not read its input"))?;
        drop(stdin);
        let ended = tokio::time::timeout(LIMIT, child.wait_with_output())
            .await
            .with_context(|| format!("{line} did not end within {} s", LIMIT.as_secs()))?
            .with_context(|| format!("{line} cannot be waited for"))?;
        Ok(Ended {
            success: ended.status.success(),
            output: String::from_utf8_lossy(&ended.stdout).into_owned(),
            errors: String::from_utf8_lossy(&ended.stderr).into_owned(),
        })
    }
}
