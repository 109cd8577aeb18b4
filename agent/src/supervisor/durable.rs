//! What survives a crash: the HA state beside PGDATA, and swaps of the whole data directory.
//!
//! Every change is a temporary file, fsync, rename, fsync of the directory, in this order; when a function
//! here has returned, the change is on the disk. All of it may block for as long as the disk does.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use proto::{
    identity::{DataId, Epoch},
    postgres::SystemIdentifier,
    wire::supervisor::{Data, Durable},
};
use serde::{Deserialize, Serialize};

use super::layout::Layout;

/// Values of one data directory (ha.md section 2), as they stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HaState {
    /// Random name of this data.
    pub(crate) data_id: DataId,
    /// Highest epoch sealed, followed or opened.
    pub(crate) sealed: Epoch,
    /// Highest epoch that this data was opened in as primary.
    pub(crate) opened: Option<Epoch>,
}

impl HaState {
    /// State of data that is just being made.
    pub(crate) fn of_new_data(sealed: Epoch) -> Self {
        Self { data_id: DataId(rand::random()), sealed, opened: None }
    }
}

/// Why the disk could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DurableError {
    /// A file could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file has unexpected contents.
    #[error("{} is not what it should be: {found}", .path.display())]
    Contents {
        /// Which.
        path: PathBuf,
        /// What stands in it.
        found: String,
    },
    /// A file or directory could not be written, renamed or removed.
    #[error("cannot {action} {}", .path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Stores `state` for the present data.
pub(crate) fn store(layout: &Layout, state: &HaState) -> Result<(), DurableError> {
    write_json(&layout.durable_state(), state)
}

/// Puts the finished directory [`Layout::incoming`] in the place of PGDATA, together with its state. A crash
/// in the middle is finished by [`read`].
pub(crate) fn swap_in(layout: &Layout, state: &HaState) -> Result<(), DurableError> {
    write_json(&layout.incoming_state(), state)?;
    finish_swap(layout)?;
    remove_tree(&layout.outgoing())
}

/// Clears the place where initdb or clone builds the next data directory, and says where that is.
pub(crate) fn clear_incoming(layout: &Layout) -> Result<PathBuf, DurableError> {
    remove_tree(&layout.incoming())?;
    Ok(layout.incoming())
}

/// Clears the place of backups that build on each other, and says where that is.
pub(crate) fn clear_parts(layout: &Layout) -> Result<PathBuf, DurableError> {
    remove_tree(&layout.parts())?;
    Ok(layout.parts())
}

/// Takes PGDATA out of its place: what it holds is rebuilt into the next data directory.
pub(crate) fn swap_out(layout: &Layout) -> Result<PathBuf, DurableError> {
    remove_tree(&layout.incoming())?;
    rename(&layout.pgdata(), &layout.incoming())?;
    sync_directory(&layout.data_dir)?;
    Ok(layout.incoming())
}

