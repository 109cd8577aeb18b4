//! Finds WAL receivers among the processes, without asking the server: its startup process may be busy and
//! its connections exhausted just when a seal must be sure (ha.md section 10; review S-5).

use std::{fs, path::Path};

use rustix::process::Pid;

/// Children of the postmaster that stream, or that might be about to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Suspects {
    /// WAL receivers.
    pub(crate) receivers: Vec<Pid>,
    /// Children that were forked so recently that they do not say yet what they are.
    pub(crate) untitled: bool,
}

impl Suspects {
    /// Nothing streams.
    pub(crate) fn is_empty(&self) -> bool {
        self.receivers.is_empty() && !self.untitled
    }
}

/// Looks through `/proc`.
pub(crate) fn find(postmaster: Pid) -> Suspects {
    let own_title = title(postmaster);
    let mut suspects = Suspects::default();
    for child in children(postmaster) {
        let title = title(child);
        if title.as_deref().is_some_and(is_receiver) {
            suspects.receivers.push(child);
        }
        suspects.untitled |= title.is_some() && title == own_title;
    }
    suspects
}

/// `postgres: walreceiver` and, while it streams, a position. A user named so would have a database, a host
/// and a state in the title.
fn is_receiver(title: &str) -> bool {
    match title.trim_end().strip_prefix("postgres: walreceiver") {
        Some(rest) => rest.is_empty() || rest.trim_start().starts_with("streaming "),
        None => false,
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // After the program's name, which may contain anything: state, then the parent.
    let (_, fields) = stat.rsplit_once(')')?;
    Pid::from_raw(fields.split_whitespace().nth(1)?.parse().ok()?)
}

/// The command line, which PostgreSQL's processes replace by a title. Absent for one that has ended.
fn title(pid: Pid) -> Option<String> {
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    Some(text).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_receivers_are_receivers() {
        assert!(is_receiver("postgres: walreceiver"));
        assert!(is_receiver("postgres: walreceiver   "));
        assert!(is_receiver("postgres: walreceiver streaming 0/3000148"));
        assert!(!is_receiver("postgres: walreceiver app 10.0.0.1(5432) idle"));
        assert!(!is_receiver("postgres: walsender replicator 10.0.0.1(1) streaming 0/3000148"));
        assert!(!is_receiver("postgres: startup recovering 000000010000000000000003"));
    }

    #[test]
    fn finds_children_by_their_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let own = rustix::process::getpid();
        assert!(children(own).contains(&pid));
        assert_eq!(parent_of(pid), Some(own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(own).contains(&pid));
    }
}
