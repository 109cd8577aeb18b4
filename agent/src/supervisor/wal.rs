//! The exact end of the local write-ahead log, from the files alone (ha.md section 10; review S-6).
//!
//! The server cannot tell: after a restart it knows only how far it has replayed. So this walks the records of
//! the newest segment, as recovery would, up to the last one that is whole: right length, back link, checksum.
//! The format read here is the same in PostgreSQL 14 to 18.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use proto::postgres::{Lsn, Timeline, WalPosition};

use super::{
    control::Control,
    crc32c::Crc32c,
    durable::DurableError,
    history::{self, Histories},
};

/// Why the end is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndError {
    /// A file could not be read.
    #[error("cannot read the write-ahead log")]
    Read(#[from] DurableError),
    /// No whole record in any file.
    #[error("{} holds no whole WAL record", .0.display())]
    NoRecord(PathBuf),
    /// Base backup or rewind: what the source had meanwhile must arrive first.
    #[error("the data is not consistent yet: it ends at {end} and needs {needed}")]
    Inconsistent {
        /// Where the log ends.
        end: WalPosition,
        /// Where it must reach.
        needed: WalPosition,
    },
    /// A base backup that has not been replayed to its end.
    #[error("the data is not consistent yet: its base backup has not been replayed")]
    InBackup,
}

/// The end of the last whole record under `pgdata`, which is durable when this returns.
pub(crate) fn end_of_wal(pgdata: &Path, control: &Control) -> Result<WalPosition, EndError> {
    if control.in_backup || pgdata.join("backup_label").exists() {
        return Err(EndError::InBackup);
    }
    let pg_wal = pgdata.join("pg_wal");
    let segments = Segments::list(&pg_wal, control.segment_size)?;
    let histories = history::read_all(&pg_wal)?;
    let end = lineage(&segments, &histories, control.timeline)
        .into_iter()
        .find_map(|timeline| segments.end_on(timeline, &histories).transpose())
        .transpose()?
        .ok_or(EndError::NoRecord(pg_wal))?;
    let needed = control.consistent_from;
    if needed.lsn > end.lsn {
        return Err(EndError::Inconsistent { end, needed });
    }
    Ok(end)
}

/// Timelines on which this data may have its last record, newest first: the one of `pg_control` with its
/// ancestors, and every one with local WAL that descends from it.
fn lineage(segments: &Segments, histories: &Histories, own: Timeline) -> Vec<Timeline> {
    let related = |timeline: &Timeline| {
        let descends =
            |from: Timeline, to| histories.get(&from).is_some_and(|history| history.descends_from(to));
        *timeline == own || descends(*timeline, own) || descends(own, *timeline)
    };
    let mut timelines: Vec<_> =
        segments.files.iter().map(|segment| segment.timeline).filter(related).collect();
    timelines.sort_unstable();
    timelines.dedup();
    timelines.reverse();
    timelines
}

/// One file of `pg_wal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Segment {
    timeline: Timeline,
    number: u64,
}

/// The segment files of a `pg_wal`, oldest first on each timeline.
struct Segments {
    pg_wal: PathBuf,
    size: u64,
    files: Vec<Segment>,
}

impl Segments {
    fn list(pg_wal: &Path, size: u64) -> Result<Self, DurableError> {
        let failed = |source| DurableError::Read { path: pg_wal.to_owned(), source };
        let entries = fs::read_dir(pg_wal).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let parse = |entry: &fs::DirEntry| Segment::parse(entry.file_name().to_str()?, size);
        let mut files: Vec<_> = entries.iter().filter_map(parse).collect();
        files.sort_unstable();
        Ok(Self { pg_wal: pg_wal.to_owned(), size, files })
    }

    /// The end of the last whole record of `timeline`, if the timeline has any of its own: its first segment
    /// begins with a copy of the ancestor's.
    fn end_on(&self, timeline: Timeline, histories: &Histories) -> Result<Option<WalPosition>, EndError> {
        let began = histories.get(&timeline).and_then(history::History::began).unwrap_or_default();
        for segment in self.files.iter().rev().filter(|segment| segment.timeline == timeline) {
            let mut walk = Walk { segments: self, timeline, page: None };
            if let Some(end) = walk.end_from(segment.number * self.size)? {
                self.sync(Segment { number: (end.0 - 1) / self.size, ..*segment });
                return Ok(Some(WalPosition { timeline, lsn: end }).filter(|end| end.lsn > began));
            }
        }
        Ok(None)
    }

