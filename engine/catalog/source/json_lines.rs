//! JSON lines: one object an item.
//!
//! The fast path is a typed parse; only a line that fails is parsed again, loosely, to say which field is wrong.

use std::io::{BufRead, Read};

use serde::Deserialize;
use serde_json::Value;

use super::super::error::{Place, Unit};
use super::{CatalogError, Input, RawItem, malformed};

/// Longest line: a title of a million bytes is a damaged file.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Lines between two calls of the progress callback.
const LINES_PER_REPORT: u64 = 1 << 14;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    item: u64,
    sid: Vec<u64>,
    weight: Option<f64>,
    key: Option<String>,
    title: Option<String>,
}

pub(super) fn read(input: &mut Input<'_>, mut reader: impl BufRead) -> Result<(), CatalogError> {
    let mut line = Vec::new();
    let (mut number, mut done) = (0, 0);
    let mut place = input.place(Unit::Line, 0);
    loop {
        line.clear();
        let bytes = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(|e| input.io(e))? as u64;
        if bytes == 0 {
            break;
        }
        done += bytes;
        number += 1;
        place.number = number;
        if bytes == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
            return Err(malformed(&place, None, format!("longer than {MAX_LINE_BYTES} bytes")));
        }
        let text = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
        let text = text.trim_ascii();
        if !text.is_empty() {
            let parsed: Line = serde_json::from_slice(text).map_err(|error| explain(&place, text, &error))?;
            let (key, title) = (parsed.key.as_deref(), parsed.title.as_deref());
            let item = RawItem { id: parsed.item, sid: &parsed.sid, weight: parsed.weight, key, title };
            input.add(&place, &item)?;
        }
        if number.is_multiple_of(LINES_PER_REPORT) {
            (input.progress)(done, input.total);
        }
    }
    (input.progress)(done, input.total);
    Ok(())
}

/// Says what is wrong with a line that does not parse.
fn explain(place: &Place, text: &[u8], error: &serde_json::Error) -> CatalogError {
    let loose = match serde_json::from_slice::<Value>(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return malformed(place, None, r#"expected an object such as {"item":1,"sid":[3,17,44]}"#),
        Err(error) => return malformed(place, None, format!("column {}: not JSON: {error}", error.column())),
    };
    let whole = "expected a whole number from 0 to 18446744073709551615";
    let wrong = |field: &str, reason: String| malformed(place, Some(field), reason);
    for (field, value) in &loose {
        match field.as_str() {
            "item" if !value.is_u64() => return wrong(field, format!("{value}: {whole}; names go into `key`")),
            "sid" => match value.as_array() {
                None => return wrong(field, format!("{value}: expected a list of codes such as [3,17,44]")),
                Some(codes) => {
                    if let Some(level) = codes.iter().position(|code| !code.is_u64()) {
                        return wrong(&format!("sid[{level}]"), format!("{}: {whole}", codes[level]));
                    }
                }
            },
            "weight" if !value.is_number() && !value.is_null() => {
                return wrong(field, format!("{value}: expected a number"));
            }
            "key" | "title" if !value.is_string() && !value.is_null() => {
                return wrong(field, format!("{value}: expected a string"));
            }
            "item" | "weight" | "key" | "title" => {}
            _ => return wrong(field, "unknown; known are item, sid, weight, key, title".into()),
        }
    }
    for field in ["item", "sid"] {
        if !loose.contains_key(field) {
            return wrong(field, "missing".into());
        }
    }
    malformed(place, None, format!("column {}: {error}", error.column()))
}
