//! What every device does: a set of coarse, fused operations over ragged batches on preallocated buffers.
//!
//! A model family is written once against [`Device`] and never knows which device it runs on; a device never knows what a
//! request is. The contract:
//!
//! * **Planned at start.** Buffers, weights, pools and tables are created before the first request (the *planning*
//!   methods); after that no operation allocates device memory.
//! * **Operations only enqueue.** Nothing but [`Device::read_beams`] waits, and a `write_*` method where the device has no room
//!   to stage another descriptor yet. The CPU device happens to run an operation before it returns; callers may not rely on
//!   that.
//! * **Two queues.** Operations run in the order in which they were enqueued on their lane's [`Queue`]: prefill beside search.
//!   A workspace belongs to one queue. [`Device::write_cohort`] puts the search queue behind all prefill enqueued so far.
//! * **Writes are ordered with operations.** A descriptor may be written while operations that read its former contents are
//!   still enqueued, and a cohort may be given up without being read: a device orders writes behind what was enqueued.
//! * **No operation argument varies by request.** Lengths, block tables, beam widths, bans and masks live in
//!   device-resident descriptors ([`SlotState`], [`TokenBatch`], [`Cohort`], mask slots), written by the `write_*` methods. Arguments are handles,
//!   layer numbers, levels and steps, so that the sequence of calls for a lane and step can be captured once and replayed.
//!   For that, a step is enqueued through [`Device::replay`].
//! * **Outputs stand apart.** An operation's output is in another buffer than its inputs; only [`Epilogue::Residual`] reads
//!   what it writes. A device may stop with a panic where that is broken. An output's rows beyond the live ones hold no meaning
//!   afterwards (but finite numbers).
//! * **Batch invariance.** A row's result depends on the row's own inputs only: not on its neighbours, the chunking, or the
//!   number of threads. Reductions run in an order fixed by the row's own shape.
//!
//! KV has three segments. *History* and *prefix* (a decoder's BOS and instruction tokens) are paged, read through a slot's
//! block table, and shared by all beams of the request. Each beam's *own* tokens sit in a dense slab `[step, row]` that is
//! reached through an ancestor table: reordering beams copies no KV.

mod checks;
pub mod cpu;
pub mod cuda;
mod exact;
mod marks;
mod noise;

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, NodeMask};
use crate::export::TensorView;
use crate::sampling::{LogProb, Sampling};

pub use checks::MAX_LIST_ITEMS;
pub(crate) use checks::{ExpertsShape, MAX_LEVELS, check_dense, check_mask, expect_matrix, read_vector};
pub(crate) use marks::Marks;

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    /// 32-bit float: residual stream, norms, logits, scores.
    F32,
    /// bfloat16: GEMM inputs and KV when the device computes in bf16.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }

    /// `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
        }
    }
}

/// Why a device could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Planning asked for more memory than there is.
    #[error("device memory: {what} needs {bytes} bytes: {reason}")]
    OutOfMemory {
        /// Which allocation.
        what: String,
        /// How much.
        bytes: usize,
        /// What the allocator said.
        reason: String,
    },
    /// A weight has a shape that the operation cannot use.
    #[error("weight {name}: {reason}")]
    BadWeight {
        /// Tensor name in the export.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The requested device or instruction set is not there.
    #[error("{0}")]
    Unavailable(String),
    /// An operation refused its input; the requests of the batch fail with it, and the device goes on.
    #[error("device operation {op} failed: {reason}")]
    Failed {
        /// Operation.
        op: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A launch, copy or wait failed. Everything that the device held is lost; it has to be opened again.
    #[error("device lost in {op}: {reason}")]
    Lost {
        /// What was under way; errors may show later than they happen.
        op: &'static str,
        /// What the driver said.
        reason: String,
    },
}

/// What a device is, for replies, logs and cache keys.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// e.g. `cpu/avx512bf16`.
    pub name: String,
    /// Type of GEMM inputs and KV.
    pub compute: Dtype,
    /// Worker threads (1 for devices that have none).
    pub threads: usize,
}

/// A column range of a planned buffer: `rows x cols`, row-major, rows `stride` elements apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Device's buffer number.
    pub buffer: u32,
    /// Rows that fit.
    pub rows: usize,
    /// First column of this view within the buffer's rows.
    pub first_col: usize,
    /// Columns of this view.
    pub cols: usize,
    /// Elements between rows.
    pub stride: usize,
    /// Element type.
    pub dtype: Dtype,
}