    /// What is answered must not be lost with the node.
    fn sync(&self, segment: Segment) {
        let _absent = File::open(self.path(segment)).and_then(|file| file.sync_all());
    }

    fn path(&self, segment: Segment) -> PathBuf {
        let per_log = (1 << 32) / self.size;
        let (log, number) = (segment.number / per_log, segment.number % per_log);
        self.pg_wal.join(format!("{:08X}{log:08X}{number:08X}", segment.timeline.0))
    }
}

impl Segment {
    fn parse(name: &str, size: u64) -> Option<Self> {
        if name.len() != 24 {
            return None;
        }
        let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
        let per_log = (1 << 32) / size;
        Some(Self {
            timeline: Timeline::new(part(0..8)?)?,
            number: u64::from(part(8..16)?) * per_log + u64::from(part(16..24)?),
        })
    }
}

/// Page size of the log, which no distribution changes.
const PAGE_BYTES: usize = 8192;
const PAGE: u64 = PAGE_BYTES as u64;
/// Size of a page's header; the first page of a segment has a longer one.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
/// Size of a record's header.
const RECORD_HEADER: usize = 24;
/// Flags of a page: it begins with the rest of a record; it begins anew where one was never finished.
const CONTINUES: u16 = 0x1;
const OVERWRITES: u16 = 0x8;
/// Record that fills the rest of its segment: resource manager 0, this information.
const SWITCH: u8 = 0x40;

/// Reads records in order.
struct Walk<'a> {
    segments: &'a Segments,
    timeline: Timeline,
    /// The page read last, by its address.
    page: Option<(u64, Page)>,
}

type Page = Box<[u8; PAGE_BYTES]>;

/// One step of the walk.
enum Step {
    /// A whole record from `start`, and where the next one is.
    Record { next: u64 },
    /// An unfinished record was given up; the log goes on there.
    Skip { to: u64 },
    /// Nothing whole.
    End,
}

