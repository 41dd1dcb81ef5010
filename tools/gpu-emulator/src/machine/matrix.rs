//! `ldmatrix` and `mma.sync`. Fragment layouts follow the PTX ISA.
//!
//! Products are exact; a dot product is summed in f32, in order of k, starting from the accumulator. Tensor cores sum in other
//! orders and with other roundings: results agree to the last bits only by luck.

use super::access::Touch;
use super::alu::has_avx2;
use super::registers::{LANES, Words, map1};
use super::warp::Warp;
use super::{Context, Stop};
use crate::fault::{Action, Memory};
use crate::float;
use crate::ir::{Collective, Half, Mma, Rounding, SHARED_WINDOW, Slot, WINDOW_BYTES};

/// Bytes of a matrix row: eight 16-bit values.
const ROW_BYTES: usize = 16;
const ROWS: usize = 16;
const COLUMNS: usize = 8;

impl Warp {
    pub(super) fn load_matrix(&mut self, op: &Collective, o: &[Slot], context: &mut Context<'_>) -> Result<(), Stop> {
        let Collective::LoadMatrix { count, transposed, offset, .. } = *op else { return Ok(()) };
        let count = usize::from(count);
        let addresses = self.addresses(o[count], offset);
        for (matrix, destination) in o[..count].iter().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (row, values) in rows.iter_mut().enumerate() {
                let lane = matrix * 8 + row;
                let window = SHARED_WINDOW..SHARED_WINDOW + WINDOW_BYTES;
                let address = addresses[lane] - if window.contains(&addresses[lane]) { SHARED_WINDOW } else { 0 };
                let touch = Touch { lane, address, bytes: ROW_BYTES, action: Action::Read, atomic: false };
                if !address.is_multiple_of(ROW_BYTES as u64) {
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
            self.registers.set_words(*destination, &out, !0);
        }
        Ok(())
    }

    pub(super) fn mma(&mut self, mma: Mma, o: &[Slot]) {
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            // SAFETY: the processor has the features that the function is compiled for.
            unsafe { self.mma_avx2(mma, o) };
            return;
        }
        self.mma_with::<false>(mma, o);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn mma_avx2(&mut self, mma: Mma, o: &[Slot]) {
        self.mma_with::<true>(mma, o);
    }

    /// `FUSED`: a fused multiply-add is fast. Products of 11-bit significands are exact in f32, so it rounds as the two do.
    #[inline(always)]
    fn mma_with<const FUSED: bool>(&mut self, mma: Mma, o: &[Slot]) {
        match mma {
            Mma::Half16 { format, f16_result } => self.half::<16, FUSED>(format, f16_result, o),
            Mma::Half8 { format, f16_result } => self.half::<8, FUSED>(format, f16_result, o),
            Mma::Tf32K8 => self.tf32::<8, FUSED>(o),
            Mma::Tf32K4 => self.tf32::<4, FUSED>(o),
            Mma::Int8 { k32: true, a_signed, b_signed, saturate } => self.int8::<32>((a_signed, b_signed, saturate), o),
            Mma::Int8 { k32: false, a_signed, b_signed, saturate } => {
                self.int8::<16>((a_signed, b_signed, saturate), o)
            }
        }
    }

    #[inline(always)]
    fn half<const K: usize, const FUSED: bool>(&mut self, format: Half, f16_result: bool, o: &[Slot]) {
        let results = if f16_result { 2 } else { 4 };
        let (b_at, c_at) = (results + K / 4, results + K / 4 + K / 8);
        let mut b = [[0f32; COLUMNS]; K];
        for (part, slot) in o[b_at..c_at].iter().enumerate() {
            let (low, high) = halves(format, self.registers.word(*slot));
            for lane in 0..LANES {
                let (column, k) = (lane / 4, lane % 4 * 2 + part * 8);
                b[k][column] = low[lane];
                b[k + 1][column] = high[lane];
            }
        }
        let mut a = [[0f32; K]; ROWS];
        for (part, slot) in o[results..b_at].iter().enumerate() {
            let (low, high) = halves(format, self.registers.word(*slot));
            // A register holds an 8x8 part of the tile by rows, a pair a lane.
            for row in 0..8 {
                let out = &mut a[row + part % 2 * 8][part / 2 * 8..][..8];
                for pair in 0..4 {
                    out[2 * pair] = low[row * 4 + pair];
                    out[2 * pair + 1] = high[row * 4 + pair];
                }
            }
        }
        if f16_result {
            self.half_accumulators::<K, FUSED>(&a, &b, (&o[..2], &o[c_at..]));
        } else {
            self.float_accumulators::<K, FUSED>(&a, &b, (&o[..4], &o[c_at..]));
        }
    }

    #[inline(always)]
    fn float_accumulators<const K: usize, const FUSED: bool>(
        &mut self,
        a: &[[f32; K]; ROWS],
        b: &[[f32; COLUMNS]; K],
        o: (&[Slot], &[Slot]),
    ) {
        let (d, c) = o;
        let mut sums = [[0f32; COLUMNS]; ROWS];
        for (part, slot) in c.iter().enumerate() {
            let words = self.registers.word(*slot);
            for (lane, &word) in words.iter().enumerate() {
                let (row, column) = accumulator(lane, part);
                sums[row][column] = f32::from_bits(word);
            }
        }
        multiply::<K, FUSED>(a, b, &mut sums);
        for (part, slot) in d.iter().enumerate() {
            let out: Words = std::array::from_fn(|lane| {
                let (row, column) = accumulator(lane, part);
                float::canonical(sums[row][column]).to_bits()
            });
            self.registers.set_words(*slot, &out, !0);
        }
    }

    #[inline(always)]
    fn half_accumulators<const K: usize, const FUSED: bool>(
        &mut self,
        a: &[[f32; K]; ROWS],
        b: &[[f32; COLUMNS]; K],
        o: (&[Slot], &[Slot]),
    ) {
        let (d, c) = o;
        let mut sums = [[0f32; COLUMNS]; ROWS];
        for (part, slot) in c.iter().enumerate() {
            let (low, high) = halves(Half::F16, self.registers.word(*slot));
            for lane in 0..LANES {
                let (row, column) = accumulator(lane, part * 2);
                sums[row][column] = low[lane];
                sums[row][column + 1] = high[lane];
            }
        }
        multiply::<K, FUSED>(a, b, &mut sums);
        for (part, slot) in d.iter().enumerate() {
            let out: Words = std::array::from_fn(|lane| {
                let (row, column) = accumulator(lane, part * 2);
                let one = |x: f32| u32::from(float::f64_to_half(Half::F16, f64::from(x), Rounding::Nearest));
                one(sums[row][column]) | one(sums[row][column + 1]) << 16
            });
            self.registers.set_words(*slot, &out, !0);
        }
    }

    #[inline(always)]
    fn tf32<const K: usize, const FUSED: bool>(&mut self, o: &[Slot]) {
        // The hardware ignores the mantissa bits that tf32 lacks.
        let read = |bits: u32| f32::from_bits(bits & !0x1fff);
        let (b_at, c_at) = (4 + K / 2, 4 + K / 2 + K / 4);
        let (mut a, mut b) = ([[0f32; K]; ROWS], [[0f32; COLUMNS]; K]);
        for (part, slot) in o[4..b_at].iter().enumerate() {
            for (lane, &word) in self.registers.word(*slot).iter().enumerate() {
                a[lane / 4 + part % 2 * 8][lane % 4 + part / 2 * 4] = read(word);
            }
        }
        for (part, slot) in o[b_at..c_at].iter().enumerate() {
            for (lane, &word) in self.registers.word(*slot).iter().enumerate() {
                b[lane % 4 + part * 4][lane / 4] = read(word);
            }
        }
        self.float_accumulators::<K, FUSED>(&a, &b, (&o[..4], &o[c_at..]));
    }

    fn int8<const K: usize>(&mut self, how: (bool, bool, bool), o: &[Slot]) {
        let (a_signed, b_signed, saturate) = how;
        let byte = |word: u32, i: usize, signed: bool| {
            let byte = (word >> (8 * i)) as u8;
            if signed { i64::from(byte as i8) } else { i64::from(byte) }
        };
        let (b_at, c_at) = (4 + K / 8, 4 + K / 8 + K / 16);
        let (mut a, mut b) = ([[0i64; K]; ROWS], [[0i64; COLUMNS]; K]);
        for (part, slot) in o[4..b_at].iter().enumerate() {
            for (lane, &word) in self.registers.word(*slot).iter().enumerate() {
                for i in 0..4 {
                    a[lane / 4 + part % 2 * 8][lane % 4 * 4 + part / 2 * 16 + i] = byte(word, i, a_signed);
                }
            }
        }
        for (part, slot) in o[b_at..c_at].iter().enumerate() {
            for (lane, &word) in self.registers.word(*slot).iter().enumerate() {
                for i in 0..4 {
                    b[lane % 4 * 4 + part * 16 + i][lane / 4] = byte(word, i, b_signed);
                }
            }
        }
        // All results before the first is stored: they may share registers with accumulators.
        let results: [Words; 4] = std::array::from_fn(|part| {
            let c = self.registers.word(o[c_at + part]);
            std::array::from_fn(|lane| {
                let (row, column) = accumulator(lane, part);
                let dot: i64 = (0..K).map(|k| a[row][k] * b[k][column]).sum();
                let sum = i64::from(c[lane] as i32) + dot;
                if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { sum as u32 }
            })
        });
        for (slot, result) in o.iter().zip(&results) {
            self.registers.set_words(*slot, result, !0);
        }
    }
}

/// The lower and upper values of a register of pairs.
#[inline(always)]
fn halves(format: Half, words: &Words) -> ([f32; LANES], [f32; LANES]) {
    match format {
        Half::Bf16 => (map1(words, |w| f32::from_bits(w << 16)), map1(words, |w| f32::from_bits(w & 0xffff_0000))),
        Half::F16 => {
            (map1(words, |w| float::f16_to_f32(w as u16)), map1(words, |w| float::f16_to_f32((w >> 16) as u16)))
        }
    }
}

/// Row and column of a lane's accumulator register.
#[inline(always)]
fn accumulator(lane: usize, part: usize) -> (usize, usize) {
    (lane / 4 + part / 2 * 8, lane % 4 * 2 + part % 2)
}

#[inline(always)]
fn multiply<const K: usize, const FUSED: bool>(
    a: &[[f32; K]; ROWS],
    b: &[[f32; COLUMNS]; K],
    sums: &mut [[f32; COLUMNS]; ROWS],
) {
    for (row, sums) in a.iter().zip(sums) {
        let mut total = *sums;
        for (x, b) in row.iter().zip(b) {
            for column in 0..COLUMNS {
                let (sum, y) = (&mut total[column], b[column]);
                *sum = if FUSED { x.mul_add(y, *sum) } else { x * y + *sum };
            }
        }
        *sums = total;
    }
}

const _: () = assert!(ROWS * COLUMNS == 4 * LANES, "four accumulators a lane cover the tile");
