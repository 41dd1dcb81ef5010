//! Sections: tagged values inside a payload, and the cursor that reads their fields.
//!
//! ```text
//! offset  0     2       4        8
//!        +-----+-------+--------+----------
//!        | tag | flags | bytes  | value ...
//!        | u16 | u16   | u32    |
//!        +-----+-------+--------+----------
//! ```
//!
//! Flag bit 0 says *required*: a receiver that does not know the tag in this kind of frame must refuse the frame; otherwise
//! it skips the section. Sections come in any order, each at most once. Values are not aligned or padded.

use std::fmt;

use super::{Kind, WireError};

/// Section flag: who does not know this section must refuse the frame.
pub const REQUIRED: u16 = 1;
/// Bytes of a section header.
pub const SECTION_HEADER_BYTES: usize = 8;

macro_rules! tags {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $name:literal,)*) => {
        /// The sections of version 1. The numbers are the wire codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Tag {
            $($(#[$doc])* $variant = $code,)*
        }

        impl Tag {
            /// Every tag, in wire order.
            pub const ALL: &'static [Tag] = &[$(Tag::$variant),*];

            /// The tag with this code.
            pub fn from_code(code: u16) -> Option<Tag> {
                match code {
                    $($code => Some(Tag::$variant),)*
                    _ => None,
                }
            }

            /// The name that documentation and errors use.
            pub fn name(self) -> &'static str {
                match self {
                    $(Tag::$variant => $name,)*
                }
            }
        }
    };
}

tags! {
    /// HELLO: name and version of the client, text.
    Client = 0x0001 "CLIENT",
    /// CHALLENGE: 32 random bytes.
    Nonce = 0x0002 "NONCE",
    /// AUTH: HMAC-SHA256 over the nonce and the context.
    Proof = 0x0003 "PROOF",
    /// HELLO_OK: what is served.
    Facts = 0x0010 "FACTS",
    /// HELLO_OK: what the server allows on a connection.
    Bounds = 0x0011 "BOUNDS",
    /// STATS_REPLY: the engine's counters, JSON text.
    EngineStats = 0x0020 "ENGINE_STATS",
    /// STATS_REPLY: the socket loop's counters, JSON text.
    ServerStats = 0x0021 "SERVER_STATS",
    /// RECOMMEND: beams, top, options.
    Search = 0x0100 "SEARCH",
    /// RECOMMEND: the complete prompt as token ids.
    HistoryTokens = 0x0101 "HISTORY_TOKENS",
    /// RECOMMEND: the history as numeric item ids.
    HistoryIds = 0x0102 "HISTORY_IDS",
    /// RECOMMEND: the history as string keys.
    HistoryKeys = 0x0103 "HISTORY_KEYS",
    /// RECOMMEND: denied items as numeric ids.
    DenyIds = 0x0104 "DENY_IDS",
    /// RECOMMEND: denied items as string keys.
    DenyKeys = 0x0105 "DENY_KEYS",
    /// RECOMMEND: items of a semantic ID to return at most.
    MaxItemsPerSid = 0x0106 "MAX_ITEMS_PER_SID",
    /// RECOMMEND: remaining microseconds.
    Deadline = 0x0107 "DEADLINE",
    /// RECOMMEND: whose history this is, text; a hint.
    User = 0x0108 "USER",
    /// RECOMMEND: candidate pool, text.
    View = 0x0109 "VIEW",
    /// RECOMMEND: scenario bundle.
    Scenario = 0x010a "SCENARIO",
    /// RECOMMEND: draw instead of search.
    Sample = 0x010b "SAMPLE",
    /// RECOMMEND: the complete prompt as text.
    HistoryText = 0x010c "HISTORY_TEXT",
    /// RECOMMEND: values of instructions, by name.
    Instructions = 0x010f "INSTRUCTIONS",
    /// RECOMMEND: the trigger item as numeric id.
    TriggerId = 0x0110 "TRIGGER_ID",
    /// RECOMMEND: the trigger item as string key.
    TriggerKey = 0x0112 "TRIGGER_KEY",
    /// RECOMMEND: semantic IDs of a list.
    List = 0x0111 "LIST",
    /// RECOMMENDATION: unknown items, prompt tokens.
    Summary = 0x0200 "SUMMARY",
    /// RECOMMENDATION: semantic IDs, scores, items.
    Results = 0x0201 "RESULTS",
    /// RECOMMENDATION: keys and titles of the items of RESULTS.
    ItemText = 0x0202 "ITEM_TEXT",
    /// RECOMMENDATION: what computed it.
    Provenance = 0x0203 "PROVENANCE",
    /// RECOMMENDATION: where the time went.
    Timings = 0x0204 "TIMINGS",
    /// RECOMMENDATION: log-probabilities of the results of RESULTS.
    LevelLogProbs = 0x0205 "LEVEL_LOGPROBS",
    /// RECOMMENDATION: perturbed log-probabilities of the results of RESULTS.
    SampleKeys = 0x0206 "SAMPLE_KEYS",
    /// RECOMMENDATION: where each instruction of the decoder's prompt came from.
    InstructionsUsed = 0x0207 "INSTRUCTIONS_USED",
    /// RECOMMENDATION: which weights computed it.
    Policy = 0x020a "POLICY",
    /// RECOMMENDATION: lists of semantic IDs with their items, in place of RESULTS.
    Lists = 0x0209 "LISTS",
    /// REFUSAL: code and message.
    Reason = 0x0300 "REASON",
    /// ERROR: code and message.
    Fault = 0x0301 "FAULT",
}

