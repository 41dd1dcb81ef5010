//! The output head (`kernels/head.cu`): logits of a level's codes or of one token, and the log-normaliser.
//!
//! The vocabulary is one packed weight, cut into *parts*: one a level, its columns in code order, and one for the tokens of no
//! level. A part begins at a multiple of 64 columns, so that each (maximum, sum) belongs to one part. Levels may repeat tokens:
//! a column whose token was already packed does not count again in the vocabulary's log-sum-exp. A head of a matrix a level is
//! such parts alone.
//!
//! A row's 64-column partials lie in scratch between the two kernels: at 1,024 rows and 176,000 tokens 22 MB, where the logits
//! would take 720 MB.

use sidereal_ffi::params::{HeadMergeParams, HeadParams};

use std::ops::Range;

use super::product::{Packed, Tile};
use crate::device::cuda::CudaDevice;
use crate::device::cuda::driver::{Kernel, Shape};
use crate::device::cuda::memory::{Memory, Purpose};
use crate::device::cuda::pack::{GROUP, Packing};
use crate::device::cuda::weights::{TokenList, token_lists};
use crate::device::{DeviceError, Dtype, HeadArgs, HeadMatrix, HeadSource, Normalizer, Queue, Target};

const BF16: [Tile; 3] = [
    Tile::wide("head", "head_bf16_wide"),
    Tile::middle("head", "head_bf16_middle"),
    Tile::small("head", "head_bf16_small"),
];
const F32: [Tile; 1] = [Tile::f32("head", "head_f32")];
const MERGE: Kernel = Kernel { module: "head", name: "head_merge", dynamic_shared: 0 };
const MERGE_THREADS: u32 = 128;

/// The operation's kernels.
pub(super) fn kernels(compute: Dtype) -> Vec<Kernel> {
    let tiles: &[Tile] = if compute == Dtype::F32 { &F32 } else { &BF16 };
    tiles.iter().map(|tile| tile.kernel).chain([MERGE]).collect()
}

/// Columns of a partial; `HEAD_PARTIAL_COLUMNS` there.
const PARTIAL_COLUMNS: usize = 64;
/// Groups of a partial.
const PARTIAL_GROUPS: usize = PARTIAL_COLUMNS / GROUP;

/// A packed head on the card.
#[derive(Clone, Debug)]
pub(in crate::device::cuda) struct PackedHead {
    /// Of each level.
    pub(in crate::device::cuda) level_tokens: Vec<TokenList>,
    layout: Layout,
    whole_vocabulary: bool,
    weight: Packed,
    present: u64, // u32[groups]: columns that are not padding
    counted: u64, // u32[groups]: those that are their token's first
}

impl PackedHead {
    /// Partials of a row that the whole vocabulary has.
    fn partials(&self) -> usize {
        self.layout.columns.len() / PARTIAL_COLUMNS
    }

    /// Columns of the logits of `target`, and the packed columns that hold them.
    fn wanted(&self, target: Target) -> Range<usize> {
        let layout = &self.layout;
        match target {
            Target::Level(level) => {
                let first = layout.parts[layout.level_part[level]].start;
                first..first + self.level_tokens[level].count
            }
            Target::Token(token) => {
                let column = layout.place.get(token as usize).copied().flatten().unwrap_or_else(|| {
                    panic!("head: token {token} is not packed: the whole vocabulary was not asked for")
                });
                column as usize..column as usize + 1
            }
        }
    }
}

/// Which token, or which code of a level's own matrix, each packed column stands for.
#[derive(Clone, Debug, Default, PartialEq)]
struct Layout {
    columns: Vec<Option<u32>>, // padding has none
    counted: Vec<bool>,        // [columns]: the token's first column
    parts: Vec<Range<usize>>,  // of columns, with their padding
    level_part: Vec<usize>,    // [levels]
    place: Vec<Option<u32>>,   // [vocabulary]: a token's first column
}

impl Layout {
    /// Lays out levels that name tokens of a vocabulary.
    fn new(vocabulary: usize, levels: &[Vec<u32>], whole_vocabulary: bool) -> Layout {
        let mut layout = Layout { place: vec![None; vocabulary], ..Layout::default() };
        for (level, tokens) in levels.iter().enumerate() {
            let part = match levels[..level].iter().position(|other| other == tokens) {
                Some(same) => layout.level_part[same],
                None => layout.add(tokens),
            };
            layout.level_part.push(part);
        }
        if whole_vocabulary {
            let rest: Vec<u32> = (0..vocabulary as u32).filter(|&t| layout.place[t as usize].is_none()).collect();
            layout.add(&rest);
        }
        layout
    }

