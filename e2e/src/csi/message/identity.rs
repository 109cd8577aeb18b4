//! Who the driver is and what it can do.

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct GetPluginInfoRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct GetPluginInfoResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub vendor_version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetPluginCapabilitiesRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct GetPluginCapabilitiesResponse {
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<PluginCapability>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PluginCapability {
    #[prost(oneof = "PluginCapabilityKind", tags = "1, 2")]
    pub kind: Option<PluginCapabilityKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum PluginCapabilityKind {
    #[prost(message, tag = "1")]
    Service(PluginService),
    #[prost(message, tag = "2")]
    VolumeExpansion(PluginVolumeExpansion),
}

#[derive(Clone, PartialEq, Message)]
pub struct PluginService {
    #[prost(enumeration = "PluginServiceKind", tag = "1")]
    pub kind: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PluginServiceKind {
    Unknown = 0,
    Controller = 1,
    VolumeAccessibilityConstraints = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct PluginVolumeExpansion {
    #[prost(enumeration = "PluginVolumeExpansionKind", tag = "1")]
    pub kind: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PluginVolumeExpansionKind {
    Unknown = 0,
    Online = 1,
}

#[derive(Clone, PartialEq, Message)]
pub struct ProbeRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct ProbeResponse {
    /// A `google.protobuf.BoolValue`.
    #[prost(message, optional, tag = "1")]
    pub ready: Option<bool>,
}
