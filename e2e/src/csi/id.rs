//! Names of volumes and snapshots, which are also the names of their folders.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name that the Container Storage Interface allows, in bytes.
const LONGEST: usize = 128;

/// A name that cannot be that of a volume or snapshot of this driver.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name of 1 to {LONGEST} lower-case letters, digits and inner dashes")]
pub struct InvalidName(String);

/// A volume: the name that the provisioner gave it, unique in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(String);

/// A snapshot: the name that the snapshotter gave it, unique in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

macro_rules! name {
    ($id:ident) => {
        impl $id {
            /// The name as text, safe as the name of a folder.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $id {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                if is_name(&name) { Ok(Self(name)) } else { Err(InvalidName(name)) }
            }
        }

        impl From<$id> for String {
            fn from(id: $id) -> Self {
                id.0
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(VolumeId);
name!(SnapshotId);

/// Whether `name` is a plain folder name: no separator, no dot, so that it cannot leave its parent.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=LONGEST).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_sidecars_are_accepted() {
        for name in ["pvc-0d5c1f4e-6a3b-4f8e-9f0a-2b1c3d4e5f60", "a", "snapshot-1", &"x".repeat(LONGEST)] {
            assert_eq!(VolumeId::try_from(name.to_owned()).unwrap().as_str(), name);
            assert_eq!(SnapshotId::try_from(name.to_owned()).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for name in
            ["", ".", "..", "../etc", "a/b", ".new-a", "-a", "a-", "A", "a b", &"x".repeat(LONGEST + 1)]
        {
            assert!(VolumeId::try_from(name.to_owned()).is_err(), "{name:?}");
        }
    }
}