impl Tensor {
    /// The view of `cols` columns from `first`.
    ///
    /// # Panics
    /// If the range leaves the view: a bug in a model file, found at start-up.
    pub fn columns(self, first: usize, cols: usize) -> Tensor {
        assert!(first + cols <= self.cols, "columns {first}+{cols} of {} asked for", self.cols);
        Tensor { first_col: self.first_col + first, cols, ..self }
    }
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub u32);
    )*};
}

handles! {
    /// A packed `[out, in]` weight matrix.
    Linear;
    /// An f32 vector of weights (norm scales).
    Vector;
    /// An embedding table `[vocabulary, hidden]`, read row by row.
    Embedding;
    /// The output head: a packed `[vocabulary, hidden]` matrix, grouped by level, and its token lists.
    Head;
    /// Relative attention bias by clipped distance, per head.
    RelativeBias;
    /// RoPE cosines and sines by position.
    Rope;
    /// The experts of a layer, with their router.
    Experts;
    /// Room for one flow of rows through experts.
    ExpertsWork;
    /// KV pages of one segment kind, all layers.
    KvPool;
    /// Own-token KV of one cohort lane: `[layer, step, row]`.
    OwnSlab;
    /// A catalogue's trie on the device.
    TrieId;
    /// A lane for token batches; operations name it, [`Device::write_tokens`] fills it.
    TokenLane;
    /// A lane for cohorts; operations name it, [`Device::write_cohort`] fills it.
    CohortLane;
    /// A point in a queue's operations, for timing.
    Mark;
}

/// Which of a device's two queues a token lane's operations run on. Cohort lanes are always on the search queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Prompts.
    Prefill,
    /// Decoder prefixes and beams.
    Search,
}

/// Room for sequence slots.
#[derive(Clone, Copy, Debug)]
pub struct SlotPlan {
    /// Slots.
    pub slots: usize,
    /// Pages of the longest history.
    pub history_pages: usize,
    /// Pages of the longest prefix.
    pub prefix_pages: usize,
}

/// Room for cohorts.
#[derive(Clone, Copy, Debug, Default)]
pub struct CohortPlan {
    /// Beam rows.
    pub rows: usize,
    /// Generated tokens.
    pub steps: usize,
    /// Requests.
    pub requests: usize,
    /// Banned nodes of all requests and levels together.
    pub banned_nodes: usize,
    /// Lists, where a search may go on after its first semantic ID.
    pub lists: Option<ListPlan>,
}

/// Room for lists of semantic IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPlan {
    /// Semantic IDs of the longest list: 1 to [`MAX_LIST_ITEMS`].
    pub items: usize,
    /// Levels of a semantic ID.
    pub levels: usize,
}

/// Which live rows an operation covers. The device reads the count from the lane's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// Every token of a token batch.
    Tokens(TokenLane),
    /// One row a span of the batch that has `last` set, in span order (compact: row i belongs to the i-th such span).
    Last(TokenLane),
    /// One row a request of the cohort, in request order.
    Requests(CohortLane),
    /// Every live beam of the cohort. Request r's beams are rows `first_row[r] .. first_row[r] + live[r]`; rows between
    /// `live[r]` and its beam width are dead and hold no meaning (but are finite).
    Beams(CohortLane),
}

/// Which paged KV of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// The prompt (decoder-only) or the encoder's output as cross-attention KV.
    History,
    /// The decoder's own prefix: BOS and instructions.
    Prefix,
}

/// A sequence slot's device-resident state. Written when a request gets its pages and whenever its lengths change.
#[derive(Clone, Debug, Default)]
pub struct SlotState {
    /// Valid history tokens (after the batch being launched is done).
    pub history_len: u32,
    /// Pages of the history pool, in order.
    pub history_pages: Vec<u32>,
    /// Valid prefix tokens.
    pub prefix_len: u32,
    /// Pages of the prefix pool, in order.
    pub prefix_pages: Vec<u32>,
}

/// Consecutive rows of a token batch that belong to one slot.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Sequence slot.
    pub slot: u32,
    /// First row in the batch.
    pub first_row: u32,
    /// Rows; at least 1.
    pub rows: u32,
    /// Position of the first row in its segment: row i of the span is token `first_position + i`.
    pub first_position: u32,
    /// The span holds the last token of its prompt: its last row's hidden state starts the search.
    pub last: bool,
}

