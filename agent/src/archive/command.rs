//! `agent wal push` and `agent wal fetch`: the server's `archive_command` and `restore_command`. They hold no
//! credentials and know no store; the process at the other end of the socket does.
//!
//! The status with which they end matters to the server (docs/backup-repository.md): a failed push ends with 1,
//! so that the server tries again and counts it; a fetch ends with 1 only if the file is certainly absent,
//! because the server takes that as the end of the log, and with 200 otherwise, which stops recovery.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Subcommand;
use proto::pod;

use super::{
    header::{Header, HeaderError},
    message::{Contents, Reply, Request},
    names::WalName,
    push::WalFile,
};

/// The other end waits for a store, with a limit of its own that is shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(4);
/// Segments that are offered along with the one that the server asks for: their round trips overlap.
const READ_AHEAD: usize = 3;
/// Tells the server's archiver to end instead of trying twice more, a second apart (any status above 125 does).
const END_ARCHIVER: u8 = 255;
/// Stops recovery; the server can be started again (1 would be the end of the log).
const STOP_RECOVERY: u8 = 200;

/// The server's commands.
#[derive(Subcommand)]
pub(crate) enum WalCommand {
    /// `archive_command`: archive this file of pg_wal
    Push {
        /// Socket of the process that has the credentials
        #[arg(long, default_value = pod::ARCHIVE_SOCKET)]
        socket: PathBuf,
        /// The file (%p)
        path: PathBuf,
    },
    /// `restore_command`: get this file from the archive
    Fetch {
        /// Socket of the process that has the credentials
        #[arg(long, default_value = pod::ARCHIVE_SOCKET)]
        socket: PathBuf,
        /// Name of the file (%f)
        name: String,
        /// Where to put it (%p)
        path: PathBuf,
    },
}

/// Why a file was not archived or fetched.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// Nobody there, or the conversation broke.
    #[error("the agent does not answer on {}", .socket.display())]
    Socket {
        /// Where.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not JSON of ours.
    #[error("the agent answered something unknown; are both of one version?")]
    Shape(#[source] serde_json::Error),
    /// The local file.
    #[error("cannot read or write {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not what its name says.
    #[error("{} is not the segment that its name says", .path.display())]
    Header {
        /// Which.
        path: PathBuf,
        /// How that shows.
        source: HeaderError,
    },
    /// The other end's words.
    #[error("{0}")]
    Refused(String),
    /// The other end's words, and the server shuts down.
    #[error("{0}")]
    GivenUp(String),
    /// Another answer than the question allows.
    #[error("the agent answered out of turn")]
    OutOfTurn,
}

impl WalCommand {
    /// Runs it. What goes wrong is said on standard error, which is the server's log.
    pub(crate) fn run(&self) -> ExitCode {
        match self {
            Self::Push { socket, path } => push_with_others(socket, path),
            Self::Fetch { socket, name, path } => match fetch(socket, name, path) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => {
                    eprintln!("wal fetch {name}: {}", crate::chain::Chain(&error));
                    ExitCode::from(STOP_RECOVERY)
                }
            },
        }
    }
}

fn push_with_others(socket: &Path, path: &Path) -> ExitCode {
    let others: Vec<_> = waiting_after(path)
        .into_iter()
        .map(|other| (socket.to_owned(), other))
        .map(|(socket, other)| thread::spawn(move || push(&socket, &other, true)))
        .collect();
    let pushed = push(socket, path, false);
    // Whatever becomes of them, the server will ask for each by itself.
    for other in others {
        drop(other.join());
    }
    match pushed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wal push {}: {}", path.display(), crate::chain::Chain(&error));
            match error {
                CommandError::GivenUp(_) => ExitCode::from(END_ARCHIVER),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The segments that the server will ask for next, if this is one.
fn waiting_after(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    if !matches!(name.parse(), Ok(WalName::Segment(_))) {
        return Vec::new();
    }
    let entries = fs::read_dir(directory.join("archive_status")).into_iter().flatten().flatten();
    let mut waiting: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".ready")?.to_owned()))
        .filter(|other| other.as_str() > name && matches!(other.parse(), Ok(WalName::Segment(_))))
        .collect();
    waiting.sort_unstable();
    waiting.truncate(READ_AHEAD);
    waiting.iter().map(|name| directory.join(name)).collect()
}

fn push(socket: &Path, path: &Path, ahead: bool) -> Result<(), CommandError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut line = Conversation::begin(socket)?;
    match line.ask(&Request::Offer { name: name.to_owned(), ahead })? {
        Reply::Send => {}
        other => return settled(other),
    }
    let name: WalName = name.parse().map_err(|_| CommandError::OutOfTurn)?;
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let plain = fs::read(path).map_err(failed)?;
    let system_identifier = match name {
        WalName::Segment(segment) => {
            let header = Header::check(segment, &plain, plain.len() as u64);
            let header = header.map_err(|source| CommandError::Header { path: path.to_owned(), source })?;
            Some(header.system_identifier)
        }
        _ => None,
    };
    let file = WalFile::prepare(name, &plain).map_err(failed)?;
    let fingerprint = super::hexadecimal(&file.fingerprint);
    line.say(&Contents { fingerprint, system_identifier, length: file.stored.len() as u64 })?;
    line.send(&file.stored)?;
    settled(line.hear()?)
}

fn settled(reply: Reply) -> Result<(), CommandError> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Failed { why } => Err(CommandError::Refused(why)),
        Reply::GiveUp { why } => Err(CommandError::GivenUp(why)),
        Reply::Send | Reply::Absent | Reply::Found { .. } => Err(CommandError::OutOfTurn),
    }
}

/// Whether the file is there now; `false` means that it is certainly not in the archive.
fn fetch(socket: &Path, name: &str, path: &Path) -> Result<bool, CommandError> {
    let mut line = Conversation::begin(socket)?;
    let length = match line.ask(&Request::Fetch { name: name.to_owned() })? {
        Reply::Found { length } => length,
        Reply::Absent => return Ok(false),
        Reply::Failed { why } | Reply::GiveUp { why } => return Err(CommandError::Refused(why)),
        Reply::Send | Reply::Done => return Err(CommandError::OutOfTurn),
    };
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let mut file = fs::File::create(path).map_err(failed)?;
    let copied = io::copy(&mut (&mut line.reader).take(length), &mut file).map_err(failed)?;
    match copied == length {
        true => Ok(true),
        false => Err(CommandError::Refused(format!("only {copied} of {length} bytes of {name} arrived"))),
    }
}

/// One connection.
struct Conversation {
    socket: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Conversation {
    fn begin(socket: &Path) -> Result<Self, CommandError> {
        let failed = |source| CommandError::Socket { socket: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
        Ok(Self { socket: socket.to_owned(), reader: BufReader::new(stream) })
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, CommandError> {
        self.say(request)?;
        self.hear()
    }

    fn say(&mut self, message: &impl serde::Serialize) -> Result<(), CommandError> {
        let line = serde_json::to_string(message).map_err(CommandError::Shape)?;
        self.send(format!("{line}\n").as_bytes())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        let failed = |source| CommandError::Socket { socket: self.socket.clone(), source };
        self.reader.get_ref().write_all(bytes).map_err(failed)
    }

    fn hear(&mut self) -> Result<Reply, CommandError> {
        let mut line = String::new();
        let failed = |source| CommandError::Socket { socket: self.socket.clone(), source };
        self.reader.read_line(&mut line).map_err(failed)?;
        // The other end is gone.
        if !line.ends_with('\n') {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_str(&line).map_err(CommandError::Shape)
    }
}

#[cfg(test)]
mod tests;
