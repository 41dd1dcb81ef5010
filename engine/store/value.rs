//! Values: the bytes of one record, the same in LMDB and in Redis. Little-endian.
//!
//! ```text
//!  0  'S' 'I'           what this is
//!  2  u8                format, 1
//!  3  u8                element type: 0 f32, 1 f16, 2 bf16
//!  4  u32               elements
//!  8  u64               version
//! 16  u64               created at, milliseconds since 1970-01-01 UTC
//! 24  u32               CRC-32C of bytes 0..24 and of the elements
//! 28  elements
//! ```
//!
//! Readers trust nothing: a value may have been written by anybody, or be torn.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::export::WeightDtype;

const MARK: [u8; 2] = *b"SI";
const FORMAT: u8 = 1;
/// Bytes before the elements.
pub const HEADER_BYTES: usize = 28;
const CHECKED_BYTES: usize = 24;
/// Most elements of a vector.
pub const MAX_ELEMENTS: usize = 1 << 16;

/// What stands before the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of the stored elements.
    pub dtype: WeightDtype,
    /// Elements.
    pub size: usize,
    /// The writer's version of what made the instruction.
    pub version: u64,
    /// When it was made, in milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
}

/// Why bytes are no usable value, or a vector cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Fewer bytes than a header, or not one of ours.
    #[error("not an instruction: {bytes} bytes that do not begin with one")]
    NotAValue {
        /// Bytes there are.
        bytes: usize,
    },
    /// Written by a later version.
    #[error("format {format}; this version reads format {FORMAT}")]
    Format {
        /// Its format.
        format: u8,
    },
    /// An element type that is not known.
    #[error("element type {code} is unknown; known are 0 (f32), 1 (f16), 2 (bf16)")]
    Dtype {
        /// Its number.
        code: u8,
    },
    /// More or fewer bytes than its elements take.
    #[error("{found} bytes, {expected} expected for its {size} elements")]
    Length {
        /// Elements by the header.
        size: usize,
        /// Bytes that they make, with the header.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// Damaged.
    #[error("damaged: its checksum is wrong")]
    Checksum,
    /// A vector of another size than the model takes.
    #[error("a vector of {found} elements, {expected} expected")]
    Size {
        /// What the model takes.
        expected: usize,
        /// What is stored.
        found: usize,
    },
    /// Nothing, or too much.
    #[error("a vector of {size} elements; 1 to {MAX_ELEMENTS} are supported")]
    Elements {
        /// Its elements.
        size: usize,
    },
    /// NaN or infinite.
    #[error("element {at} is not a finite number")]
    NotFinite {
        /// Which.
        at: usize,
    },
    /// Finite, but not in the type that it is stored as.
    #[error("element {at} is too large for f16; store as bf16 or f32")]
    TooLarge {
        /// Which.
        at: usize,
    },
    /// Made in the future.
    #[error("made {ahead_ms} ms in the future by this machine's clock")]
    Future {
        /// How far.
        ahead_ms: u64,
    },
}

/// A value whose bytes have been checked. The elements may still be NaN.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// What stands before the elements.
    pub header: Header,
    elements: &'a [u8],
}

impl<'a> Value<'a> {
    /// Checks and reads a value.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn read(bytes: &'a [u8]) -> Result<Value<'a>, ValueError> {
        let header = Header::read(bytes)?;
        let size = header.size;
        let expected = HEADER_BYTES + size * header.dtype.bytes();
        if bytes.len() != expected {
            return Err(ValueError::Length { size, expected, found: bytes.len() });
        }
        let elements = &bytes[HEADER_BYTES..];
        let checksum = bytes[CHECKED_BYTES..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        if checksum != Some(checksum_of(&bytes[..CHECKED_BYTES], elements)) {
            return Err(ValueError::Checksum);
        }
        Ok(Value { header, elements })
    }

    /// The elements as f32, `[size]`.
    ///
    /// # Errors
    /// [`ValueError::NotFinite`].
    pub fn vector(&self) -> Result<Vec<f32>, ValueError> {
        let mut vector = vec![0.0; self.header.size];
        widen(self.header.dtype, self.elements, &mut vector);
        check_finite(&vector)?;
        Ok(vector)
    }
}