/// A ragged batch of tokens: a prefill chunk, whole encoder inputs, or decoder prefixes.
#[derive(Clone, Debug, Default)]
pub struct TokenBatch {
    /// Token id of each row.
    pub tokens: Vec<u32>,
    /// Spans in row order; they cover all rows without gaps.
    pub spans: Vec<Span>,
}

/// One request of a cohort.
#[derive(Clone, Debug, Default)]
pub struct CohortRequest {
    /// Sequence slot.
    pub slot: u32,
    /// Beam width: 1 to 65,536.
    pub beams: u32,
    /// First of its `beams` rows in the cohort's row space.
    pub first_row: u32,
    /// For each level, the sorted node ids that must not be expanded: every leaf below them is banned.
    pub banned_nodes: Vec<Vec<u32>>,
    /// The mask slot of the nodes that may be expanded; every node if there is none. The slot holds what was last written
    /// to it before the cohort, and may be written again once the cohort has been read or given up.
    pub mask: Option<u32>,
    /// Draw children instead of keeping the best. `beams` is then how many semantic IDs are drawn.
    pub sampling: Option<Sampling>,
    /// Read each level's log-probabilities with the beams.
    pub log_probs: bool,
    /// Semantic IDs of each beam's list: the same for all requests of a cohort. 0 and 1 are a search for one.
    pub list: u32,
}

impl CohortRequest {
    /// Semantic IDs that each beam becomes.
    pub fn items(&self) -> usize {
        self.list.max(1) as usize
    }
}

/// Requests searched together. `write_cohort` also resets the lane's beam state: each request starts with one live beam at
/// the trie's root with score 0.
#[derive(Clone, Debug, Default)]
pub struct Cohort {
    /// In row order.
    pub requests: Vec<CohortRequest>,
}

/// A finished beam.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beam {
    /// Leaf of the trie (node id at the last level): the last one of a list.
    pub leaf: u32,
    /// Leaves of a list before that one, in order.
    pub earlier: Vec<u32>,
    /// Sum of raw log-probabilities, before any length penalty.
    pub score: f32,
    /// Perturbed log-probability, where beams are distinct samples.
    pub key: Option<f32>,
    /// Of each step, where the request asks for them.
    pub log_probs: Vec<LogProb>,
}

/// Rows of one or more weight matrices, stacked: `[sum of rows, in]`.
#[derive(Clone, Debug)]
pub struct LinearSource {
    /// Stacked in this order (e.g. q, k, v). All have the same number of columns.
    pub parts: Vec<TensorView>,
    /// Added to the products, before the epilogue: one `[rows]` vector a part, or none at all.
    pub biases: Vec<TensorView>,
    /// True when the two parts are a gate and an up projection of equal shape, to be used with [`Epilogue::Gate`].
    pub gated: bool,
}

/// The weights of an output head.
#[derive(Clone, Debug)]
pub enum HeadMatrix {
    /// One matrix for all levels, `[vocabulary, hidden]`: a code's row is its token's.
    Shared(TensorView),
    /// A matrix a level, `[codes, hidden]`: row c is code c. Such a head has no vocabulary.
    PerLevel(Vec<TensorView>),
}

impl From<TensorView> for HeadMatrix {
    fn from(matrix: TensorView) -> HeadMatrix {
        HeadMatrix::Shared(matrix)
    }
}

/// The output head.
#[derive(Clone, Debug)]
pub struct HeadSource {
    /// What hidden states are multiplied with.
    pub matrix: HeadMatrix,
    /// For each level, the token id of each code.
    pub level_tokens: Vec<Vec<u32>>,
    /// Whether the whole vocabulary is ever needed (`full_then_mask` or a scored end token).
    pub whole_vocabulary: bool,
}

/// How a router weights experts: logits are `router . x`, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouterOrder {
    /// Weights are the softmax over all experts; the `top_k` largest are taken.
    SoftmaxThenTopK,
    /// The `top_k` largest logits are taken; weights are the softmax over those.
    TopKThenSoftmax,
}

/// A router's rule. Of equal logits the lower expert number comes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts of a row: 1 to the number of experts.
    pub top_k: usize,
    /// Softmax before or after the choice.
    pub order: RouterOrder,
    /// The chosen weights are divided by their sum.
    pub renormalise: bool,
    /// Multiplied into the weights at last.
    pub scale: f32,
}

/// One expert: a feed-forward block.
#[derive(Clone, Debug)]
pub struct ExpertSource {
    /// `[inner, hidden]`: a gate and an up projection, or one matrix.
    pub input: Vec<TensorView>,
    /// `[hidden, inner]`.
    pub output: TensorView,
}

