//! Brings images to the nodes: imports what a node's containerd does not have yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tokio::process::Command;

use super::oci::{Image, write_archive};
use super::store::Store;
use crate::lab::command::output;

/// The namespace of containerd in which the kubelet looks.
const NAMESPACE: &str = "k8s.io";
/// Listing reads a small database.
const LIST_LIMIT: Duration = Duration::from_secs(20);
/// Copying and unpacking 200 MB takes about 3 s; a node with a busy disk takes longer.
const IMPORT_LIMIT: Duration = Duration::from_mins(3);

/// Makes every containerd that listens on one of `sockets` have `images` under their references.
pub(super) async fn ensure(store: &Store, sockets: &[PathBuf], images: &[Image]) -> Result<()> {
    let present = try_join_all(sockets.iter().map(|socket| list(socket))).await?;
    let lacking = |image: &Image| present.iter().any(|found| !has(found, image));
    let missing: Vec<Image> = images.iter().filter(|image| lacking(image)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let archive = tempfile::Builder::new().prefix("import-").suffix(".tar").tempfile_in(store.partial())?;
    write_archive(store, &missing, archive.path()).await?;
    let wanting =
        sockets.iter().zip(&present).filter(|(_, found)| missing.iter().any(|image| !has(found, image)));
    try_join_all(wanting.map(|(socket, _)| import(socket, archive.path()))).await.map(drop)
}

async fn list(socket: &Path) -> Result<BTreeMap<String, String>> {
    Ok(parse_list(&output(ctr(socket, &["list"]), LIST_LIMIT).await?))
}

fn has(present: &BTreeMap<String, String>, image: &Image) -> bool {
    present.get(&image.reference) == Some(&image.manifest.digest)
}

async fn import(socket: &Path, archive: &Path) -> Result<()> {
    let mut import = ctr(socket, &["import"]);
    import.arg(archive);
    let imported = output(import, IMPORT_LIMIT).await.map(drop);
    imported.with_context(|| format!("cannot import images into {}", socket.display()))
}

fn ctr(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", NAMESPACE, "images"]).args(arguments);
    command
}

/// References and digests out of the table that `ctr images list` prints.
fn parse_list(table: &str) -> BTreeMap<String, String> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| Some(((*row.first()?).to_owned(), (*row.get(2)?).to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_a_node_is_read() {
        let table = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
                     docker.io/library/postgres:16.13 application/vnd.oci.image.manifest.v1+json sha256:aa 1 MiB linux/amd64 x=y\n";
        let images = parse_list(table);
        assert_eq!(images.get("docker.io/library/postgres:16.13").map(String::as_str), Some("sha256:aa"));
        assert_eq!(images.len(), 1);
    }
}
