//! The Debian packages whose programs the lab runs, installed where a program is missing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::{command, progress};

/// A package, and a program of it: a program by its name in `PATH`, or a file by its path.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// What `apt-get` calls it.
    pub name: &'static str,
    /// What there must be.
    pub provides: &'static str,
}

/// What every lab needs.
pub const LAB: &[Package] = &[
    Package { name: "containerd", provides: "containerd" },
    Package { name: "runc", provides: "runc" },
    Package { name: "containernetworking-plugins", provides: "/usr/lib/cni/ptp" },
    Package { name: "iptables", provides: "iptables" },
    Package { name: "conntrack", provides: "conntrack" },
    Package { name: "iproute2", provides: "ip" },
    Package { name: "util-linux", provides: "nsenter" },
    XFS,
    Package { name: "procps", provides: "sysctl" },
];

/// What makes the file systems of volumes, in a lab and in the tests of the code that calls it.
pub const XFS: Package = Package { name: "xfsprogs", provides: "mkfs.xfs" };

/// Packages come from a mirror that may be slow; beyond this it is not there.
const INSTALL_LIMIT: std::time::Duration = std::time::Duration::from_mins(10);

/// Answers "do not start" to packages that would start their services: the lab runs its own containerd.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those of `packages` whose programs are missing.
pub async fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().filter(|p| !present(p.provides)).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !present("apt-get") {
        bail!(
            "programs are missing and there is no apt-get: install what the packages {} hold",
            missing.join(", ")
        );
    }
    let label = format!("installing {}", missing.join(", "));
    progress::of(&label, install(&missing)).await
}

async fn install(packages: &[&str]) -> Result<()> {
    let _services_stay_off = NoServices::set()?;
    if apt_get(&["install", "--yes", "--no-install-recommends"], packages).await.is_ok() {
        return Ok(());
    }
    // The lists may be absent (a fresh container) or name versions that the mirror no longer has.
    apt_get(&["update"], &[]).await?;
    apt_get(&["install", "--yes", "--no-install-recommends"], packages).await
}

async fn apt_get(arguments: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments).args(packages);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command::output(command, INSTALL_LIMIT).await.map(drop)
}

fn present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).exists())
}

/// While it lives, packages do not start services; a policy that was there before stays as it is.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn set() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(POLICY)
        {
            tracing::warn!(%error, "cannot remove {POLICY}: services of new packages will not start");
        }
    }
}