/// The routed experts of a layer.
#[derive(Clone, Debug)]
pub struct ExpertsSource {
    /// `[experts, hidden]`.
    pub router: TensorView,
    /// How rows are routed.
    pub routing: Routing,
    /// All of one shape; 2 to 64.
    pub experts: Vec<ExpertSource>,
}

/// Room for one flow of rows through experts, of any layer that fits. It belongs to one queue, as a workspace does.
#[derive(Clone, Copy, Debug)]
pub struct ExpertsPlan {
    /// Rows of the widest batch.
    pub rows: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts of a row.
    pub top_k: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Feed-forward width of an expert.
    pub inner: usize,
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), HF's `gelu_new`.
    GeluTanh,
    /// 0.5 x (1 + erf(x / sqrt 2)), HF's `gelu`.
    GeluErf,
    /// x * sigmoid(x)
    Silu,
}

/// What a linear operation does with its products. A weight that has a bias (b) adds it to them first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// out = x W^T (+ b)
    Store,
    /// out += x W^T (+ b); `out` is the f32 residual stream.
    Residual,
    /// out = act(x W^T (+ b))
    Activate(Activation),
    /// out = act(x G^T (+ b)) * (x U^T (+ c)) for a `gated` weight [G; U] with biases [b; c]; `out` has half its rows as
    /// columns.
    Gate(Activation),
}

/// Shape of a paged KV pool.
#[derive(Clone, Copy, Debug)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Pages in the pool.
    pub pages: usize,
    /// Tokens in a page.
    pub page_tokens: usize,
}

/// Shape of an own-token slab.
#[derive(Clone, Copy, Debug)]
pub struct OwnShape {
    /// Layers.
    pub layers: usize,
    /// Query heads, a multiple of `kv_heads`: what attention over the slab and its shared segment is planned for.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Generated tokens that are ever fed back.
    pub steps: usize,
    /// Beam rows.
    pub rows: usize,
}

/// Attention bias by distance.
#[derive(Clone, Debug)]
pub struct RelativeBiasSource {
    /// Heads.
    pub heads: usize,
    /// Distances beyond this use the entry of this distance.
    pub max_distance: usize,
    /// `[heads, 2 * max_distance + 1]`; column `max_distance + (key - query)`, clipped.
    pub by_distance: Vec<f32>,
}

/// RoPE by position: the "rotate half" form of Hugging Face's Llama and Qwen.
#[derive(Clone, Debug)]
pub struct RopeSource {
    /// Positions.
    pub positions: usize,
    /// `[positions, head_dim / 2]` cosines.
    pub cos: Vec<f32>,
    /// `[positions, head_dim / 2]` sines.
    pub sin: Vec<f32>,
}

/// Arguments of [`Device::norm`].
#[derive(Clone, Copy, Debug)]
pub struct NormArgs {
    /// Rows covered.
    pub rows: Rows,
    /// f32 `[rows, n]`.
    pub x: Tensor,
    /// `[n]`.
    pub weight: Vector,
    /// Added to the mean square.
    pub eps: f32,
    /// `[rows, n]`, f32 or the compute type.
    pub out: Tensor,
}

/// Arguments of [`Device::linear`].
#[derive(Clone, Copy, Debug)]
pub struct LinearArgs {
    /// Rows covered.
    pub rows: Rows,
    /// `[rows, in]` in the compute type.
    pub x: Tensor,
    /// `[out, in]`.
    pub weight: Linear,
    /// `[rows, out]` (half of it for `Gate`), f32 or the compute type.
    pub out: Tensor,
    /// What happens to the products.
    pub epilogue: Epilogue,
}

/// Arguments of [`Device::experts`].
#[derive(Clone, Copy, Debug)]
pub struct ExpertsArgs {
    /// Rows covered.
    pub rows: Rows,
    /// `[rows, hidden]` in the compute type.
    pub x: Tensor,
    /// Router and experts.
    pub experts: Experts,
    /// Scratch of the rows' queue.
    pub work: ExpertsWork,
    /// `Activate`, or `Gate` for experts of two input matrices.
    pub activation: Epilogue,
    /// f32 `[rows, hidden]`: the residual stream, added to.
    pub out: Tensor,
}

