//! What a library's matrix product does to device memory: for the stand-in cuBLASLt, whose products are no PTX.
//!
//! Every access is checked as a kernel's would be: inside one allocation, and written before it is read.

use crate::memory::{GlobalMemory, MemoryError};

/// `out = alpha x W^T + beta c`, row-major, sums in f32 in order of k. Two libraries pass it as it lies here.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Product {
    /// `T[n][weight_stride]`
    pub weight: u64,
    /// `T[rows][x_stride]`
    pub x: u64,
    /// `f32 or bf16 [rows][c_stride]`; read when `beta` is not 0.
    pub c: u64,
    /// `f32 or bf16 [rows][out_stride]`
    pub out: u64,
    /// Bytes that the product may use; what it leaves there means nothing.
    pub workspace: u64,
    /// How many; 0 if none.
    pub workspace_bytes: u64,
    /// Elements between rows of the weight.
    pub weight_stride: u64,
    /// Elements between rows of x.
    pub x_stride: u64,
    /// Elements between rows of c.
    pub c_stride: u64,
    /// Elements between rows of the output.
    pub out_stride: u64,
    /// Rows of x and of the output.
    pub rows: u64,
    /// Columns of the output.
    pub n: u64,
    /// Columns of x.
    pub k: u64,
    /// Factor of the sums.
    pub alpha: f32,
    /// Factor of c.
    pub beta: f32,
    /// 1 where `T` is bf16, 0 where it is f32.
    pub x_is_bf16: u32,
    /// 1 where c and the output are bf16.
    pub out_is_bf16: u32,
    /// Rows from this one on are added up from the last k to the first: what an algorithm does that treats some blocks otherwise.
    pub first_reversed_row: u64,
}

fn width(is_bf16: u32) -> u64 {
    if is_bf16 != 0 { 2 } else { 4 }
}

/// A row of `count` numbers at `address`, as f32.
fn read_row(memory: &GlobalMemory, address: u64, (count, is_bf16): (u64, u32)) -> Result<Vec<f32>, MemoryError> {
    let mut bytes = vec![0; (count * width(is_bf16)) as usize];
    memory.read_written(address, &mut bytes)?;
    Ok(if is_bf16 != 0 {
        bytes.chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect()
    } else {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    })
}

/// Nearest even; NaN stays one.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

impl Product {
    /// Computes it.
    ///
    /// # Errors
    /// An operand lies outside its allocation, or was never written.
    pub fn run(&self, memory: &mut GlobalMemory) -> Result<(), MemoryError> {
        let (n, k) = (self.n as usize, self.k as usize);
        if self.workspace_bytes > 0 {
            memory.fill(self.workspace, &[0xff], self.workspace_bytes)?;
        }
        let mut columns = vec![0.0f32; n * k]; // [k, n]
        for row in 0..n {
            let address = self.weight + row as u64 * self.weight_stride * width(self.x_is_bf16);
            let values = read_row(memory, address, (self.k, self.x_is_bf16))?;
            values.into_iter().enumerate().for_each(|(at, value)| columns[at * n + row] = value);
        }
        let (mut before, mut sums) = (None, vec![0.0f32; n]);
        for row in 0..self.rows {
            let x = self.x + row * self.x_stride * width(self.x_is_bf16);
            let x = read_row(memory, x, (self.k, self.x_is_bf16))?;
            let reversed = row >= self.first_reversed_row;
            // A trial of the algorithm has the same row a few thousand times.
            let bits: Vec<u32> = x.iter().map(|value| value.to_bits()).collect();
            let this = Some((reversed, bits));
            if this != before {
                sums.fill(0.0);
                for step in 0..k {
                    let at = if reversed { k - 1 - step } else { step };
                    let (factor, column) = (x[at], &columns[at * n..][..n]);
                    sums.iter_mut().zip(column).for_each(|(sum, weight)| *sum += factor * weight);
                }
                before = this;
            }
            self.write_row(memory, row, &sums)?;
        }
        Ok(())
    }

    fn write_row(&self, memory: &mut GlobalMemory, row: u64, sums: &[f32]) -> Result<(), MemoryError> {
        let mut out: Vec<f32> = sums.iter().map(|sum| self.alpha * sum).collect();
        if self.beta != 0.0 {
            let c = self.c + row * self.c_stride * width(self.out_is_bf16);
            let c = read_row(memory, c, (self.n, self.out_is_bf16))?;
            out.iter_mut().zip(c).for_each(|(out, c)| *out += self.beta * c);
        }
        let bytes: Vec<u8> = if self.out_is_bf16 != 0 {
            out.iter().flat_map(|&value| to_bf16(value).to_le_bytes()).collect()
        } else {
            out.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        memory.write(self.out + row * self.out_stride * width(self.out_is_bf16), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [1 2 3; 4 5 6] in bf16 times the rows [1 1 1] and [1 2 4], added to 10.
    #[test]
    fn a_product_reads_and_writes_where_it_says() {
        let mut memory = GlobalMemory::new(1 << 20);
        let mut put = |values: &[f32], is_bf16: bool| {
            let bytes: Vec<u8> = match is_bf16 {
                true => values.iter().flat_map(|&v| to_bf16(v).to_le_bytes()).collect(),
                false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            let address = memory.alloc(bytes.len() as u64).unwrap();
            memory.write(address, &bytes).unwrap();
            address
        };
        let weight = put(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], true);
        let x = put(&[1.0, 1.0, 1.0, f32::NAN, 1.0, 2.0, 4.0], true);
        let out = put(&[10.0; 5], false);
        let product = Product {
            weight,
            x,
            c: out,
            out,
            workspace: 0,
            workspace_bytes: 0,
            weight_stride: 3,
            x_stride: 4,
            c_stride: 3,
            out_stride: 3,
            rows: 2,
            n: 2,
            k: 3,
            alpha: 1.0,
            beta: 1.0,
            x_is_bf16: 1,
            out_is_bf16: 0,
            first_reversed_row: u64::MAX,
        };
        product.run(&mut memory).unwrap();
        assert_eq!(read_row(&memory, out, (5, 0)).unwrap(), [16.0, 25.0, 10.0, 27.0, 48.0]);
        let beyond = Product { rows: 3, ..product };
        assert!(matches!(beyond.run(&mut memory), Err(MemoryError::OutOfBounds { .. })));
        let unwritten = memory.alloc(64).unwrap();
        let unread = Product { x: unwritten, ..product };
        assert!(matches!(unread.run(&mut memory), Err(MemoryError::Unwritten { .. })));
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for (bits, expected) in
            [(0x3f80_8000u32, 0x3f80), (0x3f81_8000, 0x3f82), (0x3f80_8001, 0x3f81), (0x7f7f_ffff, 0x7f80)]
        {
            assert_eq!(to_bf16(f32::from_bits(bits)), expected, "{bits:#x}");
        }
        assert!(to_bf16(f32::NAN) & 0x7fff > 0x7f80);
    }
}
