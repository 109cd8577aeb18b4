//! The lab's long-lived processes: detached from the command that starts them, known by a file that holds
//! their id and start time, so that an id that the kernel has given to another process is never signalled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tokio::process::Command;

use super::cgroup::Cgroup;
use super::paths;

/// What a program of the lab needs to end by itself; after that it is killed.
const GRACE: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(20);

/// A process to be started, or one that was.
#[derive(Clone, Debug)]
pub struct Process {
    /// Unique in the lab; its log and its record are named after it.
    pub name: String,
    /// The file of the network namespace to run in.
    pub namespace: PathBuf,
    /// The control group to run in.
    pub cgroup: Cgroup,
    /// The program and its arguments.
    pub command: Vec<String>,
}

impl Process {
    /// Starts it, unless it runs.
    pub fn start(&self) -> Result<()> {
        if self.running() {
            return Ok(());
        }
        let child = self.launch().spawn().with_context(|| format!("cannot start {}", self.name))?;
        let id = i32::try_from(child.id().context("it ended at once")?)?;
        let identity = Identity { id, started: start_time(id).unwrap_or_default() };
        write_record(&record(&self.name), identity)
    }

    /// Whether it has been started and has not ended.
    pub fn running(&self) -> bool {
        find(&self.name).is_some()
    }

    /// `setsid` keeps it alive when the terminal goes. The shell enters the control group before the program
    /// starts, so that no child of it can be outside, and lets go of what the caller has open: a lock that
    /// `flock` holds for `lab up` would be held for as long as the lab is up.
    fn launch(&self) -> Command {
        const ENTER: &str = r#"exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
while [ "$1" != -- ]; do echo $$ > "$1" || exit; shift; done; shift; exec "$@""#;
        let mut launch = Command::new("setsid");
        launch.args(["sh", "-c", ENTER, "sh"]);
        launch.args(self.cgroup.entrances().unwrap_or_default()).arg("--");
        launch.arg("nsenter").arg(format!("--net={}", self.namespace.display())).args(&self.command);
        launch.stdin(Stdio::null()).current_dir(paths::ROOT);
        match self.open_log() {
            Ok((out, err)) => launch.stdout(out).stderr(err),
            Err(_) => launch.stdout(Stdio::null()).stderr(Stdio::null()),
        };
        launch
    }

    fn open_log(&self) -> Result<(fs::File, fs::File)> {
        let log = paths::log(&self.name);
        fs::create_dir_all(log.parent().unwrap_or(Path::new("/")))?;
        let file = fs::OpenOptions::new().create(true).append(true).open(log)?;
        Ok((file.try_clone()?, file))
    }
}

/// Sends `signal` to the process of this name.
pub fn signal(name: &str, signal: Signal) -> Result<()> {
    let identity = find(name).with_context(|| format!("{name} does not run"))?;
    send(identity, signal)
}

/// Ends the process of this name: asks first, then kills. It is no error if it does not run.
pub async fn stop(name: &str) -> Result<()> {
    let Some(identity) = find(name) else { return Ok(()) };
    send(identity, Signal::CONT)?;
    send(identity, Signal::TERM)?;
    if !ended(identity, GRACE).await {
        kill(name).await?;
    }
    Ok(())
}

/// Kills the process of this name and waits until it is gone. It is no error if it does not run.
pub async fn kill(name: &str) -> Result<()> {
    let Some(identity) = find(name) else { return Ok(()) };
    send(identity, Signal::KILL)?;
    if !ended(identity, GRACE).await {
        bail!("{name} (process {}) does not end though killed: it may wait for a frozen disk", identity.id);
    }
    Ok(())
}

/// Kills the process of this name and forgets that it was started: it is not missed.
pub async fn remove(name: &str) -> Result<()> {
    kill(name).await?;
    let _ = fs::remove_file(record(name)); // it may never have been started
    Ok(())
}

/// The id of the process of this name, where it runs.
pub fn id(name: &str) -> Option<i32> {
    find(name).map(|identity| identity.id)
}

/// The names of all processes that were ever started, and whether they run.
pub fn all() -> Vec<(String, bool)> {
    let entries = fs::read_dir(paths::at("processes")).into_iter().flatten().flatten();
    let mut all: Vec<(String, bool)> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|name| (name.clone(), find(&name).is_some()))
        .collect();
    all.sort();
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    id: i32,
    started: u64,
}

impl Identity {
    fn runs(self) -> bool {
        start_time(self.id) == Some(self.started)
    }
}

fn record(name: &str) -> PathBuf {
    paths::at("processes").join(name)
}

fn write_record(file: &Path, identity: Identity) -> Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    fs::write(file, format!("{} {}\n", identity.id, identity.started))
        .with_context(|| format!("cannot record {}", file.display()))
}

fn find(name: &str) -> Option<Identity> {
    let text = fs::read_to_string(record(name)).ok()?;
    let (id, started) = text.trim().split_once(' ')?;
    let identity = Identity { id: id.parse().ok()?, started: started.parse().ok()? };
    identity.runs().then_some(identity)
}

fn send(identity: Identity, signal: Signal) -> Result<()> {
    let id = Pid::from_raw(identity.id).context("not a process id")?;
    match rustix::process::kill_process(id, signal) {
        Err(error) if error != rustix::io::Errno::SRCH => {
            Err(error).with_context(|| format!("cannot signal process {}", identity.id))
        }
        _ => Ok(()),
    }
}

async fn ended(identity: Identity, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while identity.runs() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// When the process started, in ticks since boot; nothing where it has ended, also if unreaped.
fn start_time(id: i32) -> Option<u64> {
    start_time_of(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

fn start_time_of(stat: &str) -> Option<u64> {
    // The name of the program stands in parentheses and may hold anything: what follows starts after the last one.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let (state, threads, started) = (fields.first()?, fields.get(17)?, fields.get(19)?);
    // The first thread of a process that is killed may be gone while others still hold its sockets.
    let ended = matches!(*state, "Z" | "X") && threads.parse::<u32>().ok()? <= 1;
    if ended { None } else { started.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str, threads: u32) -> String {
        format!("42 (a) b) {state} 1 2 2 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 777 1000 10")
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        assert_eq!(start_time_of(&stat("S", 1)), Some(777));
    }

    #[test]
    fn a_zombie_does_not_run() {
        assert_eq!(start_time_of(&stat("Z", 0)), None);
    }

    #[test]
    fn a_killed_process_runs_until_its_last_thread_has_ended() {
        assert_eq!(start_time_of(&stat("Z", 2)), Some(777));
    }

    #[test]
    fn another_process_with_the_same_id_is_not_ours() {
        let id = i32::try_from(std::process::id()).unwrap();
        let started = start_time(id).unwrap();
        assert!(Identity { id, started }.runs());
        assert!(!Identity { id, started: started + 1 }.runs());
    }
}
