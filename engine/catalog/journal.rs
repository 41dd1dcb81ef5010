//! The delisting journal: which items must not be recommended, whatever the catalogue says. docs/catalog-format.md draws it.
//!
//! Append-only, checksummed record by record, and on disk before an append returns. It names item ids, so that it holds for
//! the next catalogue too. A record that a crash cut short was never acknowledged: readers stop before it and the next append
//! removes it. Damage *before* intact records is another matter: what it hid may have been a delisting, so it is an error.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::format::{read_u32, read_u64};

/// First bytes of every journal.
const MAGIC: [u8; 8] = *b"\x89SIDDLS\n";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// A record without its ids: what stands before them, and what behind.
const FIXED_BYTES: usize = 24 + 8;
/// Most ids of one record.
pub const MAX_RECORD_ITEMS: usize = 1 << 24;
/// The journal's name, beside a catalogue.
pub const JOURNAL_FILE: &str = "catalog.delist";

const DELIST: u32 = 1;
const RELIST: u32 = 2;

/// Why a journal could not be read or extended.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not start with the magic bytes.
    #[error("{}: not a delisting journal: it starts with {found:02x?}", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
        /// Its first bytes, at most eight.
        found: Vec<u8>,
    },
    /// The file has a format version that this build does not read.
    #[error("{}: journal format {found}, this build reads {FORMAT_VERSION}", path.display())]
    FormatVersion {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u32,
    },
    /// Something before the end is damaged.
    #[error("{}: byte {at}, where record {epoch} begins: {reason}; records follow, so this is damage and no interrupted write: restore the file from a copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the record.
        at: u64,
        /// The epoch that it should have.
        epoch: u64,
        /// What is wrong.
        reason: String,
    },
    /// The file became shorter than what was read of it.
    #[error("{}: the journal had {had} bytes and has {has}: it is append-only, restore it from a copy", path.display())]
    Shortened {
        /// The file.
        path: PathBuf,
        /// Bytes read before.
        had: u64,
        /// Bytes there are.
        has: u64,
    },
    /// More ids than a record holds.
    #[error("{items} items in one change; a record holds 1 to {MAX_RECORD_ITEMS}")]
    TooMany {
        /// Given.
        items: usize,
    },
}

/// One record: items that go, or come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether the items are delisted; relisted otherwise.
    pub delists: bool,
    /// When it was written: milliseconds since 1970.
    pub unix_ms: u64,
    /// Item ids, ascending.
    pub items: Vec<u64>,
}

/// How far a journal has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes of the intact records and what is before them.
    pub bytes: u64,
    /// Records.
    pub epoch: u64,
}

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// In order.
    pub changes: Vec<Change>,
    /// Behind the last of them.
    pub position: Position,
    /// Bytes behind that, of a record that is still being written or was cut short.
    pub torn_bytes: u64,
}

