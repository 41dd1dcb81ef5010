//! Frames: the 28-byte header and the payload behind it.
//!
//! ```text
//! offset  0      4        5     6      8           16       20           24
//!        +------+--------+-----+------+-----------+--------+------------+-----------+---------
//!        | SDRL | version| kind| flags| request id| bytes  | payload CRC| header CRC| payload
//!        | 4    | u8     | u8  | u16  | u64       | u32    | u32        | u32       | ...
//!        +------+--------+-----+------+-----------+--------+------------+-----------+---------
//! ```
//!
//! The header has a CRC32C of its own (over its first 24 bytes), so that a damaged length is noticed before anyone waits
//! for that many bytes.

use super::{REQUIRED, Tag, WireError};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"SDRL";
/// The version that this build speaks.
pub const VERSION: u8 = 1;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 28;

/// What a frame is. The numbers are the wire codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Client: opens the conversation.
    Hello = 1,
    /// Server: the conversation is open; what it serves.
    HelloOk = 2,
    /// Server: prove that you know the secret.
    Challenge = 3,
    /// Client: the proof.
    Auth = 4,
    /// Client: a request.
    Recommend = 16,
    /// Server: its answer.
    Recommendation = 17,
    /// Server: why there is none.
    Refusal = 18,
    /// Client: drop a request.
    Cancel = 19,
    /// Client: are you there?
    Ping = 32,
    /// Server: yes.
    Pong = 33,
    /// Client: counters, please.
    Stats = 34,
    /// Server: the counters.
    StatsReply = 35,
    /// Either: nothing new will come from here; what is in flight will still be answered.
    Goodbye = 48,
    /// Server: why the connection ends.
    Error = 49,
}

impl Kind {
    /// Every kind, in wire order.
    pub const ALL: [Kind; 14] = [
        Kind::Hello,
        Kind::HelloOk,
        Kind::Challenge,
        Kind::Auth,
        Kind::Recommend,
        Kind::Recommendation,
        Kind::Refusal,
        Kind::Cancel,
        Kind::Ping,
        Kind::Pong,
        Kind::Stats,
        Kind::StatsReply,
        Kind::Goodbye,
        Kind::Error,
    ];

    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// The name that documentation, logs and errors use.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hello => "HELLO",
            Kind::HelloOk => "HELLO_OK",
            Kind::Challenge => "CHALLENGE",
            Kind::Auth => "AUTH",
            Kind::Recommend => "RECOMMEND",
            Kind::Recommendation => "RECOMMENDATION",
            Kind::Refusal => "REFUSAL",
            Kind::Cancel => "CANCEL",
            Kind::Ping => "PING",
            Kind::Pong => "PONG",
            Kind::Stats => "STATS",
            Kind::StatsReply => "STATS_REPLY",
            Kind::Goodbye => "GOODBYE",
            Kind::Error => "ERROR",
        }
    }
}

/// A frame header whose magic, version and CRC are right. Its kind and flags may still be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Code of the kind.
    pub kind: u8,
    /// Must be 0 in version 1.
    pub flags: u16,
    /// Chosen by whoever asks; 0 in frames that belong to the connection.
    pub id: u64,
    /// Bytes of the payload.
    pub length: u32,
    /// CRC32C of the payload.
    pub payload_crc: u32,
}

impl Header {
    /// Reads a header; `None` if more bytes are needed. Wrong magic is noticed at its first wrong byte.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Option<Header>, WireError> {
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        if start != &MAGIC[..start.len()] {
            let mut found = [0; 4];
            found[..start.len()].copy_from_slice(start);
            return Err(WireError::BadMagic { found });
        }
        if let Some(&found) = bytes.get(4).filter(|version| **version != VERSION) {
            return Err(WireError::BadVersion { found });
        }
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header {
            kind: bytes[5],
            flags: u16::from_le_bytes([bytes[6], bytes[7]]),
            id: u64_at(bytes, 8),
            length: u32_at(bytes, 16),
            payload_crc: u32_at(bytes, 20),
        };
        let (found, computed) = (u32_at(bytes, 24), crc32c::crc32c(&bytes[..24]));
        if found != computed {
            return Err(WireError::BadHeaderCrc { found, computed });
        }
        if header.length as usize > limit {
            return Err(WireError::FrameTooLarge { length: header.length.into(), limit: limit as u64 });
        }
        Ok(Some(header))
    }

    /// The 28 bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind;
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A whole frame, borrowed from the buffer it arrived in; both CRCs are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its sections.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Cuts the first frame off `bytes`: the frame and its whole length, or `None` if more bytes are needed. Payloads of
    /// more than `limit` bytes are refused on sight of the header.
    pub fn decode(bytes: &'a [u8], limit: usize) -> Result<Option<(Frame<'a>, usize)>, WireError> {
        let Some(header) = Header::decode(bytes, limit)? else { return Ok(None) };
        let length = HEADER_BYTES + header.length as usize;
        let Some(payload) = bytes.get(HEADER_BYTES..length) else { return Ok(None) };
        let computed = crc32c::crc32c(payload);
        if header.payload_crc != computed {
            return Err(WireError::BadPayloadCrc { found: header.payload_crc, computed });
        }
        Ok(Some((Frame { header, payload }, length)))
    }

    /// The kind; refuses unknown kinds and flags.
    pub fn kind(&self) -> Result<Kind, WireError> {
        let kind = Kind::from_code(self.header.kind).ok_or(WireError::UnknownKind { kind: self.header.kind })?;
        if self.header.flags != 0 {
            return Err(WireError::UnknownFlags { flags: self.header.flags });
        }
        Ok(kind)
    }
}

/// Appends one frame to a buffer. Unless [`finish`](FrameWriter::finish) says yes, the buffer is left as it was.
pub struct FrameWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    kind: Kind,
    id: u64,
}

impl<'a> FrameWriter<'a> {
    /// Starts a frame at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>, kind: Kind, id: u64) -> FrameWriter<'a> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        FrameWriter { out, start, kind, id }
    }

    /// Appends a section that a receiver must understand; `write` appends its value.
    pub fn required(&mut self, tag: Tag, write: impl FnOnce(&mut Vec<u8>)) {
        self.section(tag, REQUIRED, write);
    }

    /// Appends a section that a receiver may skip; `write` appends its value.
    pub fn optional(&mut self, tag: Tag, write: impl FnOnce(&mut Vec<u8>)) {
        self.section(tag, 0, write);
    }

    fn section(&mut self, tag: Tag, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(&(tag as u16).to_le_bytes());
        self.out.extend_from_slice(&flags.to_le_bytes());
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        write(self.out);
        // A value beyond u32 makes the frame one too, which `finish` refuses.
        let length = (self.out.len() - at - 4) as u32;
        self.out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Seals the frame, or takes it back if its payload is longer than `limit` or than a length field can say.
    pub fn finish(self, limit: usize) -> Result<(), WireError> {
        let payload = &self.out[self.start + HEADER_BYTES..];
        let limit = limit.min(u32::MAX as usize);
        if payload.len() > limit {
            let length = payload.len() as u64;
            self.out.truncate(self.start);
            return Err(WireError::FrameTooLarge { length, limit: limit as u64 });
        }
        let header = Header {
            kind: self.kind as u8,
            flags: 0,
            id: self.id,
            length: payload.len() as u32,
            payload_crc: crc32c::crc32c(payload),
        };
        self.out[self.start..self.start + HEADER_BYTES].copy_from_slice(&header.encode());
        Ok(())
    }
}