/// Where [`Device::write_kv`] puts keys and values.
#[derive(Clone, Copy, Debug)]
pub enum KvTarget {
    /// The slot's pages of `segment`, at the row's position. Rows must be `Tokens`.
    Pages {
        /// Pool of that segment.
        pool: KvPool,
        /// Which block table.
        segment: Segment,
        /// Layer of the pool.
        layer: usize,
    },
    /// The cohort's own slab at `[layer, step, row]`. Rows must be `Beams`.
    Own {
        /// The cohort's slab.
        slab: OwnSlab,
        /// Layer of the slab.
        layer: usize,
        /// Which generated token: 0 for the first.
        step: usize,
    },
}

/// Per-head RMS norm of queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm {
    /// `[head_dim]` for queries.
    pub query: Vector,
    /// `[head_dim]` for keys.
    pub key: Vector,
    /// Added to the mean square.
    pub eps: f32,
}

/// Arguments of [`Device::write_kv`].
#[derive(Clone, Copy, Debug)]
pub struct WriteKvArgs {
    /// `Tokens` or `Beams`.
    pub rows: Rows,
    /// f32 `[rows, heads * head_dim]`, normed, rotated and multiplied by `query_scale` into `query_out`; `None` when only
    /// K and V are written (cross-attention).
    pub query: Option<Tensor>,
    /// f32 `[rows, kv_heads * head_dim]`.
    pub key: Tensor,
    /// f32 `[rows, kv_heads * head_dim]`.
    pub value: Tensor,
    /// `[rows, heads * head_dim]` in the compute type; present exactly when `query` is.
    pub query_out: Option<Tensor>,
    /// Multiplied into queries after norm and rotation (the attention scale; 1 for T5).
    pub query_scale: f32,
    /// Applied before rotation.
    pub head_norm: Option<HeadNorm>,
    /// Rotation by position: a token row's position in its span, or `history_len + prefix_len + step` of a beam.
    pub rope: Option<Rope>,
    /// Destination.
    pub target: KvTarget,
}

/// Which keys a query row may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// Keys at positions up to the row's own.
    Causal,
    /// Every valid key of the segment.
    Full,
}

/// Arguments of [`Device::history_attention`].
#[derive(Clone, Copy, Debug)]
pub struct HistoryAttentionArgs {
    /// `Tokens` or `Last`.
    pub rows: Rows,
    /// `[rows, heads * head_dim]` in the compute type, already scaled.
    pub query: Tensor,
    /// Pool of the segment.
    pub pool: KvPool,
    /// Which block table.
    pub segment: Segment,
    /// Layer of the pool.
    pub layer: usize,
    /// Visibility. `Causal` compares the row's position in its span with the key's position.
    pub mask: Mask,
    /// Added to the scores by distance (key position - query position).
    pub bias: Option<RelativeBias>,
    /// `[rows, heads * head_dim]` in the compute type.
    pub out: Tensor,
}

/// Arguments of [`Device::beam_attention`].
#[derive(Clone, Copy, Debug)]
pub struct BeamAttentionArgs {
    /// The cohort; rows are its live beams.
    pub lane: CohortLane,
    /// `[rows, heads * head_dim]` in the compute type, already scaled.
    pub query: Tensor,
    /// Keys shared by all beams of a request, if any.
    pub shared: Option<SharedKeys>,
    /// The beam's own tokens, if they are attended to: steps `0 ..= step` through the ancestor table.
    pub own: Option<OwnKeys>,
    /// Added to the scores by distance; the query stands at `shared length + step` (own tokens follow the shared segment).
    /// Only with `own`: cross-attention has no step and no bias.
    pub bias: Option<RelativeBias>,
    /// `[rows, heads * head_dim]` in the compute type.
    pub out: Tensor,
}

/// A shared paged segment of a beam attention.
#[derive(Clone, Copy, Debug)]
pub struct SharedKeys {
    /// Pool of the segment.
    pub pool: KvPool,
    /// Which block table.
    pub segment: Segment,
    /// Layer of the pool.
    pub layer: usize,
}

/// The own-token part of a beam attention.
#[derive(Clone, Copy, Debug)]
pub struct OwnKeys {
    /// The cohort's slab.
    pub slab: OwnSlab,
    /// Layer of the slab.
    pub layer: usize,
    /// The step whose token is being decoded; its own KV is already in the slab.
    pub step: usize,
}

/// What a head computes logits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The codes of a level.
    Level(usize),
    /// One given token (a scored end token).
    Token(u32),
}

