//! Every instruction set against a triple loop in f64, and against itself one row at a time.

use half::bf16;

use super::scalar::erf;
use super::*;
use crate::device::Activation;

const ACTIVATIONS: [Activation; 4] = [Activation::Relu, Activation::GeluTanh, Activation::GeluErf, Activation::Silu];

/// Rows, n, k: full and partial tiles, panels and chunks, odd everything, and nothing at all.
const SHAPES: [(usize, usize, usize); 18] = [
    (1, 1, 1),
    (1, 32, 16),
    (2, 31, 2),
    (3, 33, 17),
    (5, 64, 31),
    (6, 16, 32),
    (7, 48, 33),
    (13, 30, 64),
    (14, 96, 65),
    (15, 34, 96),
    (28, 128, 127),
    (29, 66, 128),
    (65, 200, 160),
    (130, 70, 257),
    (9, 258, 1000),
    (0, 8, 8),
    (4, 0, 8),
    (4, 8, 0),
];

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Values in [-1, 1) that `dtype` holds exactly. In f32 they use all bits, so that products round.
fn values(dtype: Dtype, seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        if dtype == Dtype::F32 { value } else { bf16::from_f32(value).to_f32() }
    };
    (0..count).map(|_| next()).collect()
}

fn to_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

/// Makes a problem of a shape.
type Make = fn((usize, usize, usize), Dtype) -> Problem;

/// A problem with its values, rows of x spaced wider than k.
struct Problem {
    dtype: Dtype,
    rows: usize,
    n: usize,
    k: usize,
    stride: usize,
    x: Vec<f32>,
    x_bf16: Vec<bf16>,
    w: Vec<f32>,
    bias: Vec<f32>, // a value for each row of w, or none
}

impl Problem {
    fn new((rows, n, k): (usize, usize, usize), dtype: Dtype) -> Problem {
        let stride = k + 3;
        let x = values(dtype, rows as u64 + 1, rows * stride);
        Problem {
            dtype,
            rows,
            n,
            k,
            stride,
            x_bf16: to_bf16(&x),
            x,
            w: values(dtype, n as u64 + 1000, n * k),
            bias: vec![],
        }
    }

    fn biased(shape: (usize, usize, usize), dtype: Dtype) -> Problem {
        Problem { bias: values(Dtype::F32, 77, shape.1), ..Problem::new(shape, dtype) }
    }

    fn pack(&self, pool: &Pool, isa: Isa, gated: bool) -> PackedMatrix {
        let read = |row: usize, out: &mut [f32]| out.copy_from_slice(&self.w[row * self.k..][..self.k]);
        PackedMatrix::pack(pool, isa, self.dtype, self.n, self.k, gated, read).with_bias(&self.bias)
    }

    fn x_from(&self, row: usize) -> MatrixRef<'_> {
        let data = match self.dtype {
            Dtype::F32 => Elems::F32(&self.x[row * self.stride..]),
            Dtype::Bf16 => Elems::Bf16(&self.x_bf16[row * self.stride..]),
        };
        MatrixRef { data, stride: self.stride }
    }

    /// The bias and the sum of products in f64, and the sum of their sizes.
    fn exact(&self, row: usize, column: usize) -> (f64, f64) {
        let x = &self.x[row * self.stride..][..self.k];
        let w = &self.w[column * self.k..][..self.k];
        let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
        let bias = self.bias.get(column).map_or(0.0, |&bias| f64::from(bias));
        products.fold((bias, bias.abs()), |(sum, size), product| (sum + product, size + product.abs()))
    }
}

