//! The bytes of a catalogue file: header, section table, and the writer. docs/catalog-format.md says the same at length.
//!
//! ```text
//!   0 +----------------------------------------------------------------+
//!     | magic 89 53 49 44 43 41 54 0a ("\x89SIDCAT\n")              8  |
//!   8 | format version u32 = 1   | header CRC32C u32                   |   CRC over bytes 0 .. header_bytes,
//!  16 | file_bytes u64                                                 |   its own field taken as zero
//!  24 | items u64                                                      |
//!  32 | levels u32               | sections u32                        |
//!  40 | header_bytes u32         | reserved u32 = 0                    |   header_bytes = 256 + 32 * sections
//!  48 | 8 x { codes u32, nodes u32 }, unused levels zero           64  |
//! 112 | version_bytes u32        | reserved u32 = 0                    |
//! 120 | version, UTF-8, zero-padded                               128  |
//! 248 | reserved u64 = 0                                               |
//! 256 +----------------------------------------------------------------+
//!     | sections x { kind u32, level u32, offset u64,                  |   in ascending (kind, level)
//!     |              bytes u64, CRC32C u32, reserved u32 = 0 }         |
//!     +----------------------------------------------------------------+
//!     | sections, in table order, each at the next multiple of 64,     |
//!     | gaps zero; the file ends where the last section ends           |
//!     +----------------------------------------------------------------+
//! ```
//!
//! All integers are little-endian and read in place. This file knows where bytes stand; what they must say to each other is
//! checked in `layout.rs`.

use std::io::{self, Write};

use super::{CatalogError, MAX_LEVELS};

#[cfg(target_endian = "big")]
compile_error!("catalogue files are little-endian and read in place: a big-endian host would need a converting reader");

/// First bytes of every catalogue file. The high bit and the newline catch transfers that treat it as text.
pub(super) const MAGIC: [u8; 8] = *b"\x89SIDCAT\n";
/// The one format version that this build writes and reads.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Header without the section table.
pub(super) const FIXED_HEADER_BYTES: usize = 256;
/// One entry of the section table.
pub(super) const ENTRY_BYTES: usize = 32;
/// Longest catalogue version string.
pub const MAX_VERSION_BYTES: usize = 128;
/// Every section starts at a multiple of this.
pub(super) const ALIGNMENT: u64 = 64;

const LEVELS_AT: usize = 48;
const VERSION_AT: usize = 120;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum SectionKind {
    /// `u16 [nodes]`: code of each node of a level.
    NodeCodes = 1,
    /// `u32 [nodes + 1]`: first child of each node of a level (not the last), then the end.
    FirstChild = 2,
    /// `u64 [items / 64]`: bit set where a slot begins a leaf.
    LeafStarts = 3,
    /// `u32 [items / 512 + 1]`: set bits before each 512, then all.
    LeafCounts = 4,
    /// `u32 [items]`: item index of each slot.
    LeafItems = 5,
    /// `u64 [items]`: item ids, ascending.
    ItemIds = 6,
    /// `u32 [items]`: leaf of each item.
    ItemLeaves = 7,
    /// `f32 [items]`: weight of each item.
    ItemWeights = 8,
    /// `u32 [items + 1]`: where each item's key begins, then the end.
    KeyOffsets = 9,
    /// UTF-8.
    KeyText = 10,
    /// `u32 [items with a key]`: item indexes in the order of their keys' bytes.
    KeyOrder = 11,
    /// `u32 [items + 1]`: where each item's title begins, then the end.
    TitleOffsets = 12,
    /// UTF-8.
    TitleText = 13,
}

impl SectionKind {
    /// Every kind, in file order.
    pub const ALL: [SectionKind; 13] = [
        SectionKind::NodeCodes,
        SectionKind::FirstChild,
        SectionKind::LeafStarts,
        SectionKind::LeafCounts,
        SectionKind::LeafItems,
        SectionKind::ItemIds,
        SectionKind::ItemLeaves,
        SectionKind::ItemWeights,
        SectionKind::KeyOffsets,
        SectionKind::KeyText,
        SectionKind::KeyOrder,
        SectionKind::TitleOffsets,
        SectionKind::TitleText,
    ];

