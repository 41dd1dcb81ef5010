//! JSON lines: one object a record.
//!
//! The fast path is a typed parse; only a line that fails is parsed again, loosely, to say which field is wrong.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use sidereal_ffi::open_regular;

use super::batch::Batch;
use super::pipeline::Source;
use super::{LoadError, LoadOptions};
use crate::export::WeightDtype;
use crate::store::RawKey;
use crate::store::value::{Header, MAX_ELEMENTS};

/// Bytes that are handed to a worker at once.
const BLOCK_BYTES: usize = 1 << 20;
/// Longest line: a vector of the largest size in long digits.
const MAX_LINE_BYTES: usize = 2 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    user: std::borrow::Cow<'a, str>,
    scenario: Option<u32>,
    #[serde(borrow)]
    name: Option<std::borrow::Cow<'a, str>>,
    version: Option<u64>,
    created_at: Option<u64>,
    vector: Vec<f32>,
}

/// What a line does not say itself.
#[derive(Clone, Debug)]
struct Defaults {
    name: Arc<str>,
    version: u64,
    created_at_ms: u64,
    dtype: WeightDtype,
    size: Option<usize>,
}

impl Defaults {
    fn of(options: &LoadOptions) -> Defaults {
        Defaults {
            name: options.name.as_str().into(),
            version: options.version,
            created_at_ms: options.created_at_ms,
            dtype: options.dtype.unwrap_or(WeightDtype::F16),
            size: options.size,
        }
    }
}

/// Whole lines of a file.
pub(super) struct Lines {
    path: PathBuf,
    file: File,
    total: u64,
    defaults: Defaults,
    /// The beginning of a line whose end has not been read yet.
    rest: Vec<u8>,
    read: u64,
    line: u64,
    ended: bool,
}

/// Lines without the last one's end, and the number of the first.
pub(super) struct Block {
    text: Vec<u8>,
    first_line: u64,
}

impl Lines {
    pub(super) fn open(path: &Path, options: &LoadOptions) -> Result<Lines, LoadError> {
        let failed = |error| LoadError::read(path, error);
        let file = open_regular(path).map_err(failed)?;
        let total = file.metadata().map_err(failed)?.len();
        let defaults = Defaults::of(options);
        Ok(Lines { path: path.to_owned(), file, total, defaults, rest: Vec::new(), read: 0, line: 1, ended: false })
    }
}

impl Source for Lines {
    type Block = Block;

    fn next(&mut self) -> Result<Option<(Block, u64)>, LoadError> {
        let mut text = std::mem::take(&mut self.rest);
        while !self.ended {
            let got = (&mut self.file)
                .take(BLOCK_BYTES as u64)
                .read_to_end(&mut text)
                .map_err(|error| LoadError::read(&self.path, error))?;
            self.read += got as u64;
            self.ended = got == 0;
            // What is longer than a line can be goes to the worker as it is, who refuses it by its length.
            if let Some(end) = text.iter().rposition(|&byte| byte == b'\n') {
                self.rest = text.split_off(end + 1);
                break;
            }
            if text.len() > 2 * MAX_LINE_BYTES {
                text.truncate(MAX_LINE_BYTES + 1);
            }
        }
        if text.is_empty() {
            return Ok(None);
        }
        let first_line = self.line;
        self.line += text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let ends_at = self.read - self.rest.len() as u64;
        Ok(Some((Block { text, first_line }, ends_at)))
    }

    fn parser(&self) -> impl Fn(Block, &mut Batch) + Send + Clone + 'static + use<> {
        let defaults = self.defaults.clone();
        move |block, batch| {
            let mut number = block.first_line;
            for line in block.text.split(|&byte| byte == b'\n') {
                let line = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
                let text = line.trim_ascii();
                if !text.is_empty() {
                    batch.add(number, |out| write(text, &defaults, out));
                }
                number += 1;
            }
        }
    }

    fn total(&self) -> u64 {
        self.total
    }

    fn unit(&self) -> &'static str {
        "line"
    }
}

/// Writes key and value of a line; the key's end, or what is wrong.
fn write(text: &[u8], defaults: &Defaults, out: &mut Vec<u8>) -> Result<usize, String> {
    if text.len() > MAX_LINE_BYTES {
        return Err(format!("longer than {MAX_LINE_BYTES} bytes"));
    }
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| explain(text, &error))?;
    let key =
        RawKey { name: line.name.as_deref().unwrap_or(&defaults.name), scenario: line.scenario, user: &line.user };
    key.check().map_err(|error| error.to_string())?;
    let size = line.vector.len();
    if let Some(expected) = defaults.size.filter(|expected| *expected != size) {
        return Err(format!("`vector` has {size} elements, {expected} expected"));
    }
    key.write(out);
    let key_end = out.len();
    let header = Header {
        dtype: defaults.dtype,
        size,
        version: line.version.unwrap_or(defaults.version),
        created_at_ms: line.created_at.unwrap_or(defaults.created_at_ms),
    };
    header.write_vector(&line.vector, out).map_err(|error| format!("`vector`: {error}"))?;
    Ok(key_end)
}

/// Parses one line as a load does: key and value, or what is wrong with it. For fuzzing.
///
/// # Errors
/// What a load would tell.
pub fn check_line(text: &[u8], options: &LoadOptions) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut out = Vec::new();
    let key_end = write(text.trim_ascii(), &Defaults::of(options), &mut out)?;
    let value = out.split_off(key_end);
    Ok((out, value))
}

/// Says what is wrong with a line that does not parse.
fn explain(text: &[u8], error: &serde_json::Error) -> String {
    let loose = match serde_json::from_slice::<Value>(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return r#"expected an object such as {"user":"u1","vector":[0.5,-1.25]}"#.to_owned(),
        Err(error) => return format!("column {}: not JSON: {error}", error.column()),
    };
    for (field, value) in &loose {
        match field.as_str() {
            "user" if !value.is_string() => return format!("`user`: {value}: expected a string"),
            "name" if !value.is_string() && !value.is_null() => return format!("`name`: {value}: expected a string"),
            "scenario" if !value.is_null() && value.as_u64().is_none_or(|id| u32::try_from(id).is_err()) => {
                return format!("`scenario`: {value}: expected a whole number from 0 to {}", u32::MAX);
            }
            "version" | "created_at" if !value.is_u64() && !value.is_null() => {
                return format!("`{field}`: {value}: expected a whole number from 0 to {}", u64::MAX);
            }
            "vector" => match value.as_array() {
                None => return format!("`vector`: expected a list of numbers, 1 to {MAX_ELEMENTS}"),
                Some(values) => {
                    if let Some(at) = values.iter().position(|value| !value.is_number()) {
                        return format!("`vector[{at}]`: {}: expected a number", values[at]);
                    }
                }
            },
            "user" | "name" | "scenario" | "version" | "created_at" => {}
            _ => return format!("`{field}` is unknown; known are user, scenario, name, version, created_at, vector"),
        }
    }
    for field in ["user", "vector"] {
        if !loose.contains_key(field) {
            return format!("`{field}` is missing");
        }
    }
    format!("column {}: {error}", error.column())
}
