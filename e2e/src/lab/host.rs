//! What the machine must offer, checked before anything is made: every reason not to start is one line that
//! says what and what to do.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::network::HOST_LINK;
use super::{addresses, cache, command, paths};

/// What three nodes, the control plane and a few databases take.
const MEMORY: u64 = 5 << 30;

/// What the builds, the images on three nodes and the volumes of a test take.
const DISK: u64 = 15 << 30;

/// Checks the machine.
pub(super) async fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the lab makes network namespaces and mounts: run it as root");
    }
    check_memory(&fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?)?;
    check_disk(Path::new("/var/lib"))?;
    let cache = cache::root()?;
    fs::create_dir_all(&cache).with_context(|| {
        format!("cannot make the cache {}: set MATRIARCH_CACHE to a folder", cache.display())
    })?;
    check_disk(&cache)?;
    check_routes(&command::run("ip", &["-json", "-4", "route", "show"]).await?)
}

/// Holds until dropped: two commands that make or remove a lab do so one after the other.
pub(super) fn only_one_at_a_time() -> Result<File> {
    let folder = cache::root()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the cache {}", folder.display()))?;
    let path = folder.join("lab.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("lab: another command makes or removes the lab: waiting for it");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

fn check_memory(meminfo: &str) -> Result<()> {
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .context("/proc/meminfo does not say what memory is available")?;
    enough("memory is available", available * 1024, MEMORY, "end other programs")
}

fn check_disk(folder: &Path) -> Result<()> {
    let disk = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot ask for the space at {}", folder.display()))?;
    let what = format!("disk space is available at {}", folder.display());
    enough(&what, disk.f_bavail * disk.f_frsize, DISK, "make room, or set MATRIARCH_CACHE for what is built")
}

fn enough(what: &str, available: u64, needed: u64, remedy: &str) -> Result<()> {
    if available < needed {
        bail!("only {} MiB {what}, the lab needs {} MiB: {remedy}", available >> 20, needed >> 20);
    }
    Ok(())
}

/// A wider route (of a VPN, say) does no harm: the lab's is narrower and wins while the lab is up.
fn check_routes(routes: &str) -> Result<()> {
    let routes: Vec<Value> = serde_json::from_str(routes).context("cannot read the routes")?;
    for route in routes {
        let (to, link) =
            (route["dst"].as_str().unwrap_or_default(), route["dev"].as_str().unwrap_or_default());
        if link != HOST_LINK && is_inside(to) {
            bail!(
                "the lab's range {} is in use: {to} is on {link}: remove that link or route",
                addresses::range()
            );
        }
    }
    Ok(())
}

fn is_inside(route: &str) -> bool {
    let (address, length) = route.split_once('/').unwrap_or((route, "32"));
    let (Ok(address), Ok(length)) = (address.parse::<Ipv4Addr>(), length.parse::<u8>()) else { return false };
    let (range, range_length) = addresses::RANGE;
    let host_bits = 32 - u32::from(range_length);
    length >= range_length && address.to_bits() >> host_bits == range.to_bits() >> host_bits
}

/// Whether there is anything of a lab, whole or not.
pub(super) fn has_lab() -> bool {
    Path::new(paths::ROOT).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_said_with_numbers() {
        let error = check_memory("MemTotal: 9 kB\nMemAvailable:    2097152 kB\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "only 2048 MiB memory is available, the lab needs 5120 MiB: end other programs"
        );
        check_memory("MemAvailable:    8388608 kB\n").unwrap();
    }

    #[test]
    fn a_route_inside_the_range_is_refused_and_a_wider_one_is_not() {
        let route = |to: &str| {
            check_routes(&format!(r#"[{{"dst":"default","dev":"eth0"}},{{"dst":"{to}","dev":"tun0"}}]"#))
        };
        assert!(route("10.213.7.0/24").unwrap_err().to_string().contains("10.213.7.0/24 is on tun0"));
        assert!(route("10.213.1.1").is_err());
        assert!(route("10.213.0.0/16").is_err());
        route("10.0.0.0/8").unwrap();
        route("10.214.0.0/16").unwrap();
    }

    #[test]
    fn the_labs_own_route_is_not_in_the_way() {
        check_routes(&format!(r#"[{{"dst":"10.213.0.0/16","dev":"{HOST_LINK}"}}]"#)).unwrap();
    }
}
