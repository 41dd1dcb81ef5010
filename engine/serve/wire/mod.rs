//! The wire format: frames of typed sections, encoded and decoded over plain byte slices. `docs/protocol.md` draws every
//! byte; `tests/wire/vectors` holds examples that every client passes.
//!
//! ```text
//! frame    header (28 bytes) | payload
//! header   magic 4 | version u8 | kind u8 | flags u16 | request id u64 | payload bytes u32 | payload CRC u32 | header CRC u32
//! payload  section, section, ...
//! section  tag u16 | flags u16 | value bytes u32 | value
//! ```
//!
//! Invariants: decoding borrows the frame and copies only what a domain type keeps; nothing is read before its bounds are
//! checked and nothing is allocated before the bytes that fill it are known to be there; no input panics. Whatever is
//! encoded decodes to the same value, score bits included.
//!
//! What this module does not do: read sockets, keep state between frames (but for [`FrameReader`], which only cuts a byte
//! stream into frames), or judge a request. Whether 4,000 beams are too many is the engine's affair.

mod auth;
mod error;
mod frame;
mod handshake;
mod message;
mod reader;
mod recommend;
mod recommendation;
mod section;

pub use auth::{CONTEXT, NONCE_BYTES, PROOF_BYTES, Secret, SecretError, new_nonce};
pub use error::WireError;
pub use frame::{Frame, FrameWriter, HEADER_BYTES, Header, Kind, MAGIC, VERSION};
pub use handshake::{Bounds, HelloOk};
pub use message::{Fault, FaultCode, Message, encode_answer, encode_refusal};
pub use reader::FrameReader;
pub use recommend::{decode_recommend, encode_recommend};
pub use recommendation::{decode_recommendation, encode_recommendation};
pub use section::{REQUIRED, SECTION_HEADER_BYTES, Section, SectionId, Sections, Tag};