/// A section's tag as it arrived: displays as its name if it has one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SectionId(pub u16);

impl fmt::Display for SectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Tag::from_code(self.0) {
            Some(tag) => f.write_str(tag.name()),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

impl fmt::Debug for SectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One section, borrowed from its payload.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// Its tag.
    pub id: SectionId,
    /// True if it must be understood.
    pub required: bool,
    /// Where its header starts in the payload.
    pub offset: usize,
    /// Its bytes.
    pub value: &'a [u8],
}

impl<'a> Section<'a> {
    /// A cursor over the value, which errors will call `tag`.
    pub(super) fn fields(&self, tag: Tag) -> Fields<'a> {
        Fields { tag, start: self.offset + SECTION_HEADER_BYTES, value: self.value, at: 0 }
    }

    /// For sections that a decoder does not know: skips an optional one, refuses a required one.
    pub(super) fn skip(&self, kind: Kind) -> Result<(), WireError> {
        match self.required {
            true => Err(WireError::UnknownRequired { section: self.id, offset: self.offset, kind }),
            false => Ok(()),
        }
    }

    /// Stores what was decoded from this section, unless there is one already.
    pub(super) fn store<T>(&self, tag: Tag, slot: &mut Option<T>, value: T) -> Result<(), WireError> {
        match slot.replace(value) {
            Some(_) => Err(WireError::DuplicateSection { section: tag, offset: self.offset }),
            None => Ok(()),
        }
    }
}

/// Walks the sections of a payload; after an error it ends.
pub struct Sections<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Sections<'a> {
    /// The sections of `payload`.
    pub fn new(payload: &'a [u8]) -> Sections<'a> {
        Sections { payload, at: 0 }
    }

    fn read(&mut self) -> Result<Section<'a>, WireError> {
        let (offset, rest) = (self.at, &self.payload[self.at..]);
        self.at = self.payload.len();
        let Some((head, value)) = rest.split_first_chunk::<SECTION_HEADER_BYTES>() else {
            return Err(WireError::SectionHeaderCut { offset, available: rest.len() });
        };
        let section = SectionId(u16::from_le_bytes([head[0], head[1]]));
        let flags = u16::from_le_bytes([head[2], head[3]]);
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if flags & !REQUIRED != 0 {
            return Err(WireError::UnknownSectionFlags { section, offset, flags });
        }
        let available = value.len();
        let value = value.get(..length).ok_or(WireError::SectionOverrun { section, offset, length, available })?;
        self.at = offset + SECTION_HEADER_BYTES + length;
        Ok(Section { id: section, required: flags & REQUIRED != 0, offset, value })
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.payload.len()).then(|| self.read())
    }
}

/// A cursor over a section's value. Every read names its field, so that an error can.
pub(super) struct Fields<'a> {
    tag: Tag,
    start: usize,
    value: &'a [u8],
    at: usize,
}

/// Length of an absent optional text.
const ABSENT: u32 = u32::MAX;

impl<'a> Fields<'a> {
    /// Payload offset of the next field.
    pub(super) fn offset(&self) -> usize {
        self.start + self.at
    }

    fn left(&self) -> usize {
        self.value.len() - self.at
    }

