//! Images without a registry: the sandbox image is made here, and any archive can be imported on the nodes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::cache::{self, Digest};
use super::{Node, api, command};

/// The sandbox image. The tag is fixed: the image is imported anew into every lab.
pub(super) const PAUSE: &str = "localhost/matriarch-lab/pause:1";

/// An image of some hundred megabytes is unpacked on a disk that others use too.
const IMPORT_LIMIT: Duration = Duration::from_mins(5);

/// Imports the images of a docker-archive or oci-archive on a node.
pub(super) async fn import(node: &Node, archive: &Path) -> Result<()> {
    let mut import = Command::new("ctr");
    import.arg("--address").arg(node.containerd_socket()).args(["--namespace", "k8s.io", "images", "import"]);
    import.arg(archive);
    command::output(import, IMPORT_LIMIT)
        .await
        .map(drop)
        .with_context(|| format!("cannot import {} on {}", archive.display(), node.name()))
}

/// Waits until the node's containerd answers: a kubelet that finds none ends.
pub(crate) async fn wait_containerd(node: &Node) -> Result<()> {
    let socket = node.containerd_socket().display().to_string();
    api::wait(&format!("containerd on {} to answer", node.name()), async || {
        command::run("ctr", &["--address", &socket, "version"])
            .await
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    })
    .await
}

/// The archive of the sandbox image, made of the program in `folder`.
pub(super) async fn pause_archive(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("pause");
    let content = std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let digest = Digest::of([content.as_slice(), PAUSE.as_bytes()]);
    let entry =
        cache::ensure("pause-image", &digest, async |out: &Path| make_pause_archive(folder, out).await)
            .await?;
    Ok(entry.join("image.tar"))
}

async fn make_pause_archive(folder: &Path, out: &Path) -> Result<()> {
    tar(folder, &out.join("layer.tar"), &["pause"]).await?;
    let layer = Sha256::digest(std::fs::read(out.join("layer.tar"))?);
    let layer: Vec<String> = layer.iter().map(|byte| format!("{byte:02x}")).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": ["/pause"], "User": "65535:65535" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.concat())] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"] }]);
    std::fs::write(out.join("config.json"), config.to_string())?;
    std::fs::write(out.join("manifest.json"), manifest.to_string())?;
    tar(out, &out.join("image.tar"), &["manifest.json", "config.json", "layer.tar"]).await
}

async fn tar(folder: &Path, to: &Path, members: &[&str]) -> Result<()> {
    let (folder, to) = (folder.to_string_lossy(), to.to_string_lossy());
    let options = [
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "--create",
        "--file",
        &to,
        "--directory",
        &folder,
    ];
    command::run("tar", &[options.as_slice(), members].concat()).await.map(drop)
}
