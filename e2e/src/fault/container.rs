//! Processes inside a container: signalled one by one, or all stopped where they are.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use rustix::process::{Pid, Signal};

use super::undo::Undo;
use crate::lab::Lab;
use crate::lab::cgroup::Cgroup;

/// A running container of a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its pod and its name, for people.
    name: String,
    cgroup: Cgroup,
}

impl Container {
    /// The container of this name in the pod, as it runs now: after a restart it is another one.
    pub async fn find(lab: &Lab, namespace: &str, pod: &str, container: &str) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(lab.client().await?, namespace);
        let found = pods.get(pod).await.with_context(|| format!("cannot read the pod {namespace}/{pod}"))?;
        let name = format!("{namespace}.{pod}.{container}");
        let (node, id) =
            place(&found, container).with_context(|| format!("container {name} does not run"))?;
        let cgroup =
            lab.node(&node)?.cgroup().find(&id)?.with_context(|| format!("{name} has no control group"))?;
        Ok(Self { name, cgroup })
    }

    /// Kills the processes called `process` and returns how many those were.
    ///
    /// A process is called by the name of its program, or by how its command line begins ("postgres:
    /// checkpointer"). Of a process and its descendants of the same name only the process itself is meant.
    pub fn kill(&self, process: &str) -> Result<usize> {
        self.signal(process, Signal::KILL)
    }

    /// Stops the processes called `process` where they are, for `limit` at most.
    pub async fn stop(&self, process: &str, limit: Duration) -> Result<usize> {
        self.undo_stop(process)?.arm(limit).await?;
        self.signal(process, Signal::STOP)
    }

    /// Lets them go on.
    pub async fn resume(&self, process: &str) -> Result<()> {
        self.undo_stop(process)?.now().await
    }

    /// Stops all its processes where they are, for `limit` at most.
    pub async fn freeze(&self, limit: Duration) -> Result<()> {
        self.undo_freeze()?.arm(limit).await?;
        self.cgroup.freeze()
    }

    /// Lets them go on.
    pub async fn thaw(&self) -> Result<()> {
        self.undo_freeze()?.now().await
    }

    /// The most memory that it has used so far, in bytes.
    pub fn memory_peak(&self) -> Result<u64> {
        self.cgroup.memory_peak()
    }

    fn signal(&self, process: &str, signal: Signal) -> Result<usize> {
        let found = self.processes(process)?;
        for id in &found {
            let id = Pid::from_raw(*id).context("not a process id")?;
            rustix::process::kill_process(id, signal)
                .with_context(|| format!("cannot signal {process:?}"))?;
        }
        Ok(found.len())
    }

    fn undo_stop(&self, process: &str) -> Result<Undo> {
        const SCRIPT: &str = r#"kill -CONT "$@" 2>/dev/null || true"#;
        let ids = self.processes(process)?.iter().map(i32::to_string).collect();
        let label = process.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        Ok(Undo::new(format!("stopped.{}.{label}", self.name), SCRIPT, ids))
    }

    fn undo_freeze(&self) -> Result<Undo> {
        // The container may be gone, and its group with it.
        const SCRIPT: &str = r#"[ ! -e "$1" ] || echo "$2" > "$1""#;
        let (file, [_, thawed]) = self.cgroup.switch()?;
        let arguments = vec![file.display().to_string(), thawed.to_owned()];
        Ok(Undo::new(format!("frozen.{}", self.name), SCRIPT, arguments))
    }

    /// The processes called `name`, at least one.
    pub fn processes(&self, name: &str) -> Result<Vec<i32>> {
        let named: Vec<i32> =
            self.cgroup.processes()?.into_iter().filter(|id| is_called(*id, name)).collect();
        let descends = |id: &i32| {
            std::iter::successors(parent(*id), |ancestor| parent(*ancestor)).any(|one| named.contains(&one))
        };
        if named.is_empty() {
            bail!("no process called {name:?} runs in {}", self.name);
        }
        Ok(named.iter().copied().filter(|id| !descends(id)).collect())
    }
}

fn place(pod: &Pod, container: &str) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let found = statuses.into_iter().find(|status| status.name == container)?;
    found.state.as_ref()?.running.as_ref()?;
    let (_, id) = found.container_id.as_ref()?.split_once("://")?;
    Some((pod.spec.as_ref()?.node_name.clone()?, id.to_owned()))
}

fn is_called(id: i32, name: &str) -> bool {
    let program = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default().replace('\0', " ");
    program.trim_end() == name || line.starts_with(name)
}

fn parent(id: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}
