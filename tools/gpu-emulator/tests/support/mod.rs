//! Shared by the tests: random numbers, bf16, device buffers, parameter blocks, the two compiled kernels.

#![allow(dead_code, reason = "each test uses a part")]

pub mod snippet;

use gpu_emulator::Fault;
use gpu_emulator::machine::{LaunchConfig, Report, launch};
use gpu_emulator::memory::GlobalMemory;
use gpu_emulator::ptx::{Kernel, Module};

/// xorshift64: the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in [-1.5, 1.5).
    pub fn float(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 3.0
    }
}

pub fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

pub fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Values that go to the device as little-endian bytes.
pub trait Plain: Copy {
    fn bytes(self) -> Vec<u8>;
}

macro_rules! plain {
    ($($ty:ty),*) => { $(impl Plain for $ty { fn bytes(self) -> Vec<u8> { self.to_le_bytes().to_vec() } })* };
}
plain!(u8, u16, u32, i32, u64, f32);

/// A device buffer with these contents.
pub fn upload<T: Plain>(memory: &mut GlobalMemory, values: &[T]) -> u64 {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes()).collect();
    let address = memory.alloc(bytes.len() as u64).unwrap();
    memory.write(address, &bytes).unwrap();
    address
}

pub fn read_u32(memory: &GlobalMemory, address: u64, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; count * 4];
    memory.read(address, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

pub fn read_u16(memory: &GlobalMemory, address: u64, count: usize) -> Vec<u16> {
    let mut bytes = vec![0; count * 2];
    memory.read(address, &mut bytes).unwrap();
    bytes.chunks_exact(2).map(|c| u16::from_le_bytes(c.try_into().unwrap())).collect()
}

/// Shape of an attention run.
#[derive(Clone, Copy)]
pub struct Attention {
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub page: usize,
}

const HEAD: usize = 64;

/// The attention kernel's inputs on a device of their own.
pub struct AttentionCase {
    shape: Attention,
    memory: GlobalMemory,
    params: Vec<u8>,
    q: Vec<u16>,
    k: Vec<u16>,
    v: Vec<u16>,
    table: Vec<i32>,
    out: u64,
}

impl AttentionCase {
    pub fn new(shape: Attention) -> Self {
        let Attention { queries, keys, heads, page } = shape;
        let mut random = Random(99);
        let mut memory = GlobalMemory::new(1 << 28);
        let pages = keys.div_ceil(page);
        let table: Vec<i32> = (0..pages as i32).rev().collect();
        let mut bf16s = |count: usize| (0..count).map(|_| to_bf16(random.float())).collect::<Vec<u16>>();
        let q = bf16s(queries * heads * HEAD);
        let k = bf16s(pages * page * heads * HEAD);
        let v = bf16s(k.len());
        let out = memory.alloc(q.len() as u64 * 2).unwrap();
        let mut params = Vec::new();
        for address in [upload(&mut memory, &q), upload(&mut memory, &k), upload(&mut memory, &v), out] {
            params.extend(address.to_le_bytes());
        }
        params.extend(upload(&mut memory, &table).to_le_bytes());
        for size in [queries, keys, heads, page, keys - queries] {
            params.extend((size as i32).to_le_bytes());
        }
        params.extend((0.125f32 * std::f32::consts::LOG2_E).to_le_bytes());
        AttentionCase { shape, memory, params, q, k, v, table, out }
    }

    pub fn run(&mut self, kernel: &Kernel) -> Result<Report, Fault> {
        let grid = [self.shape.queries.div_ceil(64) as u32, self.shape.heads as u32, 1];
        let config = LaunchConfig { grid, block: [128, 1, 1], dynamic_shared_bytes: 5 * 64 * 64 * 2 };
        launch(kernel, &config, &self.params, &mut self.memory)
    }

    /// The largest error against a plain loop.
    pub fn error(&self) -> f32 {
        let Attention { queries, keys, heads, page } = self.shape;
        let got = read_u16(&self.memory, self.out, self.q.len());
        let mut worst = 0f32;
        for (head, query) in (0..heads).flat_map(|head| (0..queries).map(move |query| (head, query))) {
            let end = keys - queries + query + 1;
            let row = |n: usize| ((self.table[n / page] as usize * page + n % page) * heads + head) * HEAD;
            let at = (query * heads + head) * HEAD;
            let dot =
                |n: usize| (0..HEAD).map(|x| from_bf16(self.q[at + x]) * from_bf16(self.k[row(n) + x])).sum::<f32>();
            let scores: Vec<f32> = (0..end).map(|n| dot(n) * 0.125).collect();
            let top = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
            let sum: f32 = weights.iter().sum();
            for x in 0..HEAD {
                let want = (0..end).map(|n| weights[n] * from_bf16(self.v[row(n) + x])).sum::<f32>() / sum;
                let error = (want - from_bf16(got[at + x])).abs();
                worst = if error.is_nan() { f32::INFINITY } else { worst.max(error) };
            }
        }
        worst
    }
}

/// The top-k kernel's inputs on a device of their own.
pub struct TopkCase {
    rows: usize,
    n: usize,
    k: usize,
    memory: GlobalMemory,
    params: Vec<u8>,
    x: Vec<f32>,
    values: u64,
    indices: u64,
}

impl TopkCase {
    pub fn new(rows: usize, n: usize, k: usize) -> Self {
        let mut random = Random(5);
        let mut memory = GlobalMemory::new(1 << 28);
        let x: Vec<f32> = (0..rows * n).map(|_| random.float()).collect();
        let input = upload(&mut memory, &x);
        let values = memory.alloc((rows * k * 4) as u64).unwrap();
        let indices = memory.alloc((rows * k * 4) as u64).unwrap();
        let mut params = input.to_le_bytes().to_vec();
        params.extend((n as i32).to_le_bytes());
        params.extend((k as i32).to_le_bytes());
        params.extend(values.to_le_bytes());
        params.extend(indices.to_le_bytes());
        TopkCase { rows, n, k, memory, params, x, values, indices }
    }

    pub fn run(&mut self, kernel: &Kernel) -> Result<Report, Fault> {
        let config = LaunchConfig { grid: [self.rows as u32, 1, 1], block: [256, 1, 1], dynamic_shared_bytes: 0 };
        launch(kernel, &config, &self.params, &mut self.memory)
    }

    /// Rows whose values or indices differ from a full sort's.
    pub fn wrong_rows(&self) -> usize {
        let TopkCase { rows, n, k, .. } = *self;
        let values = read_u32(&self.memory, self.values, rows * k);
        let indices = read_u32(&self.memory, self.indices, rows * k);
        let wrong = |row: &usize| {
            let scores = &self.x[row * n..][..n];
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            (0..k).any(|i| values[row * k + i] != scores[order[i]].to_bits() || indices[row * k + i] != order[i] as u32)
        };
        (0..rows).filter(wrong).count()
    }
}

/// The only kernel of a PTX text.
pub fn only_kernel(ptx: &str) -> Kernel {
    let module = Module::parse(ptx).unwrap();
    let mut kernels = module.kernels();
    let kernel = kernels.next().unwrap().clone();
    assert!(kernels.next().is_none());
    kernel
}