impl Header {
    /// Reads the header of a value, whose elements need not be there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Header, ValueError> {
        let not = ValueError::NotAValue { bytes: bytes.len() };
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(not) };
        let [s, i, format, code, ..] = *header;
        if [s, i] != MARK {
            return Err(not);
        }
        if format != FORMAT {
            return Err(ValueError::Format { format });
        }
        let dtype = match code {
            0 => WeightDtype::F32,
            1 => WeightDtype::F16,
            2 => WeightDtype::Bf16,
            _ => return Err(ValueError::Dtype { code }),
        };
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
        let size = (word(4) & u64::from(u32::MAX)) as usize;
        check_elements(size)?;
        Ok(Header { dtype, size, version: word(8), created_at_ms: word(16) })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let code = match self.dtype {
            WeightDtype::F32 => 0,
            WeightDtype::F16 => 1,
            WeightDtype::Bf16 => 2,
        };
        out.extend(MARK);
        out.extend([FORMAT, code]);
        out.extend((self.size as u32).to_le_bytes());
        out.extend(self.version.to_le_bytes());
        out.extend(self.created_at_ms.to_le_bytes());
        out.extend([0; 4]);
    }

    /// Appends the value of `elements`, which are of this type and number. Nothing is appended where they cannot be used.
    ///
    /// # Errors
    /// What is wrong with the elements.
    pub fn write_stored(&self, elements: &[u8], scratch: &mut Vec<f32>, out: &mut Vec<u8>) -> Result<(), ValueError> {
        assert_eq!(elements.len(), self.size * self.dtype.bytes(), "elements of another type or number");
        check_elements(self.size)?;
        scratch.resize(self.size, 0.0);
        widen(self.dtype, elements, scratch);
        check_finite(scratch)?;
        let begin = out.len();
        self.write(out);
        out.extend_from_slice(elements);
        finish(&mut out[begin..]);
        Ok(())
    }

    /// Appends the value of `vector` (`[size]`), rounded to this type. Nothing is appended where it cannot be used.
    ///
    /// # Errors
    /// What is wrong with the vector.
    pub fn write_vector(&self, vector: &[f32], out: &mut Vec<u8>) -> Result<(), ValueError> {
        assert_eq!(vector.len(), self.size, "a vector of another size");
        check_elements(self.size)?;
        check_finite(vector)?;
        let begin = out.len();
        self.write(out);
        let elements = out.len();
        out.resize(elements + self.size * self.dtype.bytes(), 0);
        let bytes = &mut out[elements..];
        match self.dtype {
            WeightDtype::F32 => {
                for (out, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(vector) {
                    *out = value.to_le_bytes();
                }
            }
            WeightDtype::F16 => {
                let mut block = [f16::ZERO; 64];
                for (out, values) in bytes.chunks_mut(2 * block.len()).zip(vector.chunks(block.len())) {
                    let block = &mut block[..values.len()];
                    block.convert_from_f32_slice(values);
                    for (out, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(block) {
                        *out = value.to_le_bytes();
                    }
                }
            }
            WeightDtype::Bf16 => {
                for (out, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(vector) {
                    *out = bf16::from_f32(*value).to_le_bytes();
                }
            }
        }
        if let Some(at) = overflow(self.dtype, vector) {
            out.truncate(begin);
            return Err(ValueError::TooLarge { at });
        }
        finish(&mut out[begin..]);
        Ok(())
    }
}

/// The first element that rounds to infinity.
fn overflow(dtype: WeightDtype, vector: &[f32]) -> Option<usize> {
    let beyond = |value: &f32| match dtype {
        WeightDtype::F32 => false,
        // Halfway between the largest f16 and the next power of two, where rounding gives infinity.
        WeightDtype::F16 => value.abs() >= 65_520.0,
        WeightDtype::Bf16 => !bf16::from_f32(*value).is_finite(),
    };
    vector.iter().position(beyond)
}

fn checksum_of(header: &[u8], elements: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), elements)
}