    /// Lays out levels that have a matrix each, of so many codes.
    fn per_level(codes: impl Iterator<Item = usize>) -> Layout {
        let mut layout = Layout::default();
        for codes in codes {
            layout.columns.extend((0..codes as u32).map(Some));
            layout.counted.resize(layout.columns.len(), true);
            let part = layout.end_part();
            layout.level_part.push(part);
        }
        layout
    }

    /// Appends a part and returns its number.
    fn add(&mut self, tokens: &[u32]) -> usize {
        let first = self.columns.len();
        for (column, &token) in (first as u32..).zip(tokens) {
            let place = &mut self.place[token as usize];
            self.columns.push(Some(token));
            self.counted.push(place.is_none());
            place.get_or_insert(column);
        }
        self.end_part()
    }

    /// Pads the columns behind the last part, which are one, and returns its number.
    fn end_part(&mut self) -> usize {
        let first = self.parts.last().map_or(0, |part| part.end);
        let end = self.columns.len().next_multiple_of(PARTIAL_COLUMNS);
        self.columns.resize(end, None);
        self.counted.resize(end, false);
        self.parts.push(first..end);
        self.parts.len() - 1
    }

    /// A bit a column, a word a group.
    fn masks(&self, is_set: impl Fn(usize) -> bool) -> Vec<u32> {
        let word = |group: usize| (0..GROUP).fold(0, |word, bit| word | u32::from(is_set(group * GROUP + bit)) << bit);
        (0..self.columns.len() / GROUP).map(word).collect()
    }
}

/// Packs and uploads a head.
pub(in crate::device::cuda) fn pack(
    memory: &mut Memory,
    compute: Dtype,
    source: &HeadSource,
) -> Result<PackedHead, DeviceError> {
    source.check()?;
    let (layout, matrices) = match &source.matrix {
        HeadMatrix::Shared(matrix) => {
            let layout = Layout::new(matrix.rows(), &source.level_tokens, source.whole_vocabulary);
            (layout, std::slice::from_ref(matrix))
        }
        HeadMatrix::PerLevel(matrices) => {
            (Layout::per_level(matrices.iter().map(|matrix| matrix.rows())), &matrices[..])
        }
    };
    let packing = Packing { compute, n: layout.columns.len(), k: matrices[0].cols(), gated: false };
    // All parts are of one matrix, or each is a level's of its own.
    let matrix_of = |column| match matrices {
        [matrix] => matrix,
        _ => &matrices[layout.parts.partition_point(|part| part.end <= column)],
    };
    let name = matrices[0].name().to_owned();
    let weight = Packed::upload(memory, name, packing, |column, out| match layout.columns[column] {
        Some(row) => matrix_of(column).read_row(row as usize, out),
        None => out.fill(0.0),
    })?;
    let mut upload = |what: &str, masks: Vec<u32>| {
        memory.holding(Purpose::Weights, format!("{what} columns of the head"), bytemuck::cast_slice(&masks))
    };
    let present = upload("packed", layout.masks(|column| layout.columns[column].is_some()))?;
    let counted = upload("counted", layout.masks(|column| layout.counted[column]))?;
    let level_tokens = token_lists(memory, &source.level_tokens)?;
    let whole_vocabulary = source.whole_vocabulary;
    Ok(PackedHead { level_tokens, layout, whole_vocabulary, weight, present, counted })
}

/// The partials between the two kernels. Heads run on one queue, one after another, so that one space serves all.
#[derive(Default)]
pub(in crate::device::cuda) struct Scratch {
    address: u64, // f32[rows][partials][2]
    cells: usize,
}

impl CudaDevice {
    /// Makes room for the partials of the widest lane and the largest head.
    pub(in crate::device::cuda) fn plan_head_scratch(&mut self) -> Result<(), DeviceError> {
        let rows = self.cohorts.iter().map(|lane| lane.plan.rows.max(lane.plan.requests)).max().unwrap_or(0);
        let partials = self.weights.heads.iter().map(PackedHead::partials).max().unwrap_or(0);
        let cells = rows * partials;
        if cells > self.scratch.head.cells {
            let what = format!("log-sum-exp of {rows} rows in {partials} parts");
            let address = self.memory.zeroed(Purpose::Workspace, what, cells * size_of::<[f32; 2]>())?;
            self.scratch.head = Scratch { address, cells };
        }
        Ok(())
    }