/// Makes a directory empty.
pub(crate) fn clear(directory: &Path) -> Result<(), DurableError> {
    let read = |source| DurableError::Read { path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(read)? {
        let entry = entry.map_err(read)?;
        match entry.file_type().map_err(read)?.is_dir() {
            true => remove_tree(&entry.path())?,
            false => remove_file(&entry.path())?,
        }
    }
    sync_directory(directory)
}

/// Marks PGDATA as unfit to start until [`unmark_rewind`].
pub(crate) fn mark_rewind(layout: &Layout) -> Result<(), DurableError> {
    write_file(&layout.rewind_marker(), b"pg_rewind did not finish\n")
}

/// Removes the mark of [`mark_rewind`].
pub(crate) fn unmark_rewind(layout: &Layout) -> Result<(), DurableError> {
    remove_file(&layout.rewind_marker())?;
    sync_directory(&layout.data_dir)
}

/// Reads what data there is, after finishing a swap and removing leftovers that were never swapped in.
pub(crate) fn recover(layout: &Layout) -> Result<Data, DurableError> {
    if layout.incoming_state().exists() {
        finish_swap(layout)?;
    }
    remove_tree(&layout.incoming())?;
    remove_tree(&layout.parts())?;
    remove_tree(&layout.outgoing())?;
    read(layout)
}

/// Reads what data there is.
pub(crate) fn read(layout: &Layout) -> Result<Data, DurableError> {
    let state: Option<HaState> = read_json(&layout.durable_state())?;
    let unusable = |reason: &str| Data::Unusable {
        reason: reason.to_owned(),
        sealed: state.map(|state| state.sealed).unwrap_or_default(),
    };
    if layout.rewind_marker().exists() {
        return Ok(unusable("pg_rewind was interrupted"));
    }
    let Some(major_version) = major_version(layout)? else {
        return Ok(match is_empty(&layout.pgdata())? {
            true => Data::Empty,
            false => unusable("PGDATA has files but no PG_VERSION"),
        });
    };
    let Some(state) = state else {
        return Ok(unusable("PGDATA has no HA state beside it"));
    };
    Ok(Data::Present(Durable {
        data_id: state.data_id,
        sealed: state.sealed,
        opened: state.opened,
        system_identifier: system_identifier(&layout.pgdata())?,
        major_version,
    }))
}

/// `pg_control` begins with the system identifier, in every version.
pub(crate) fn system_identifier(pgdata: &Path) -> Result<SystemIdentifier, DurableError> {
    let path = pgdata.join("global/pg_control");
    let bytes = fs::read(&path).map_err(|source| DurableError::Read { path: path.clone(), source })?;
    match bytes.first_chunk() {
        Some(first) => Ok(SystemIdentifier(u64::from_ne_bytes(*first))),
        None => Err(DurableError::Contents { path, found: format!("{} bytes", bytes.len()) }),
    }
}

fn major_version(layout: &Layout) -> Result<Option<u32>, DurableError> {
    let path = layout.pgdata().join("PG_VERSION");
    let Some(text) = read_if_exists(&path)? else { return Ok(None) };
    match text.trim().parse() {
        Ok(major) => Ok(Some(major)),
        Err(_) => Err(DurableError::Contents { path, found: text }),
    }
}

fn is_empty(directory: &Path) -> Result<bool, DurableError> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(DurableError::Read { path: directory.to_owned(), source }),
    }
}

/// Each step may have been done before the crash.
fn finish_swap(layout: &Layout) -> Result<(), DurableError> {
    let (incoming, pgdata, outgoing) = (layout.incoming(), layout.pgdata(), layout.outgoing());
    if incoming.exists() {
        if pgdata.exists() {
            remove_tree(&outgoing)?;
            rename(&pgdata, &outgoing)?;
        }
        rename(&incoming, &pgdata)?;
    }
    remove_file(&layout.rewind_marker())?;
    // Before the state: it speaks of the new directory.
    sync_directory(&layout.data_dir)?;
    rename(&layout.incoming_state(), &layout.durable_state())?;
    sync_directory(&layout.data_dir)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DurableError> {
    let failed = |error: serde_json::Error| write_error("encode", path)(error.into());
    write_file(path, &serde_json::to_vec(value).map_err(failed)?)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, DurableError> {
    let Some(text) = read_if_exists(path)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(DurableError::Contents { path: path.to_owned(), found: text }),
    }
}

/// Contents of a file, if it is there.
pub(crate) fn read_if_exists(path: &Path) -> Result<Option<String>, DurableError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DurableError::Read { path: path.to_owned(), source }),
    }
}

/// Replaces `path` as a whole, durably.
pub(crate) fn write_file(path: &Path, contents: &[u8]) -> Result<(), DurableError> {
    let partial = path.with_extension("partial");
    let written = || {
        let mut file = File::create(&partial)?;
        file.write_all(contents)?;
        file.sync_all()
    };
    written().map_err(write_error("write", &partial))?;
    rename(&partial, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn rename(from: &Path, to: &Path) -> Result<(), DurableError> {
    fs::rename(from, to).map_err(write_error("rename", from))
}

/// Removes a file if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), DurableError> {
    unless_absent(fs::remove_file(path)).map_err(write_error("remove", path))
}

fn remove_tree(path: &Path) -> Result<(), DurableError> {
    unless_absent(fs::remove_dir_all(path)).map_err(write_error("remove", path))
}

fn unless_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Renames a file, if it is there, to a name that nothing reads.
pub(crate) fn set_aside(path: &Path) -> Result<(), DurableError> {
    unless_absent(fs::rename(path, path.with_extension("conf.rejected"))).map_err(write_error("rename", path))
}

/// Makes renames inside `path` durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), DurableError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(write_error("fsync", path))
}