fn activate_f64(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

fn epilogues(n: usize, out: Dtype) -> Vec<Epilogue> {
    let mut all = vec![Epilogue::Store];
    if out == Dtype::F32 {
        all.push(Epilogue::Residual);
    }
    all.extend(ACTIVATIONS.map(Epilogue::Activate));
    if n.is_multiple_of(2) {
        all.extend(ACTIVATIONS.map(Epilogue::Gate));
    }
    all
}

/// The result, and what is around it: `columns + 5` a row, all elements 0.75 before.
fn run(pool: &Pool, isa: Isa, problem: &Problem, packed: &PackedMatrix, out: Dtype, epilogue: Epilogue) -> Vec<f32> {
    let stride = packed.output_columns() + 5;
    let x = problem.x_from(0);
    match out {
        Dtype::F32 => {
            let mut data = vec![0.75f32; problem.rows * stride];
            let out = MatrixMut { data: ElemsMut::F32(&mut data), stride };
            gemm(pool, isa, x, problem.rows, packed, out, epilogue);
            data
        }
        Dtype::Bf16 => {
            let mut data = vec![bf16::from_f32(0.75); problem.rows * stride];
            let out = MatrixMut { data: ElemsMut::Bf16(&mut data), stride };
            gemm(pool, isa, x, problem.rows, packed, out, epilogue);
            data.iter().map(|value| value.to_f32()).collect()
        }
    }
}

#[test]
fn products_and_epilogues_match_f64() {
    let pool = Pool::new(2);
    for (new, shape) in SHAPES.into_iter().flat_map(|shape| [(Problem::new as Make, shape), (Problem::biased, shape)]) {
        for (isa, dtype) in isas().flat_map(|isa| [(isa, Dtype::F32), (isa, Dtype::Bf16)]) {
            let problem = new(shape, dtype);
            let plain = problem.pack(&pool, isa, false);
            let gated = problem.n.is_multiple_of(2).then(|| problem.pack(&pool, isa, true));
            for out in [Dtype::F32, Dtype::Bf16] {
                for epilogue in epilogues(problem.n, out) {
                    let packed = match epilogue {
                        Epilogue::Gate(_) => gated.as_ref().expect("n is even"),
                        _ => &plain,
                    };
                    let got = run(&pool, isa, &problem, packed, out, epilogue);
                    check(&problem, packed.output_columns(), out, epilogue, &got, &format!("{isa:?} {dtype:?}"));
                }
            }
        }
    }
}

fn check(problem: &Problem, columns: usize, out: Dtype, epilogue: Epilogue, got: &[f32], what: &str) {
    let stride = columns + 5;
    // A sum of k products in any order: each is rounded at most k + 1 times.
    let unit = f64::from(f32::EPSILON) / 2.0;
    let sum_error = |size: f64| (problem.k + 2) as f64 * unit * size;
    // No activation is steeper than 1.13; each value has its own few roundings.
    let act_error = |value: f64, size: f64| 1.13 * sum_error(size) + 16.0 * unit * value.abs() + 1e-7 * unit;
    for (row, column) in (0..problem.rows).flat_map(|row| (0..stride).map(move |column| (row, column))) {
        let got = f64::from(got[row * stride + column]);
        if column >= columns {
            assert_eq!(got, 0.75, "{what} {epilogue:?}: wrote beyond the row");
            continue;
        }
        let (sum, size) = problem.exact(row, column);
        let (want, mut error) = match epilogue {
            Epilogue::Store => (sum, sum_error(size)),
            Epilogue::Residual => (0.75 + sum, sum_error(size) + unit * (0.75 + sum).abs()),
            Epilogue::Activate(activation) => {
                let value = activate_f64(activation, sum);
                // 1 + tanh and 1 + erf lose digits to cancellation in the plain path: allow for x times a rounding.
                (value, act_error(value, size) + 4.0 * unit * sum.abs())
            }
            Epilogue::Gate(activation) => {
                let value = activate_f64(activation, sum);
                let (up, up_size) = problem.exact(row, columns + column);
                let value_error = act_error(value, size) + 4.0 * unit * sum.abs();
                let error = value_error * (up.abs() + sum_error(up_size)) + value.abs() * sum_error(up_size);
                (value * up, error + unit * (value * up).abs())
            }
        };
        if out == Dtype::Bf16 {
            error += want.abs() / 256.0;
        }
        let shape = (problem.rows, problem.n, problem.k);
        assert!(
            (got - want).abs() <= error,
            "{what} -> {out:?} {epilogue:?} {shape:?} at {row}, {column}: {got}, not {want} +- {error:e}"
        );
    }
}

/// Each row alone, in blocks of columns, and with 1 to 4 threads: the same bits.
#[test]
fn a_row_does_not_depend_on_its_batch() {
    let pools: Vec<Pool> = (1..=4).map(Pool::new).collect();
    for shape in [(3, 40, 31), (14, 64, 64), (17, 96, 100), (45, 130, 257), (131, 288, 96), (300, 600, 70)] {
        for (isa, dtype) in isas().flat_map(|isa| [(isa, Dtype::F32), (isa, Dtype::Bf16)]) {
            let problem = Problem::biased(shape, dtype);
            for gated in [false, true] {
                let packed = problem.pack(&pools[1], isa, gated);
                let epilogue = if gated { Epilogue::Gate(Activation::Silu) } else { Epilogue::Store };
                let batched = run(&pools[0], isa, &problem, &packed, Dtype::F32, epilogue);
                for pool in &pools[1..] {
                    let other = run(pool, isa, &problem, &packed, Dtype::F32, epilogue);
                    assert!(same_bits(&batched, &other), "{isa:?} {dtype:?} {shape:?}: {} threads", pool.threads());
                }
                rows_alone(&pools[3], isa, &problem, &packed, epilogue, &batched);
                if !gated {
                    blocks(isa, &problem, &packed, &batched);
                }
            }
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn rows_alone(pool: &Pool, isa: Isa, problem: &Problem, packed: &PackedMatrix, epilogue: Epilogue, batched: &[f32]) {
    let columns = packed.output_columns();
    let mut alone = vec![0.0f32; columns];
    for row in 0..problem.rows {
        let x = problem.x_from(row);
        let out = MatrixMut { data: ElemsMut::F32(&mut alone), stride: columns };
        gemm(pool, isa, x, 1, packed, out, epilogue);
        let batched = &batched[row * (columns + 5)..][..columns];
        assert!(same_bits(&alone, batched), "{isa:?} {:?} row {row} of {}", packed.dtype(), problem.rows);
    }
}

fn blocks(isa: Isa, problem: &Problem, packed: &PackedMatrix, batched: &[f32]) {
    let stride = problem.n + 5;
    let x = problem.x_from(0);
    for (rows, columns) in [
        (0..problem.rows, 0..problem.n),
        (problem.rows / 2..problem.rows, 32..problem.n),
        (1..problem.rows, 7..problem.n - 1),
        (2..3, 33..35),
    ] {
        let width = columns.len();
        let mut block = vec![0.0f32; rows.len() * (width + 1)];
        gemm_block(isa, x, rows.clone(), packed, columns.clone(), &mut block, width + 1);
        for (row, line) in rows.clone().zip(block.chunks(width + 1)) {
            let batched = &batched[row * stride..][columns.clone()];
            assert!(same_bits(&line[..width], batched), "{isa:?} block {rows:?} x {columns:?}, row {row}");
        }
    }
}

/// One column of weight 1: the activation alone, over values from the smallest to the largest.
#[test]
fn activations_are_accurate_everywhere() {
    let pool = Pool::new(1);
    let mut inputs: Vec<f32> = (-2000..=2000).map(|i| i as f32 / 100.0).collect();
    inputs.extend((-140..=120).flat_map(|e| [1.37f32, -1.37].map(|m| m * 2f32.powi(e))));
    for isa in isas() {
        let packed = PackedMatrix::pack(&pool, isa, Dtype::F32, 1, 1, false, |_, row| row[0] = 1.0);
        for activation in ACTIVATIONS {
            let mut got = vec![0.0f32; inputs.len()];
            let x = MatrixRef { data: Elems::F32(&inputs), stride: 1 };
            let out = MatrixMut { data: ElemsMut::F32(&mut got), stride: 1 };
            gemm(&pool, isa, x, inputs.len(), &packed, out, Epilogue::Activate(activation));
            for (&x, &got) in inputs.iter().zip(&got) {
                let want = activate_f64(activation, f64::from(x));
                // Positive arguments are well conditioned; in the negative tail the definitions cancel, and what counts
                // is the error against x.
                let size = if x >= 0.0 { want.abs() } else { f64::from(x.abs().min(20.0)) };
                let error = 4.0 * f64::from(f32::EPSILON) * size + f64::from(f32::MIN_POSITIVE);
                assert!((f64::from(got) - want).abs() <= error, "{isa:?} {activation:?}({x:e}): {got:e}, not {want:e}");
            }
        }
    }
}

#[test]
fn packing_rounds_to_nearest_even_and_counts_its_bytes() {
    let pool = Pool::new(2);
    let tie = 1.0 + 1.0 / 256.0; // halfway between two bf16; the even one is 1
    let packed = PackedMatrix::pack(&pool, Isa::Scalar, Dtype::Bf16, 40, 3, false, |_, row| row.fill(tie));
    assert_eq!((packed.n(), packed.k(), packed.bytes()), (40, 3, 2 * 2 * PANEL * 4));
    let x = [bf16::ONE; 3];
    let mut out = [0.0f32; 40];
    let x = MatrixRef { data: Elems::Bf16(&x), stride: 3 };
    gemm(&pool, Isa::Scalar, x, 1, &packed, MatrixMut { data: ElemsMut::F32(&mut out), stride: 40 }, Epilogue::Store);
    assert_eq!(out, [3.0; 40]);
}

/// Sums that lie halfway between two bf16, above even ones and odd ones.
#[test]
fn outputs_round_to_nearest_even() {
    let pool = Pool::new(1);
    let sum = |column: usize| (1.0 + column as f32 / 128.0) + 1.0 / 256.0;
    for isa in isas() {
        let packed = PackedMatrix::pack(&pool, isa, Dtype::Bf16, 120, 2, false, |column, row| {
            row.copy_from_slice(&[1.0 + column as f32 / 128.0, 1.0 / 256.0]);
        });
        let mut out = [bf16::ZERO; 120];
        let x = MatrixRef { data: Elems::Bf16(&[bf16::ONE; 2]), stride: 2 };
        gemm(&pool, isa, x, 1, &packed, MatrixMut { data: ElemsMut::Bf16(&mut out), stride: 120 }, Epilogue::Store);
        for (column, &got) in out.iter().enumerate() {
            assert_eq!(got, bf16::from_f32(sum(column)), "{isa:?}: {}", sum(column));
        }
    }
}

/// The word that holds an odd last k has a second half. Whatever the memory held before must not get into the sum.
#[test]
fn an_odd_k_does_not_read_what_was_there_before() {
    let pool = Pool::new(1);
    for isa in isas() {
        let problem = Problem::new((20, 40, 33), Dtype::Bf16);
        let packed = problem.pack(&pool, isa, false);
        let before = run(&pool, isa, &problem, &packed, Dtype::F32, Epilogue::Store);
        let mut nan = Problem::new((40, 40, 64), Dtype::Bf16);
        nan.x_bf16.fill(bf16::NAN);
        let packed_nan = nan.pack(&pool, isa, false);
        assert!(run(&pool, isa, &nan, &packed_nan, Dtype::F32, Epilogue::Store)[0].is_nan());
        let after = run(&pool, isa, &problem, &packed, Dtype::F32, Epilogue::Store);
        assert!(same_bits(&before, &after), "{isa:?}");
    }
}

/// Infinities, NaN and denormals give whatever they give, in their own row only, and nothing panics.
#[test]
fn odd_values_stay_in_their_row() {
    let pool = Pool::new(2);
    for isa in isas() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let mut problem = Problem::new((20, 70, 33), dtype);
            let packed = problem.pack(&pool, isa, false);
            let gated = problem.pack(&pool, isa, true);
            let before = run(&pool, isa, &problem, &packed, Dtype::F32, Epilogue::Store);
            for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, f32::MAX] {
                problem.x[5 * 36 + 32] = odd;
                problem.x_bf16[5 * 36 + 32] = bf16::from_f32(odd);
                let after = run(&pool, isa, &problem, &packed, Dtype::F32, Epilogue::Store);
                let stride = 75;
                assert!(same_bits(&before[..5 * stride], &after[..5 * stride]));
                assert!(same_bits(&before[6 * stride..], &after[6 * stride..]));
                assert_eq!(after[5 * stride].is_nan(), odd.is_nan(), "{isa:?} {dtype:?} {odd}");
                for out in [Dtype::F32, Dtype::Bf16] {
                    for activation in ACTIVATIONS {
                        let activated = run(&pool, isa, &problem, &packed, out, Epilogue::Activate(activation));
                        let product = run(&pool, isa, &problem, &gated, out, Epilogue::Gate(activation));
                        if odd.is_nan() {
                            assert!(activated[5 * stride..][..70].iter().all(|value| value.is_nan()), "{isa:?}");
                            assert!(product[5 * 40..][..35].iter().all(|value| value.is_nan()), "{isa:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "need 71 elements, not 70")]
fn a_short_output_is_refused() {
    let pool = Pool::new(1);
    let problem = Problem::new((2, 35, 4), Dtype::F32);
    let packed = problem.pack(&pool, Isa::Scalar, false);
    let mut out = vec![0.0; 70];
    let out = MatrixMut { data: ElemsMut::F32(&mut out), stride: 36 };
    gemm(&pool, Isa::Scalar, problem.x_from(0), 2, &packed, out, Epilogue::Store);
}