    pub(in crate::device::cuda) fn run_head(&mut self, args: &HeadArgs) -> Result<(), DeviceError> {
        let head = &self.weights.heads[args.head.0 as usize];
        let HeadArgs { logits, lognorm, .. } = *args;
        let wanted = head.wanted(args.target);
        let (columns, counted) = match args.normalizer {
            Normalizer::Vocabulary => {
                let whole = head.whole_vocabulary;
                assert!(whole, "head: the vocabulary's normaliser needs a head packed with the whole vocabulary");
                (0..head.layout.columns.len(), head.counted)
            }
            Normalizer::Level | Normalizer::Legal => {
                let part = head.layout.parts.iter().find(|part| part.contains(&wanted.start));
                (part.expect("a wanted column lies in a part").clone(), head.present)
            }
        };
        assert!(logits.cols >= wanted.len(), "head: {} logit columns for {}", logits.cols, wanted.len());
        assert!(logits.dtype == Dtype::F32 && lognorm.dtype == Dtype::F32, "head: logits and normaliser are f32");
        let rows = self.row_set(args.rows);
        assert_eq!(rows.queue, Queue::Search, "head: rows of a cohort");
        let (first_group, groups) = (columns.start / GROUP, columns.len() / GROUP);
        let partial_count = groups / PARTIAL_GROUPS;
        assert!(
            rows.bucket * partial_count <= self.scratch.head.cells,
            "head: scratch is planned with lanes and heads"
        );
        let address = self.place("head", logits, rows.bucket, logits.cols);
        let first_wanted = wanted.start - columns.start;
        let params = HeadParams {
            product: self.product("head", (&rows, args.x), &head.weight, (first_group, groups)),
            counted: counted + (first_group * size_of::<u32>()) as u64,
            logits: address,
            partials: self.scratch.head.address,
            logits_stride: logits.stride as u32,
            first_wanted: first_wanted as u32,
            end_wanted: (wanted.end - columns.start) as u32,
            partial_count: partial_count as u32,
            aligned: u32::from(address.is_multiple_of(16) && first_wanted.is_multiple_of(4)),
            reserved: 0,
        };
        let merge = HeadMergeParams {
            partials: self.scratch.head.address,
            lognorm: self.place("head", lognorm, rows.bucket, 1),
            live: rows.live,
            lognorm_stride: lognorm.stride as u32,
            partial_count: partial_count as u32,
        };
        let tile = self.tile((&F32, &BF16), &rows, groups);
        self.launch(&tile.kernel, tile.shape(&rows, groups), params)?;
        if args.normalizer == Normalizer::Legal {
            return Ok(());
        }
        let grid = [rows.bucket as u32, 1, 1];
        self.launch(&MERGE, Shape { queue: rows.queue, grid, threads: MERGE_THREADS, dynamic_shared: 0 }, merge)
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;

    #[test]
    fn parts_begin_at_partials_and_tokens_count_once() {
        let levels = [vec![3, 1], vec![3, 1], vec![1, 4, 4], (0..70).collect()];
        let layout = Layout::new(100, &levels, true);
        assert_eq!(layout.level_part, [0, 0, 1, 2]);
        assert_eq!(layout.parts, [0..64, 64..128, 128..256, 256..320]);
        assert_eq!(layout.columns[64..68], [Some(1), Some(4), Some(4), None]);
        assert_eq!(layout.counted[64..67], [false, true, false]);
        assert_eq!(layout.counted.iter().filter(|&&counted| counted).count(), 100);
        assert_eq!((layout.place[1], layout.place[4], layout.place[99]), (Some(1), Some(65), Some(256 + 29)));
        let masks = layout.masks(|column| layout.columns[column].is_some());
        assert_eq!((masks[0], masks[1], masks[2], masks[6]), (3, 0, 7, 0x3f));
    }

    #[test]
    fn a_vocabulary_that_levels_cover_has_no_rest() {
        let layout = Layout::new(4, &[(0..4).collect()], true);
        assert_eq!(layout.parts, [0..64, 64..64]);
        assert_eq!(Layout::new(4, &[vec![2]], false).place, [None, None, Some(0), None]);
    }
}