/// Which entries the log-normaliser runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normalizer {
    /// The whole vocabulary (`full_then_mask`).
    Vocabulary,
    /// The codes of the level (`level_norm`, `level_head`).
    Level,
    /// The legal children of a beam (`mask_then_norm`): the selection computes it, and the head computes logits alone.
    Legal,
}

/// Arguments of [`Device::head`].
#[derive(Clone, Copy, Debug)]
pub struct HeadArgs {
    /// `Requests` at the first step, else `Beams`. (For `Last` hand-off at the first step, request order equals span order.)
    pub rows: Rows,
    /// `[rows, hidden]` in the compute type, final norm applied.
    pub x: Tensor,
    /// The head.
    pub head: Head,
    /// Which logits.
    pub target: Target,
    /// Which log-sum-exp.
    pub normalizer: Normalizer,
    /// f32 `[rows, codes of the level]` or `[rows, 1]` (in a wider buffer: column 0 onward).
    pub logits: Tensor,
    /// f32 `[rows, 1]`: log-sum-exp in f32. Not written for [`Normalizer::Legal`].
    pub lognorm: Tensor,
}

/// Arguments of [`Device::expand_select`].
///
/// Candidates are all legal children (in the trie, in the request's mask, not banned) of all live beams, each with score =
/// beam's score + (logit - lognorm), where lognorm is the head's or, without one, the log-sum-exp over the beam's legal
/// children. The best `beams` of each request are kept by (score descending, parent rank ascending, code
/// ascending), exactly as brute force would. A score of NaN counts as negative infinity: the child stays legal, behind all
/// others. With sampling, children are drawn from the softmax of logit / temperature over each beam's legal children instead:
/// one for each beam (at the first step: for each of `beams` sequences), or `beams` without replacement, best perturbed
/// log-probability first; scores still sum (logit - lognorm). The beam state then holds the children: node, score, next token, parent; the
/// ancestor table follows. A request whose trie runs out keeps fewer than `beams`.
///
/// In a list, every beam starts at the root again after its last level, and no semantic ID comes twice: a child is not legal for a
/// beam when each leaf below it that the request may have is in the beam's list already. Noise is a function of the step instead of
/// the level.
#[derive(Clone, Copy, Debug)]
pub struct ExpandArgs {
    /// The cohort.
    pub lane: CohortLane,
    /// The trie.
    pub trie: TrieId,
    /// Gives the token of each code.
    pub head: Head,
    /// Which semantic ID of the lists is being chosen, from 0.
    pub item: usize,
    /// Level being chosen, from 0. At level 0 of item 0 logits rows are request rows and every request has its one root beam.
    pub level: usize,
    /// From [`Device::head`].
    pub logits: Tensor,
    /// From [`Device::head`]; `None` for [`Normalizer::Legal`].
    pub lognorm: Option<Tensor>,
}

/// Arguments of [`Device::force_token`]: every live beam takes `token` next. With `scored`, its log-probability is added and
/// the beams of a request are re-ordered by (score descending, parent rank ascending), unless they were sampled.
#[derive(Clone, Copy, Debug)]
pub struct ForceArgs {
    /// The cohort.
    pub lane: CohortLane,
    /// The token.
    pub token: u32,
    /// Step index that this token takes (number of tokens chosen before it).
    pub step: usize,
    /// Logits `[rows, 1]` and log-normaliser of the token.
    pub scored: Option<(Tensor, Tensor)>,
}

/// The operation set. See the module's documentation for what every method may assume and must keep.
pub trait Device: Send {
    /// What this device is.
    fn facts(&self) -> &DeviceFacts;

    // -- Planning: start-up only ------------------------------------------------------------------------------------

