//! The Controller service: makes, copies, grows and deletes volumes and snapshots. Each call may be repeated,
//! also after a crash, and then finds what the first made.

use std::{path::PathBuf, sync::Arc};

use tonic::{Request, Response, Status, async_trait};

use super::{
    capability,
    driver::{Driver, to_the_end},
    id::{SnapshotId, VolumeId},
    message::{
        ConfirmedCapabilities, ContentSource, ControllerCapabilityKind, ControllerExpandVolumeRequest,
        ControllerExpandVolumeResponse, ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
        ControllerRpc, ControllerRpcKind, ControllerServiceCapability, CreateSnapshotRequest,
        CreateSnapshotResponse, CreateVolumeRequest, CreateVolumeResponse, DeleteSnapshotRequest,
        DeleteSnapshotResponse, DeleteVolumeRequest, DeleteVolumeResponse, Snapshot,
        ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse, Volume, VolumeContentSource,
    },
    rpc::controller::controller_server::Controller,
    size::Size,
    snapshot,
    store::{self, Claim, SnapshotRecord, Source, Stored, VolumeRecord},
    topology,
    xfs::DiskError,
};
use crate::lab::mounts;

/// Parameters by which the provisioner tells which claim a volume is for (`--extra-create-metadata`).
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";

/// Answers the sidecars.
#[derive(Clone, Debug)]
pub struct ControllerService(pub Arc<Driver>);

#[async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let driver = Arc::clone(&self.0);
        to_the_end(async move { create_volume(&driver, request.into_inner()).await }).await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let driver = Arc::clone(&self.0);
        to_the_end(async move { delete_volume(&driver, request.into_inner().volume_id).await }).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let ValidateVolumeCapabilitiesRequest { volume_id, volume_capabilities } = request.into_inner();
        self.0.volume(&existing(volume_id)?)?;
        let (confirmed, message) = match capability::check(&volume_capabilities) {
            Ok(()) => (Some(ConfirmedCapabilities { volume_capabilities }), String::new()),
            Err(why @ capability::Unsupported::Missing) => return Err(why.into()),
            Err(why) => (None, why.to_string()),
        };
        Ok(Response::new(ValidateVolumeCapabilitiesResponse { confirmed, message }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let capabilities = [
            ControllerRpcKind::CreateDeleteVolume,
            ControllerRpcKind::CreateDeleteSnapshot,
            ControllerRpcKind::CloneVolume,
            ControllerRpcKind::ExpandVolume,
            ControllerRpcKind::SingleNodeMultiWriter,
        ]
        .map(|kind| ControllerServiceCapability {
            kind: Some(ControllerCapabilityKind::Rpc(ControllerRpc { kind: kind.into() })),
        })
        .into();
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        let driver = Arc::clone(&self.0);
        to_the_end(async move { create_snapshot(&driver, request.into_inner()).await }).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        let driver = Arc::clone(&self.0);
        to_the_end(async move { delete_snapshot(&driver, request.into_inner().snapshot_id).await }).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        let driver = Arc::clone(&self.0);
        to_the_end(async move { expand_volume(&driver, request.into_inner()).await }).await
    }
}

async fn create_volume(
    driver: &Driver,
    request: CreateVolumeRequest,
) -> Result<CreateVolumeResponse, Status> {
    let id = VolumeId::try_from(request.name.clone())?;
    capability::check(&request.volume_capabilities)?;
    let source = request.volume_content_source.clone().map(parse_source).transpose()?;
    let source_name = source.as_ref().map_or(id.as_str(), |s| match s {
        Source::Snapshot(snapshot) => snapshot.as_str(),
        Source::Volume(volume) => volume.as_str(),
    });
    let _turn = driver.turns.take(&[id.as_str(), source_name]).await;
    if let Some(found) = driver.store.volume(&id)? {
        return same_volume(&id, &found, &request, source.as_ref());
    }
    let content = source.as_ref().map(|s| find_content(driver, s)).transpose()?;
    let size = Size::choose(request.capacity_range.as_ref(), content.as_ref().map_or(0, |c| c.1.bytes()))?;
    let node = topology::choose(request.accessibility_requirements.as_ref(), &driver.nodes)?;
    let record = VolumeRecord { node, claim: claim_of(&request), source };
    let content = content.map(|(disk, _)| disk);
    snapshot::make_volume(driver, &id, size, content.as_deref(), &record).await?;
    tracing::info!(volume = %id, node = record.node, bytes = size.bytes(), "made a volume");
    Ok(CreateVolumeResponse { volume: Some(describe_volume(&id, size, &record)) })
}

/// The answer to a repeated request: the volume, if it is what is asked for.
fn same_volume(
    id: &VolumeId,
    found: &Stored<VolumeRecord>,
    request: &CreateVolumeRequest,
    source: Option<&Source>,
) -> Result<CreateVolumeResponse, Status> {
    if found.record.source.as_ref() != source || !found.size.fits(request.capacity_range.as_ref()) {
        let size = found.size.bytes();
        return Err(Status::already_exists(format!(
            "volume {id} exists with {size} bytes and other properties than asked for"
        )));
    }
    Ok(CreateVolumeResponse { volume: Some(describe_volume(id, found.size, &found.record)) })
}

fn parse_source(source: VolumeContentSource) -> Result<Source, Status> {
    match source.source {
        Some(ContentSource::Snapshot(s)) => Ok(Source::Snapshot(existing(s.snapshot_id)?)),
        Some(ContentSource::Volume(v)) => Ok(Source::Volume(existing(v.volume_id)?)),
        None => Err(Status::invalid_argument("the content source names neither a snapshot nor a volume")),
    }
}

