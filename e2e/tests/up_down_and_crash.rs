//! The lab comes up, goes down and leaves nothing, also after a crash; and it says why it cannot.
//!
//! These tests end the lab that is up, with all in it: their file is the last by its name, so that they run
//! after those that need it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::command::{output, run};
use e2e::lab::{Lab, paths, process};
use e2e::scenario::wait::until;
use tokio::process::Command;

/// With everything in the cache, on a machine that does other things as well.
const UP_LIMIT: Duration = Duration::from_mins(7);
/// For programs of others that happen to name the lab's folder, such as `ls`.
const REMAINS_LIMIT: Duration = Duration::from_secs(20);
/// A refusal comes before anything is made.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

fn lab(argument: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.arg(argument).env_remove("KUBECONFIG");
    command
}

async fn up() -> Result<Duration> {
    let start = Instant::now();
    output(lab("up"), UP_LIMIT).await?;
    Ok(start.elapsed())
}

async fn down() -> Result<Duration> {
    let start = Instant::now();
    output(lab("down"), UP_LIMIT).await?;
    Ok(start.elapsed())
}

/// Everything on this machine that a lab could have left.
async fn remains() -> Result<Vec<String>> {
    let mut remains = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let line = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if names_the_lab(&line) {
            remains.push(format!("process {}", line.replace('\0', " ")));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    remains.extend(mounts.lines().filter(|mount| mount.contains(paths::ROOT)).map(str::to_owned));
    let loops = run("losetup", &["--list", "--noheadings"]).await?;
    remains.extend(loops.lines().filter(|line| line.contains(paths::ROOT)).map(str::to_owned));
    let groups = run("find", &["/sys/fs/cgroup", "-name", "matriarch-lab*"]).await?;
    remains.extend(groups.lines().map(str::to_owned));
    let links = run("ip", &["-oneline", "link", "show"]).await?;
    remains.extend(links.lines().filter(|link| link.contains("matriarch")).map(str::to_owned));
    for folder in
        [paths::ROOT, "/run/containerd/s", "/var/log/containers", "/var/lib/cni", "/var/lib/kubelet"]
    {
        remains.extend(
            fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|file| file.path().display().to_string()),
        );
    }
    Ok(remains)
}

/// Whether an argument is a path of the lab. A shell whose script mentions one is somebody else's.
fn names_the_lab(command_line: &str) -> bool {
    let names = |word: &str| word.contains(paths::ROOT) && !word.contains(char::is_whitespace);
    command_line.split('\0').any(names)
}