/// A journal by its path; the file need not exist.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal at `path`.
    pub fn at(path: &Path) -> Journal {
        Journal { path: path.to_owned() }
    }

    /// The journal of catalogues in `folder`.
    pub fn beside(folder: &Path) -> Journal {
        Journal { path: folder.join(JOURNAL_FILE) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, action: &'static str) -> impl Fn(std::io::Error) -> JournalError {
        let path = self.path.clone();
        move |source| JournalError::Io { action, path: path.clone(), source }
    }

    /// Whether there is nothing behind `position`: one look at the file's length.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn is_at(&self, position: Position) -> Result<bool, JournalError> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(metadata.len() == position.bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(position.bytes == 0),
            Err(error) => Err(self.failed("look at")(error)),
        }
    }

    /// Everything behind `position`; a journal that does not exist is empty.
    ///
    /// # Errors
    /// [`JournalError`]: the file cannot be read, is none, is damaged, or has lost what was read before.
    pub fn read_from(&self, position: Position) -> Result<Tail, JournalError> {
        match File::open(&self.path) {
            Ok(mut file) => self.read(&mut file, position),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && position.bytes == 0 => Ok(Tail::default()),
            Err(error) => Err(self.failed("open")(error)),
        }
    }

    fn read(&self, file: &mut File, position: Position) -> Result<Tail, JournalError> {
        let has = file.metadata().map_err(self.failed("look at"))?.len();
        if has < position.bytes {
            return Err(JournalError::Shortened { path: self.path.clone(), had: position.bytes, has });
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(position.bytes)).map_err(self.failed("read"))?;
        file.read_to_end(&mut bytes).map_err(self.failed("read"))?;
        let start = if position.bytes == 0 { self.header(&bytes)? } else { 0 };
        self.records(&bytes, start, position)
    }

    /// Bytes of the header; none where a crash left less than one.
    fn header(&self, bytes: &[u8]) -> Result<usize, JournalError> {
        let path = || self.path.clone();
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(JournalError::NotAJournal { path: path(), found: bytes[..known].to_vec() });
        }
        if bytes.len() < HEADER_BYTES {
            return Ok(0);
        }
        let found = read_u32(bytes, 8);
        if found != FORMAT_VERSION {
            return Err(JournalError::FormatVersion { path: path(), found });
        }
        if read_u32(bytes, 12) != crc32c::crc32c(&bytes[..12]) {
            return Err(JournalError::NotAJournal { path: path(), found: bytes[..HEADER_BYTES].to_vec() });
        }
        Ok(HEADER_BYTES)
    }

    fn records(&self, bytes: &[u8], start: usize, position: Position) -> Result<Tail, JournalError> {
        let mut tail = Tail { position, ..Tail::default() };
        let mut at = start;
        while at < bytes.len() && (start > 0 || position.bytes > 0) {
            match record(&bytes[at..], tail.position.epoch + 1) {
                Ok((change, length)) => {
                    tail.changes.push(change);
                    tail.position.epoch += 1;
                    at += length;
                }
                Err(reason) => {
                    let epoch = tail.position.epoch + 1;
                    if has_record_after(&bytes[at..], epoch) {
                        let at = position.bytes + at as u64;
                        return Err(JournalError::Damaged { path: self.path.clone(), at, epoch, reason });
                    }
                    break;
                }
            }
        }
        tail.position.bytes += at as u64;
        tail.torn_bytes = (bytes.len() - at) as u64;
        Ok(tail)
    }

    /// Appends a change and returns its epoch once it is on disk. Others who append wait; what a crash left behind the last
    /// intact record is cut off first.
    ///
    /// # Errors
    /// [`JournalError`]; nothing was acknowledged then.
    pub fn append(&self, delists: bool, mut items: Vec<u64>) -> Result<u64, JournalError> {
        items.sort_unstable();
        items.dedup();
        if items.is_empty() || items.len() > MAX_RECORD_ITEMS {
            return Err(JournalError::TooMany { items: items.len() });
        }
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path);
        let mut file = opened.map_err(self.failed("open"))?;
        file.lock().map_err(self.failed("lock"))?;
        let tail = self.read(&mut file, Position::default())?;
        let epoch = tail.position.epoch + 1;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + FIXED_BYTES + 8 * items.len());
        if tail.position.bytes == 0 {
            bytes.extend_from_slice(&MAGIC);
            bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
            bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let change = Change { delists, unix_ms: since_1970.as_millis() as u64, items };
        put_record(&change, epoch, &mut bytes);
        let end = tail.position.bytes;
        file.set_len(end).map_err(self.failed("cut"))?;
        file.seek(SeekFrom::Start(end)).map_err(self.failed("write"))?;
        file.write_all(&bytes).map_err(self.failed("write"))?;
        file.sync_all().map_err(self.failed("sync"))?;
        if end == 0 {
            // A new file is durable only once its directory is.
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
            folder.map_err(self.failed("sync the folder of"))?;
        }
        Ok(epoch)
    }
}

