//! The gRPC services as Rust traits and clients, made by `build.rs`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::clone_on_ref_ptr)] // generated code

pub mod identity {
    include!(concat!(env!("OUT_DIR"), "/csi.v1.Identity.rs"));
}
pub mod controller {
    include!(concat!(env!("OUT_DIR"), "/csi.v1.Controller.rs"));
}
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/csi.v1.Node.rs"));
}
pub mod registration {
    include!(concat!(env!("OUT_DIR"), "/pluginregistration.Registration.rs"));
}
