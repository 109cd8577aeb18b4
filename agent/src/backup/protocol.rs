//! `BASE_BACKUP` over the server's Unix socket: the server itself chooses the files, checks their checksums and
//! makes the manifest. A walsender takes only simple queries, which no client library offers for replication.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    escape::escape_literal,
    message::{
        backend::{DataRowBody, ErrorResponseBody, Message},
        frontend,
    },
};
use proto::postgres::{Timeline, WalPosition};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// The server answers a connection at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence: a standby's restart point waits for the primary's next checkpoint.
const SILENCE: Duration = Duration::from_mins(30);
/// Bytes that are read at once.
const READ_SIZE: usize = 256 << 10;
/// Since this version archives are named in the stream.
const NAMED_ARCHIVES: u32 = 15;
/// Bytes of a manifest that are sent at once: what the server buffers before it parses.
const SEND_SIZE: usize = 128 << 10;
/// `data_corrupted`: pages with wrong checksums, told when all is sent.
const DATA_CORRUPTED: &str = "XX001";

/// Why the server gives no backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// No connection.
    #[error("cannot connect to the server's socket {}", .path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It broke.
    #[error("the connection to the server broke during the backup")]
    Broken(#[source] io::Error),
    /// Silence.
    #[error("the server was silent for {0:?} during the backup")]
    Silent(Duration),
    /// Its own words.
    #[error("the server refused the backup: {message}")]
    Refused {
        /// `SQLSTATE`.
        code: String,
        /// In its words.
        message: String,
    },
    /// A message that does not belong here.
    #[error("the server sent something unexpected during the backup: {0}")]
    Unexpected(&'static str),
}

impl ProtocolError {
    /// The server's words about damaged pages.
    pub(crate) fn damage(&self) -> Option<&str> {
        match self {
            Self::Refused { code, message } if code == DATA_CORRUPTED => Some(message),
            _ => None,
        }
    }
}

/// What comes, in this order: a start, the tablespaces, archives with their bytes, the end.
#[derive(Debug)]
pub(crate) enum Event {
    /// A row of a result.
    Row(Vec<Option<String>>),
    /// The bytes of this archive follow.
    Archive(String),
    /// Bytes of an archive.
    Data(Bytes),
    /// The server's count of bytes, which are counted here too.
    Progress,
    /// All is sent.
    Done,
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Everything,
    /// What changed since the backup whose manifest was uploaded.
    SinceManifest,
}

/// A replication connection.
pub(crate) struct Walsender {
    stream: UnixStream,
    buffer: BytesMut,
    major: u32,
    copies: usize,
}

/// The manifest's name in the repository, which is its name in a data directory.
pub(crate) const MANIFEST: &str = "backup_manifest";

impl Walsender {
    /// Connects as the superuser.
    pub(crate) async fn connect(socket_directory: &Path, port: u16) -> Result<Self, ProtocolError> {
        let path = socket_directory.join(format!(".s.PGSQL.{port}"));
        let failed = |source| ProtocolError::Connect { path: path.clone(), source };
        let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(&path)).await;
        let stream = connected.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        let mut sender = Self { stream, buffer: BytesMut::new(), major: 0, copies: 0 };
        let mut hello = BytesMut::new();
        let parameters =
            [("user", "postgres"), ("replication", "true"), ("application_name", "matriarch-backup")];
        frontend::startup_message(parameters, &mut hello).map_err(ProtocolError::Broken)?;
        sender.send(&hello).await?;
        sender.greet().await?;
        Ok(sender)
    }

    async fn greet(&mut self) -> Result<(), ProtocolError> {
        loop {
            match self.message().await? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationOk | Message::BackendKeyData(_) | Message::NoticeResponse(_) => {}
                Message::ParameterStatus(status) => {
                    if status.name().is_ok_and(|name| name == "server_version") {
                        self.major = status.value().ok().and_then(major).unwrap_or_default();
                    }
                }
                Message::ErrorResponse(error) => return Err(refused(&error)),
                _ => return Err(ProtocolError::Unexpected("it wants a password")),
            }
        }
    }

    /// Asks for a backup; read it with [`Walsender::next`].
    pub(crate) async fn base_backup(&mut self, label: &str, extent: Extent) -> Result<(), ProtocolError> {
        let label = escape_literal(label);
        // Whoever needs the WAL finds it in the archive: this neither sends nor awaits it.
        let command = match self.major >= NAMED_ARCHIVES {
            true => format!(
                "BASE_BACKUP (LABEL {label}, PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, \
                 TABLESPACE_MAP true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C'{})",
                match extent {
                    Extent::Everything => "",
                    Extent::SinceManifest => ", INCREMENTAL true",
                }
            ),
            false => format!(
                "BASE_BACKUP LABEL {label} PROGRESS FAST NOWAIT TABLESPACE_MAP MANIFEST 'yes' \
                 MANIFEST_CHECKSUMS 'CRC32C'"
            ),
        };
        self.query(&command).await
    }

    /// Begins to tell the server what an earlier backup holds; its manifest follows by [`Walsender::upload`].
    pub(crate) async fn begin_upload(&mut self) -> Result<(), ProtocolError> {
        self.query("UPLOAD_MANIFEST").await?;
        loop {
            match self.message().await? {
                Message::CopyInResponse(_) => return Ok(()),
                Message::ErrorResponse(error) => return Err(refused(&error)),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(ProtocolError::Unexpected("no wish for a manifest")),
            }
        }
    }

    /// Sends the next bytes of the manifest.
    pub(crate) async fn upload(&mut self, manifest: &[u8]) -> Result<(), ProtocolError> {
        for part in manifest.chunks(SEND_SIZE) {
            let mut message = BytesMut::with_capacity(part.len() + 16);
            frontend::CopyData::new(part).map_err(ProtocolError::Broken)?.write(&mut message);
            self.send(&message).await?;
        }
        Ok(())
    }

    /// The manifest is sent; an error if the server does not take it.
    pub(crate) async fn end_upload(&mut self) -> Result<(), ProtocolError> {
        let mut done = BytesMut::new();
        frontend::copy_done(&mut done);
        self.send(&done).await?;
        loop {
            match self.message().await? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(error) => return Err(refused(&error)),
                Message::CommandComplete(_) | Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(ProtocolError::Unexpected("no end of the manifest")),
            }
        }
    }

    async fn query(&mut self, command: &str) -> Result<(), ProtocolError> {
        let mut query = BytesMut::new();
        frontend::query(command, &mut query).map_err(ProtocolError::Broken)?;
        self.send(&query).await
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> Result<Event, ProtocolError> {
        loop {
            match self.message().await? {
                Message::DataRow(row) => return fields(&row).map(Event::Row),
                Message::CopyOutResponse(_) if self.major < NAMED_ARCHIVES => {
                    self.copies += 1;
                    return Ok(Event::Archive(unnamed(self.copies)));
                }
                Message::CopyData(data) if self.major < NAMED_ARCHIVES => {
                    return Ok(Event::Data(data.into_bytes()));
                }
                Message::CopyData(data) => return tagged(data.into_bytes()),
                Message::ErrorResponse(error) => return Err(refused(&error)),
                Message::ReadyForQuery(_) => return Ok(Event::Done),
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::CopyOutResponse(_)
                | Message::CopyDone
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_) => {}
                _ => return Err(ProtocolError::Unexpected("a message that no backup has")),
            }
        }
    }

    async fn message(&mut self) -> Result<Message, ProtocolError> {
        loop {
            if let Some(message) = Message::parse(&mut self.buffer).map_err(ProtocolError::Broken)? {
                return Ok(message);
            }
            self.buffer.reserve(READ_SIZE);
            let read = timeout(SILENCE, self.stream.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| ProtocolError::Silent(SILENCE))?.map_err(ProtocolError::Broken)? == 0 {
                return Err(ProtocolError::Broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        match timeout(CONNECT_TIMEOUT, self.stream.write_all(bytes)).await {
            Ok(sent) => sent.map_err(ProtocolError::Broken),
            Err(_) => Err(ProtocolError::Silent(CONNECT_TIMEOUT)),
        }
    }
}

/// Before version 15: first the one archive, then the manifest.
fn unnamed(copy: usize) -> String {
    match copy {
        1 => "base.tar".to_owned(),
        _ => MANIFEST.to_owned(),
    }
}

/// Since version 15 each piece of the copy says what it is.
fn tagged(mut data: Bytes) -> Result<Event, ProtocolError> {
    let kind = data.split_to(1.min(data.len()));
    match kind.first() {
        Some(b'd') => Ok(Event::Data(data)),
        Some(b'n') => {
            let name = data.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(Event::Archive(String::from_utf8_lossy(name).into_owned()))
        }
        Some(b'm') => Ok(Event::Archive(MANIFEST.to_owned())),
        Some(b'p') => Ok(Event::Progress),
        _ => Err(ProtocolError::Unexpected("a piece of unknown kind")),
    }
}

fn fields(row: &DataRowBody) -> Result<Vec<Option<String>>, ProtocolError> {
    let text = |range: Option<std::ops::Range<usize>>| {
        Ok(range.and_then(|range| row.buffer().get(range)).map(|b| String::from_utf8_lossy(b).into_owned()))
    };
    row.ranges().map(text).collect().map_err(ProtocolError::Broken)
}

fn refused(error: &ErrorResponseBody) -> ProtocolError {
    let (mut code, mut message) = (String::new(), String::new());
    let mut fields = error.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = value(),
            b'M' => message = value(),
            _ => {}
        }
    }
    ProtocolError::Refused { code, message }
}

fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Position and timeline, as the first and the last result tell them.
pub(crate) fn position(row: &[Option<String>]) -> Result<WalPosition, ProtocolError> {
    let text = |at: usize| row.get(at).and_then(Option::as_deref);
    let lsn = text(0).and_then(|text| text.parse().ok());
    let timeline = text(1).and_then(|text| text.parse().ok()).and_then(Timeline::new);
    match (lsn, timeline) {
        (Some(lsn), Some(timeline)) => Ok(WalPosition { timeline, lsn }),
        _ => Err(ProtocolError::Unexpected("a position that is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_say_what_they_are() {
        let of = |bytes: &'static [u8]| tagged(Bytes::from_static(bytes));
        assert!(matches!(of(b"dabc"), Ok(Event::Data(data)) if data == "abc"));
        assert!(matches!(of(b"nbase.tar\0\0"), Ok(Event::Archive(name)) if name == "base.tar"));
        assert!(matches!(of(b"m"), Ok(Event::Archive(name)) if name == MANIFEST));
        assert!(matches!(of(b"p\0\0\0\0\0\0\x01\0"), Ok(Event::Progress)));
        for bytes in [&b""[..], b"x"] {
            assert!(of(bytes).is_err());
        }
    }

    #[test]
    fn positions_are_read() {
        let row = |lsn: &str, timeline: &str| position(&[Some(lsn.to_owned()), Some(timeline.to_owned())]);
        assert_eq!(row("16/B374D848", "3").unwrap().to_string(), "16/B374D848@3");
        assert!(row("16/B374D848", "0").is_err() && row("x", "1").is_err() && position(&[]).is_err());
        assert_eq!(major("16.3 (Debian 16.3-1)"), Some(16));
        assert_eq!(major("19rc1"), Some(19));
    }
}