fn write_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DurableError {
    move |source| DurableError::Write { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(directory: &tempfile::TempDir) -> Layout {
        let path = directory.path().to_owned();
        Layout { data_dir: path.clone(), run_dir: path.clone(), tls_dir: path, port: 5432, bin_dir: None }
    }

    fn data(directory: &Path, system_identifier: u64) {
        fs::create_dir_all(directory.join("global")).unwrap();
        fs::write(directory.join("PG_VERSION"), "16\n").unwrap();
        fs::write(directory.join("global/pg_control"), system_identifier.to_ne_bytes()).unwrap();
    }

    fn present(data: Data) -> Durable {
        match data {
            Data::Present(durable) => durable,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn state_round_trips_and_is_read_with_the_data() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        assert_eq!(recover(&layout).unwrap(), Data::Empty);
        data(&layout.pgdata(), 7);
        assert!(matches!(recover(&layout).unwrap(), Data::Unusable { .. }), "no state beside it");
        let state = HaState { opened: Some(Epoch(3)), ..HaState::of_new_data(Epoch(4)) };
        store(&layout, &state).unwrap();
        let found = present(recover(&layout).unwrap());
        assert_eq!((found.data_id, found.sealed, found.opened), (state.data_id, Epoch(4), Some(Epoch(3))));
        assert_eq!((found.system_identifier, found.major_version), (SystemIdentifier(7), 16));
    }

    #[test]
    fn a_rewind_marker_forbids_the_data_and_keeps_the_seal() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        data(&layout.pgdata(), 7);
        store(&layout, &HaState::of_new_data(Epoch(9))).unwrap();
        mark_rewind(&layout).unwrap();
        assert!(matches!(recover(&layout).unwrap(), Data::Unusable { sealed: Epoch(9), .. }));
        unmark_rewind(&layout).unwrap();
        present(recover(&layout).unwrap());
    }

    #[test]
    fn a_half_made_directory_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        data(&layout.pgdata(), 1);
        store(&layout, &HaState::of_new_data(Epoch(1))).unwrap();
        data(&layout.incoming(), 2);
        assert_eq!(present(recover(&layout).unwrap()).system_identifier, SystemIdentifier(1));
        assert!(!layout.incoming().exists());
    }

    /// Every crash point of a decided swap ends with the new data and the new state together.
    #[test]
    fn a_decided_swap_is_finished_from_every_step() {
        for done in 0..=3 {
            let directory = tempfile::tempdir().unwrap();
            let layout = layout(&directory);
            data(&layout.pgdata(), 1);
            store(&layout, &HaState::of_new_data(Epoch(1))).unwrap();
            mark_rewind(&layout).unwrap();
            data(&layout.incoming(), 2);
            let new = HaState::of_new_data(Epoch(5));
            write_json(&layout.incoming_state(), &new).unwrap();
            if done >= 1 {
                fs::rename(layout.pgdata(), layout.outgoing()).unwrap();
            }
            if done >= 2 {
                fs::rename(layout.incoming(), layout.pgdata()).unwrap();
            }
            if done >= 3 {
                fs::remove_file(layout.rewind_marker()).unwrap();
                fs::rename(layout.incoming_state(), layout.durable_state()).unwrap();
            }
            let found = present(recover(&layout).unwrap());
            assert_eq!(
                (found.data_id, found.system_identifier),
                (new.data_id, SystemIdentifier(2)),
                "{done}"
            );
            assert!(!layout.outgoing().exists() && !layout.incoming_state().exists());
        }
    }
}
