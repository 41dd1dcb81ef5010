//! Matrix products of the four benchmark models, in GFLOP/s and in % of what the registers alone can do.
//!
//! ```text
//! cargo bench --bench gemm -- [--threads N] [--warm] [--rows N] [words to match in a line's name ...]
//! ```
//!
//! Each shape cycles through copies of its weight that together exceed the L3 cache, as the layers of a model do (`--warm`:
//! one copy). Every answer is checked against f64 on a sample of elements. Without `--bench` (the test run) each shape runs
//! once with few rows. `cpu` is the mean time that the calling thread ran (waiting for
//! others included), for machines that are shared. Peaks are those of one core of the development machine (Zen 4, 3.69 GHz).

mod support;

use std::time::{Duration, Instant};

use half::bf16;
use sidereal::device::cpu::gemm::{Elems, ElemsMut, MatrixMut, MatrixRef, PackedMatrix, gemm};
use sidereal::device::cpu::{Isa, Pool};
use sidereal::device::{Activation, Dtype, Epilogue};
use support::{cpu_seconds, peak};

/// Model, layer, n, k, epilogue.
const SHAPES: [(&str, &str, usize, usize, Epilogue); 16] = [
    ("w1s", "qkv", 1152, 256, Epilogue::Store),
    ("w1s", "out", 256, 384, Epilogue::Residual),
    ("w1s", "up", 1024, 256, Epilogue::Activate(Activation::Relu)),
    ("w1s", "down", 256, 1024, Epilogue::Residual),
    ("w1m", "qkv", 2304, 768, Epilogue::Store),
    ("w1m", "out", 768, 768, Epilogue::Residual),
    ("w1m", "up", 3072, 768, Epilogue::Activate(Activation::Relu)),
    ("w1m", "down", 768, 3072, Epilogue::Residual),
    ("w2s", "qkv", 1024, 512, Epilogue::Store),
    ("w2s", "out", 512, 512, Epilogue::Residual),
    ("w2s", "gate", 3072, 512, Epilogue::Gate(Activation::Silu)),
    ("w2s", "down", 512, 1536, Epilogue::Residual),
    ("w2l", "qkv", 4096, 1024, Epilogue::Store),
    ("w2l", "out", 1024, 2048, Epilogue::Residual),
    ("w2l", "gate", 6144, 1024, Epilogue::Gate(Activation::Silu)),
    ("w2l", "down", 1024, 3072, Epilogue::Residual),
];
const ROWS: [usize; 5] = [1, 32, 128, 512, 2048];
/// Copies of a weight take this much together.
const COLD_BYTES: usize = 96 << 20;
/// Time spent on one line.
const BUDGET: Duration = Duration::from_millis(250);

struct Options {
    smoke: bool,
    warm: bool,
    threads: usize,
    rows: Option<usize>,
    words: Vec<String>,
}

impl Options {
    fn parse() -> Options {
        let mut options = Options { smoke: true, warm: false, threads: 2, rows: None, words: Vec::new() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number follows");
            match arg.as_str() {
                "--bench" => options.smoke = false,
                "--warm" => options.warm = true,
                "--threads" => options.threads = number(),
                "--rows" => options.rows = Some(number()),
                _ if arg.starts_with("--") => {} // the test harness's own
                _ => options.words.push(arg),
            }
        }
        options
    }
}

fn main() {
    let options = Options::parse();
    let pool = Pool::new(options.threads);
    let isas: Vec<Isa> = match std::env::var("SIDEREAL_ISA") {
        Ok(_) => vec![Isa::choose().expect("SIDEREAL_ISA names an instruction set of this machine")],
        Err(_) if options.smoke => Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect(),
        Err(_) => vec![Isa::choose().expect("the best there is")],
    };
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7} {:>8}",
        "", "min us", "median", "cpu", "GFLOP/s", "% peak", "% cpu", "GB/s"
    );
    for isa in isas {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for shape in SHAPES {
                let rows = if options.smoke { &[1, 29][..] } else { &ROWS };
                let name = |rows| format!("{} {} {} {} x{}", isa.name(), dtype.name(), shape.0, shape.1, rows);
                let rows: Vec<usize> = match options.rows {
                    Some(rows) => vec![rows],
                    None => rows.to_vec(),
                };
                if options.words.iter().all(|word| name(0).split(' ').any(|part| part == word)) {
                    Bench::new(&pool, isa, dtype, shape, &options).run(&rows, name);
                }
            }
        }
    }
}

struct Bench<'a> {
    pool: &'a Pool,
    options: &'a Options,
    isa: Isa,
    dtype: Dtype,
    n: usize,
    k: usize,
    epilogue: Epilogue,
    weights: Vec<PackedMatrix>,
}

fn target<'a>(narrow: bool, out: &'a mut [f32], out_bf16: &'a mut [bf16]) -> ElemsMut<'a> {
    if narrow { ElemsMut::Bf16(out_bf16) } else { ElemsMut::F32(out) }
}

