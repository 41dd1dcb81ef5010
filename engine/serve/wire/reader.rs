//! Cuts a byte stream into frames, however the bytes arrive.
//!
//! The buffer grows with what has arrived, never with what a header announces: a peer that promises 4 MiB and sends
//! nothing costs 28 bytes. It holds at most one frame of the largest size plus one read (its capacity doubles as it grows,
//! so at most twice that in memory).

use std::io::{self, Read};

use super::{Frame, HEADER_BYTES, Header, WireError};

/// An emptied buffer larger than this is given back.
const KEEP_BYTES: usize = 64 << 10;

/// Bytes received and not yet taken as frames.
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were taken.
    taken: usize,
    limit: usize,
}

impl FrameReader {
    /// A reader that refuses payloads of more than `limit` bytes.
    pub fn new(limit: usize) -> FrameReader {
        FrameReader { buffer: Vec::new(), taken: 0, limit }
    }

    /// From the next frame on, refuses payloads of more than `limit` bytes.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.extend_from_slice(bytes);
    }

    /// Reads once from `source` through `scratch`, and says how many bytes came (0 at its end).
    pub fn read_from(&mut self, source: &mut impl Read, scratch: &mut [u8]) -> io::Result<usize> {
        let count = source.read(scratch)?;
        self.push(&scratch[..count]);
        Ok(count)
    }

    /// The next whole frame, or `None` until more bytes arrive. After an error that breaks framing the stream is lost.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        let Some((frame, length)) = Frame::decode(&self.buffer[self.taken..], self.limit)? else { return Ok(None) };
        self.taken += length;
        Ok(Some(frame))
    }

    /// True when bytes of an unfinished frame, or frames not yet taken, are held.
    pub fn holds_bytes(&self) -> bool {
        self.taken < self.buffer.len()
    }

    /// What the end of the stream means now: fine between frames, `Truncated` inside one.
    pub fn end(&self) -> Result<(), WireError> {
        let left = &self.buffer[self.taken..];
        if left.is_empty() {
            return Ok(());
        }
        let payload = Header::decode(left, self.limit)?.map_or(0, |header| header.length as usize);
        Err(WireError::Truncated { have: left.len(), need: HEADER_BYTES + payload })
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    fn compact(&mut self) {
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(KEEP_BYTES);
        } else if self.taken > 0 {
            self.buffer.drain(..self.taken);
        }
        self.taken = 0;
    }
}
