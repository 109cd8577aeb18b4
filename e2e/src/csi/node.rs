//! The Node service: mounts volumes where kubelet wants them, and grows them there.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tonic::{Request, Response, Status, async_trait};

use super::{
    capability,
    driver::{Driver, to_the_end},
    freeze,
    id::VolumeId,
    message::{
        NodeCapabilityKind, NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
        NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
        NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse, NodeRpc,
        NodeRpcKind, NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse,
        NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
        NodeUnstageVolumeResponse, UsageUnit, VolumeCapability, VolumeUsage,
    },
    rpc::node::node_server::Node,
    store::{Stored, VolumeRecord},
    topology, xfs,
};
use crate::lab::mounts;

/// Answers the kubelet of one node.
#[derive(Clone, Debug)]
pub struct NodeService {
    /// What all nodes share.
    pub driver: Arc<Driver>,
    /// The node's name.
    pub node: String,
}

#[async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let node = self.clone();
        to_the_end(async move { node.stage(request.into_inner()).await }).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let node = self.clone();
        to_the_end(async move { node.unstage(request.into_inner()).await }).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let node = self.clone();
        to_the_end(async move { node.publish(request.into_inner()).await }).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let node = self.clone();
        to_the_end(async move { node.unpublish(request.into_inner()).await }).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let NodeGetVolumeStatsRequest { volume_id, volume_path } = request.into_inner();
        self.driver.volume(&volume(&volume_id)?)?;
        let path = absolute(&volume_path)?;
        let mounted = mounts::at(&path)
            .map_err(|e| Status::internal(format!("reading the mount table failed: {e}")))?;
        if mounted.is_none() {
            return Err(Status::not_found(format!("volume {volume_id} is not mounted on {volume_path}")));
        }
        let usage = usage_of(&path).map_err(|e| Status::internal(format!("statfs of {volume_path}: {e}")))?;
        Ok(Response::new(NodeGetVolumeStatsResponse { usage: usage.into() }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let node = self.clone();
        to_the_end(async move { node.expand(request.into_inner()).await }).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [
            NodeRpcKind::StageUnstageVolume,
            NodeRpcKind::GetVolumeStats,
            NodeRpcKind::ExpandVolume,
            NodeRpcKind::SingleNodeMultiWriter,
        ]
        .map(|kind| NodeServiceCapability {
            kind: Some(NodeCapabilityKind::Rpc(NodeRpc { kind: kind.into() })),
        })
        .into();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let accessible_topology = Some(topology::of(&self.node));
        Ok(Response::new(NodeGetInfoResponse { node_id: self.node.clone(), accessible_topology }))
    }
}

impl NodeService {
    async fn stage(&self, request: NodeStageVolumeRequest) -> Result<NodeStageVolumeResponse, Status> {
        check_capability(request.volume_capability.as_ref())?;
        let (id, point) = (volume(&request.volume_id)?, absolute(&request.staging_target_path)?);
        let _turn = self.driver.turns.take(&[id.as_str()]).await;
        let volume = self.own_volume(&id)?;
        make_folder(&point)?;
        xfs::mount(&volume.disk, &point).await?;
        Ok(NodeStageVolumeResponse {})
    }

    async fn unstage(&self, request: NodeUnstageVolumeRequest) -> Result<NodeUnstageVolumeResponse, Status> {
        let (id, point) = (volume(&request.volume_id)?, absolute(&request.staging_target_path)?);
        let _turn = self.driver.turns.take(&[id.as_str()]).await;
        if let Some(volume) = self.driver.store.volume(&id)? {
            refuse_frozen(&volume)?;
        }
        xfs::unmount(&point).await?;
        Ok(NodeUnstageVolumeResponse {})
    }

    async fn publish(&self, request: NodePublishVolumeRequest) -> Result<NodePublishVolumeResponse, Status> {
        check_capability(request.volume_capability.as_ref())?;
        let id = volume(&request.volume_id)?;
        let (staged, target) = (absolute(&request.staging_target_path)?, absolute(&request.target_path)?);
        let _turn = self.driver.turns.take(&[id.as_str()]).await;
        let volume = self.own_volume(&id)?;
        make_folder(&target)?;
        xfs::bind(&volume.disk, &staged, &target, request.readonly).await?;
        Ok(NodePublishVolumeResponse {})
    }

    async fn unpublish(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<NodeUnpublishVolumeResponse, Status> {
        let (id, target) = (volume(&request.volume_id)?, absolute(&request.target_path)?);
        let _turn = self.driver.turns.take(&[id.as_str()]).await;
        xfs::unmount(&target).await?;
        match std::fs::remove_dir(&target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Status::internal(format!("removing {} failed: {e}", target.display())))
            }
            _ => Ok(NodeUnpublishVolumeResponse {}),
        }
    }

    async fn expand(&self, request: NodeExpandVolumeRequest) -> Result<NodeExpandVolumeResponse, Status> {
        let (id, point) = (volume(&request.volume_id)?, absolute(&request.volume_path)?);
        let _turn = self.driver.turns.take(&[id.as_str()]).await;
        let volume = self.own_volume(&id)?;
        refuse_frozen(&volume)?;
        match xfs::grow(&volume.disk, &point).await {
            Err(missing @ xfs::DiskError::NotMounted { .. }) => Err(Status::not_found(missing.to_string())),
            grown => {
                grown?;
                Ok(NodeExpandVolumeResponse { capacity_bytes: volume.size.signed_bytes() })
            }
        }
    }

    /// The volume, which must lie on this node: on another it would be a second, divergent mount of one disk.
    fn own_volume(&self, id: &VolumeId) -> Result<Stored<VolumeRecord>, Status> {
        let volume = self.driver.volume(id)?;
        if volume.record.node == self.node {
            return Ok(volume);
        }
        let (here, there) = (&self.node, &volume.record.node);
        Err(Status::failed_precondition(format!("volume {id} lies on node {there}, not on {here}")))
    }
}

/// Unmounting or growing a frozen disk would hang, as it would on a real one: better to answer.
fn refuse_frozen(volume: &Stored<VolumeRecord>) -> Result<(), Status> {
    match freeze::is_frozen(&volume.disk)? {
        true => Err(freeze::FreezeError::Already(volume.disk.clone()).into()),
        false => Ok(()),
    }
}

fn check_capability(capability: Option<&VolumeCapability>) -> Result<(), Status> {
    Ok(capability::check(capability.map_or(&[], std::slice::from_ref))?)
}

fn volume(id: &str) -> Result<VolumeId, Status> {
    Ok(VolumeId::try_from(id.to_owned())?)
}

fn absolute(path: &str) -> Result<PathBuf, Status> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Status::invalid_argument(format!("{} is not an absolute path", path.display()))),
    }
}

fn make_folder(path: &Path) -> Result<(), Status> {
    std::fs::create_dir_all(path)
        .map_err(|e| Status::internal(format!("making the folder {} failed: {e}", path.display())))
}

fn usage_of(path: &Path) -> rustix::io::Result<[VolumeUsage; 2]> {
    let stat = rustix::fs::statvfs(path)?;
    let usage = |unit: UsageUnit, scale: u64, total: u64, free: u64, available: u64| VolumeUsage {
        available: signed(available * scale),
        total: signed(total * scale),
        used: signed(total.saturating_sub(free) * scale),
        unit: unit.into(),
    };
    Ok([
        usage(UsageUnit::Bytes, stat.f_frsize, stat.f_blocks, stat.f_bfree, stat.f_bavail),
        usage(UsageUnit::Inodes, 1, stat.f_files, stat.f_ffree, stat.f_favail),
    ])
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
