//! Safetensors: a matrix of vectors and the users of its rows, all mapped.
//!
//! | tensor | type and shape | what |
//! |---|---|---|
//! | `vectors` | F16, BF16 or F32 `[n, size]` | a row a record |
//! | `users` | U8 `[bytes]` | every user's UTF-8, one behind the other |
//! | `user_offsets` | I64 `[n + 1]` | where each begins, and where the last ends |
//! | `scenarios` | I64 `[n]`, optional | the scenario; negative for every one |
//! | `versions` | I64 `[n]`, optional | |
//! | `created_at` | I64 `[n]`, optional | milliseconds since 1970-01-01 UTC |
//!
//! Rows go into the store in the order of their keys, so that an embedded store is written from front to back: only the order is
//! sorted, in 24 bytes a row. A file whose rows are in that order already is read from front to back too.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Dtype;
use sidereal_ffi::MappedFile;

use super::batch::Batch;
use super::pipeline::Source;
use super::{LoadError, LoadOptions};
use crate::export::{TensorPlace, WeightDtype, tensor_places};
use crate::store::RawKey;
use crate::store::value::{Header, MAX_ELEMENTS, widen};

/// Rows that are handed to a worker at once.
const BLOCK_ROWS: usize = 2048;

/// A file of rows, and the order in which they are read.
pub(super) struct Rows {
    table: Arc<Table>,
    at: usize,
}

/// What workers share.
struct Table {
    file: MappedFile,
    rows: usize,
    size: usize,
    dtype: WeightDtype,
    vectors: Range<usize>,
    users: Range<usize>,
    offsets: Range<usize>,
    scenarios: Option<Range<usize>>,
    versions: Option<Range<usize>>,
    created_at: Option<Range<usize>>,
    /// Row numbers in the order of their keys; `None` if that is how they stand.
    order: Option<Vec<u32>>,
    name: String,
    version: u64,
    created_at_ms: u64,
    stored: WeightDtype,
}

/// The tensors of a file by name.
struct Tensors<'a> {
    path: &'a Path,
    places: std::collections::BTreeMap<String, TensorPlace>,
}

impl Tensors<'_> {
    fn wrong(&self, reason: String) -> LoadError {
        LoadError::Tensors { path: PathBuf::from(self.path), reason }
    }

    fn get(&self, name: &str) -> Result<&TensorPlace, LoadError> {
        self.places.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.places.keys().map(String::as_str).take(8).collect();
            self.wrong(format!("tensor `{name}` is missing; it holds {}", known.join(", ")))
        })
    }

    /// The bytes of an i64 tensor `[count]`.
    fn column(&self, name: &str, count: usize) -> Result<Range<usize>, LoadError> {
        let place = self.get(name)?;
        if place.dtype != Dtype::I64 || place.shape != [count] {
            let (dtype, shape) = (place.dtype, &place.shape);
            return Err(self.wrong(format!("tensor `{name}` is {dtype} {shape:?}, I64 [{count}] expected")));
        }
        Ok(place.range.clone())
    }

    fn optional(&self, name: &str, count: usize) -> Result<Option<Range<usize>>, LoadError> {
        if self.places.contains_key(name) { self.column(name, count).map(Some) } else { Ok(None) }
    }
}

impl Rows {
    pub(super) fn open(path: &Path, options: &LoadOptions) -> Result<Rows, LoadError> {
        let file = MappedFile::open(path)?;
        let tensors = Tensors { path, places: tensor_places(path, &file)? };
        let vectors = tensors.get("vectors")?;
        let dtype = match vectors.dtype {
            Dtype::F32 => WeightDtype::F32,
            Dtype::F16 => WeightDtype::F16,
            Dtype::BF16 => WeightDtype::Bf16,
            other => return Err(tensors.wrong(format!("tensor `vectors` is {other}; F16, BF16 and F32 are read"))),
        };
        let &[rows, size] = &vectors.shape[..] else {
            return Err(tensors.wrong(format!("tensor `vectors` has shape {:?}, [n, size] expected", vectors.shape)));
        };
        if !(1..=MAX_ELEMENTS).contains(&size) || rows > u32::MAX as usize {
            let most = u32::MAX;
            let reason = format!(
                "{rows} vectors of {size} elements; 1 to {MAX_ELEMENTS} elements and {most} rows are supported"
            );
            return Err(tensors.wrong(reason));
        }
        if let Some(expected) = options.size.filter(|expected| *expected != size) {
            return Err(tensors.wrong(format!("vectors of {size} elements, {expected} expected")));
        }
        let users = tensors.get("users")?;
        if users.dtype != Dtype::U8 || users.shape.len() != 1 {
            return Err(
                tensors.wrong(format!("tensor `users` is {} {:?}, U8 [bytes] expected", users.dtype, users.shape))
            );
        }
        let mut table = Table {
            rows,
            size,
            dtype,
            vectors: vectors.range.clone(),
            users: users.range.clone(),
            offsets: tensors.column("user_offsets", rows + 1)?,
            scenarios: tensors.optional("scenarios", rows)?,
            versions: tensors.optional("versions", rows)?,
            created_at: tensors.optional("created_at", rows)?,
            order: None,
            name: options.name.clone(),
            version: options.version,
            created_at_ms: options.created_at_ms,
            stored: options.dtype.unwrap_or(dtype),
            file,
        };
        if let Some(row) = table.first_wrong_offset() {
            let [begin, end] = [row, row + 1].map(|row| table.int(&table.offsets, row));
            let bytes = table.users.len();
            let reason = format!("`user_offsets` of row {row}: {begin} to {end}, which is not a part of {bytes} bytes");
            return Err(tensors.wrong(reason));
        }
        table.order = table.order();
        Ok(Rows { table: Arc::new(table), at: 0 })
    }
}

