//! Handles, layouts, operations and preferences, by number. Numbers stand in a pointer's place and are never used twice, so that a
//! stale one is refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::status::{Outcome, Refusal};

/// `cudaDataType` of the types that products have here.
pub const R_32F: i32 = 0;
pub const R_16BF: i32 = 14;
/// `cublasComputeType_t`: sums in f32, the second one without liberties.
const COMPUTE_32F: i32 = 68;
const COMPUTE_32F_PEDANTIC: i32 = 69;

/// A column-major matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub dtype: i32,
    pub rows: u64,
    pub columns: u64,
    /// Elements between columns.
    pub leading: i64,
}

impl Layout {
    /// Bytes of an element.
    pub fn width(&self) -> u64 {
        if self.dtype == R_16BF { 2 } else { 4 }
    }
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub transposed: [bool; 2], // A, B
}

/// Which algorithms a program takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    pub workspace_bytes: u64,
    pub reduction_schemes: u32,
    pub alignments: [u32; 4], // bytes, of A, B, C, D
}

/// One object.
#[derive(Clone, Copy, Debug)]
pub enum Object {
    Handle,
    Layout(Layout),
    Operation(Operation),
    Preference(Preference),
}

#[derive(Default)]
struct Table {
    objects: BTreeMap<usize, Object>,
    made: usize,
}

static TABLE: Mutex<Table> = Mutex::new(Table { objects: BTreeMap::new(), made: 0 });

fn table<T>(call: impl FnOnce(&mut Table) -> T) -> T {
    call(&mut TABLE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Keeps an object and gives its number.
pub fn add(object: Object) -> usize {
    table(|table| {
        table.made += 1;
        // No small number, no even one: nothing that a pointer, or an index, could be.
        let number = 0xb1a5_0001 + 2 * table.made;
        table.objects.insert(number, object);
        number
    })
}

/// A copy of an object.
pub fn get(number: usize) -> Outcome<Object> {
    table(|table| table.objects.get(&number).copied()).ok_or(Refusal::InvalidValue)
}

/// Changes an object.
pub fn change(number: usize, call: impl FnOnce(&mut Object) -> Outcome<()>) -> Outcome<()> {
    table(|table| call(table.objects.get_mut(&number).ok_or(Refusal::InvalidValue)?))
}

/// Ends an object of the kind that `is` knows.
pub fn remove(number: usize, is: impl FnOnce(&Object) -> bool) -> Outcome<()> {
    table(|table| match table.objects.get(&number) {
        Some(object) if is(object) => {
            table.objects.remove(&number);
            Ok(())
        }
        _ => Err(Refusal::InvalidValue),
    })
}

/// A layout by its number.
pub fn layout(number: usize) -> Outcome<Layout> {
    match get(number)? {
        Object::Layout(layout) => Ok(layout),
        _ => Err(Refusal::InvalidValue),
    }
}

impl Operation {
    /// The operation of `cublasLtMatmulDescCreate`.
    pub fn new(compute: i32, scale: i32) -> Outcome<Operation> {
        match (compute, scale) {
            (COMPUTE_32F | COMPUTE_32F_PEDANTIC, R_32F) => Ok(Operation { transposed: [false; 2] }),
            _ => Err(Refusal::NotSupported),
        }
    }

    /// `cublasLtMatmulDescSetAttribute`: the transpositions.
    pub fn set(&mut self, attribute: i32, value: &[u8]) -> Outcome<()> {
        let value = i32::from_ne_bytes(value.try_into().map_err(|_| Refusal::InvalidValue)?);
        let transposed = match value {
            0 => false,
            1 => true,
            _ => return Err(Refusal::NotSupported),
        };
        match attribute {
            3 => self.transposed[0] = transposed,
            4 => self.transposed[1] = transposed,
            _ => return Err(Refusal::NotSupported),
        }
        Ok(())
    }
}

impl Default for Preference {
    /// What a program gets that asks for nothing.
    fn default() -> Preference {
        Preference { workspace_bytes: 0, reduction_schemes: 7, alignments: [256; 4] }
    }
}

impl Preference {
    /// `cublasLtMatmulPreferenceSetAttribute`.
    pub fn set(&mut self, attribute: i32, value: &[u8]) -> Outcome<()> {
        let word = || value.try_into().map(u32::from_ne_bytes).map_err(|_| Refusal::InvalidValue);
        match attribute {
            1 => {
                let bytes = value.try_into().map_err(|_| Refusal::InvalidValue)?;
                self.workspace_bytes = u64::from_ne_bytes(bytes);
            }
            3 => self.reduction_schemes = word()?,
            5..=8 => {
                let alignment = word()?;
                if !alignment.is_power_of_two() {
                    return Err(Refusal::InvalidValue);
                }
                self.alignments[attribute as usize - 5] = alignment;
            }
            _ => return Err(Refusal::NotSupported),
        }
        Ok(())
    }
}
