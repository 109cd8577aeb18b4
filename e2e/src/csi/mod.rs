//! Storage of the lab: a CSI driver whose volumes are disks of a real size, so that they fill up, grow, hang and
//! are copied as real ones do.
//!
//! A volume is a sparse file that holds XFS, mounted by a loop device on the node that its pod runs on. The driver is
//! one host process (`lab csi-driver`): nodes of the lab are network namespaces that share the machine's mounts. The
//! real sidecars speak to it, and each kubelet. What exists is what lies on disk and in the kernel's
//! tables; the process remembers nothing and may be killed at any time.

pub mod capability;
pub mod controller;
pub mod driver;
pub mod freeze;
pub mod id;
pub mod identity;
pub mod message;
pub mod node;
pub mod registration;
pub mod rpc;
pub mod serve;
pub mod size;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod topology;
pub mod turn;
pub mod xfs;

/// The driver's name in StorageClasses and CSINodes.
pub const DRIVER: &str = "csi.lab.matriarch.test";
