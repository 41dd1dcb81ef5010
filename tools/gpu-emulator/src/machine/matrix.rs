//! `ldmatrix` and `mma.sync`. Fragment layouts follow the PTX ISA.
//!
//! Products are exact; a dot product is summed in f32, in order of k, starting from the accumulator. Tensor cores sum in other
//! orders and with other roundings: results agree to the last bits only by luck.

use super::access::Touch;
use super::registers::{LANES, Words};
use super::warp::Warp;
use super::{Context, Stop};
use crate::fault::{Action, Memory};
use crate::float;
use crate::ir::{Collective, Half, Mma, Rounding, SHARED_WINDOW, Slot, WINDOW_BYTES};

/// Bytes of a matrix row: eight 16-bit values.
const ROW_BYTES: usize = 16;
const ROWS: usize = 16;
const COLUMNS: usize = 8;
/// The largest inner dimension.
const DEPTH: usize = 32;

impl Warp {
    pub(super) fn load_matrix(&mut self, op: &Collective, o: &[Slot], context: &mut Context<'_>) -> Result<(), Stop> {
        let Collective::LoadMatrix { count, transposed, offset, .. } = *op else { return Ok(()) };
        let count = usize::from(count);
        let addresses = self.addresses(o[count], offset);
        for matrix in 0..count {
            let mut rows = [[0u16; 8]; 8];
            for (row, values) in rows.iter_mut().enumerate() {
                let lane = matrix * 8 + row;
                let window = SHARED_WINDOW..SHARED_WINDOW + WINDOW_BYTES;
                let address = addresses[lane] - if window.contains(&addresses[lane]) { SHARED_WINDOW } else { 0 };
                let touch = Touch { lane, address, bytes: ROW_BYTES, action: Action::Read, atomic: false };
                if address % ROW_BYTES as u64 != 0 {
                    return Err(Context::misaligned(touch, Memory::Shared));
                }
                let at = context.touch_shared(self.index, touch)?;
                let bytes = &context.shared.data[at..at + ROW_BYTES];
                for (value, pair) in values.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = u16::from_le_bytes([pair[0], pair[1]]);
                }
            }
            let out: Words = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let pair = if transposed {
                    [rows[column][row], rows[column + 1][row]]
                } else {
                    [rows[row][column], rows[row][column + 1]]
                };
                u32::from(pair[0]) | u32::from(pair[1]) << 16
            });
            self.registers.set_words(o[matrix], &out, !0);
        }
        Ok(())
    }

    pub(super) fn mma(&mut self, mma: Mma, o: &[Slot]) {
        match mma {
            Mma::Half16 { format, f16_result } => self.half(format, f16_result, 16, o),
            Mma::Half8 { format, f16_result } => self.half(format, f16_result, 8, o),
            Mma::Tf32K8 => self.tf32(8, o),
            Mma::Tf32K4 => self.tf32(4, o),
            Mma::Int8 { k32, a_signed, b_signed, saturate } => {
                self.int8(if k32 { 32 } else { 16 }, (a_signed, b_signed, saturate), o);
            }
        }
    }

    fn half(&mut self, format: Half, f16_result: bool, depth: usize, o: &[Slot]) {
        let read = |bits: u32| match format {
            Half::Bf16 => float::bf16_to_f32(bits as u16),
            Half::F16 => float::f16_to_f32(bits as u16),
        };
        let results = if f16_result { 2 } else { 4 };
        let (a_at, b_at) = (results, results + depth / 4);
        let c_at = b_at + depth / 8;
        let mut a = [[0f32; DEPTH]; ROWS];
        let mut b = [[0f32; COLUMNS]; DEPTH];
        for part in 0..depth / 4 {
            let words = self.registers.word(o[a_at + part]);
            for (lane, &word) in words.iter().enumerate() {
                let (row, k) = (lane / 4 + part % 2 * 8, lane % 4 * 2 + part / 2 * 8);
                a[row][k] = read(word);
                a[row][k + 1] = read(word >> 16);
            }
        }
        for part in 0..depth / 8 {
            let words = self.registers.word(o[b_at + part]);
            for (lane, &word) in words.iter().enumerate() {
                let (column, k) = (lane / 4, lane % 4 * 2 + part * 8);
                b[k][column] = read(word);
                b[k + 1][column] = read(word >> 16);
            }
        }
        if f16_result {
            self.half_accumulators(&a, &b, depth, (&o[..2], &o[c_at..]));
        } else {
            self.float_accumulators(&a, &b, depth, (&o[..4], &o[c_at..]));
        }
    }

    fn float_accumulators(
        &mut self,
        a: &[[f32; DEPTH]; ROWS],
        b: &[[f32; COLUMNS]; DEPTH],
        depth: usize,
        o: (&[Slot], &[Slot]),
    ) {
        let (d, c) = o;
        let mut sums = [[0f32; COLUMNS]; ROWS];
        for part in 0..4 {
            let words = self.registers.word(c[part]);
            for (lane, &word) in words.iter().enumerate() {
                let (row, column) = accumulator(lane, part);
                sums[row][column] = f32::from_bits(word);
            }
        }
        multiply(a, b, depth, &mut sums);
        for part in 0..4 {
            let out: Words = std::array::from_fn(|lane| {
                let (row, column) = accumulator(lane, part);
                float::canonical(sums[row][column]).to_bits()
            });
            self.registers.set_words(d[part], &out, !0);
        }
    }

    fn half_accumulators(
        &mut self,
        a: &[[f32; DEPTH]; ROWS],
        b: &[[f32; COLUMNS]; DEPTH],
        depth: usize,
        o: (&[Slot], &[Slot]),
    ) {
        let (d, c) = o;
        let mut sums = [[0f32; COLUMNS]; ROWS];
        for part in 0..2 {
            let words = self.registers.word(c[part]);
            for (lane, &word) in words.iter().enumerate() {
                let (row, column) = accumulator(lane, part * 2);
                sums[row][column] = float::f16_to_f32(word as u16);
                sums[row][column + 1] = float::f16_to_f32((word >> 16) as u16);
            }
        }
        multiply(a, b, depth, &mut sums);
        for part in 0..2 {
            let out: Words = std::array::from_fn(|lane| {
                let (row, column) = accumulator(lane, part * 2);
                let one = |x: f32| u32::from(float::f64_to_half(Half::F16, f64::from(x), Rounding::Nearest));
                one(sums[row][column]) | one(sums[row][column + 1]) << 16
            });
            self.registers.set_words(d[part], &out, !0);
        }
    }

    fn tf32(&mut self, depth: usize, o: &[Slot]) {
        // The hardware ignores the mantissa bits that tf32 lacks.
        let read = |bits: u32| f32::from_bits(bits & !0x1fff);
        let (a_at, b_at) = (4, 4 + depth / 2);
        let mut a = [[0f32; DEPTH]; ROWS];
        let mut b = [[0f32; COLUMNS]; DEPTH];
        for part in 0..depth / 2 {
            let words = self.registers.word(o[a_at + part]);
            for (lane, &word) in words.iter().enumerate() {
                a[lane / 4 + part % 2 * 8][lane % 4 + part / 2 * 4] = read(word);
            }
        }
        for part in 0..depth / 4 {
            let words = self.registers.word(o[b_at + part]);
            for (lane, &word) in words.iter().enumerate() {
                b[lane % 4 + part * 4][lane / 4] = read(word);
            }
        }
        self.float_accumulators(&a, &b, depth, (&o[..4], &o[b_at + depth / 4..]));
    }

    fn int8(&mut self, depth: usize, how: (bool, bool, bool), o: &[Slot]) {
        let (a_signed, b_signed, saturate) = how;
        let byte = |word: u32, i: usize, signed: bool| {
            let byte = (word >> (8 * i)) as u8;
            if signed { i64::from(byte as i8) } else { i64::from(byte) }
        };
        let (a_at, b_at) = (4, 4 + depth / 8);
        let c_at = b_at + depth / 16;
        let mut a = [[0i64; DEPTH]; ROWS];
        let mut b = [[0i64; COLUMNS]; DEPTH];
        for part in 0..depth / 8 {
            let words = self.registers.word(o[a_at + part]);
            for (lane, &word) in words.iter().enumerate() {
                for i in 0..4 {
                    a[lane / 4 + part % 2 * 8][lane % 4 * 4 + part / 2 * 16 + i] = byte(word, i, a_signed);
                }
            }
        }
        for part in 0..depth / 16 {
            let words = self.registers.word(o[b_at + part]);
            for (lane, &word) in words.iter().enumerate() {
                for i in 0..4 {
                    b[lane % 4 * 4 + part * 16 + i][lane / 4] = byte(word, i, b_signed);
                }
            }
        }
        for part in 0..4 {
            let c = self.registers.word(o[c_at + part]);
            let out: Words = std::array::from_fn(|lane| {
                let (row, column) = accumulator(lane, part);
                let dot: i64 = (0..depth).map(|k| a[row][k] * b[k][column]).sum();
                let sum = i64::from(c[lane] as i32) + dot;
                if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { sum as u32 }
            });
            self.registers.set_words(o[part], &out, !0);
        }
    }
}

/// Row and column of a lane's accumulator register.
fn accumulator(lane: usize, part: usize) -> (usize, usize) {
    (lane / 4 + part / 2 * 8, lane % 4 * 2 + part % 2)
}

fn multiply(a: &[[f32; DEPTH]; ROWS], b: &[[f32; COLUMNS]; DEPTH], depth: usize, sums: &mut [[f32; COLUMNS]; ROWS]) {
    for (row, sums) in a.iter().zip(sums) {
        for (x, b) in row[..depth].iter().zip(b) {
            for (sum, y) in sums.iter_mut().zip(b) {
                *sum += x * y;
            }
        }
    }
}

const _: () = assert!(ROWS * COLUMNS == 4 * LANES, "four accumulators a lane cover the tile");
