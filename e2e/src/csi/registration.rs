//! The Registration service: by it kubelet learns that the driver serves its node.

use tonic::{Request, Response, Status, async_trait};

use super::{
    DRIVER,
    message::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse},
    rpc::registration::registration_server::Registration,
};

/// Presents the driver to one kubelet.
#[derive(Clone, Debug)]
pub struct RegistrationService {
    /// The socket that kubelet shall speak to: the one it asked on.
    pub endpoint: String,
    /// The node's name, for the log.
    pub node: String,
}

#[async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            kind: "CSIPlugin".into(),
            name: DRIVER.into(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!(node = self.node, "registered with kubelet");
        } else {
            // kubelet tries again by itself.
            tracing::warn!(node = self.node, error = status.error, "kubelet did not register the driver");
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
