//! Everything that can go wrong with a catalogue: while building one, reading a source, or opening a file.
//!
//! Every variant carries the values a message needs: what, where, and what to do about it. Nothing here is a panic: these
//! are answers to wrong input.

use std::path::PathBuf;
use std::sync::Arc;

use super::format::Section;

/// Where an item came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File, or a name for what is not a file.
    pub source: Arc<str>,
    /// What `number` counts.
    pub unit: Unit,
    /// Counted from 1, except rows, which are item ids and start at 0.
    pub number: u64,
}

/// What the numbers of a source count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Lines of a text file.
    Line,
    /// Entries of a JSON object.
    Entry,
    /// Rows of an array.
    Row,
    /// Records of a binary file, or items of a nested list, in file order.
    Record,
    /// Calls of [`super::CatalogBuilder::add`].
    Call,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.unit {
            Unit::Line => "line",
            Unit::Entry => "entry",
            Unit::Row => "row",
            Unit::Record => "record",
            Unit::Call => "added item",
        };
        write!(f, "{}, {unit} {}", self.source, self.number)
    }
}

/// Why a catalogue could not be built, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
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
    /// A file could not be mapped.
    #[error(transparent)]
    Map(#[from] sidereal_ffi::MapError),

    // -- Opening a catalogue file -------------------------------------------------------------------------------------
    /// The file does not start with the magic bytes.
    #[error("{}: not a catalogue: it starts with {found:02x?}; make one with `sidereal catalog build`", path.display())]
    NotACatalog {
        /// The file.
        path: PathBuf,
        /// Its first bytes, at most eight.
        found: Vec<u8>,
    },
    /// The file has a format version that this build does not read.
    #[error("{}: catalogue format {found}, this build reads {supported}; build the catalogue again from its source", path.display())]
    FormatVersion {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u32,
        /// Read by this build.
        supported: u32,
    },
    /// The file is shorter (or longer) than its header says.
    #[error("{}: {what} needs {needs} bytes, the file has {has}; copy it again from where it was built", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
        /// Bytes that there must be.
        needs: u64,
        /// Bytes that there are.
        has: u64,
    },
    /// The header does not match its checksum.
    #[error("{}: header checksum is {computed:08x}, the file says {stored:08x}: the file is damaged, copy it again", path.display())]
    HeaderChecksum {
        /// The file.
        path: PathBuf,
        /// In the file.
        stored: u32,
        /// Of the bytes found.
        computed: u32,
    },
    /// A header field has a value that no writer produces.
    #[error("{}: header field `{field}` is {value}: {rule}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Name in docs/catalog-format.md.
        field: &'static str,
        /// The value found.
        value: String,
        /// What is legal.
        rule: String,
    },
    /// The section table contradicts the header or the file.
    #[error("{}: section `{section}`: {reason}", path.display())]
    SectionTable {
        /// The file.
        path: PathBuf,
        /// Which section.
        section: Section,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// A section does not match its checksum.
    #[error("{}: section `{section}` has checksum {computed:08x}, the file says {stored:08x}: the file is damaged, copy it again", path.display())]
    SectionChecksum {
        /// The file.
        path: PathBuf,
        /// Which section.
        section: Section,
        /// In the file.
        stored: u32,
        /// Of the bytes found.
        computed: u32,
    },
    /// An element of a section breaks a rule of the format.
    #[error("{}: section `{section}`, element {index}: {reason}", path.display())]
    Structure {
        /// The file.
        path: PathBuf,
        /// Which section.
        section: Section,
        /// Position in the section, in elements.
        index: u64,
        /// The rule and the value.
        reason: String,
    },

    // -- Building -------------------------------------------------------------------------------------------------------
    /// The number of levels is not supported.
    #[error("a semantic ID of {levels} levels; {min} to {max} are supported", min = super::MIN_LEVELS, max = super::MAX_LEVELS)]
    Levels {
        /// Asked for.
        levels: usize,
    },
    /// A level's code count is not supported.
    #[error("level {level} declares {codes} codes; 1 to {max} are supported", max = super::MAX_CODES)]
    CodeCount {
        /// The level, from 0.
        level: usize,
        /// Declared.
        codes: u32,
    },
    /// The first item of a source has a number of codes that no catalogue has.
    #[error("{place}: item {item} has {found} codes; {min} to {max} are supported", min = super::MIN_LEVELS, max = super::MAX_LEVELS)]
    SidLevels {
        /// Where the item stands.
        place: Place,
        /// The item.
        item: u64,
        /// Codes given.
        found: usize,
    },
    /// An item's semantic ID has the wrong number of codes.
    #[error("{place}: item {item} has {found} codes, the catalogue has {expected} levels")]
    SidLength {
        /// Where the item stands.
        place: Place,
        /// The item.
        item: u64,
        /// Codes given.
        found: usize,
        /// Levels of the catalogue.
        expected: usize,
    },
    /// A code is not below its level's bound.
    #[error("{place}: item {item}, level {level}: code {code} is out of range, the level has {codes} codes (0 to {})", codes - 1)]
    CodeOutOfRange {
        /// Where the item stands.
        place: Place,
        /// The item.
        item: u64,
        /// The level, from 0.
        level: usize,
        /// The code given.
        code: u64,
        /// Codes of the level.
        codes: u32,
    },
    /// An item's weight is not a finite number.
    #[error("{place}: item {item} has weight {weight}; weights are finite 32-bit floats")]
    Weight {
        /// Where the item stands.
        place: Place,
        /// The item.
        item: u64,
        /// The weight given.
        weight: f64,
    },
    /// An item stands in the source twice.
    #[error("item {item} is given twice: {first}, and {second}; keep one")]
    DuplicateItem {
        /// The item.
        item: u64,
        /// Its first place.
        first: Place,
        /// Its second place.
        second: Place,
    },
    /// Two items have the same string key.
    #[error("key \"{}\" is given twice: {first}, and {second}; keys name one item each", key.escape_debug())]
    DuplicateKey {
        /// The key.
        key: String,
        /// Its first place.
        first: Place,
        /// Its second place.
        second: Place,
    },
    /// The version string is not usable.
    #[error("catalogue version \"{}\" has {} bytes; 1 to {max} bytes without control characters are supported", version.escape_debug(), version.len(), max = super::format::MAX_VERSION_BYTES)]
    Version {
        /// The version given.
        version: String,
    },
    /// Something there is too much of.
    #[error("{count} {what}; a catalogue holds at most {limit}")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        count: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Nothing to build from.
    #[error("{source_name} has no items; a catalogue needs at least one")]
    Empty {
        /// The source.
        source_name: String,
    },

    // -- Reading a source -------------------------------------------------------------------------------------------------
    /// Neither name nor content tells the format of a source.
    #[error("{}: cannot tell the format from its name or content; name it: jsonl, csv, index-json, npy, openonerec, xllm or xllm-extended", path.display())]
    UnknownFormat {
        /// The source.
        path: PathBuf,
    },
    /// A source says something that cannot be used.
    #[error("{place}{}: {reason}", field.as_ref().map(|f| format!(", field `{f}`")).unwrap_or_default())]
    Malformed {
        /// Where.
        place: Place,
        /// Field or column, where one is to blame.
        field: Option<String>,
        /// What is wrong and what is expected.
        reason: String,
    },
}