/// What a lab must leave as it was. Another lab may have come up since the machine started, so `before` is
/// asked while none is up.
async fn surroundings() -> Result<String> {
    let mut state = run("iptables-save", &[]).await?;
    state.retain(|c| !c.is_ascii_digit()); // counters and times
    state += &run("ip", &["route", "show", "table", "all"]).await?;
    state += &run(
        "sysctl",
        &["vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "net.ipv4.ip_forward"],
    )
    .await?;
    Ok(state)
}

/// Whoever looks at the lab's files at this moment is no part of it and goes away.
async fn ensure_nothing_remains() -> Result<()> {
    let nothing = async || {
        let remains = remains().await?;
        ensure!(remains.is_empty(), "there remains:\n{}", remains.join("\n"));
        Ok(())
    };
    until("nothing to be left of the lab", REMAINS_LIMIT, nothing).await.map(drop)
}

fn is_lab() -> bool {
    std::env::var_os("KUBECONFIG").is_none_or(|file| Path::new(&file) == paths::kubeconfig())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_lab_comes_up_twice_repairs_itself_and_leaves_nothing() -> Result<()> {
    if !is_lab() {
        println!("skipped: the cluster of KUBECONFIG is not ours to end");
        return Ok(());
    }
    down().await?;
    ensure_nothing_remains().await?;
    let before = surroundings().await?;
    let first = up().await?;
    let processes: Vec<_> =
        process::all().iter().map(|(name, _)| (name.clone(), process::id(name))).collect();

    let again = up().await?;
    let same: Vec<_> = process::all().iter().map(|(name, _)| (name.clone(), process::id(name))).collect();
    ensure!(processes == same, "a second up changed {processes:?} to {same:?}");

    for name in ["etcd", "node1.containerd", "node2.kubelet", "coredns"] {
        process::kill(name).await?;
    }
    let repaired = up().await?;
    ensure!(Lab::status().await?.is_whole(), "up did not start what had ended: {}", Lab::status().await?);

    let down = down().await?;
    ensure_nothing_remains().await?;
    ensure!(
        surroundings().await? == before,
        "it changed the machine:\n{before}\nto\n{}",
        surroundings().await?
    );
    let seconds = [first, again, repaired, down].map(|time| format!("{:.1} s", time.as_secs_f32()));
    println!("up, up again, up after four processes ended, down: {}", seconds.join(", "));
    ensure!(first < Duration::from_mins(1), "up took {} s", first.as_secs());
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn what_a_crash_leaves_is_removed_by_down_and_by_up() -> Result<()> {
    if !is_lab() {
        println!("skipped: the cluster of KUBECONFIG is not ours to end");
        return Ok(());
    }
    down().await?;
    for after in [300, 1500, 4000] {
        crash_up(Duration::from_millis(after)).await?;
        down().await.with_context(|| format!("down after a crash {after} ms after the start"))?;
        ensure_nothing_remains().await?;
    }
    crash_up(Duration::from_secs(2)).await?;
    up().await.context("up after a crash")?;
    ensure!(Lab::status().await?.is_whole(), "it is not whole: {}", Lab::status().await?);
    down().await?;
    ensure_nothing_remains().await
}

/// SIGKILL for the command itself; what it has started runs on.
async fn crash_up(after: Duration) -> Result<()> {
    let mut crashed = lab("up").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    tokio::time::sleep(after).await;
    crashed.kill().await.context("cannot kill it")
}

/// What `lab up` says when it refuses: one line.
async fn refusal(mut command: Command) -> Result<String> {
    let ended =
        tokio::time::timeout(REFUSAL_LIMIT, command.output()).await.context("it does not refuse")??;
    ensure!(!ended.status.success(), "it does not refuse");
    let said = String::from_utf8(ended.stderr)?;
    ensure!(said.trim_end().lines().count() == 1, "not one line: {said}");
    Ok(said)
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn without_root_it_refuses() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("lab"); // where everybody may run it
    fs::copy(env!("CARGO_BIN_EXE_lab"), &copy)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy).arg("up");
    nobody.env("MATRIARCH_CACHE", folder.path());
    let said = refusal(nobody).await?;
    ensure!(said.contains("run it as root"), "{said}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn with_too_small_a_disk_it_refuses() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let point = folder.path().to_string_lossy().into_owned();
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "small", &point]).await?;
    let mut small = lab("up");
    small.env("MATRIARCH_CACHE", &point);
    let said = refusal(small).await;
    run("umount", &[&point]).await?;
    let said = said?;
    ensure!(said.contains("disk space") && said.contains("make room"), "{said}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn without_go_it_refuses() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let mut without = lab("up");
    // Empty but for what the checks before it run.
    let programs = tempfile::tempdir()?;
    symlink(which("ip")?, programs.path().join("ip"))?;
    without.env("MATRIARCH_CACHE", cache.path()).env("PATH", programs.path());
    let said = refusal(without).await?;
    ensure!(said.contains("there is no `go`: install"), "{said}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn where_its_range_is_in_use_it_refuses() -> Result<()> {
    run("ip", &["link", "add", "lab-range", "type", "bridge"]).await?;
    run("ip", &["addr", "add", "10.213.7.1/24", "dev", "lab-range"]).await?;
    run("ip", &["link", "set", "lab-range", "up"]).await?;
    let said = refusal(lab("up")).await;
    run("ip", &["link", "delete", "lab-range"]).await?;
    let said = said?;
    ensure!(said.contains("10.213.7.0/24 is on lab-range"), "{said}");
    Ok(())
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists());
    found.with_context(|| format!("there is no {program}"))
}
