//! Where everything lies in a repository (docs/backup-repository.md).

use object_store::path::Path;
use proto::postgres::SystemIdentifier;

use super::{
    names::{Segment, WalName},
    store::sealed::plain_name,
};

/// Folder of one database cluster's WAL and backups, below the destination. The Database's UID and the system
/// identifier are both in it: neither a restored copy nor a namesake writes into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    prefix: Path,
    uid: String,
    system_identifier: SystemIdentifier,
}

/// Of each backup: written last, removed first.
const BACKUP_FILE: &str = "backup.json";

impl Root {
    /// Of a cluster.
    pub(crate) fn new(prefix: &Path, uid: &str, system_identifier: SystemIdentifier) -> Self {
        Self { prefix: prefix.clone(), uid: uid.to_owned(), system_identifier }
    }

    /// Whose this is.
    pub(crate) fn system_identifier(&self) -> SystemIdentifier {
        self.system_identifier
    }

    /// Below the destination.
    pub(crate) fn relative(&self) -> String {
        format!("{}/{}", self.uid, self.system_identifier)
    }

    fn path(&self) -> Path {
        self.prefix.clone().join(self.uid.as_str()).join(self.system_identifier.to_string())
    }

    /// Describes the repository; its presence shows that it can be written and read.
    pub(crate) fn description(&self) -> Path {
        self.path().join("repository.json")
    }

    /// Latest time that can be restored to.
    pub(crate) fn latest(&self) -> Path {
        self.path().join("latest.json")
    }

    /// What retention writes to learn the store's time.
    pub(crate) fn clock(&self) -> Path {
        self.path().join("clock")
    }

    /// What tells whether the identities are still the same; `age -d` decrypts it.
    pub(crate) fn identities_test(&self) -> Path {
        self.path().join("identities.age")
    }

    /// All WAL.
    pub(crate) fn wal(&self) -> Path {
        self.path().join("wal")
    }

    /// A WAL file. What a timeline left unfinished differs between members, so that `pod` is in its name.
    pub(crate) fn wal_file(&self, name: &WalName, pod: &str) -> Path {
        match name {
            WalName::Segment(segment) => self.wal().join(segment.folder()).join(format!("{segment}.zst")),
            WalName::BackupLabel(segment, _) => self.wal().join(segment.folder()).join(name.to_string()),
            WalName::History(_) => self.histories().join(name.to_string()),
            WalName::Partial(_) => self.wal().join("partial").join(format!("{name}.{pod}.zst")),
        }
    }

    /// Where timelines began.
    pub(crate) fn histories(&self) -> Path {
        self.wal().join("history")
    }

    /// All backups.
    pub(crate) fn backups(&self) -> Path {
        self.path().join("backup")
    }

    /// One backup.
    pub(crate) fn backup(&self, name: &str) -> Path {
        self.backups().join(name)
    }

    /// What makes a backup one.
    pub(crate) fn backup_file(&self, name: &str) -> Path {
        self.backup(name).join(BACKUP_FILE)
    }

    /// All backups whose data is in VolumeSnapshots.
    pub(crate) fn snapshots(&self) -> Path {
        self.path().join("snapshot")
    }

    /// What makes a VolumeSnapshot a backup.
    pub(crate) fn snapshot_file(&self, name: &str) -> Path {
        self.snapshots().join(format!("{name}.json"))
    }

    /// A piece of one of a backup's archives.
    pub(crate) fn piece(&self, name: &str, archive: &str, number: usize) -> Path {
        self.backup(name).join(format!("{archive}.zst")).join(format!("{number:06}"))
    }
}

/// The whole segment that an object is, encrypted or not.
pub(crate) fn segment_of(path: &Path) -> Option<Segment> {
    plain_name(path.filename()?).strip_suffix(".zst")?.parse().ok()
}

/// Whether this can name a backup: it becomes a folder.
pub(crate) fn is_backup_name(name: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    (1..=63).contains(&name.len())
        && name.bytes().all(valid)
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_place() {
        let root = Root::new(&Path::from("a/b"), "uid", SystemIdentifier(7));
        let of = |name: &str| root.wal_file(&name.parse().unwrap(), "db-1").to_string();
        assert_eq!(
            of("000000020000000100000003"),
            "a/b/uid/7/wal/0000000200000001/000000020000000100000003.zst"
        );
        assert_eq!(of("00000002.history"), "a/b/uid/7/wal/history/00000002.history");
        assert_eq!(
            of("000000010000000000000003.partial"),
            "a/b/uid/7/wal/partial/000000010000000000000003.partial.db-1.zst"
        );
        assert_eq!(
            of("000000010000000000000003.00000028.backup"),
            "a/b/uid/7/wal/0000000100000000/000000010000000000000003.00000028.backup"
        );
        assert_eq!(root.piece("b1", "base.tar", 12).to_string(), "a/b/uid/7/backup/b1/base.tar.zst/000012");
        assert_eq!(root.snapshot_file("b1").to_string(), "a/b/uid/7/snapshot/b1.json");
        assert_eq!(root.backup_file("b1").to_string(), "a/b/uid/7/backup/b1/backup.json");
        assert_eq!(root.relative(), "uid/7");
    }

    #[test]
    fn segments_are_known_in_either_form() {
        let of = |path: &str| segment_of(&Path::from(path)).map(|segment| segment.to_string());
        let name = "000000020000000100000003";
        for suffix in [".zst", ".zst.age"] {
            assert_eq!(of(&format!("wal/0000000200000001/{name}{suffix}")).as_deref(), Some(name));
        }
        for other in [".partial.db-1.zst", ".00000028.backup", ".age", ""] {
            assert_eq!(of(&format!("wal/{name}{other}")), None, "{other}");
        }
    }

    #[test]
    fn names_of_backups_are_plain() {
        assert!(is_backup_name("orders-db-20261126.1"));
        for name in ["", ".", "..", "a/b", "-a", "a b", "ä", &"a".repeat(64)] {
            assert!(!is_backup_name(name), "{name:?}");
        }
    }
}
