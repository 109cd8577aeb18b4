//! The lab's control groups: what holds every process of a node, to freeze or kill them all at once.
//!
//! Both versions of cgroups: version 1 has a tree per controller, version 2 one tree for all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The group above all others of the lab.
pub const LAB: &str = "matriarch-lab";

/// A killed process ends in milliseconds, unless it waits for a disk: then waiting longer does not help.
const KILL_LIMIT: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(20);

/// A control group of the lab, by its path below the roots of the trees.
#[derive(Clone, Debug)]
pub struct Cgroup(String);

impl Cgroup {
    /// The group of the whole lab.
    pub fn lab() -> Self {
        Self(LAB.to_owned())
    }

    /// The group of a node: its system processes and its pods are in groups below it.
    pub fn node(name: &str) -> Self {
        Self(format!("{LAB}/{name}"))
    }

    /// The group below this one with this name.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }

    /// What kubelet calls it.
    pub fn path(&self) -> String {
        format!("/{}", self.0)
    }

    /// Makes the group in every tree.
    pub fn create(&self) -> Result<()> {
        for tree in trees()? {
            let mut group = tree.root.clone();
            for part in self.0.split('/') {
                let parent = group.clone();
                group.push(part);
                tree.create(&parent, &group)?;
            }
        }
        Ok(())
    }

    /// The files that a process writes its id to in order to be in this group.
    pub fn entrances(&self) -> Result<Vec<PathBuf>> {
        let trees = trees()?;
        Ok(trees
            .iter()
            .filter(|tree| tree.freezes())
            .map(|tree| tree.root.join(&self.0).join("cgroup.procs"))
            .collect())
    }

    /// Stops every process of the group where it is, until `thaw`.
    pub fn freeze(&self) -> Result<()> {
        self.write_frozen(true)
    }

    /// Lets the processes of the group go on.
    pub fn thaw(&self) -> Result<()> {
        self.write_frozen(false)
    }

    /// Ends every process of the group and of those below it, and waits until they are gone.
    pub async fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            let processes = self.processes()?;
            if processes.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("processes {processes:?} of {} do not end: they may wait for a frozen disk", self.0);
            }
            self.signal_all(&processes)?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Every process in the group and those below it.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut processes = Vec::new();
        for tree in trees()? {
            collect_processes(&tree.root.join(&self.0), &mut processes);
        }
        processes.sort_unstable();
        processes.dedup();
        Ok(processes)
    }

    /// Ends every process of the group and of those below it, and removes the groups. A process that was started
    /// just now enters its group a moment later: it is ended as well, or finds no group and ends by itself.
    pub async fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            self.kill().await?;
            // A group is busy for a moment after its last process has ended.
            match self.remove_from_all_trees() {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
                Ok(()) => return Ok(()),
            }
        }
    }

    fn remove_from_all_trees(&self) -> Result<()> {
        trees()?.iter().try_for_each(|tree| remove_tree(&tree.root.join(&self.0)))
    }

    /// The groups below this one that are called `name`, as folders of the tree that freezes.
    pub fn find(&self, name: &str) -> Result<Option<Self>> {
        for tree in trees()?.iter().filter(|tree| tree.freezes()) {
            if let Some(found) = find_folder(&tree.root.join(&self.0), name) {
                let path = found.strip_prefix(&tree.root).unwrap_or(&found);
                return Ok(Some(Self(path.to_string_lossy().into_owned())));
            }
        }
        Ok(None)
    }

    /// The most memory that the group has used so far, in bytes: what the kernel holds against its limit.
    pub fn memory_peak(&self) -> Result<u64> {
        let trees = trees()?;
        let file = trees.iter().find_map(|tree| tree.memory_peak(&self.0));
        let file = file.context("this kernel has no cgroup that counts memory")?;
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        text.trim().parse().with_context(|| format!("{} says {text:?}", file.display()))
    }

    /// The file that freezes the group, and what to write for frozen and thawed.
    pub fn switch(&self) -> Result<(PathBuf, [&'static str; 2])> {
        let tree =
            trees()?.into_iter().find(Tree::freezes).context("this kernel has no cgroup that freezes")?;
        Ok(tree.switch(&self.0))
    }

    fn signal_all(&self, processes: &[i32]) -> Result<()> {
        for process in processes.iter().filter_map(|id| rustix::process::Pid::from_raw(*id)) {
            // The only error possible here is that it has ended already.
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
        self.thaw_all() // a frozen process of version 1 dies only once it is thawed
    }

    fn thaw_all(&self) -> Result<()> {
        for tree in trees()?.iter().filter(|tree| tree.freezes()) {
            let mut groups = Vec::new();
            collect_folders(&tree.root.join(&self.0), &mut groups);
            for group in groups {
                let (file, [_, thawed]) = tree.switch(&group.to_string_lossy());
                let _ = fs::write(file, thawed); // it may be gone by now
            }
        }
        Ok(())
    }

    fn write_frozen(&self, frozen: bool) -> Result<()> {
        let (file, [on, off]) = self.switch()?;
        let value = if frozen { on } else { off };
        fs::write(&file, value).with_context(|| format!("cannot write {value} to {}", file.display()))
    }
}

/// A mounted tree of control groups.
#[derive(Clone, Debug)]
struct Tree {
    root: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Version 2, with controllers.
    Unified,
    /// Version 2 beside version 1, without controllers.
    Hybrid,
    Freezer,
    Cpuset,
    Memory,
    Other,
}

impl Tree {
    fn freezes(&self) -> bool {
        matches!(self.kind, Kind::Unified | Kind::Freezer)
    }

    fn create(&self, parent: &Path, group: &Path) -> Result<()> {
        if self.kind == Kind::Unified {
            let controllers = fs::read_to_string(parent.join("cgroup.controllers"))?;
            let enabled: Vec<String> =
                controllers.split_whitespace().map(|name| format!("+{name}")).collect();
            write(&parent.join("cgroup.subtree_control"), &enabled.join(" "))?;
        }
        match fs::create_dir(group) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {}", group.display()));
            }
            _ => {}
        }
        if self.kind == Kind::Cpuset {
            // Without these no process can be in the group.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                write(&group.join(file), fs::read_to_string(parent.join(file))?.trim())?;
            }
        }
        Ok(())
    }

    fn switch(&self, group: &str) -> (PathBuf, [&'static str; 2]) {
        let group = self.root.join(group);
        match self.kind {
            Kind::Unified => (group.join("cgroup.freeze"), ["1", "0"]),
            _ => (group.join("freezer.state"), ["FROZEN", "THAWED"]),
        }
    }

    fn memory_peak(&self, group: &str) -> Option<PathBuf> {
        let file = match self.kind {
            Kind::Unified => "memory.peak",
            Kind::Memory => "memory.max_usage_in_bytes",
            _ => return None,
        };
        Some(self.root.join(group).join(file))
    }
}