    fn name(self) -> &'static str {
        match self {
            SectionKind::NodeCodes => "node codes",
            SectionKind::FirstChild => "first child",
            SectionKind::LeafStarts => "leaf starts",
            SectionKind::LeafCounts => "leaf counts",
            SectionKind::LeafItems => "leaf items",
            SectionKind::ItemIds => "item ids",
            SectionKind::ItemLeaves => "item leaves",
            SectionKind::ItemWeights => "item weights",
            SectionKind::KeyOffsets => "key offsets",
            SectionKind::KeyText => "key text",
            SectionKind::KeyOrder => "key order",
            SectionKind::TitleOffsets => "title offsets",
            SectionKind::TitleText => "title text",
        }
    }

    /// Whether there is one such section a level.
    pub(super) fn by_level(self) -> bool {
        matches!(self, SectionKind::NodeCodes | SectionKind::FirstChild)
    }

    /// Whether the section is text, whose checksum is left to [`super::verify`].
    pub(super) fn is_text(self) -> bool {
        matches!(self, SectionKind::KeyText | SectionKind::TitleText)
    }
}

/// A section's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Its level; 0 for kinds that have no level.
    pub level: u32,
}

impl Section {
    /// A section that belongs to no level.
    pub(super) fn of(kind: SectionKind) -> Section {
        Section { kind, level: 0 }
    }

    /// A level's section.
    pub(super) fn at(kind: SectionKind, level: usize) -> Section {
        Section { kind, level: level as u32 }
    }
}

impl std::fmt::Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind.by_level() {
            true => write!(f, "{} of level {}", self.kind.name(), self.level),
            false => f.write_str(self.kind.name()),
        }
    }
}

/// The header's facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) file_bytes: u64,
    pub(super) items: u64,
    pub(super) levels: u32,
    pub(super) sections: u32,
    pub(super) header_bytes: u32,
    /// Codes of each level; all eight fields as stored.
    pub(super) codes: [u32; MAX_LEVELS],
    /// Nodes of each level; all eight fields as stored.
    pub(super) nodes: [u32; MAX_LEVELS],
    pub(super) version: Vec<u8>,
    pub(super) version_bytes: u32,
}

/// One line of the section table, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: u32,
    pub(super) level: u32,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) crc: u32,
    pub(super) reserved: u32,
}

/// Reads a little-endian `u32`; the caller has checked the length.
pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// Reads a little-endian `u64`; the caller has checked the length.
pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Header {
    /// Reads the fixed part from its 256 bytes, without judging it.
    pub(super) fn read(bytes: &[u8]) -> Header {
        let level = |l: usize, field: usize| read_u32(bytes, LEVELS_AT + l * 8 + field * 4);
        Header {
            file_bytes: read_u64(bytes, 16),
            items: read_u64(bytes, 24),
            levels: read_u32(bytes, 32),
            sections: read_u32(bytes, 36),
            header_bytes: read_u32(bytes, 40),
            codes: std::array::from_fn(|l| level(l, 0)),
            nodes: std::array::from_fn(|l| level(l, 1)),
            version_bytes: read_u32(bytes, 112),
            version: bytes[VERSION_AT..VERSION_AT + MAX_VERSION_BYTES].to_vec(),
        }
    }

    /// First reserved field of the fixed part that is not zero, by its offset.
    pub(super) fn reserved_in_use(bytes: &[u8]) -> Option<usize> {
        [44, 116, 248, 252].into_iter().find(|&at| read_u32(bytes, at) != 0)
    }
}