fn finish(value: &mut [u8]) {
    let checksum = checksum_of(&value[..CHECKED_BYTES], &value[HEADER_BYTES..]);
    value[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

fn check_elements(size: usize) -> Result<(), ValueError> {
    if (1..=MAX_ELEMENTS).contains(&size) { Ok(()) } else { Err(ValueError::Elements { size }) }
}

fn check_finite(vector: &[f32]) -> Result<(), ValueError> {
    // x * 0 is 0 for what is finite and NaN otherwise: a sum that vectorises, where looking for the first does not.
    let sum: f32 = vector.iter().map(|value| value * 0.0).sum();
    if sum == 0.0 {
        return Ok(());
    }
    let at = vector.iter().position(|value| !value.is_finite()).unwrap_or(0);
    Err(ValueError::NotFinite { at })
}

/// Widens little-endian `elements` into `out` (`[size]`).
pub(super) fn widen(dtype: WeightDtype, elements: &[u8], out: &mut [f32]) {
    match dtype {
        WeightDtype::F32 => {
            for (out, bytes) in out.iter_mut().zip(elements.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        WeightDtype::F16 => {
            // In blocks: the conversion of slices uses F16C, and the bytes need not be aligned.
            let mut block = [f16::ZERO; 64];
            for (out, bytes) in out.chunks_mut(block.len()).zip(elements.chunks(2 * block.len())) {
                let block = &mut block[..out.len()];
                for (value, bytes) in block.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f16::from_le_bytes(*bytes);
                }
                block.convert_to_f32_slice(out);
            }
        }
        WeightDtype::Bf16 => {
            for (out, bytes) in out.iter_mut().zip(elements.as_chunks::<2>().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(dtype: WeightDtype, size: usize) -> Header {
        Header { dtype, size, version: 7, created_at_ms: 1_700_000_000_123 }
    }

    /// The test vector of docs/instruction-store.md.
    #[test]
    fn a_value_has_the_documented_bytes() {
        let expected = "53490101020000000700000000000000\
                        7b68e5cf8b010000bd12dead003e00c0";
        let mut out = Vec::new();
        header(WeightDtype::F16, 2).write_vector(&[1.5, -2.0], &mut out).unwrap();
        let shown: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn values_read_back_as_they_were_stored() {
        let vector: Vec<f32> = (0..131).map(|n| (n as f32 - 60.0) / 8.0).collect();
        for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
            let mut out = vec![9];
            header(dtype, vector.len()).write_vector(&vector, &mut out).unwrap();
            let value = Value::read(&out[1..]).unwrap();
            assert_eq!(value.header, header(dtype, vector.len()));
            assert_eq!(value.vector().unwrap(), vector);
            let mut again = Vec::new();
            value.header.write_stored(value.elements, &mut Vec::new(), &mut again).unwrap();
            assert_eq!(again, out[1..]);
        }
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let mut good = Vec::new();
        header(WeightDtype::F32, 3).write_vector(&[1.0, 2.0, 3.0], &mut good).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Value::read(&bad).is_err(), "byte {at}");
            assert!(Value::read(&good[..at]).is_err(), "cut at {at}");
        }
        good.push(0);
        assert_eq!(Value::read(&good).err(), Some(ValueError::Length { size: 3, expected: 40, found: 41 }));
    }

    #[test]
    fn vectors_that_cannot_be_used_are_named_and_nothing_is_written() {
        let mut out = Vec::new();
        let nan = header(WeightDtype::F16, 3).write_vector(&[0.0, 1.0, f32::NAN], &mut out);
        assert_eq!(nan, Err(ValueError::NotFinite { at: 2 }));
        let large = header(WeightDtype::F16, 2).write_vector(&[65_519.0, -65_520.0], &mut out);
        assert_eq!(large, Err(ValueError::TooLarge { at: 1 }));
        assert_eq!(
            header(WeightDtype::Bf16, 1).write_vector(&[f32::MAX], &mut out),
            Err(ValueError::TooLarge { at: 0 })
        );
        assert_eq!(header(WeightDtype::F32, 0).write_vector(&[], &mut out), Err(ValueError::Elements { size: 0 }));
        let stored = header(WeightDtype::F16, 1).write_stored(&[0, 0x7c], &mut Vec::new(), &mut out);
        assert_eq!(stored, Err(ValueError::NotFinite { at: 0 }));
        assert!(out.is_empty());
    }
}