fn trees() -> Result<Vec<Tree>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    Ok(trees_of(&mounts))
}

fn trees_of(mounts: &str) -> Vec<Tree> {
    let mut trees: Vec<Tree> = mounts.lines().filter_map(tree_of).collect();
    if trees.iter().any(|tree| tree.kind == Kind::Freezer) {
        for tree in trees.iter_mut().filter(|tree| tree.kind == Kind::Unified) {
            tree.kind = Kind::Hybrid;
        }
    }
    trees
}

fn tree_of(mount: &str) -> Option<Tree> {
    let mut words = mount.split(' ').skip(1);
    let (root, system, options) = (words.next()?, words.next()?, words.next()?);
    let has = |controller: &str| options.split(',').any(|option| option == controller);
    let kind = match system {
        "cgroup2" => Kind::Unified,
        "cgroup" if has("freezer") => Kind::Freezer,
        "cgroup" if has("cpuset") => Kind::Cpuset,
        "cgroup" if has("memory") => Kind::Memory,
        "cgroup" => Kind::Other,
        _ => return None,
    };
    Some(Tree { root: PathBuf::from(root), kind })
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("cannot write {value:?} to {}", file.display()))
}

fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn collect_folders(folder: &Path, found: &mut Vec<PathBuf>) {
    for below in folders(folder) {
        collect_folders(&below, found);
    }
    if folder.is_dir() {
        found.push(folder.to_owned());
    }
}

fn collect_processes(folder: &Path, found: &mut Vec<i32>) {
    let mut groups = Vec::new();
    collect_folders(folder, &mut groups);
    for group in groups {
        // A group may go away between the listing and the reading.
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        found.extend(processes.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
}

fn find_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    folders(folder).find_map(|below| match below.file_name() {
        Some(found) if found == name => Some(below),
        _ => find_folder(&below, name),
    })
}

fn remove_tree(folder: &Path) -> Result<()> {
    let mut groups = Vec::new();
    collect_folders(folder, &mut groups); // those below come first
    for group in groups {
        fs::remove_dir(&group).with_context(|| format!("cannot remove {}", group.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(mounts: &str) -> Vec<Kind> {
        trees_of(mounts).iter().map(|tree| tree.kind).collect()
    }

    #[test]
    fn version_2_alone_freezes_and_memory_is_counted_in_both() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(kinds(mounts), [Kind::Unified]);
        let peaks =
            |mounts| trees_of(mounts).iter().filter_map(|tree| tree.memory_peak("pod")).collect::<Vec<_>>();
        assert_eq!(peaks(mounts), [PathBuf::from("/sys/fs/cgroup/pod/memory.peak")]);
        let mounts = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(peaks(mounts), [PathBuf::from("/sys/fs/cgroup/memory/pod/memory.max_usage_in_bytes")]);
    }

    #[test]
    fn version_2_beside_version_1_is_only_cleaned() {
        let mounts = "cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n\
                      cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(kinds(mounts), [Kind::Freezer, Kind::Cpuset, Kind::Other, Kind::Hybrid]);
    }
}
