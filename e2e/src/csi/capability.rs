//! Which ways of using a volume the driver offers: one XFS file system, mounted on one node.

use super::message::{AccessModeKind, AccessType, VolumeCapability};

/// The only file system the driver makes.
const FILE_SYSTEM: &str = "xfs";

/// A way of using a volume that the driver does not offer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The request names no way at all.
    #[error("the request names no volume capability")]
    Missing,
    /// A raw block device.
    #[error("block volumes are not offered: use volumeMode Filesystem")]
    Block,
    /// Another file system.
    #[error("the file system {0:?} is not offered: use xfs or leave the type out")]
    FileSystem(String),
    /// Mounted on several nodes at once.
    #[error("access mode {0:?} is not offered: use ReadWriteOnce or ReadWriteOncePod")]
    AccessMode(AccessModeKind),
}

/// Checks all `capabilities` of a request, of which there must be one at least.
pub fn check(capabilities: &[VolumeCapability]) -> Result<(), Unsupported> {
    if capabilities.is_empty() {
        return Err(Unsupported::Missing);
    }
    capabilities.iter().try_for_each(check_one)
}

fn check_one(capability: &VolumeCapability) -> Result<(), Unsupported> {
    match &capability.access_type {
        None => return Err(Unsupported::Missing),
        Some(AccessType::Block(_)) => return Err(Unsupported::Block),
        Some(AccessType::Mount(mount)) if !["", FILE_SYSTEM].contains(&mount.fs_type.as_str()) => {
            return Err(Unsupported::FileSystem(mount.fs_type.clone()));
        }
        Some(AccessType::Mount(_)) => {}
    }
    match capability.access_mode.as_ref().ok_or(Unsupported::Missing)?.mode() {
        AccessModeKind::SingleNodeWriter
        | AccessModeKind::SingleNodeReaderOnly
        | AccessModeKind::SingleNodeSingleWriter
        | AccessModeKind::SingleNodeMultiWriter => Ok(()),
        other => Err(Unsupported::AccessMode(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::message::{AccessMode, BlockVolume, MountVolume};

    fn capability(access_type: AccessType, mode: AccessModeKind) -> VolumeCapability {
        VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    fn mount(fs_type: &str) -> AccessType {
        AccessType::Mount(MountVolume { fs_type: fs_type.into(), mount_flags: vec![] })
    }

    #[test]
    fn one_xfs_on_one_node() {
        for mode in [AccessModeKind::SingleNodeWriter, AccessModeKind::SingleNodeSingleWriter] {
            assert_eq!(check(&[capability(mount(""), mode), capability(mount("xfs"), mode)]), Ok(()));
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let one = AccessModeKind::SingleNodeWriter;
        assert_eq!(check(&[]), Err(Unsupported::Missing));
        assert_eq!(check(&[capability(AccessType::Block(BlockVolume {}), one)]), Err(Unsupported::Block));
        assert_eq!(check(&[capability(mount("ext4"), one)]), Err(Unsupported::FileSystem("ext4".into())));
        let many = AccessModeKind::MultiNodeMultiWriter;
        assert_eq!(check(&[capability(mount(""), many)]), Err(Unsupported::AccessMode(many)));
    }
}