    /// A zeroed `[rows, cols]` buffer.
    fn buffer(&mut self, rows: usize, cols: usize, dtype: Dtype) -> Result<Tensor, DeviceError>;
    /// Packs a weight matrix in the compute type, and its bias in f32.
    fn linear_weight(&mut self, source: &LinearSource) -> Result<Linear, DeviceError>;
    /// An f32 vector; `scale` is multiplied in.
    fn vector(&mut self, values: &TensorView, scale: f32) -> Result<Vector, DeviceError>;
    /// An embedding table; stays mapped where the device can read it there.
    fn embedding(&mut self, matrix: &TensorView) -> Result<Embedding, DeviceError>;
    /// The output head.
    fn head_weight(&mut self, source: &HeadSource) -> Result<Head, DeviceError>;
    /// A relative attention bias.
    fn relative_bias(&mut self, source: &RelativeBiasSource) -> Result<RelativeBias, DeviceError>;
    /// Packs a router and its experts. Like every weight, experts' matrices are in the compute type; the router is f32.
    fn experts_weight(&mut self, _source: &ExpertsSource) -> Result<Experts, DeviceError> {
        Err(DeviceError::Unavailable("this device has no mixture of experts".into()))
    }
    /// Scratch for experts.
    fn experts_work(&mut self, _plan: ExpertsPlan) -> Result<ExpertsWork, DeviceError> {
        Err(DeviceError::Unavailable("this device has no mixture of experts".into()))
    }
    /// RoPE tables.
    fn rope(&mut self, source: &RopeSource) -> Result<Rope, DeviceError>;
    /// A paged KV pool. The in-page layout is the device's own.
    fn kv_pool(&mut self, shape: KvShape) -> Result<KvPool, DeviceError>;
    /// An own-token slab.
    fn own_slab(&mut self, shape: OwnShape) -> Result<OwnSlab, DeviceError>;
    /// A catalogue's trie.
    fn trie(&mut self, catalog: &Arc<Catalog>) -> Result<TrieId, DeviceError>;
    /// Mask slots over the nodes of a trie, which allow nothing yet. Planned once, for the one trie that requests with a mask
    /// are searched in.
    fn plan_masks(&mut self, trie: TrieId, slots: usize) -> Result<(), DeviceError>;
    /// The sequence slots. Planned before the lanes.
    fn plan_slots(&mut self, plan: SlotPlan) -> Result<(), DeviceError>;
    /// A lane for token batches of at most `rows` rows, whose operations run on `queue`.
    fn token_lane(&mut self, rows: usize, queue: Queue) -> Result<TokenLane, DeviceError>;
    /// Room for input vectors of `cols` elements beside every token of a lane.
    fn plan_dense(&mut self, _lane: TokenLane, _cols: usize) -> Result<(), DeviceError> {
        Err(DeviceError::Unavailable("this device takes no input vectors".into()))
    }
    /// A lane for cohorts.
    fn cohort_lane(&mut self, plan: CohortPlan) -> Result<CohortLane, DeviceError>;
    /// Bytes planned so far: (weights, KV, everything else).
    fn planned_bytes(&self) -> (usize, usize, usize);

    // -- Descriptors --------------------------------------------------------------------------------------------------

    /// Writes a slot's lengths and block tables.
    fn write_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError>;
    /// Fills a token lane.
    fn write_tokens(&mut self, lane: TokenLane, batch: &TokenBatch) -> Result<(), DeviceError>;
    /// Gives the rows of the batch that was last written to `lane` their input vectors: `[rows, cols]`, row-major, where
    /// `cols` is what was planned or less. Written after [`Device::write_tokens`] of the same batch.
    fn write_dense(&mut self, _lane: TokenLane, _values: &[f32]) -> Result<(), DeviceError> {
        Err(DeviceError::Unavailable("this device takes no input vectors".into()))
    }
    /// Fills a mask slot: at most once for a new set of allowed items, not for every request.
    fn write_mask(&mut self, slot: u32, mask: &Arc<NodeMask>) -> Result<(), DeviceError>;
    /// Fills a cohort lane and resets its beam state.
    fn write_cohort(&mut self, lane: CohortLane, cohort: &Cohort) -> Result<(), DeviceError>;

