//! Runs PostgreSQL's programs and keeps what they say.
//!
//! Blocks the calling thread until the program has ended, so it is called from the runtime's blocking threads
//! only. The reaper may take the program away in a sweep; that is an ordinary failure here.

use std::{
    env,
    io::{self, BufRead, BufReader, PipeReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::processes::{Processes, SpawnError};

/// For a program that only reads a few files: long for a busy disk, short for somebody who waits.
pub(crate) const QUICK: Duration = Duration::from_secs(10);
/// For a program that copies or makes a whole data directory: only a bound against one that hangs for ever.
pub(crate) const LONG: Duration = Duration::from_hours(48);

/// Where distributions put each major version (Debian and its derivatives).
const VERSIONED: &str = "/usr/lib/postgresql";

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// Not in the image.
    #[error("{program} for PostgreSQL {major} is not in this image")]
    Missing {
        /// Which program.
        program: String,
        /// Of which version.
        major: String,
    },
    /// It did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A pipe could not be made.
    #[error("cannot make a pipe for {program}")]
    Pipe {
        /// Which program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} was killed after {} s without an end", .after.as_secs())]
    Late {
        /// Which program.
        program: String,
        /// How long it was given.
        after: Duration,
    },
    /// It reported a failure.
    #[error("{program}: {message}")]
    Failed {
        /// Which program.
        program: String,
        /// What it said last.
        message: String,
    },
}

/// Where the programs of one major version are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    directories: Vec<PathBuf>,
    major: String,
}

impl Programs {
    /// Of the version of existing data, or of the newest one in the image.
    pub(crate) fn of(bin_dir: Option<&Path>, major: Option<u32>) -> Self {
        let versioned =
            major.map_or_else(newest_versioned, |major| vec![Path::new(VERSIONED).join(major.to_string())]);
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = match bin_dir {
            Some(directory) => vec![directory.to_owned()],
            None => {
                versioned.iter().map(|prefix| prefix.join("bin")).chain(env::split_paths(&path)).collect()
            }
        };
        Self { directories, major: major.map_or_else(|| "any version".to_owned(), |major| major.to_string()) }
    }

    /// A command with a plain environment: nothing that PostgreSQL or libpq would obey.
    pub(crate) fn command(&self, program: &str) -> Result<Command, ToolError> {
        let found =
            self.directories.iter().map(|directory| directory.join(program)).find(|path| path.is_file());
        let missing = || ToolError::Missing { program: program.to_owned(), major: self.major.clone() };
        let mut command = Command::new(found.ok_or_else(missing)?);
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null());
        Ok(command)
    }
}

fn newest_versioned() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(VERSIONED).into_iter().flatten().flatten();
    let newest = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    newest.map(|major| Path::new(VERSIONED).join(major.to_string())).into_iter().collect()
}

/// How to run a program.
pub(crate) struct Run<'a> {
    pub(crate) processes: &'a Processes,
    pub(crate) command: Command,
    /// Written to its standard input.
    pub(crate) input: Vec<u8>,
    /// When to kill it.
    pub(crate) timeout: Duration,
    /// Told each line of its standard error, carriage returns included.
    pub(crate) on_line: &'a mut (dyn FnMut(&str) + Send),
}

impl<'a> Run<'a> {
    /// A program that reads a little and is done.
    pub(crate) fn quick(
        processes: &'a Processes,
        command: Command,
        ignore: &'a mut (dyn FnMut(&str) + Send),
    ) -> Self {
        Self { processes, command, input: Vec::new(), timeout: QUICK, on_line: ignore }
    }

    /// Runs it and returns its standard output.
    pub(crate) fn output(mut self) -> Result<String, ToolError> {
        let program = Path::new(self.command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let pipe = || io::pipe().map_err(|source| ToolError::Pipe { program: program.clone(), source });
        let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        let (ended, end) = mpsc::channel();
        let pid = self
            .processes
            .spawn(&mut self.command, Box::new(move |status| ended.send(status).unwrap_or_default()))?;
        drop(self.command); // closes this side's copies of the pipes' other ends
        let (input, on_line) = (self.input, self.on_line);
        thread::scope(|scope| {
            scope.spawn(move || { to_stdin }.write_all(&input));
            let output = scope.spawn(|| read_all(from_stdout));
            let last_line = scope.spawn(|| follow_lines(from_stderr, on_line));
            let status = await_end(&end, pid, self.timeout);
            let (output, message) = (output.join().unwrap_or_default(), last_line.join().unwrap_or_default());
            judge(program, status, self.timeout, output, message)
        })
    }
}

fn await_end(end: &mpsc::Receiver<ExitStatus>, pid: Pid, timeout: Duration) -> Option<ExitStatus> {
    match end.recv_timeout(timeout) {
        Ok(status) => Some(status),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            // Still in the table, hence not reaped: the number is still its own.
            let _gone = kill_process(pid, Signal::KILL);
            None
        }
    }
}

fn judge(
    program: String,
    status: Option<ExitStatus>,
    after: Duration,
    output: String,
    message: String,
) -> Result<String, ToolError> {
    match status {
        None => Err(ToolError::Late { program, after }),
        Some(status) if status.success() => Ok(output),
        Some(status) if message.is_empty() => Err(ToolError::Failed { program, message: status.to_string() }),
        Some(_) => Err(ToolError::Failed { program, message }),
    }
}

fn read_all(mut pipe: PipeReader) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is all there is.
    let _error = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Passes lines on and returns the last one that tells an error, or else the last one: some programs tidy up
/// after a failure and tell that too.
fn follow_lines(pipe: PipeReader, on_line: &mut (dyn FnMut(&str) + Send)) -> String {
    let mut reader = BufReader::new(pipe);
    let (mut line, mut last, mut last_error) = (Vec::new(), String::new(), None);
    while next_line(&mut reader, &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if !text.is_empty() {
            on_line(text);
            text.clone_into(&mut last);
            if ["error:", "ERROR:", "FATAL:", "PANIC:"].iter().any(|mark| text.contains(mark)) {
                last_error = Some(text.to_owned());
            }
        }
        line.clear();
    }
    last_error.unwrap_or(last)
}

/// Up to a line feed or carriage return, which progress displays use.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let used = end.map_or(buffer.len(), |end| end + 1);
        line.extend_from_slice(&buffer[..used]);
        reader.consume(used);
        if end.is_some() || used == 0 {
            return Ok(line.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_carriage_returns_too() {
        let mut reader = BufReader::with_capacity(3, &b"1/3 kB\r2/3 kB\rdone\nlast"[..]);
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while next_line(&mut reader, &mut line).unwrap() > 0 {
            lines.push(String::from_utf8(std::mem::take(&mut line)).unwrap());
        }
        assert_eq!(lines, ["1/3 kB\r", "2/3 kB\r", "done\n", "last"]);
    }

    #[test]
    fn a_missing_program_is_named_with_its_version() {
        let programs = Programs::of(Some(Path::new("/nonexistent")), Some(16));
        let error = programs.command("postgres").unwrap_err();
        assert_eq!(error.to_string(), "postgres for PostgreSQL 16 is not in this image");
    }
}
