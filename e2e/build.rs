//! Generates the gRPC plumbing (routes, traits, clients) of the services that the lab's storage driver
//! serves. The messages themselves are in `src/csi/message`; no protocol file and no compiler is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    Builder::new().compile(&[
        service("csi.v1", "Identity", &["GetPluginInfo", "GetPluginCapabilities", "Probe"]),
        service(
            "csi.v1",
            "Controller",
            &[
                "CreateVolume",
                "DeleteVolume",
                "ValidateVolumeCapabilities",
                "ControllerGetCapabilities",
                "CreateSnapshot",
                "DeleteSnapshot",
                "ControllerExpandVolume",
            ],
        ),
        service(
            "csi.v1",
            "Node",
            &[
                "NodeStageVolume",
                "NodeUnstageVolume",
                "NodePublishVolume",
                "NodeUnpublishVolume",
                "NodeGetVolumeStats",
                "NodeExpandVolume",
                "NodeGetCapabilities",
                "NodeGetInfo",
            ],
        ),
        registration(),
    ]);
}

/// A service whose messages are named after its methods, as all of CSI are.
fn service(package: &str, name: &str, methods: &[&str]) -> Service {
    methods
        .iter()
        .fold(Service::builder().name(name).package(package), |service, rpc| {
            service.method(method(rpc, &format!("{rpc}Request"), &format!("{rpc}Response")))
        })
        .build()
}

/// The service by which kubelet learns of a driver on its node.
fn registration() -> Service {
    Service::builder()
        .name("Registration")
        .package("pluginregistration")
        .method(method("GetInfo", "InfoRequest", "PluginInfo"))
        .method(method("NotifyRegistrationStatus", "RegistrationStatus", "RegistrationStatusResponse"))
        .build()
}

fn method(rpc: &str, input: &str, output: &str) -> Method {
    Method::builder()
        .name(snake_case(rpc))
        .route_name(rpc)
        .input_type(format!("crate::csi::message::{input}"))
        .output_type(format!("crate::csi::message::{output}"))
        .codec_path("tonic_prost::ProstCodec")
        .build()
}

fn snake_case(name: &str) -> String {
    name.chars().enumerate().fold(String::new(), |mut out, (at, letter)| {
        if letter.is_uppercase() && at > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
        out
    })
}