fn put_record(change: &Change, epoch: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&if change.delists { DELIST } else { RELIST }.to_le_bytes());
    out.extend_from_slice(&(change.items.len() as u32).to_le_bytes());
    for word in [epoch, change.unix_ms].iter().chain(&change.items) {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

/// The record at the beginning of `bytes` and its length, or why there is none.
fn record(bytes: &[u8], epoch: u64) -> Result<(Change, usize), String> {
    let has = bytes.len();
    if has < FIXED_BYTES {
        return Err(format!("{has} bytes are left, a record has at least {FIXED_BYTES}"));
    }
    let (kind, count, found) = (read_u32(bytes, 0), read_u32(bytes, 4) as usize, read_u64(bytes, 8));
    if ![DELIST, RELIST].contains(&kind) {
        return Err(format!("kind {kind}; 1 (delist) and 2 (relist) are known"));
    }
    if count == 0 || count > MAX_RECORD_ITEMS {
        return Err(format!("{count} items; a record has 1 to {MAX_RECORD_ITEMS}"));
    }
    let length = FIXED_BYTES + 8 * count;
    if has < length {
        return Err(format!("{has} bytes are left, the record has {length}"));
    }
    let (stored, computed) = (read_u32(bytes, length - 8), crc32c::crc32c(&bytes[..length - 8]));
    if stored != computed || read_u32(bytes, length - 4) != 0 {
        return Err(format!("checksum {computed:08x}, the record says {stored:08x}"));
    }
    if found != epoch {
        return Err(format!("epoch {found}"));
    }
    let items: Vec<u64> = (0..count).map(|item| read_u64(bytes, 24 + 8 * item)).collect();
    if !items.is_sorted_by(|a, b| a < b) {
        return Err("item ids do not ascend".to_owned());
    }
    Ok((Change { delists: kind == DELIST, unix_ms: read_u64(bytes, 16), items }, length))
}

/// Whether a record later than `epoch` stands anywhere behind the beginning of `bytes`. Records are multiples of 8 bytes.
fn has_record_after(bytes: &[u8], epoch: u64) -> bool {
    let places = (8..bytes.len().saturating_sub(FIXED_BYTES - 1)).step_by(8);
    places.into_iter().any(|at| {
        // Cheap first: of bytes that are no record, nearly none pass.
        let later = read_u64(bytes, at + 8);
        later > epoch && later - epoch < 1 << 32 && record(&bytes[at..], later).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::beside(folder.path());
        (folder, journal)
    }

    fn all(journal: &Journal) -> Tail {
        journal.read_from(Position::default()).unwrap()
    }

    fn items(tail: &Tail) -> Vec<(bool, Vec<u64>)> {
        tail.changes.iter().map(|change| (change.delists, change.items.clone())).collect()
    }

    #[test]
    fn changes_come_back_in_order_from_any_position() {
        let (_folder, journal) = journal();
        assert_eq!((all(&journal), journal.is_at(Position::default()).unwrap()), (Tail::default(), true));
        assert_eq!(journal.append(true, vec![9, 3, 9, u64::MAX]).unwrap(), 1);
        let first = all(&journal);
        assert_eq!(items(&first), [(true, vec![3, 9, u64::MAX])]);
        assert!(journal.is_at(first.position).unwrap());
        assert_eq!(journal.append(false, vec![3]).unwrap(), 2);
        assert!(!journal.is_at(first.position).unwrap());
        let next = journal.read_from(first.position).unwrap();
        assert_eq!((items(&next), next.position), (vec![(false, vec![3])], all(&journal).position));
        assert_eq!(next.position.epoch, 2);
        for bad in [vec![], vec![0; 0]] {
            assert!(matches!(journal.append(true, bad), Err(JournalError::TooMany { items: 0 })));
        }
    }

    /// A write that a crash cut short at any byte: the records before it stand, and the next append follows them.
    #[test]
    fn a_torn_tail_is_found_at_every_byte_and_cut_by_the_next_append() {
        let (_folder, journal) = journal();
        journal.append(true, vec![1, 2]).unwrap();
        let intact = all(&journal);
        journal.append(true, vec![3, 4, 5]).unwrap();
        let whole = std::fs::read(journal.path()).unwrap();
        for length in 0..whole.len() {
            std::fs::write(journal.path(), &whole[..length]).unwrap();
            let tail = all(&journal);
            let records = usize::from(length as u64 >= intact.position.bytes);
            assert_eq!(tail.changes[..], intact.changes[..records], "{length} bytes");
            assert_eq!(tail.position.bytes + tail.torn_bytes, length as u64, "{length} bytes");
            assert_eq!(journal.append(false, vec![7]).unwrap(), records as u64 + 1, "{length} bytes");
            let after = all(&journal);
            assert_eq!((after.changes.len(), after.torn_bytes), (records + 1, 0));
        }
        // The length was written and the content was not.
        let mut zeros = whole[..intact.position.bytes as usize].to_vec();
        zeros.resize(whole.len(), 0);
        std::fs::write(journal.path(), &zeros).unwrap();
        assert_eq!(all(&journal).position, intact.position);
    }

    #[test]
    fn damage_before_intact_records_is_an_error() {
        let (_folder, journal) = journal();
        for item in 0..3 {
            journal.append(true, vec![item, item + 100]).unwrap();
        }
        let good = std::fs::read(journal.path()).unwrap();
        let length = (good.len() - HEADER_BYTES) / 3;
        for at in HEADER_BYTES..HEADER_BYTES + 2 * length {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(journal.path(), &bytes).unwrap();
            let error = journal.read_from(Position::default()).unwrap_err();
            assert!(matches!(error, JournalError::Damaged { .. }), "byte {at}: {error}");
            assert!(journal.append(true, vec![1]).is_err());
        }
        for at in 0..HEADER_BYTES {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(journal.path(), &bytes).unwrap();
            assert!(journal.read_from(Position::default()).is_err(), "byte {at}");
        }
        std::fs::write(journal.path(), &good[..HEADER_BYTES]).unwrap();
        let error = journal.read_from(Position { bytes: good.len() as u64, epoch: 3 }).unwrap_err();
        assert!(matches!(error, JournalError::Shortened { .. }), "{error}");
    }

    #[test]
    fn many_append_at_once() {
        let (_folder, journal) = journal();
        let epochs = std::thread::scope(|scope| {
            let writer = |thread: u64| {
                let journal = &journal;
                move || (0..8).map(|n| journal.append(true, vec![thread * 100 + n]).unwrap()).collect::<Vec<_>>()
            };
            let writers: Vec<_> = (0..4).map(|thread| scope.spawn(writer(thread))).collect();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(epochs, (1..=32).collect());
        let tail = all(&journal);
        assert_eq!((tail.changes.len(), tail.torn_bytes), (32, 0));
    }
}
