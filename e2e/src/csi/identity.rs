//! The Identity service: the driver's name and what it offers.

use tonic::{Request, Response, Status, async_trait};

use super::{
    DRIVER,
    message::{
        GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
        GetPluginInfoResponse, PluginCapability, PluginCapabilityKind, PluginService, PluginServiceKind,
        PluginVolumeExpansion, PluginVolumeExpansionKind, ProbeRequest, ProbeResponse,
    },
    rpc::identity::identity_server::Identity,
};

/// Answers for the driver as a whole.
#[derive(Clone, Copy, Debug)]
pub struct IdentityService;

#[async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER.into(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service =
            |kind: PluginServiceKind| PluginCapabilityKind::Service(PluginService { kind: kind.into() });
        let expansion = PluginVolumeExpansion { kind: PluginVolumeExpansionKind::Online.into() };
        let kinds = [
            service(PluginServiceKind::Controller),
            service(PluginServiceKind::VolumeAccessibilityConstraints),
            PluginCapabilityKind::VolumeExpansion(expansion),
        ];
        let capabilities = kinds.map(|kind| PluginCapability { kind: Some(kind) }).into();
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}