impl Entry {
    /// Reads one entry from its 32 bytes.
    pub(super) fn read(bytes: &[u8]) -> Entry {
        Entry {
            kind: read_u32(bytes, 0),
            level: read_u32(bytes, 4),
            offset: read_u64(bytes, 8),
            bytes: read_u64(bytes, 16),
            crc: read_u32(bytes, 24),
            reserved: read_u32(bytes, 28),
        }
    }

    /// Which section this is, if it is a known kind.
    pub(super) fn section(&self) -> Option<Section> {
        let kind = SectionKind::ALL.into_iter().find(|&kind| kind as u32 == self.kind)?;
        Some(Section { kind, level: self.level })
    }
}

/// CRC32C of a header (or of a whole file that keeps its checksum in the same place), the field itself taken as zero.
pub(super) fn header_crc(header: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&header[..12]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &header[16..])
}

/// What a writer is given: the facts and the sections in file order.
pub(super) struct Content<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) items: u64,
    /// (codes, nodes) of each level.
    pub(super) levels: Vec<(u32, u32)>,
    pub(super) sections: Vec<(Section, &'a [u8])>,
}

/// A file ready to be written: its header is complete, its sections are still where they were.
pub(super) struct Plan<'a> {
    header: Vec<u8>,
    sections: Vec<(u64, &'a [u8])>,
    pub(super) file_bytes: u64,
}

impl<'a> Plan<'a> {
    /// Places and checksums the sections. Without a version string, the content's checksum becomes the version.
    pub(super) fn new(content: Content<'a>) -> Result<Plan<'a>, CatalogError> {
        let header_bytes = FIXED_HEADER_BYTES + ENTRY_BYTES * content.sections.len();
        let mut header = Vec::with_capacity(header_bytes);
        let mut table = Vec::with_capacity(ENTRY_BYTES * content.sections.len());
        let mut placed = Vec::with_capacity(content.sections.len());
        let mut end = header_bytes as u64;
        for (section, bytes) in &content.sections {
            let offset = end.next_multiple_of(ALIGNMENT);
            end = offset + bytes.len() as u64;
            table.extend_from_slice(&(section.kind as u32).to_le_bytes());
            table.extend_from_slice(&section.level.to_le_bytes());
            table.extend_from_slice(&offset.to_le_bytes());
            table.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            table.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
            table.extend_from_slice(&[0; 4]);
            placed.push((offset, *bytes));
        }
        let version = match content.version {
            Some(version) => check_version(version)?.to_owned(),
            None => format!("crc-{:08x}", crc32c::crc32c(&table)),
        };
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&end.to_le_bytes());
        header.extend_from_slice(&content.items.to_le_bytes());
        header.extend_from_slice(&(content.levels.len() as u32).to_le_bytes());
        header.extend_from_slice(&(content.sections.len() as u32).to_le_bytes());
        header.extend_from_slice(&(header_bytes as u32).to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        for level in 0..MAX_LEVELS {
            let (codes, nodes) = content.levels.get(level).copied().unwrap_or((0, 0));
            header.extend_from_slice(&codes.to_le_bytes());
            header.extend_from_slice(&nodes.to_le_bytes());
        }
        header.extend_from_slice(&(version.len() as u32).to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(version.as_bytes());
        header.resize(FIXED_HEADER_BYTES, 0);
        header.extend_from_slice(&table);
        let crc = header_crc(&header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        Ok(Plan { header, sections: placed, file_bytes: end })
    }

    /// Writes the whole file.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        let mut at = self.header.len() as u64;
        for &(offset, bytes) in &self.sections {
            out.write_all(&[0; ALIGNMENT as usize][..(offset - at) as usize])?;
            out.write_all(bytes)?;
            at = offset + bytes.len() as u64;
        }
        Ok(())
    }
}

/// A version string that a header can hold and a terminal can show.
pub(super) fn check_version(version: &str) -> Result<&str, CatalogError> {
    let good = !version.is_empty() && version.len() <= MAX_VERSION_BYTES && !version.chars().any(char::is_control);
    if good { Ok(version) } else { Err(CatalogError::Version { version: version.to_owned() }) }
}
