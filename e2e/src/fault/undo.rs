//! How a fault is undone: the same few commands whether its opposite is called or its timer runs out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::lab::cgroup::Cgroup;
use crate::lab::process::{self, Process};
use crate::lab::{command, network};

/// How the names of timers begin, among the lab's processes.
pub const TIMER: &str = "fault.";

/// What undoes a fault. It may be run when there is nothing to undo.
#[derive(Clone, Debug)]
pub struct Undo {
    /// The fault and what it acts on: a second fault of the same name replaces the first one's timer.
    pub fault: String,
    /// The network namespace to undo it in.
    pub namespace: PathBuf,
    /// A shell script.
    pub script: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Undo {
    /// What undoes a fault that has nothing to do with the network.
    pub fn new(fault: String, script: &'static str, arguments: Vec<String>) -> Self {
        Self { fault, namespace: network::control_plane(), script, arguments }
    }

    /// Lets the fault be undone after `limit`, whatever happens to this process. Call it before the fault.
    pub async fn arm(&self, limit: Duration) -> Result<()> {
        const TIMER_SCRIPT: &str = r#"sleep "$1"; script=$2; shift 2; exec sh -c "$script" undo "$@""#;
        process::kill(&self.timer()).await?;
        let cgroup = Cgroup::lab().below("faults");
        cgroup.create()?;
        let mut command: Vec<String> = ["sh", "-c", TIMER_SCRIPT, "timer"].map(str::to_owned).to_vec();
        command.extend([limit.as_secs().to_string(), self.script.to_owned()]);
        command.extend(self.arguments.iter().cloned());
        let timer = Process { name: self.timer(), namespace: self.namespace.clone(), cgroup, command };
        timer.start().with_context(|| format!("cannot arm the timer that undoes {}", self.fault))
    }

    /// Undoes the fault now and ends its timer.
    pub async fn now(&self) -> Result<()> {
        self.run().await?;
        process::remove(&self.timer()).await
    }

    /// Undoes the fault and leaves its timer armed.
    pub async fn run(&self) -> Result<()> {
        let net = format!("--net={}", self.namespace.display());
        let mut arguments = vec![net.as_str(), "sh", "-c", self.script, "undo"];
        arguments.extend(self.arguments.iter().map(String::as_str));
        command::run("nsenter", &arguments).await.with_context(|| format!("cannot undo {}", self.fault))?;
        Ok(())
    }

    fn timer(&self) -> String {
        format!("{TIMER}{}", self.fault)
    }
}

/// Stops a process of the lab where it is, for `limit` at most.
pub async fn stop_process(name: &str, limit: Duration) -> Result<()> {
    resume_of(name)?.arm(limit).await?;
    process::signal(name, Signal::STOP)
}

/// Lets a process of the lab go on.
pub async fn resume_process(name: &str) -> Result<()> {
    resume_of(name)?.now().await
}

fn resume_of(name: &str) -> Result<Undo> {
    let id = process::id(name).with_context(|| format!("{name} does not run"))?;
    Ok(Undo::new(format!("paused.{name}"), "kill -CONT \"$1\" 2>/dev/null || true", vec![id.to_string()]))
}
