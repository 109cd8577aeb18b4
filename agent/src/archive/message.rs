//! What the server's `archive_command` and `restore_command` say to the process that holds the credentials: lines
//! of JSON over a Unix socket, with the bytes of a file after the line that announces them.

use proto::postgres::SystemIdentifier;
use serde::{Deserialize, Serialize};

/// A line of the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// There is a file to be archived.
    Offer {
        /// Name in `pg_wal`.
        name: String,
        /// The server has not asked for it yet: what comes before it may not be archived.
        ahead: bool,
    },
    /// Wants a file of the archive.
    Fetch {
        /// Name in `pg_wal`.
        name: String,
    },
}

/// Announces the bytes of an offered file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Contents {
    /// SHA-256 of the uncompressed file, in hexadecimal.
    pub(crate) fingerprint: String,
    /// From the header of a segment.
    pub(crate) system_identifier: Option<SystemIdentifier>,
    /// Bytes that follow.
    pub(crate) length: u64,
}

/// A line of the process with the credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    /// The offered file is wanted.
    Send,
    /// It is archived, or nothing is to be archived.
    Done,
    /// Not now.
    Failed {
        /// For the server's log.
        why: String,
    },
    /// Not now, and the server that shuts down should not try again.
    GiveUp {
        /// For the server's log.
        why: String,
    },
    /// The wanted file is certainly not in the archive.
    Absent,
    /// The wanted file follows, uncompressed.
    Found {
        /// Bytes that follow.
        length: u64,
    },
}
