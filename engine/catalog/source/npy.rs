//! NumPy arrays of codes, `[items, levels]`: an item's id is its row.

use std::io::Read;

use super::super::error::{Place, Unit};
use super::super::{MAX_LEVELS, MIN_LEVELS};
use super::{CatalogError, Input, RawItem, malformed};

/// First bytes of every `.npy` file.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header: ours have a hundred bytes.
const MAX_HEADER_BYTES: usize = 1 << 16;
/// Rows between two calls of the progress callback.
const ROWS_PER_REPORT: u64 = 1 << 16;

/// Element types of codes.
#[derive(Clone, Copy)]
enum Element {
    Unsigned(usize),
    Signed(usize),
}

impl Element {
    fn from_descr(descr: &str) -> Option<Element> {
        match descr {
            "|u1" | "<u1" => Some(Element::Unsigned(1)),
            "<u2" => Some(Element::Unsigned(2)),
            "<u4" => Some(Element::Unsigned(4)),
            "<u8" => Some(Element::Unsigned(8)),
            "<i2" => Some(Element::Signed(2)),
            "<i4" => Some(Element::Signed(4)),
            "<i8" => Some(Element::Signed(8)),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Element::Unsigned(bytes) | Element::Signed(bytes) => bytes,
        }
    }

    /// The element as a code, or what it is when it is negative.
    fn read(self, bytes: &[u8]) -> Result<u64, i64> {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let value = u64::from_le_bytes(word);
        match self {
            Element::Unsigned(_) => Ok(value),
            Element::Signed(width) => {
                let shift = 64 - 8 * width as u32;
                let signed = ((value << shift) as i64) >> shift;
                u64::try_from(signed).map_err(|_| signed)
            }
        }
    }
}

pub(super) fn read(input: &mut Input<'_>, mut reader: impl Read) -> Result<(), CatalogError> {
    let mut place = input.place(Unit::Row, 0);
    let (header, header_bytes) = read_header(input, &mut reader, &place)?;
    let field =
        |name: &str| field_of(&header, name).ok_or_else(|| malformed(&place, Some(name), "missing in the header"));
    let descr = field("descr")?.trim_matches(['\'', '"']).to_owned();
    let element = Element::from_descr(&descr).ok_or_else(|| {
        malformed(
            &place,
            Some("descr"),
            format!("{descr}: expected little-endian integers (|u1, <u2, <u4, <u8, <i2, <i4, <i8)"),
        )
    })?;
    if field("fortran_order")? != "False" {
        return Err(malformed(&place, Some("fortran_order"), "expected False: save the array in C order"));
    }
    let shape = field("shape")?;
    let (rows, levels) = parse_shape(shape)
        .ok_or_else(|| malformed(&place, Some("shape"), format!("{shape}: expected (items, levels)")))?;
    if !(MIN_LEVELS..=MAX_LEVELS).contains(&levels) {
        let reason = format!("{shape}: {MIN_LEVELS} to {MAX_LEVELS} levels are supported");
        return Err(malformed(&place, Some("shape"), reason));
    }
    let row_bytes = levels * element.bytes();
    let needs = rows.checked_mul(row_bytes as u64).and_then(|bytes| bytes.checked_add(header_bytes));
    if needs != Some(input.total) {
        let reason = format!("{shape} of {descr} does not fit the file of {} bytes", input.total);
        return Err(malformed(&place, Some("shape"), reason));
    }
    // No more rows than bytes of the file: a hostile header reserves nothing.
    input.builder.reserve(rows as usize);
    let mut bytes = vec![0; row_bytes];
    let mut sid = vec![0; levels];
    for row in 0..rows {
        place.number = row;
        reader.read_exact(&mut bytes).map_err(|error| input.io(error))?;
        for (level, (code, bytes)) in sid.iter_mut().zip(bytes.chunks_exact(element.bytes())).enumerate() {
            *code = element.read(bytes).map_err(|negative| {
                malformed(&place, Some(&format!("level {level}")), format!("code {negative} is negative"))
            })?;
        }
        input.add(&place, &RawItem { id: row, sid: &sid, weight: None, key: None, title: None })?;
        if row.is_multiple_of(ROWS_PER_REPORT) {
            (input.progress)(row, rows);
        }
    }
    (input.progress)(rows, rows);
    Ok(())
}

/// The header's dictionary as text, and where the data begins.
fn read_header(input: &Input<'_>, reader: &mut impl Read, place: &Place) -> Result<(String, u64), CatalogError> {
    let short = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => malformed(place, None, "the file ends within its header"),
        _ => input.io(error),
    };
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(short)?;
    if !start.starts_with(MAGIC) {
        return Err(malformed(place, None, "not a .npy file: its first bytes are not \\x93NUMPY"));
    }
    let length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(malformed(place, None, format!(".npy version {version}: expected 1, 2 or 3"))),
    };
    let mut length = [0; 4];
    reader.read_exact(&mut length[..length_bytes]).map_err(short)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(malformed(place, None, format!("header of {length} bytes, at most {MAX_HEADER_BYTES} expected")));
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header).map_err(short)?;
    let header = String::from_utf8(header).map_err(|_| malformed(place, None, "the header is not UTF-8"))?;
    Ok((header, (start.len() + length_bytes + length) as u64))
}

/// The value of a key of the header's dictionary, which NumPy writes as a flat Python literal.
fn field_of<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{name}':"))?;
    let rest = rest.trim_start();
    let end = if rest.starts_with('(') { rest.find(')')? + 1 } else { rest.find([',', '}'])? };
    Some(rest[..end].trim())
}

/// Two dimensions: `(1000000, 3)`.
fn parse_shape(shape: &str) -> Option<(u64, usize)> {
    let inner = shape.strip_prefix('(')?.strip_suffix(')')?;
    let (rows, levels) = inner.split_once(',')?;
    Some((rows.trim().parse().ok()?, levels.trim().parse().ok()?))
}