/// The disk to copy and its size.
fn find_content(driver: &Driver, source: &Source) -> Result<(PathBuf, Size), Status> {
    let found = match source {
        Source::Snapshot(id) => driver.store.snapshot(id)?.map(|s| (s.disk, s.size)),
        Source::Volume(id) => driver.store.volume(id)?.map(|v| (v.disk, v.size)),
    };
    found.ok_or_else(|| Status::not_found(format!("there is nothing to copy: {source:?}")))
}

fn claim_of(request: &CreateVolumeRequest) -> Option<Claim> {
    let parameter = |key| request.parameters.get(key).cloned();
    Some(Claim { namespace: parameter(CLAIM_NAMESPACE)?, name: parameter(CLAIM_NAME)? })
}

fn describe_volume(id: &VolumeId, size: Size, record: &VolumeRecord) -> Volume {
    let source = record.source.clone().map(|source| match source {
        Source::Snapshot(id) => {
            ContentSource::Snapshot(super::message::SnapshotSource { snapshot_id: id.into() })
        }
        Source::Volume(id) => ContentSource::Volume(super::message::VolumeSource { volume_id: id.into() }),
    });
    Volume {
        capacity_bytes: size.signed_bytes(),
        volume_id: id.to_string(),
        content_source: source.map(|source| VolumeContentSource { source: Some(source) }),
        accessible_topology: vec![topology::of(&record.node)],
    }
}

async fn delete_volume(driver: &Driver, id: String) -> Result<DeleteVolumeResponse, Status> {
    let Ok(id) = VolumeId::try_from(id) else { return Ok(DeleteVolumeResponse {}) }; // never one of ours
    let _turn = driver.turns.take(&[id.as_str()]).await;
    let Some(volume) = driver.store.volume(&id)? else { return Ok(DeleteVolumeResponse {}) };
    let unreadable = |source| DiskError::Mounts { disk: volume.disk.clone(), source };
    if let Some(mount) = mounts::of_disk(&volume.disk).map_err(unreadable)?.first() {
        let point = mount.point.display();
        return Err(Status::failed_precondition(format!("volume {id} is in use: mounted on {point}")));
    }
    driver.store.remove_volume(&id)?;
    tracing::info!(volume = %id, "deleted a volume");
    Ok(DeleteVolumeResponse {})
}

async fn create_snapshot(
    driver: &Driver,
    request: CreateSnapshotRequest,
) -> Result<CreateSnapshotResponse, Status> {
    let id = SnapshotId::try_from(request.name)?;
    let volume_id: VolumeId = existing(request.source_volume_id)?;
    let _turn = driver.turns.take(&[id.as_str(), volume_id.as_str()]).await;
    if driver.store.snapshot(&id)?.is_none() {
        snapshot::take(driver, &id, &volume_id).await?;
        tracing::info!(snapshot = %id, volume = %volume_id, "took a snapshot");
    }
    let found = driver
        .store
        .snapshot(&id)?
        .ok_or_else(|| Status::internal(format!("snapshot {id} vanished while it was made")))?;
    if found.record.volume != volume_id {
        let other = found.record.volume;
        return Err(Status::already_exists(format!("snapshot {id} exists, of volume {other}")));
    }
    Ok(CreateSnapshotResponse { snapshot: Some(describe_snapshot(&id, &found)) })
}

fn describe_snapshot(id: &SnapshotId, found: &Stored<SnapshotRecord>) -> Snapshot {
    let taken = found.record.taken;
    Snapshot {
        size_bytes: found.size.signed_bytes(),
        snapshot_id: id.to_string(),
        source_volume_id: found.record.volume.to_string(),
        creation_time: Some(prost_types::Timestamp {
            seconds: taken.as_second(),
            nanos: taken.subsec_nanosecond(),
        }),
        ready_to_use: true,
    }
}

async fn delete_snapshot(driver: &Driver, id: String) -> Result<DeleteSnapshotResponse, Status> {
    let Ok(id) = SnapshotId::try_from(id) else { return Ok(DeleteSnapshotResponse {}) }; // never one of ours
    let _turn = driver.turns.take(&[id.as_str()]).await;
    driver.store.remove_snapshot(&id)?;
    Ok(DeleteSnapshotResponse {})
}

/// Lengthens the file; the node then grows what is on it, since only there it is mounted.
async fn expand_volume(
    driver: &Driver,
    request: ControllerExpandVolumeRequest,
) -> Result<ControllerExpandVolumeResponse, Status> {
    let id: VolumeId = existing(request.volume_id)?;
    let _turn = driver.turns.take(&[id.as_str()]).await;
    let volume = driver.volume(&id)?;
    let size = Size::choose(request.capacity_range.as_ref(), volume.size.bytes())?;
    if size > volume.size {
        store::resize(&volume.disk, size)?;
        tracing::info!(volume = %id, bytes = size.bytes(), "expanded a volume");
    }
    Ok(ControllerExpandVolumeResponse { capacity_bytes: size.signed_bytes(), node_expansion_required: true })
}

/// A name of something that should exist: one that this driver never gave is one that does not.
fn existing<I: TryFrom<String>>(name: String) -> Result<I, Status>
where
    I::Error: std::fmt::Display,
{
    match name.is_empty() {
        true => Err(Status::invalid_argument("the request names no volume or snapshot")),
        false => I::try_from(name).map_err(|why| Status::not_found(why.to_string())),
    }
}
