//! What can be wrong with bytes from a socket. Every variant says where, what stood there and what was expected.

use super::{Kind, SectionId, Tag};
use crate::request::RefusalKind;

/// A malformed frame. Offsets in the header count from the frame's first byte; offsets in sections from the payload's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The stream does not start with a frame.
    #[error("header offset 0: expected the magic 53 44 52 4c (\"SDRL\"), found {:02x} {:02x} {:02x} {:02x}", found[0], found[1], found[2], found[3])]
    BadMagic {
        /// What stood there; bytes that have not arrived are zero.
        found: [u8; 4],
    },
    /// A version that this build does not speak.
    #[error("header offset 4: expected protocol version 1, found {found}")]
    BadVersion {
        /// The version byte.
        found: u8,
    },
    /// The header was damaged on the way.
    #[error("header offset 24: header CRC32C is {found:08x}, expected {computed:08x}")]
    BadHeaderCrc {
        /// In the frame.
        found: u32,
        /// Over the bytes received.
        computed: u32,
    },
    /// Longer than the receiver accepts.
    #[error("header offset 16: payload of {length} bytes, expected at most {limit}")]
    FrameTooLarge {
        /// Announced or needed.
        length: u64,
        /// Allowed.
        limit: u64,
    },
    /// The payload was damaged on the way.
    #[error("header offset 20: payload CRC32C is {found:08x}, expected {computed:08x}")]
    BadPayloadCrc {
        /// In the frame.
        found: u32,
        /// Over the bytes received.
        computed: u32,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame: {have} bytes of it arrived, expected {need}")]
    Truncated {
        /// Bytes of the frame that arrived.
        have: usize,
        /// Bytes of the frame, as far as they are known.
        need: usize,
    },
    /// A frame kind that this version does not have.
    #[error("header offset 5: unknown frame kind {kind}")]
    UnknownKind {
        /// The kind byte.
        kind: u8,
    },
    /// Frame flags that this version does not have.
    #[error("header offset 6: unknown frame flags {flags:#06x}, expected 0")]
    UnknownFlags {
        /// The flags.
        flags: u16,
    },
    /// Fewer bytes left than a section header has.
    #[error("payload offset {offset}: expected an 8-byte section header, found {available} bytes")]
    SectionHeaderCut {
        /// Where the header starts.
        offset: usize,
        /// Bytes left.
        available: usize,
    },
    /// A section longer than the rest of the payload.
    #[error("section {section} at payload offset {offset}: {length} bytes long, expected at most the {available} left")]
    SectionOverrun {
        /// Which.
        section: SectionId,
        /// Where its header starts.
        offset: usize,
        /// Its announced length.
        length: usize,
        /// Bytes left after its header.
        available: usize,
    },
    /// A section that must be understood and is not.
    #[error("section {section} at payload offset {offset} is required and unknown in a {} frame", kind.name())]
    UnknownRequired {
        /// Which.
        section: SectionId,
        /// Where its header starts.
        offset: usize,
        /// The frame's kind.
        kind: Kind,
    },
    /// Section flags that this version does not have.
    #[error("section {section} at payload offset {offset}: unknown flags {flags:#06x}, expected 0 or 1")]
    UnknownSectionFlags {
        /// Which.
        section: SectionId,
        /// Where its header starts.
        offset: usize,
        /// All its flags.
        flags: u16,
    },
    /// The same section twice.
    #[error("section {} at payload offset {offset} appears a second time, expected once", section.name())]
    DuplicateSection {
        /// Which.
        section: Tag,
        /// Where the second one's header starts.
        offset: usize,
    },
    /// A section that this kind of frame cannot do without.
    #[error("frame {}: expected section {expected}, found none", kind.name())]
    MissingSection {
        /// The frame's kind.
        kind: Kind,
        /// The section, or the choice of sections.
        expected: &'static str,
    },
    /// Two sections that exclude each other.
    #[error("section {} at payload offset {offset} contradicts section {}, expected one of them", second.name(), first.name())]
    ConflictingSections {
        /// The one that came first.
        first: Tag,
        /// The other.
        second: Tag,
        /// Where the other's header starts.
        offset: usize,
    },
    /// A section that ends inside a field.
    #[error("section {} at payload offset {offset}: expected {needed} bytes of {field}, found {available}", section.name())]
    FieldCut {
        /// Which section.
        section: Tag,
        /// Where the field starts.
        offset: usize,
        /// Which field.
        field: &'static str,
        /// Its size.
        needed: usize,
        /// Bytes left in the section.
        available: usize,
    },
    /// A count that the section cannot hold.
    #[error("section {} at payload offset {offset}: {count} {field}, expected at most the {room} that its length has room for", section.name())]
    CountOverrun {
        /// Which section.
        section: Tag,
        /// Where the count stands.
        offset: usize,
        /// What is counted.
        field: &'static str,
        /// Announced.
        count: usize,
        /// Possible.
        room: usize,
    },
    /// A section whose length does not fit its contents.
    #[error("section {} at payload offset {offset}: {length} bytes long, expected {expected}", section.name())]
    BadLength {
        /// Which section.
        section: Tag,
        /// Where its value starts.
        offset: usize,
        /// Its length.
        length: usize,
        /// What it should be.
        expected: &'static str,
    },
    /// Bytes after the last field of a section.
    #[error("section {} at payload offset {offset}: {extra} bytes after its last field, expected none", section.name())]
    TrailingBytes {
        /// Which section.
        section: Tag,
        /// Where they start.
        offset: usize,
        /// How many.
        extra: usize,
    },
    /// Text that is not UTF-8.
    #[error("section {} at payload offset {offset}: {field} is not UTF-8", section.name())]
    BadUtf8 {
        /// Which section.
        section: Tag,
        /// The first byte that is not.
        offset: usize,
        /// Which field.
        field: &'static str,
    },
    /// A field outside its range.
    #[error("section {} at payload offset {offset}: {field} is {found}, expected {expected}", section.name())]
    BadValue {
        /// Which section.
        section: Tag,
        /// Where the field stands.
        offset: usize,
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
}

impl WireError {
    /// The variant's name, as test vectors, logs and other clients use it.
    pub fn name(&self) -> &'static str {
        match self {
            WireError::BadMagic { .. } => "BadMagic",
            WireError::BadVersion { .. } => "BadVersion",
            WireError::BadHeaderCrc { .. } => "BadHeaderCrc",
            WireError::FrameTooLarge { .. } => "FrameTooLarge",
            WireError::BadPayloadCrc { .. } => "BadPayloadCrc",
            WireError::Truncated { .. } => "Truncated",
            WireError::UnknownKind { .. } => "UnknownKind",
            WireError::UnknownFlags { .. } => "UnknownFlags",
            WireError::SectionHeaderCut { .. } => "SectionHeaderCut",
            WireError::SectionOverrun { .. } => "SectionOverrun",
            WireError::UnknownRequired { .. } => "UnknownRequired",
            WireError::UnknownSectionFlags { .. } => "UnknownSectionFlags",
            WireError::DuplicateSection { .. } => "DuplicateSection",
            WireError::MissingSection { .. } => "MissingSection",
            WireError::ConflictingSections { .. } => "ConflictingSections",
            WireError::FieldCut { .. } => "FieldCut",
            WireError::CountOverrun { .. } => "CountOverrun",
            WireError::BadLength { .. } => "BadLength",
            WireError::TrailingBytes { .. } => "TrailingBytes",
            WireError::BadUtf8 { .. } => "BadUtf8",
            WireError::BadValue { .. } => "BadValue",
        }
    }

    /// True when the receiver no longer knows where the next frame starts, or may not trust that it does: the connection
    /// must end. False when only this frame is lost.
    pub fn breaks_framing(&self) -> bool {
        matches!(
            self,
            WireError::BadMagic { .. }
                | WireError::BadVersion { .. }
                | WireError::BadHeaderCrc { .. }
                | WireError::FrameTooLarge { .. }
                | WireError::BadPayloadCrc { .. }
                | WireError::Truncated { .. }
        )
    }

    /// How a RECOMMEND with this fault is refused.
    pub fn refusal_kind(&self) -> RefusalKind {
        match self {
            WireError::UnknownRequired { .. } | WireError::UnknownFlags { .. } => RefusalKind::Unsupported,
            _ => RefusalKind::BadRequest,
        }
    }
}
