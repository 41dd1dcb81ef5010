//! What comes from an export or a catalogue, as it lies on the card.

use std::sync::Arc;

use super::memory::{Memory, Purpose};
use super::ops::experts::ExpertsOnCard;
use super::ops::head::PackedHead;
use super::ops::linear::LinearWeight;
use crate::catalog::Catalog;
use crate::device::{DeviceError, RelativeBiasSource, RopeSource, expect_matrix, read_vector};
use crate::export::{TensorView, WeightDtype};

/// An f32 vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct VectorOnCard {
    pub(super) address: u64,
    pub(super) len: usize,
}

/// An embedding table in the type of its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) address: u64, // [rows, cols], dense
    pub(super) dtype: WeightDtype,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// A relative bias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bias {
    pub(super) address: u64, // f32[heads][2 * max_distance + 1]
    pub(super) heads: usize,
    pub(super) max_distance: usize,
}

/// RoPE tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct RopeTables {
    pub(super) cos: u64, // f32[positions][half]
    pub(super) sin: u64, // f32[positions][half]
    pub(super) half: usize,
}

/// One level of a trie.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrieLevel {
    pub(super) codes: u64,       // u16[nodes]
    pub(super) first_child: u64, // u32[nodes above + 1]
    /// Codes of the level: one more than the largest code there may be.
    pub(super) code_count: usize,
    /// Most children of one node above.
    pub(super) widest: usize,
}

/// A trie on the card.
pub(super) struct Trie {
    pub(super) catalog: Arc<Catalog>,
    pub(super) levels: Vec<TrieLevel>,
}

/// The token of each code of a level.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenList {
    pub(super) address: u64, // u32[count]
    pub(super) count: usize,
}

/// Everything that handles of weights point to.
#[derive(Default)]
pub(super) struct Weights {
    pub(super) linears: Vec<LinearWeight>,
    pub(super) experts: Vec<ExpertsOnCard>,
    pub(super) vectors: Vec<VectorOnCard>,
    pub(super) embeddings: Vec<Table>,
    pub(super) heads: Vec<PackedHead>,
    pub(super) biases: Vec<Bias>,
    pub(super) ropes: Vec<RopeTables>,
    pub(super) tries: Vec<Trie>,
}

/// Uploads a vector, scaled.
pub(super) fn vector(memory: &mut Memory, tensor: &TensorView, scale: f32) -> Result<VectorOnCard, DeviceError> {
    let values = read_vector(tensor, scale)?;
    let address = memory.holding(Purpose::Weights, tensor.name().to_owned(), bytemuck::cast_slice(&values))?;
    Ok(VectorOnCard { address, len: values.len() })
}

/// Uploads an embedding table as it is.
pub(super) fn table(memory: &mut Memory, tensor: &TensorView) -> Result<Table, DeviceError> {
    expect_matrix(tensor, "an embedding table is [vocabulary, hidden]")?;
    let address = memory.holding(Purpose::Weights, tensor.name().to_owned(), tensor.bytes())?;
    Ok(Table { address, dtype: tensor.dtype(), rows: tensor.rows(), cols: tensor.cols() })
}

/// Uploads a relative bias.
pub(super) fn bias(memory: &mut Memory, source: &RelativeBiasSource) -> Result<Bias, DeviceError> {
    let RelativeBiasSource { heads, max_distance, by_distance } = source;
    assert_eq!(by_distance.len(), heads * (2 * max_distance + 1), "relative_bias: {heads} heads");
    let address = memory.holding(Purpose::Weights, "relative bias".to_owned(), bytemuck::cast_slice(by_distance))?;
    Ok(Bias { address, heads: *heads, max_distance: *max_distance })
}

/// Uploads RoPE tables.
pub(super) fn rope(memory: &mut Memory, source: &RopeSource) -> Result<RopeTables, DeviceError> {
    let RopeSource { positions, cos, sin } = source;
    assert!(cos.len() == sin.len() && cos.len().is_multiple_of((*positions).max(1)), "rope");
    let mut upload =
        |what: &str, values: &[f32]| memory.holding(Purpose::Weights, what.to_owned(), bytemuck::cast_slice(values));
    Ok(RopeTables {
        cos: upload("RoPE cosines", cos)?,
        sin: upload("RoPE sines", sin)?,
        half: cos.len() / (*positions).max(1),
    })
}

/// Uploads a catalogue's trie.
pub(super) fn trie(memory: &mut Memory, catalog: &Arc<Catalog>) -> Result<Trie, DeviceError> {
    let mut levels = Vec::with_capacity(catalog.levels());
    for level in 0..catalog.levels() {
        let codes = catalog.level_codes(level);
        let root = [0, codes.len() as u32];
        let first_child = level.checked_sub(1).map_or(&root[..], |above| catalog.first_child(above));
        let mut upload =
            |what: &str, bytes: &[u8]| memory.holding(Purpose::Weights, format!("trie level {level}, {what}"), bytes);
        levels.push(TrieLevel {
            codes: upload("codes", bytemuck::cast_slice(codes))?,
            first_child: upload("first children", bytemuck::cast_slice(first_child))?,
            code_count: catalog.codes(level) as usize,
            widest: first_child.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0),
        });
    }
    Ok(Trie { catalog: Arc::clone(catalog), levels })
}

/// Uploads the token ids of each level's codes.
pub(super) fn token_lists(memory: &mut Memory, levels: &[Vec<u32>]) -> Result<Vec<TokenList>, DeviceError> {
    let mut upload = |(level, tokens): (usize, &Vec<u32>)| {
        let what = format!("tokens of level {level}");
        let address = memory.holding(Purpose::Weights, what, bytemuck::cast_slice(tokens))?;
        Ok(TokenList { address, count: tokens.len() })
    };
    levels.iter().enumerate().map(&mut upload).collect()
}