    /// Enqueues what `body` enqueues: step `step` of the cohort in `lanes` (its beams and its prefixes). For equal lanes, step
    /// and length of the cohort's lists, `body` must enqueue the same operations every time, so that a device may record them
    /// once and replay them; `body` then does not run.
    fn replay(
        &mut self,
        lanes: (CohortLane, TokenLane),
        step: usize,
        body: &mut dyn FnMut(&mut dyn Device) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError>;

    // -- Operations ---------------------------------------------------------------------------------------------------

    /// `out[row] = table[token of row]`, f32. Rows: `Tokens` (the batch's tokens) or `Beams` (each beam's newest token).
    fn embed(&mut self, rows: Rows, table: Embedding, out: Tensor) -> Result<(), DeviceError>;
    /// `out[row] = input vector of row`, for every token of a batch; `out` has the vectors' columns, f32 or the compute type.
    fn embed_dense(&mut self, _lane: TokenLane, _out: Tensor) -> Result<(), DeviceError> {
        Err(DeviceError::Unavailable("this device takes no input vectors".into()))
    }
    /// `out[row] += table[position of row]`, f32: learned positions. A token's position is that in its segment; a beam's, whose
    /// newest token is its `step`-th, is `prefix_len + step`. Models are planned so that no position leaves the table.
    fn add_positions(&mut self, _rows: Rows, _table: Embedding, _step: usize, _out: Tensor) -> Result<(), DeviceError> {
        Err(DeviceError::Unavailable("this device has no learned positions".into()))
    }
    /// RMS norm: `out = x * rsqrt(mean(x^2) + eps) * weight`.
    fn norm(&mut self, args: &NormArgs) -> Result<(), DeviceError>;
    /// Matrix product with a packed weight, and its bias if it has one.
    fn linear(&mut self, args: &LinearArgs) -> Result<(), DeviceError>;
    /// Mixture of experts: `out[row] += sum over chosen experts e of weight_e * W_out_e act(W_in_e x[row])`, the sum in the
    /// order of the choice (weight descending). No row is dropped, however many choose one expert.
    fn experts(&mut self, _args: &ExpertsArgs) -> Result<(), DeviceError> {
        Err(DeviceError::Unavailable("this device has no mixture of experts".into()))
    }
    /// Norms, rotates and scales queries and keys and writes K and V where attention will read them.
    fn write_kv(&mut self, args: &WriteKvArgs) -> Result<(), DeviceError>;
    /// Attention of token rows over a paged segment.
    fn history_attention(&mut self, args: &HistoryAttentionArgs) -> Result<(), DeviceError>;
    /// Attention of beam rows over a shared segment (read once for all beams) and their own tokens.
    fn beam_attention(&mut self, args: &BeamAttentionArgs) -> Result<(), DeviceError>;
    /// Copies the rows `Last(lane)` of `from` to rows 0.. of `to` (same columns and type).
    fn gather_last(&mut self, lane: TokenLane, from: Tensor, to: Tensor) -> Result<(), DeviceError>;
    /// Copies row i of `from` (rows `Last(lane)`, compact) to row `slot of span i` of `to`.
    fn store_slots(&mut self, lane: TokenLane, from: Tensor, to: Tensor) -> Result<(), DeviceError>;
    /// Copies row `slot of request r` of `from` to row r of `to`.
    fn load_slots(&mut self, lane: CohortLane, from: Tensor, to: Tensor) -> Result<(), DeviceError>;
    /// Logits of a level's codes (or of one token) and the log-normaliser.
    fn head(&mut self, args: &HeadArgs) -> Result<(), DeviceError>;
    /// One step of trie-constrained beam search.
    fn expand_select(&mut self, args: &ExpandArgs) -> Result<(), DeviceError>;
    /// Appends a forced token to every beam.
    fn force_token(&mut self, args: &ForceArgs) -> Result<(), DeviceError>;

    // -- Timing ------------------------------------------------------------------------------------------------------

    /// Marks the end of what is enqueued on `queue`.
    fn mark(&mut self, queue: Queue) -> Result<Mark, DeviceError>;
    /// Time that the device took from one mark to another of the same queue, or `None` while it has not passed both. An
    /// answer takes the marks back.
    fn between(&mut self, from: Mark, to: Mark) -> Result<Option<Duration>, DeviceError>;

    // -- The one wait -------------------------------------------------------------------------------------------------

    /// Enqueues the copy of the cohort's beams to the host, behind its last step.
    fn collect_beams(&mut self, lane: CohortLane) -> Result<(), DeviceError>;
    /// Whether the collected beams have arrived: [`Device::read_beams`] would not wait.
    fn beams_are_here(&mut self, lane: CohortLane) -> Result<bool, DeviceError>;
    /// Waits for the cohort's beams, collecting them if that was not done, and returns each request's, best first.
    fn read_beams(&mut self, lane: CohortLane) -> Result<Vec<Vec<Beam>>, DeviceError>;

    // -- Inspection: for tests and checks, never while serving --------------------------------------------------------

    /// Waits for everything and returns the first `rows` rows of a view, widened: `[rows, cols]`.
    fn read_buffer(&mut self, tensor: Tensor, rows: usize) -> Result<Vec<f32>, DeviceError>;
    /// Waits for everything and overwrites the first rows of a view with `values`: `[rows, cols]`, rounded to its type.
    fn write_buffer(&mut self, tensor: Tensor, values: &[f32]) -> Result<(), DeviceError>;
}
