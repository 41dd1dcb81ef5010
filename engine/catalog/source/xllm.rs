//! xLLM's content file: one binary record an item, with the tokens that spell its semantic ID.
//!
//! Little-endian, without header or padding (docs/catalog-format.md draws it). Tokens are the model's, so a manifest must say
//! which code each is. In the extended form two strings stand between id and tokens: `did` becomes the item's key; `type`,
//! for which a catalogue has no place, is checked and left out.

use std::collections::HashMap;
use std::io::Read;

use super::super::error::Unit;
use super::{CatalogError, Input, RawItem, malformed};

/// Longest string: xLLM's own limit.
const MAX_STRING_BYTES: u32 = 1 << 20;
/// Records between two calls of the progress callback.
const RECORDS_PER_REPORT: u64 = 1 << 16;

/// Whether records hold strings (xLLM's `enable_extended_item_info`); the file does not say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strings {
    Absent,
    Present,
}

pub(super) fn read(
    input: &mut Input<'_>,
    reader: impl Read,
    tokens: &Option<Vec<Vec<u32>>>,
    strings: Strings,
) -> Result<(), CatalogError> {
    let Some(tokens) = tokens else {
        let reason = "records hold tokens: name the manifest that says which code each is (--manifest sidereal.json)";
        return Err(malformed(&input.place(Unit::Record, 1), Some("tokens"), reason));
    };
    let code_of: Vec<HashMap<u32, u64>> =
        tokens.iter().map(|level| level.iter().zip(0..).map(|(&token, code)| (token, code)).collect()).collect();
    let mut records = Records { input, reader, code_of, strings, offset: 0, number: 0, sid: Vec::new() };
    while records.offset < records.input.total {
        records.next()?;
    }
    let total = input.total;
    (input.progress)(total, total);
    Ok(())
}

struct Records<'a, 'b, R> {
    input: &'a mut Input<'b>,
    reader: R,
    code_of: Vec<HashMap<u32, u64>>,
    strings: Strings,
    /// Bytes read.
    offset: u64,
    /// Of the record being read, from 1.
    number: u64,
    /// Codes of the record being read.
    sid: Vec<u64>,
}

impl<R: Read> Records<'_, '_, R> {
    /// Reads and adds one record.
    fn next(&mut self) -> Result<(), CatalogError> {
        self.number += 1;
        let (at, id) = (self.offset, i64::from_le_bytes(self.bytes("item id")?));
        let id = u64::try_from(id).map_err(|_| self.wrong("item id", at, format!("{id} is negative")))?;
        let did = if self.strings == Strings::Present { self.string("did")? } else { String::new() };
        if self.strings == Strings::Present {
            self.string("type")?;
        }
        self.sid.clear();
        for level in 0..self.code_of.len() {
            let (at, token) = (self.offset, i32::from_le_bytes(self.bytes(&format!("token {level}"))?));
            let code = u32::try_from(token).ok().and_then(|token| self.code_of[level].get(&token).copied());
            let unknown = || format!("item {id}: token {token} spells no code of level {level} in the manifest");
            self.sid.push(code.ok_or_else(|| self.wrong(&format!("token {level}"), at, unknown()))?);
        }
        let place = self.input.place(Unit::Record, self.number);
        let key = Some(did.as_str());
        self.input.add(&place, &RawItem { id, sid: &self.sid, weight: None, key, title: None })?;
        if self.number.is_multiple_of(RECORDS_PER_REPORT) {
            (self.input.progress)(self.offset, self.input.total);
        }
        Ok(())
    }

    fn wrong(&self, field: &str, at: u64, reason: impl std::fmt::Display) -> CatalogError {
        malformed(&self.input.place(Unit::Record, self.number), Some(field), format!("byte offset {at}: {reason}"))
    }

    /// Fails unless the file has `needs` more bytes, so that a length in a hostile file reserves nothing.
    fn check_left(&self, field: &str, needs: u64) -> Result<(), CatalogError> {
        let left = self.input.total.saturating_sub(self.offset);
        if needs <= left {
            return Ok(());
        }
        let reason =
            format!("{needs} bytes are needed, the file ends after {left}; is it cut short, or of the other form?");
        Err(self.wrong(field, self.offset, reason))
    }

    fn fill(&mut self, field: &str, bytes: &mut [u8]) -> Result<(), CatalogError> {
        self.check_left(field, bytes.len() as u64)?;
        self.reader.read_exact(bytes).map_err(|error| self.input.io(error))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, field: &str) -> Result<[u8; N], CatalogError> {
        let mut bytes = [0; N];
        self.fill(field, &mut bytes)?;
        Ok(bytes)
    }

    fn string(&mut self, field: &str) -> Result<String, CatalogError> {
        let (at, length) = (self.offset, u32::from_le_bytes(self.bytes(field)?));
        if length > MAX_STRING_BYTES {
            return Err(self.wrong(field, at, format!("{length} bytes long, at most {MAX_STRING_BYTES} are allowed")));
        }
        self.check_left(field, length.into())?;
        let mut text = vec![0; length as usize];
        self.fill(field, &mut text)?;
        let text = String::from_utf8(text).map_err(|error| self.wrong(field, at + 4, format!("not UTF-8: {error}")))?;
        // Two records of the other form can pass for one of this: then numbers stand where text should.
        if text.contains(char::is_control) {
            return Err(self.wrong(field, at + 4, "a control character; are these records of the other form?"));
        }
        Ok(text)
    }
}
