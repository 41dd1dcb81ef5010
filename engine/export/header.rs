//! The header of one safetensors file: where every tensor lies. The crate `safetensors` parses; what it refuses is looked
//! at again here, so that the message names the tensor and the bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::Value;

use super::ExportError;
use super::json;

/// The limit of the format (and of the crate).
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The header's length stands before it.
const LENGTH_BYTES: usize = 8;

/// One tensor of a file. The range lies inside the file and holds exactly the shape's elements; the product of the
/// shape's non-zero dimensions fits `usize`.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

/// Every tensor of the file `bytes`, by name.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Entry>, ExportError> {
    let header_bytes = header_length(path, bytes)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| explain(path, bytes, header_bytes, error))?;
    let begin = LENGTH_BYTES + header_bytes;
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let entry = Entry {
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: begin.saturating_add(info.data_offsets.0)..begin.saturating_add(info.data_offsets.1),
        };
        // The crate has checked all this; a mapped read trusts it, so it is checked by us as well.
        if let Some(detail) = flaw(info) {
            return Err(ExportError::TensorBytes { path: path.to_owned(), name, detail });
        }
        if entry.range.start > entry.range.end || entry.range.end > bytes.len() {
            return Err(truncated(path, format!("tensor `{name}`"), entry.range.end, bytes.len()));
        }
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// The header's announced length, which the file has room for.
fn header_length(path: &Path, bytes: &[u8]) -> Result<usize, ExportError> {
    let not = |found, advice| Err(ExportError::NotSafetensors { path: path.to_owned(), found, advice });
    if bytes.starts_with(b"version https://git-lfs") {
        return not("a Git LFS pointer", "fetch the real file with `git lfs pull`");
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return not(
            "a zip archive (PyTorch's own format)",
            "save the model with `save_pretrained(safe_serialization=True)`",
        );
    }
    if bytes.starts_with(b"GGUF") {
        return not("a GGUF file", "export the original checkpoint as safetensors");
    }
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Err(truncated(path, "the header's length".to_owned(), LENGTH_BYTES, bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(ExportError::HeaderTooLarge {
            path: path.to_owned(),
            header_bytes: length,
            limit: MAX_HEADER_BYTES,
        });
    }
    // At most 1e8, so neither the cast nor the sum can overflow.
    let length = length as usize;
    if LENGTH_BYTES + length > bytes.len() {
        return Err(truncated(path, "the header".to_owned(), LENGTH_BYTES + length, bytes.len()));
    }
    Ok(length)
}

/// Says what the crate found wrong, in terms of tensors and bytes.
fn explain(path: &Path, bytes: &[u8], header_bytes: usize, error: SafeTensorError) -> ExportError {
    let header = |detail: String| ExportError::Header { path: path.to_owned(), detail };
    match error {
        SafeTensorError::InvalidHeader(error) => header(format!("not UTF-8 text: {error}")),
        SafeTensorError::InvalidHeaderDeserialization(error) => match error.classify() {
            serde_json::error::Category::Data => header(error.to_string()),
            _ => header(format!("not JSON: {error}")),
        },
        error => {
            let data_bytes = bytes.len() - LENGTH_BYTES - header_bytes;
            let text = std::str::from_utf8(&bytes[LENGTH_BYTES..LENGTH_BYTES + header_bytes]).unwrap_or_default();
            find_fault(path, text, data_bytes, LENGTH_BYTES + header_bytes).unwrap_or_else(|| header(error.to_string()))
        }
    }
}

/// Walks the tensors in file order to the first that does not follow its predecessor.
fn find_fault(path: &Path, header: &str, data_bytes: usize, data_begins: usize) -> Option<ExportError> {
    let value = match json::parse_strict(header) {
        Ok(value) => value,
        Err(error) => return Some(ExportError::Header { path: path.to_owned(), detail: error.to_string() }),
    };
    let Value::Object(map) = value else { return None };
    let mut tensors: Vec<(String, TensorInfo)> = map
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
        .filter_map(|(name, info)| Some((name, serde_json::from_value(info).ok()?)))
        .collect();
    tensors.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
    let path = path.to_owned();
    let mut ends = 0;
    let mut last = String::new();
    for (name, info) in tensors {
        if let Some(detail) = flaw(&info) {
            return Some(ExportError::TensorBytes { path, name, detail });
        }
        let (begins, next) = info.data_offsets;
        if begins < ends {
            return Some(ExportError::TensorsOverlap { path, first: last, second: name, ends, begins });
        }
        if begins > ends {
            return Some(ExportError::TensorGap { path, name, at: ends, bytes: begins - ends });
        }
        (ends, last) = (next, name);
    }
    if ends > data_bytes {
        let needs = ends.saturating_add(data_begins);
        return Some(truncated(&path, format!("tensor `{last}`"), needs, data_begins + data_bytes));
    }
    let extra = (data_bytes - ends) as u64;
    (extra > 0).then_some(ExportError::TrailingBytes { path, last, extra })
}

/// What is wrong with one tensor by itself.
fn flaw(info: &TensorInfo) -> Option<String> {
    let (begins, ends) = info.data_offsets;
    let Some(bytes) = ends.checked_sub(begins) else {
        return Some(format!("ends at data byte {ends}, before its begin at {begins}"));
    };
    // Zero dimensions are taken as one, so that any product of some of the dimensions fits too.
    let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &dim| n.checked_mul(dim.max(1)));
    let Some(bits) = bits else {
        return Some(format!("shape {:?} overflows", info.shape));
    };
    let bits = if info.shape.contains(&0) { 0 } else { bits };
    if bits % 8 != 0 {
        return Some(format!("shape {:?} of {} does not fill whole bytes", info.shape, info.dtype));
    }
    (bits / 8 != bytes)
        .then(|| format!("shape {:?} of {} needs {} bytes, has {bytes}", info.shape, info.dtype, bits / 8))
}

fn truncated(path: &Path, what: String, needs: usize, has: usize) -> ExportError {
    ExportError::Truncated { path: path.to_owned(), what, needs: needs as u64, has: has as u64 }
}