impl Walk<'_> {
    /// The end of the last whole record that can be reached from the beginning of a segment.
    fn end_from(&mut self, segment_start: u64) -> Result<Option<Lsn>, EndError> {
        let Some(mut at) = self.first_record(segment_start)? else { return Ok(None) };
        let (mut previous, mut end) = (None, None);
        loop {
            match self.step(at, previous)? {
                Step::Record { next } => {
                    (previous, end) = (Some(at), Some(Lsn(next)));
                    at = self.skip_header(next);
                }
                Step::Skip { to } => (previous, at) = (None, to),
                Step::End => return Ok(end),
            }
        }
    }

    /// Where the first record begins in the segment that begins at `address`.
    fn first_record(&mut self, address: u64) -> Result<Option<u64>, EndError> {
        let mut address = address;
        let mut expected = None;
        loop {
            let Some(page) = self.page(address)? else { return Ok(None) };
            let (continues, rest) = (flags(page) & CONTINUES != 0, u64::from(rest_length(page)));
            let header = self.header(address);
            if !continues {
                return Ok(expected.is_none().then_some(address + header));
            }
            if expected.is_some_and(|expected| expected != rest) {
                return Ok(None);
            }
            if rest < PAGE - header {
                return Ok(Some(self.skip_header(align(address + header + rest))));
            }
            (address, expected) = (address + PAGE, Some(rest - (PAGE - header)));
            if expected == Some(0) {
                return Ok(Some(self.skip_header(address)));
            }
        }
    }

    /// Reads the record at `start`; `previous` is where the one before began, if that is known.
    fn step(&mut self, start: u64, previous: Option<u64>) -> Result<Step, EndError> {
        let Some(page) = self.page(start - start % PAGE)? else { return Ok(Step::End) };
        let total = u64::from(u32_at(&**page, offset(start)));
        if total < RECORD_HEADER as u64 {
            return Ok(Step::End);
        }
        let mut header = Vec::with_capacity(RECORD_HEADER);
        let mut crc = Crc32c::new();
        let (mut at, mut left) = (start, total);
        loop {
            let Some(page) = self.page(at - at % PAGE)? else { return Ok(Step::End) };
            let rest_of_page = &page[offset(at)..];
            let bytes = &rest_of_page[..rest_of_page.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            let (first, rest) = bytes.split_at(bytes.len().min(RECORD_HEADER - header.len()));
            header.extend_from_slice(first);
            crc = crc.over(rest);
            (at, left) = (at + bytes.len() as u64, left - bytes.len() as u64);
            if left == 0 {
                break;
            }
            match self.continuation(at, left)? {
                Continuation::At(next) => at = next,
                Continuation::Overwritten(to) => return Ok(Step::Skip { to }),
                Continuation::Missing => return Ok(Step::End),
            }
        }
        if !is_whole(&header, crc, start, previous) {
            return Ok(Step::End);
        }
        Ok(Step::Record { next: self.after(&header, align(at)) })
    }

    /// Where a record goes on of which `left` bytes are missing at the end of a page.
    fn continuation(&mut self, address: u64, left: u64) -> Result<Continuation, EndError> {
        let header = self.header(address);
        let Some(page) = self.page(address)? else { return Ok(Continuation::Missing) };
        if flags(page) & OVERWRITES != 0 {
            return Ok(Continuation::Overwritten(address + header));
        }
        let continues = flags(page) & CONTINUES != 0 && u64::from(rest_length(page)) == left;
        Ok(if continues { Continuation::At(address + header) } else { Continuation::Missing })
    }

    fn after(&self, header: &[u8], end: u64) -> u64 {
        let (info, manager) = (header[16], header[17]);
        match manager == 0 && info & 0xF0 == SWITCH {
            true => end.next_multiple_of(self.segments.size),
            false => end,
        }
    }

    fn skip_header(&self, at: u64) -> u64 {
        if at.is_multiple_of(PAGE) { at + self.header(at) } else { at }
    }

    fn header(&self, page_address: u64) -> u64 {
        if page_address.is_multiple_of(self.segments.size) { LONG_HEADER } else { SHORT_HEADER }
    }

    /// The page at `address`, if it was written there: a recycled file still has the addresses of its past.
    fn page(&mut self, address: u64) -> Result<Option<&Page>, EndError> {
        if self.page.as_ref().is_none_or(|(read, _)| *read != address) {
            self.page = self.read_page(address)?.map(|page| (address, page));
        }
        Ok(self.page.as_ref().map(|(_, page)| page))
    }

    fn read_page(&self, address: u64) -> Result<Option<Page>, EndError> {
        let size = self.segments.size;
        let path = self.segments.path(Segment { timeline: self.timeline, number: address / size });
        let mut page: Page = Box::new([0; PAGE_BYTES]);
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut *page, address % size));
        match read.map_err(|error| (error.kind(), error)) {
            Ok(()) => Ok(Some(page).filter(|page| u64_at(&**page, 8) == address && u16_at(&**page, 0) != 0)),
            Err((io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof, _)) => Ok(None),
            Err((_, source)) => Err(DurableError::Read { path, source }.into()),
        }
    }
}

enum Continuation {
    At(u64),
    Overwritten(u64),
    Missing,
}

/// Checks a record's back link, so that leftovers of a recycled file do not count, and its checksum.
fn is_whole(header: &[u8], crc: Crc32c, start: u64, previous: Option<u64>) -> bool {
    let linked = u64_at(header, 8);
    let fits = previous.map_or(linked < start, |previous| previous == linked);
    fits && crc.over(&header[..20]).finish() == u32_at(header, 20)
}

/// Where in its page.
#[allow(clippy::cast_possible_truncation)] // below the size of a page
fn offset(at: u64) -> usize {
    (at % PAGE) as usize
}

fn align(at: u64) -> u64 {
    at.next_multiple_of(8)
}

fn flags(page: &Page) -> u16 {
    u16_at(&**page, 2)
}

fn rest_length(page: &Page) -> u32 {
    u32_at(&**page, 16)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
