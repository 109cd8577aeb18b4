//! One step of the test command: a program with a heading, a time limit and sign of life.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// A person, and a CI system, takes a minute of silence for a hang.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// What a program has printed is read at once; only a process that it left behind can hold the pipe open.
const DRAIN: Duration = Duration::from_secs(1);

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The program's own end.
    Exited(ExitStatus),
    /// It was killed, with all that it had started.
    TimedOut,
}

impl End {
    pub(super) fn is_success(self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => status.fmt(formatter),
            Self::TimedOut => formatter.write_str("did not end in time"),
        }
    }
}

/// Runs `command` in a process group of its own, shows what it prints and hands each line to `line`.
///
/// Both outputs go through one pipe, so that the lines keep the order in which they were printed. Dropping
/// the future kills the whole group.
pub(super) async fn run(
    name: &str,
    mut command: Command,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> Result<End> {
    println!("\n== {name}");
    let start = Instant::now();
    let (read, write) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write).process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {name}: {:?}", command.as_std()));
    drop(command); // holds the writing end, without whose closing the output never ends
    let mut group = Group::of(child?)?;
    let mut lines = BufReader::new(Receiver::from_owned_fd(read.into())?).split(b'\n');
    let mut show = |bytes: Vec<u8>| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        println!("{text}");
        line(&text);
    };
    let end = loop {
        tokio::select! {
            biased; // the limit first: a program that never stops printing is ended too
            () = tokio::time::sleep_until(start + limit) => break End::TimedOut,
            Ok(Some(bytes)) = lines.next_segment() => show(bytes),
            status = group.child.wait() => break End::Exited(status?),
            () = tokio::time::sleep(SIGN_OF_LIFE) => {
                println!("-- {name}: {} s so far", start.elapsed().as_secs());
            }
        }
    };
    group.end(end);
    while let Ok(Ok(Some(bytes))) = tokio::time::timeout(DRAIN, lines.next_segment()).await {
        show(bytes);
    }
    println!("-- {name}: {end} after {:.1} s", start.elapsed().as_secs_f32());
    Ok(end)
}

/// A child and everything that it starts, killed when dropped before its end.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn of(child: Child) -> Result<Self> {
        let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, id: Some(id.context("a child ended before it was looked at")?) })
    }

    /// What a program leaves behind on purpose (the lab's processes) lives on after its own end.
    fn end(&mut self, end: End) {
        if end != End::TimedOut {
            self.id = None;
        }
        self.kill();
    }

    fn kill(&mut self) {
        if let Some(id) = self.id.take()
            && let Err(error) = kill_process_group(id, Signal::KILL)
        {
            eprintln!("cannot kill process group {id:?}: {error}");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn lines_of_both_outputs_keep_their_order() {
        let mut lines = Vec::new();
        let script = shell("echo one; echo two >&2; echo three; printf four; exit 3");
        let end =
            run("order", script, Duration::from_secs(10), |line| lines.push(line.to_owned())).await.unwrap();
        assert_eq!(lines, ["one", "two", "three", "four"]);
        assert!(!end.is_success());
    }

    #[tokio::test]
    async fn a_step_that_hangs_is_ended_with_all_that_it_started() {
        let mut pid = String::new();
        let script = shell("sleep 600 & echo $!; wait");
        let end =
            run("hang", script, Duration::from_millis(300), |line| line.clone_into(&mut pid)).await.unwrap();
        assert_eq!(end, End::TimedOut);
        let started = std::path::PathBuf::from(format!("/proc/{pid}/stat"));
        let gone = || std::fs::read_to_string(&started).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..50 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("process {pid} lives on");
    }

    #[tokio::test]
    async fn what_a_step_leaves_running_does_not_hold_it_up() {
        let start = Instant::now();
        let end =
            run("leaves", shell("sleep 20 & echo done"), Duration::from_secs(15), |_| {}).await.unwrap();
        assert!(end.is_success() && start.elapsed() < Duration::from_secs(10));
    }
}
