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

impl RegistrationService {
    /// kubelet looks again at a socket that is made anew, and at no other: one that refused because it did not know
    /// its own node yet, as just after a boot, would never know the driver. Where a socket is removed, the server
    /// makes it again.
    fn present_again(&self) {
        if let Err(error) = std::fs::remove_file(&self.endpoint) {
            tracing::warn!(node = self.node, %error, "cannot remove the socket for kubelet to look at it again");
        }
    }
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
            tracing::warn!(node = self.node, error = status.error, "kubelet did not register the driver");
            self.present_again();
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(plugin_registered: bool) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("driver.sock");
        std::fs::write(&socket, "").unwrap();
        let service =
            RegistrationService { endpoint: socket.display().to_string(), node: "node1".to_owned() };
        let status = RegistrationStatus { plugin_registered, error: String::new() };
        service.notify_registration_status(Request::new(status)).await.unwrap();
        socket.exists()
    }

    #[tokio::test]
    async fn a_kubelet_that_refused_is_asked_again() {
        assert!(told(true).await);
        assert!(!told(false).await);
    }
}
