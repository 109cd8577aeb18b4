//! Images out of layers: configuration, manifest and the archive that `ctr images import` reads.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::process::Command;

use super::store::{Blob, Store};
use crate::lab::command::output;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Fixed, so that the same content is the same image.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// An archive holds a few hundred MB at most.
const TAR_LIMIT: Duration = Duration::from_mins(3);

/// How containers of an image start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// `uid:gid`; empty is root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, which a pod's `args` replace.
    pub command: Vec<String>,
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The whole name that pods use, such as `docker.io/library/postgres:16.13`.
    pub reference: String,
    /// What the reference points to; containerd shows its digest for an imported image.
    pub manifest: Blob,
    config: Blob,
    layers: Vec<Blob>,
}

impl Image {
    /// Puts an image of `layers`, lowest first, into the store.
    pub fn assemble(store: &Store, reference: &str, layers: Vec<Blob>, start: &Start) -> Result<Self> {
        let config = store.put(&serde_json::to_vec(&configuration(&layers, start))?)?;
        let manifest = store.put(&serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": layers.iter().map(|layer| descriptor(LAYER, layer)).collect::<Vec<_>>(),
        }))?)?;
        Ok(Self { reference: reference.to_owned(), manifest, config, layers })
    }

    /// Lowest first.
    pub fn layers(&self) -> &[Blob] {
        &self.layers
    }

    /// What a node stores for the image: its layers, uncompressed.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// Writes an OCI archive with `images` to `path`; layers that they share are in it once.
pub async fn write_archive(store: &Store, images: &[Image], path: &Path) -> Result<()> {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": images.iter().map(index_entry).collect::<Vec<_>>(),
    });
    let head = path.with_extension("head");
    fs::create_dir_all(&head).with_context(|| format!("cannot create {}", head.display()))?;
    fs::write(head.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    fs::write(head.join("index.json"), serde_json::to_vec(&index)?)?;
    let mut blobs: Vec<String> = images.iter().flat_map(blobs_of).map(Blob::layout_path).collect();
    blobs.sort();
    blobs.dedup();
    let mut command = Command::new("tar");
    command.args(["--create", "--format=gnu", "--mtime=@0", "--numeric-owner", "--owner=0", "--group=0"]);
    command.arg("--file").arg(path).arg("--directory").arg(&head).args(["oci-layout", "index.json"]);
    command.arg("--directory").arg(store.root()).args(blobs);
    output(command, TAR_LIMIT).await?;
    fs::remove_dir_all(&head).with_context(|| format!("cannot remove {}", head.display()))
}

fn blobs_of(image: &Image) -> impl Iterator<Item = &Blob> {
    [&image.manifest, &image.config].into_iter().chain(&image.layers)
}

fn configuration(layers: &[Blob], start: &Start) -> Value {
    json!({
        "created": CREATED,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": start.user,
            "Env": start.env,
            "Entrypoint": start.entrypoint,
            "Cmd": start.command,
        },
        // The layers are not compressed: their digests are those of their content.
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.digest).collect::<Vec<_>>()},
        "history": layers.iter().map(|_| json!({"created": CREATED})).collect::<Vec<_>>(),
    })
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size})
}

fn index_entry(image: &Image) -> Value {
    let mut entry = descriptor(MANIFEST, &image.manifest);
    entry["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference,
    });
    entry["platform"] = json!({"architecture": "amd64", "os": "linux"});
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::store::Owner;

    async fn image(store: &Store) -> Image {
        let fill = async |files: &Path| Ok(fs::write(files.join("file"), "content")?);
        let layer = store.layer("key", Owner::Root, fill).await.unwrap();
        let start = Start {
            user: "65532:65532".to_owned(),
            entrypoint: vec!["/file".to_owned()],
            ..Start::default()
        };
        Image::assemble(store, "docker.io/library/one:1", vec![layer], &start).unwrap()
    }

    async fn archive(folder: &Path) -> Vec<u8> {
        let store = Store::open(&folder.join("store")).unwrap();
        let path = folder.join("image.tar");
        write_archive(&store, &[image(&store).await], &path).await.unwrap();
        fs::read(path).unwrap()
    }

    #[tokio::test]
    async fn archives_of_the_same_content_are_the_same_bytes() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(archive(one.path()).await, archive(two.path()).await);
    }

    #[tokio::test]
    async fn an_archive_holds_a_shared_layer_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let one = image(&store).await;
        let layers = one.layers.clone();
        let two = Image::assemble(&store, "docker.io/library/two:1", layers, &Start::default()).unwrap();
        let path = folder.path().join("two.tar");
        write_archive(&store, &[one.clone(), two.clone()], &path).await.unwrap();
        let mut list = Command::new("tar");
        list.arg("--list").arg("--file").arg(&path);
        let names = output(list, TAR_LIMIT).await.unwrap();
        assert_eq!(names.matches(one.layers[0].layout_path().as_str()).count(), 1, "{names}");
        assert_eq!(
            names.lines().count(),
            2 + 2 + 2 + 1,
            "layout, index, two configurations and manifests: {names}"
        );
        assert_ne!(one.manifest, two.manifest);
    }
}
