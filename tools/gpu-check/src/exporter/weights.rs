//! One safetensors file in bf16, written in pieces by all cores. A piece's values follow from its place alone, so the file is the
//! same on every machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use serde_json::{Map, Value, json};

use super::{Fill, NewTensor};
use crate::error::{CheckError, at};
use crate::random::Random;

/// Elements of a piece.
const PIECE: usize = 1 << 20;

/// Some elements of a tensor, and where they go.
struct Piece {
    fill: Fill,
    elements: usize,
    at: u64,
}

/// Writes all tensors.
pub fn write(path: &Path, tensors: &[NewTensor]) -> Result<(), CheckError> {
    let (mut header, mut offset) = (Map::new(), 0usize);
    for tensor in tensors {
        let end = offset + 2 * tensor.shape.iter().product::<usize>();
        let facts = json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, end] });
        header.insert(tensor.name.clone(), facts);
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = File::create(path).map_err(at(path))?;
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0).map_err(at(path))?;
    file.write_all_at(&header, 8).map_err(at(path))?;
    let pieces = pieces(tensors, 8 + header.len() as u64);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut bytes = Vec::with_capacity(2 * PIECE);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else { return Ok(()) };
            fill(piece, index as u64, &mut bytes);
            file.write_all_at(&bytes, piece.at)?;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
    .map_err(at(path))
}

fn pieces(tensors: &[NewTensor], mut at: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for tensor in tensors {
        let mut left: usize = tensor.shape.iter().product();
        while left > 0 {
            let elements = left.min(PIECE);
            pieces.push(Piece { fill: tensor.fill, elements, at });
            at += 2 * elements as u64;
            left -= elements;
        }
    }
    pieces
}

fn fill(piece: &Piece, seed: u64, bytes: &mut Vec<u8>) {
    bytes.clear();
    match piece.fill {
        Fill::Ones => bytes.extend(bf16::ONE.to_le_bytes().repeat(piece.elements)),
        Fill::Uniform(deviation) => {
            let mut random = Random::new(seed);
            // A uniform number from -a to a has the standard deviation a / sqrt 3.
            let scale = deviation * 3f32.sqrt() / 32_768.0;
            while bytes.len() < 2 * piece.elements {
                let bits = random.bits();
                for part in [bits, bits >> 16, bits >> 32, bits >> 48] {
                    bytes.extend(bf16::from_f32(f32::from(part as u16 as i16) * scale).to_le_bytes());
                }
            }
            bytes.truncate(2 * piece.elements);
        }
    }
}
