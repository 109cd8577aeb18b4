//! Things that take minutes to make and are the same every time, kept outside the checkout.
//!
//! An entry is named by a digest of what it was made from and appears by a rename: it is whole or absent.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

/// The digest of everything that an entry is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest(String);

impl Digest {
    /// The digest of these inputs, in this order.
    pub fn of<'a>(inputs: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for input in inputs {
            // With its length in front: ("ab", "c") is not ("a", "bc").
            hash.update((input.len() as u64).to_be_bytes());
            hash.update(input);
        }
        let hex: Vec<String> = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self(hex.concat())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of all entries: `$MATRIARCH_CACHE`, or the user's cache.
pub fn root() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("MATRIARCH_CACHE") {
        return Ok(PathBuf::from(root));
    }
    let home = std::env::home_dir().context("no HOME: set MATRIARCH_CACHE to a folder for what is built")?;
    Ok(home.join(".cache/matriarch"))
}

/// Where the entry is, or will be.
pub fn dir(name: &str, digest: &Digest) -> Result<PathBuf> {
    Ok(root()?.join(format!("{name}-{digest}")))
}

/// The entry, made by `build` (which fills the empty folder it is given) where it is not there yet.
pub async fn ensure(
    name: &str,
    digest: &Digest,
    build: impl AsyncFnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    ensure_at(&dir(name, digest)?, build).await
}

async fn ensure_at(entry: &Path, build: impl AsyncFnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if entry.is_dir() {
        return Ok(entry.to_owned());
    }
    let unfinished = entry.with_extension("unfinished");
    fs::create_dir_all(entry.parent().unwrap_or(Path::new("/")))
        .with_context(|| format!("cannot make the cache for {}", entry.display()))?;
    let _held = lock(&entry.with_extension("lock")).await?;
    if entry.is_dir() {
        return Ok(entry.to_owned()); // another process made it while this one waited
    }
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fs::create_dir(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    build(&unfinished).await?;
    fs::rename(&unfinished, entry).with_context(|| format!("cannot put {} in place", entry.display()))?;
    Ok(entry.to_owned())
}

/// Holds the lock file until dropped; the kernel gives it back where the process is killed.
async fn lock(path: &Path) -> Result<File> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_where_an_input_ends() {
        assert_ne!(Digest::of([b"ab".as_slice(), b"c"]), Digest::of([b"a".as_slice(), b"bc"]));
    }

    #[tokio::test]
    async fn a_build_that_fails_leaves_no_entry_and_the_next_one_starts_empty() {
        let cache = tempfile::tempdir().unwrap();
        let entry = cache.path().join("thing-1");
        let failed = ensure_at(&entry, async |dir: &Path| {
            fs::write(dir.join("half"), "")?;
            anyhow::bail!("the build broke")
        });
        assert!(failed.await.is_err());
        assert!(!entry.exists());

        let built =
            ensure_at(&entry, async |dir: &Path| Ok(fs::write(dir.join("whole"), "")?)).await.unwrap();
        assert!(built.join("whole").exists());
        assert!(!built.join("half").exists());
    }

    #[tokio::test]
    async fn what_is_there_is_not_built_again() {
        let cache = tempfile::tempdir().unwrap();
        let entry = cache.path().join("thing-1");
        fs::create_dir(&entry).unwrap();
        ensure_at(&entry, async |_: &Path| anyhow::bail!("built again")).await.unwrap();
    }
}