impl Table {
    fn int(&self, column: &Range<usize>, row: usize) -> i64 {
        let bytes = &self.file[column.start + 8 * row..][..8];
        i64::from_le_bytes(std::array::from_fn(|at| bytes[at]))
    }

    fn first_wrong_offset(&self) -> Option<usize> {
        let bytes = self.users.len() as i64;
        (0..self.rows).find(|&row| {
            let [begin, end] = [row, row + 1].map(|row| self.int(&self.offsets, row));
            begin < 0 || begin > end || end > bytes
        })
    }

    /// The bytes of a row's user; they need not be text.
    fn user(&self, row: usize) -> &[u8] {
        let [begin, end] = [row, row + 1].map(|row| self.int(&self.offsets, row) as usize);
        &self.file[self.users.clone()][begin..end]
    }

    /// As keys are sorted: -1 for every scenario, before all others.
    fn scenario(&self, row: usize) -> i64 {
        self.scenarios.as_ref().map_or(-1, |column| self.int(column, row).max(-1))
    }

    /// The rows in the order of their keys, or `None` if they are.
    fn order(&self) -> Option<Vec<u32>> {
        let key = |row: usize| (self.scenario(row), self.user(row));
        if (1..self.rows).all(|row| key(row - 1) <= key(row)) {
            return None;
        }
        // Users of one naming scheme begin alike, so the eight bytes that are compared first stand behind what all share.
        let first = self.user(0);
        let shared = (1..self.rows).fold(first.len(), |shared, row| {
            first[..shared].iter().zip(self.user(row)).take_while(|(a, b)| a == b).count()
        });
        let lead = |row: usize| {
            let rest = &self.user(row)[shared..];
            u64::from_be_bytes(std::array::from_fn(|at| rest.get(at).copied().unwrap_or(0)))
        };
        let mut rows: Vec<(i64, u64, u32)> =
            (0..self.rows).map(|row| (self.scenario(row), lead(row), row as u32)).collect();
        rows.sort_unstable_by(|a, b| {
            let users = || self.user(a.2 as usize).cmp(self.user(b.2 as usize));
            (a.0, a.1).cmp(&(b.0, b.1)).then_with(users).then(a.2.cmp(&b.2))
        });
        Some(rows.into_iter().map(|(_, _, row)| row).collect())
    }

    /// Writes key and value of a row; the key's end, or what is wrong.
    fn write(&self, row: usize, scratch: &mut Vec<f32>, out: &mut Vec<u8>) -> Result<usize, String> {
        let user = std::str::from_utf8(self.user(row)).map_err(|_| "the user is not UTF-8".to_owned())?;
        let scenario = match self.scenario(row) {
            -1 => None,
            id => Some(u32::try_from(id).map_err(|_| format!("scenario {id}: at most {} is supported", u32::MAX))?),
        };
        let whole = |column: &Option<Range<usize>>, name: &str, otherwise: u64| match column {
            None => Ok(otherwise),
            Some(column) => {
                let value = self.int(column, row);
                u64::try_from(value).map_err(|_| format!("`{name}` is {value}, which is negative"))
            }
        };
        let version = whole(&self.versions, "versions", self.version)?;
        let created_at_ms = whole(&self.created_at, "created_at", self.created_at_ms)?;
        let key = RawKey { name: &self.name, scenario, user };
        key.check().map_err(|error| error.to_string())?;
        key.write(out);
        let key_end = out.len();
        let row_bytes = self.size * self.dtype.bytes();
        let elements = &self.file[self.vectors.start + row * row_bytes..][..row_bytes];
        let header = Header { dtype: self.stored, size: self.size, version, created_at_ms };
        let written = if self.stored == self.dtype {
            header.write_stored(elements, scratch, out)
        } else {
            scratch.resize(self.size, 0.0);
            widen(self.dtype, elements, scratch);
            header.write_vector(scratch, out)
        };
        written.map_err(|error| error.to_string())?;
        Ok(key_end)
    }
}

impl Source for Rows {
    /// Positions in the order.
    type Block = Range<usize>;

    fn next(&mut self) -> Result<Option<(Range<usize>, u64)>, LoadError> {
        let begin = self.at;
        self.at = self.table.rows.min(begin + BLOCK_ROWS);
        let row_bytes = (self.table.size * self.table.dtype.bytes()) as u64;
        Ok((begin < self.at).then_some((begin..self.at, self.at as u64 * row_bytes)))
    }

    fn parser(&self) -> impl Fn(Range<usize>, &mut Batch) + Send + Clone + 'static + use<> {
        let table = Arc::clone(&self.table);
        move |block, batch| {
            let mut scratch = Vec::new();
            for position in block {
                let row = table.order.as_ref().map_or(position, |order| order[position] as usize);
                batch.add(row as u64, |out| table.write(row, &mut scratch, out));
            }
        }
    }

    fn total(&self) -> u64 {
        self.table.vectors.len() as u64
    }

    fn unit(&self) -> &'static str {
        "row"
    }
}