/// Weight element, exact in bf16.
fn weight(row: usize, column: usize) -> f32 {
    ((row * 31 + column * 17) % 61) as f32 / 64.0 - 0.5
}

/// Input element, exact in bf16.
fn input(row: usize, column: usize) -> f32 {
    ((row * 13 + column * 7) % 53) as f32 / 64.0 - 0.375
}

impl<'a> Bench<'a> {
    fn new(
        pool: &'a Pool,
        isa: Isa,
        dtype: Dtype,
        (_, _, n, k, epilogue): (&str, &str, usize, usize, Epilogue),
        options: &'a Options,
    ) -> Bench<'a> {
        let gated = matches!(epilogue, Epilogue::Gate(_));
        let pack = || {
            PackedMatrix::pack(pool, isa, dtype, n, k, gated, |row, out| {
                out.iter_mut().enumerate().for_each(|(column, value)| *value = weight(row, column));
            })
        };
        let mut weights = vec![pack()];
        if !options.smoke && !options.warm {
            weights.extend((1..COLD_BYTES.div_ceil(weights[0].bytes())).map(|_| pack()));
        }
        Bench { pool, options, isa, dtype, n, k, epilogue, weights }
    }

    fn run(&self, rows: &[usize], name: impl Fn(usize) -> String) {
        for &rows in rows {
            let x: Vec<f32> = (0..rows * self.k).map(|i| input(i / self.k, i % self.k)).collect();
            let x_bf16: Vec<bf16> = x.iter().map(|&value| bf16::from_f32(value)).collect();
            let data = match self.dtype {
                Dtype::F32 => Elems::F32(&x),
                Dtype::Bf16 => Elems::Bf16(&x_bf16),
            };
            let columns = self.weights[0].output_columns();
            let mut out = vec![0.0f32; rows * columns];
            // As a model would have it: what feeds another product is in its type, the rest in f32.
            let narrow =
                self.dtype == Dtype::Bf16 && matches!(self.epilogue, Epilogue::Activate(_) | Epilogue::Gate(_));
            let mut out_bf16 = vec![bf16::ZERO; if narrow { rows * columns } else { 0 }];
            self.multiply(&self.weights[0], data, rows, target(narrow, &mut out, &mut out_bf16));
            let first: Vec<f32> =
                if narrow { out_bf16.iter().map(|value| value.to_f32()).collect() } else { out.clone() };
            self.check(rows, &first, narrow);
            if self.options.smoke {
                continue;
            }
            let mut times = Vec::new();
            let (start, cpu) = (Instant::now(), cpu_seconds());
            while times.len() < 5 || start.elapsed() < BUDGET {
                let weight = &self.weights[(times.len() + 1) % self.weights.len()];
                let start = Instant::now();
                self.multiply(weight, data, rows, target(narrow, &mut out, &mut out_bf16));
                times.push(start.elapsed().as_secs_f64());
            }
            let cpu = (cpu_seconds() - cpu) / times.len() as f64;
            times.sort_by(f64::total_cmp);
            let (min, median) = (times[0], times[times.len() / 2]);
            let gflops = 2.0 * (rows * self.n * self.k) as f64 / min / 1e9;
            let peak = peak(self.isa, self.dtype) * self.pool.threads() as f64;
            println!(
                "{:<34} {:>9.1} {:>9.1} {:>9.1} {:>8.1} {:>7.1} {:>7.1} {:>8.1}",
                name(rows),
                min * 1e6,
                median * 1e6,
                cpu * 1e6,
                gflops,
                100.0 * gflops / peak,
                100.0 * gflops * min / cpu / peak,
                self.weights[0].bytes() as f64 / min / 1e9,
            );
        }
    }

    fn multiply(&self, w: &PackedMatrix, x: Elems<'_>, rows: usize, out: ElemsMut<'_>) {
        let (x, out) = (MatrixRef { data: x, stride: self.k }, MatrixMut { data: out, stride: w.output_columns() });
        gemm(self.pool, self.isa, x, rows, w, out, self.epilogue);
    }

    /// Compares a sample of elements with f64.
    fn check(&self, rows: usize, out: &[f32], narrow: bool) {
        let columns = self.weights[0].output_columns();
        let exact = |row: usize, column: usize| {
            (0..self.k).map(|i| f64::from(input(row, i)) * f64::from(weight(column, i))).sum::<f64>()
        };
        for sample in 0..200 {
            let (row, column) = (sample * 7919 % rows, sample * 104_729 % columns);
            let sum = exact(row, column);
            let want = match self.epilogue {
                Epilogue::Activate(_) => sum.max(0.0),
                Epilogue::Gate(_) => sum / (1.0 + (-sum).exp()) * exact(row, columns + column),
                _ => sum,
            };
            let got = f64::from(out[row * columns + column]);
            let error = (want.abs() + 0.1) * if narrow { 1.0 / 128.0 } else { 1e-4 };
            assert!((got - want).abs() <= error, "{} x {}: {got}, not {want} at {row}, {column}", self.n, self.k);
        }
    }
}
