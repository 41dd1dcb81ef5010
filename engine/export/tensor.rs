//! One tensor of a mapped safetensors file.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use sidereal_ffi::MappedFile;

/// Element types that weights may have on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightDtype {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

impl WeightDtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            WeightDtype::F32 => 4,
            WeightDtype::F16 | WeightDtype::Bf16 => 2,
        }
    }
}

/// A tensor that stays where it is: in a mapped file, or in memory for tests and derived weights. Cloning shares it.
#[derive(Clone, Debug)]
pub struct TensorView {
    name: String,
    dtype: WeightDtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    Mapped(Arc<MappedFile>, Range<usize>),
    Owned(Arc<[f32]>),
}

impl TensorView {
    /// A view of `range` of a mapped file. The caller has checked that the range holds exactly the shape's elements.
    pub fn mapped(
        name: String,
        dtype: WeightDtype,
        shape: Vec<usize>,
        file: Arc<MappedFile>,
        range: Range<usize>,
    ) -> TensorView {
        assert_eq!(shape.iter().product::<usize>() * dtype.bytes(), range.len(), "{name}: shape and bytes disagree");
        assert!(range.end <= file.len(), "{name}: range leaves the file");
        TensorView { name, dtype, shape, bytes: Bytes::Mapped(file, range) }
    }

    /// An f32 tensor in memory.
    pub fn owned(name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) -> TensorView {
        let name = name.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}: shape and values disagree");
        TensorView { name, dtype: WeightDtype::F32, shape, bytes: Bytes::Owned(values.into()) }
    }

    /// Name in the export.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type on disk.
    pub fn dtype(&self) -> WeightDtype {
        self.dtype
    }

    /// Dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Little-endian elements, row-major.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(file, range) => &file[range.clone()],
            Bytes::Owned(values) => bytemuck::cast_slice(values),
        }
    }

    /// Rows of a matrix (the first dimension), 1 for a vector.
    pub fn rows(&self) -> usize {
        if self.shape.len() < 2 { 1 } else { self.shape[0] }
    }

    /// Elements of one row.
    pub fn cols(&self) -> usize {
        self.shape.iter().skip(usize::from(self.shape.len() > 1)).product()
    }

    /// Widens row `row` into `out` (`[cols]`).
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        self.apply_row(row, out, |value, element| *value = element);
    }

    /// Adds row `row`, widened, to `out` (`[cols]`).
    pub fn add_row(&self, row: usize, out: &mut [f32]) {
        self.apply_row(row, out, |value, element| *value += element);
    }

    fn apply_row(&self, row: usize, out: &mut [f32], apply: impl Fn(&mut f32, f32)) {
        let row_bytes = self.cols() * self.dtype.bytes();
        let bytes = &self.bytes()[row * row_bytes..][..row_bytes];
        assert_eq!(out.len(), self.cols(), "{}: row width", self.name);
        // Tensors in a safetensors file need not be aligned, so elements are read from their bytes.
        match self.dtype {
            WeightDtype::F32 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    apply(value, f32::from_le_bytes(*b));
                }
            }
            WeightDtype::F16 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    apply(value, f16::from_le_bytes(*b).to_f32());
                }
            }
            WeightDtype::Bf16 => {
                for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    apply(value, bf16::from_le_bytes(*b).to_f32());
                }
            }
        }
    }

    /// All elements, widened.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.cols()];
        if self.cols() > 0 {
            for (row, values) in out.chunks_exact_mut(self.cols()).enumerate() {
                self.read_row(row, values);
            }
        }
        out
    }
}

/// Index of the first element that is infinite or not a number, counted row-major; `None` if all are finite.
///
/// A block is first looked at as a whole, without a branch an element, which compilers turn into vector code: the scan runs
/// at the speed of memory. Only a block that holds such an element is searched for it.
pub fn first_non_finite(tensor: &TensorView) -> Option<usize> {
    // An element is not finite exactly if all bits of its exponent are set.
    match tensor.dtype {
        WeightDtype::F32 => {
            scan(tensor.bytes().as_chunks::<4>().0, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000)
        }
        WeightDtype::F16 => scan(tensor.bytes().as_chunks::<2>().0, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        WeightDtype::Bf16 => scan(tensor.bytes().as_chunks::<2>().0, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
    }
}

fn scan<const N: usize>(elements: &[[u8; N]], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 4096;
    let block = elements.chunks(BLOCK).position(|block| block.iter().fold(false, |any, b| any | bad(*b)))?;
    let within = elements[block * BLOCK..].iter().position(|b| bad(*b))?;
    Some(block * BLOCK + within)
}