    pub(super) fn take(&mut self, needed: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let available = self.left();
        if needed > available {
            return Err(WireError::FieldCut { section: self.tag, offset: self.offset(), field, needed, available });
        }
        let bytes = &self.value[self.at..self.at + needed];
        self.at += needed;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, field)?);
        Ok(bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(super) fn f32(&mut self, field: &'static str) -> Result<f32, WireError> {
        self.u32(field).map(f32::from_bits)
    }

    /// A u32 count of things that take at least `least` bytes each: refused before anything is allocated for them.
    pub(super) fn count(&mut self, least: usize, field: &'static str) -> Result<usize, WireError> {
        let offset = self.offset();
        let count = self.u32(field)? as usize;
        let room = self.left() / least;
        if count > room {
            return Err(WireError::CountOverrun { section: self.tag, offset, field, count, room });
        }
        Ok(count)
    }

    pub(super) fn u16s(&mut self, count: usize, field: &'static str) -> Result<Vec<u16>, WireError> {
        let bytes = self.take(count.saturating_mul(2), field)?;
        Ok(bytes.as_chunks().0.iter().map(|chunk| u16::from_le_bytes(*chunk)).collect())
    }

    pub(super) fn u32s(&mut self, count: usize, field: &'static str) -> Result<Vec<u32>, WireError> {
        let bytes = self.take(count.saturating_mul(4), field)?;
        Ok(bytes.as_chunks().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect())
    }

    pub(super) fn u64s(&mut self, count: usize, field: &'static str) -> Result<Vec<u64>, WireError> {
        let bytes = self.take(count.saturating_mul(8), field)?;
        Ok(bytes.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect())
    }

    /// How many whole elements of `size` bytes the section consists of.
    pub(super) fn elements(&self, size: usize, expected: &'static str) -> Result<usize, WireError> {
        match self.left().is_multiple_of(size) {
            true => Ok(self.left() / size),
            false => {
                Err(WireError::BadLength { section: self.tag, offset: self.offset(), length: self.left(), expected })
            }
        }
    }

    fn utf8(&self, bytes: &'a [u8], offset: usize, field: &'static str) -> Result<&'a str, WireError> {
        std::str::from_utf8(bytes).map_err(|error| WireError::BadUtf8 {
            section: self.tag,
            offset: offset + error.valid_up_to(),
            field,
        })
    }

    /// Text with its length (u32) in front.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        let length = self.u32(field)? as usize;
        let offset = self.offset();
        let bytes = self.take(length, field)?;
        self.utf8(bytes, offset, field)
    }

    /// Text with its length in front, or length `ffffffff` for none.
    pub(super) fn optional_text(&mut self, field: &'static str) -> Result<Option<&'a str>, WireError> {
        let at = self.at;
        if self.u32(field)? == ABSENT {
            return Ok(None);
        }
        self.at = at;
        self.text(field).map(Some)
    }

    /// Text to the end of the section.
    pub(super) fn rest_as_text(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        let offset = self.offset();
        let bytes = self.take(self.left(), field)?;
        self.utf8(bytes, offset, field)
    }

    /// A count and that many texts.
    pub(super) fn texts(&mut self, field: &'static str) -> Result<Vec<String>, WireError> {
        let count = self.count(4, field)?;
        (0..count).map(|_| self.text(field).map(str::to_owned)).collect()
    }

    /// A refusal of the field that started at `offset`.
    pub(super) fn bad_value(
        &self,
        offset: usize,
        field: &'static str,
        found: u64,
        expected: &'static str,
    ) -> WireError {
        WireError::BadValue { section: self.tag, offset, field, found, expected }
    }

    /// Ends the section: nothing may be left.
    pub(super) fn end(self) -> Result<(), WireError> {
        match self.left() {
            0 => Ok(()),
            extra => Err(WireError::TrailingBytes { section: self.tag, offset: self.offset(), extra }),
        }
    }
}

/// Appends text with its length in front. Text beyond 4 GiB makes its frame too long, which `FrameWriter::finish` refuses.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends text with its length in front, or the mark of absence.
pub(super) fn put_optional_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => put_text(out, text),
        None => out.extend_from_slice(&ABSENT.to_le_bytes()),
    }
}

/// Appends a count and that many texts.
pub(super) fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    out.extend_from_slice(&(texts.len() as u32).to_le_bytes());
    texts.iter().for_each(|text| put_text(out, text));
}
