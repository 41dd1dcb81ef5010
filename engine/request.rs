//! What a caller asks and what the engine answers: plain data, shared by the wire codec, the scheduler and the command
//! line. Nothing here knows a socket or a tensor.

use std::time::Duration;

use crate::sampling::{LogProb, Sampling};

/// Items named the way the caller's system names them. One request speaks one kind throughout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemRefs {
    /// Numeric item ids.
    Ids(Vec<u64>),
    /// The catalogue's string keys.
    Keys(Vec<String>),
}

impl ItemRefs {
    /// How many items are named.
    pub fn len(&self) -> usize {
        match self {
            ItemRefs::Ids(ids) => ids.len(),
            ItemRefs::Keys(keys) => keys.len(),
        }
    }

    /// True when no item is named.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the model reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum History {
    /// The complete prompt, as token ids.
    Tokens(Vec<u32>),
    /// Items, oldest first; they go through the manifest's prompt template.
    Items(ItemRefs),
    /// The complete prompt, as text for the export's tokenizer.
    Text(String),
}

/// What a request brings for one of the export's instructions.
#[derive(Clone, Debug, PartialEq)]
pub enum InstructionValue {
    /// A dense vector, before its adapter.
    Vector(Vec<f32>),
    /// A row of the instruction's table, by its id.
    Id(u32),
}

/// One item, named the way the caller's system names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemRef {
    /// Numeric item id.
    Id(u64),
    /// The catalogue's string key.
    Key(String),
}

/// One RECOMMEND.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Chosen by the caller, echoed in the reply.
    pub id: u64,
    /// What the model reads.
    pub history: History,
    /// Beam width, at least 1; how many semantic IDs are drawn when they are sampled. With a scenario, 0 = the scenario's.
    pub beams: u32,
    /// How many semantic IDs to return, at most `beams`. With a scenario, 0 = the scenario's.
    pub top: u32,
    /// At most this many items of each semantic ID, in weight order; `None` = all allowed ones.
    pub max_items_per_sid: Option<u32>,
    /// Items that must not be recommended.
    pub deny: ItemRefs,
    /// Also deny every item of the history.
    pub deny_history: bool,
    /// Unknown items in the history are an error instead of being skipped and counted.
    pub strict: bool,
    /// Return each item's string key and title where the catalogue has them.
    pub with_text: bool,
    /// Time left until the answer is worthless, measured from arrival; `None` = the server's default.
    pub deadline: Option<Duration>,
    /// Whose history this is: a hint for caches, never a key.
    pub user: Option<String>,
    /// Candidate pool to recommend from.
    pub view: Option<String>,
    /// Scenario that says what this request leaves open.
    pub scenario: Option<u32>,
    /// The item that the shopper acts on, for a scenario that has a trigger.
    pub trigger: Option<ItemRef>,
    /// Values of the export's instructions, by name; each at most once. What is left out comes from its source, or is the
    /// export's default.
    pub instructions: Vec<(String, InstructionValue)>,
    /// Draw semantic IDs instead of searching for the best.
    pub sampling: Option<Sampling>,
    /// Return each result's log-probabilities, level by level.
    pub log_probs: bool,
    /// Return lists of so many semantic IDs, none of them twice in one, instead of single ones.
    pub list: Option<u32>,
}

impl Request {
    /// A request with every optional part absent.
    pub fn new(id: u64, history: History, beams: u32, top: u32) -> Request {
        Request {
            id,
            history,
            beams,
            top,
            max_items_per_sid: None,
            deny: ItemRefs::Ids(Vec::new()),
            deny_history: false,
            strict: false,
            with_text: false,
            deadline: None,
            user: None,
            view: None,
            scenario: None,
            trigger: None,
            instructions: Vec::new(),
            sampling: None,
            log_probs: false,
            list: None,
        }
    }
}

impl Ranked {
    /// Every item, in the order of the reply's sections.
    pub fn every_item(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().chain(self.list.iter().flat_map(|entry| &entry.items))
    }

    /// The same, to be changed.
    pub fn every_item_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        self.items.iter_mut().chain(self.list.iter_mut().flat_map(|entry| &mut entry.items))
    }
}

/// An item of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Numeric id.
    pub id: u64,
    /// String key, when asked for and present.
    pub key: Option<String>,
    /// Title, when asked for and present.
    pub title: Option<String>,
}

/// One semantic ID of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Code of each level.
    pub sid: Vec<u16>,
    /// Its allowed items, heaviest first; none if they were all delisted while the request was under way.
    pub items: Vec<Item>,
}

/// One semantic ID of a reply, or one list of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranked {
    /// Code of each level. Empty for a list.
    pub sid: Vec<u16>,
    /// Sum over levels of log-probabilities (see `score` in the manifest), then divided by length^penalty if set. Of a list, over
    /// the levels of all its semantic IDs.
    pub score: f32,
    /// Its allowed items, heaviest first. Empty for a list.
    pub items: Vec<Item>,
    /// The semantic IDs of a list in its order, where lists were asked for.
    pub list: Vec<Entry>,
    /// Perturbed log-probability, when distinct semantic IDs were sampled.
    pub key: Option<f32>,
    /// Of each level and scored end token, when asked for.
    pub log_probs: Vec<LogProb>,
}

/// Where the time of a request went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimings {
    /// Items to tokens, bans to trie nodes.
    pub resolve_us: u32,
    /// Waiting for prefill to start, after resolve.
    pub queue_us: u32,
    /// From the first prefill chunk to the last.
    pub prefill_us: u32,
    /// From the end of prefill to the last selection, waiting included.
    pub search_us: u32,
    /// Semantic IDs to items.
    pub expand_us: u32,
    /// From arrival to the reply being handed back.
    pub total_us: u32,
}

impl StageTimings {
    /// The names that logs, metrics and JSON use, in order.
    pub const STAGES: [&str; 6] = ["resolve", "queue", "prefill", "search", "expand", "total"];

    /// Each stage with its microseconds, in the order of [`STAGES`](StageTimings::STAGES).
    pub fn by_stage(&self) -> [(&'static str, u32); StageTimings::STAGES.len()] {
        let spent = [self.resolve_us, self.queue_us, self.prefill_us, self.search_us, self.expand_us, self.total_us];
        std::array::from_fn(|at| (StageTimings::STAGES[at], spent[at]))
    }
}

/// What computed an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// `name@version` of the export.
    pub model: String,
    /// Version of the catalogue.
    pub catalog: String,
    /// Device and instruction set, e.g. `cpu/avx512bf16`.
    pub device: String,
    /// `f32` or `bf16`.
    pub dtype: String,
    /// The weights.
    pub policy: Policy,
}

/// Which weights computed an answer: all of it, from the first token to the last score.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// 0 for the weights of the export; each attempt to replace them takes the next number.
    pub number: u64,
    /// What whoever put them there calls them; the export's version for its own.
    pub version: String,
}

/// Where an instruction of the decoder's prompt came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Origin {
    /// The request.
    Given = 0,
    /// The instruction store.
    Stored = 1,
    /// Nobody had it: the export's default was used, as in all that follow.
    Missing = 2,
    /// The store's is too old.
    Expired = 3,
    /// The store did not answer in time.
    Unavailable = 4,
    /// The store's has another length, or numbers that are not finite.
    Unusable = 5,
}

impl Origin {
    /// Every origin, in wire order.
    pub const ALL: [Origin; 6] =
        [Origin::Given, Origin::Stored, Origin::Missing, Origin::Expired, Origin::Unavailable, Origin::Unusable];

    /// The name that logs, metrics and JSON use.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Given => "given",
            Origin::Stored => "stored",
            Origin::Missing => "missing",
            Origin::Expired => "expired",
            Origin::Unavailable => "unavailable",
            Origin::Unusable => "unusable",
        }
    }
}

/// An instruction of the decoder's prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstructionUsed {
    /// Its name in the manifest.
    pub name: String,
    /// Where it came from.
    pub origin: Origin,
    /// The store's version of it, if the store had one.
    pub version: Option<u64>,
}

/// A successful answer. `id`, `results`, `unknown_items` and `prompt_tokens` are the *result section*: they do not depend
/// on what else was in the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    /// The request's id.
    pub id: u64,
    /// Best first; distinct samples by perturbed log-probability, independent ones as they were drawn.
    pub results: Vec<Ranked>,
    /// Items of the history that the catalogue does not know.
    pub unknown_items: u32,
    /// Tokens that the model read.
    pub prompt_tokens: u32,
    /// The instructions of the decoder's prompt, in order; empty where the export has none.
    pub instructions: Vec<InstructionUsed>,
    /// What computed it.
    pub provenance: Provenance,
    /// Where the time went.
    pub timings: StageTimings,
}

/// Why a request was not answered. The numbers are the wire codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum RefusalKind {
    /// The request contradicts itself or a limit that will never be met.
    BadRequest = 1,
    /// `strict` and an item is unknown.
    UnknownItem = 2,
    /// The prompt is longer than the model or the limits allow.
    TooLong = 3,
    /// The queue is full.
    Overloaded = 4,
    /// The deadline passed or cannot be met.
    Deadline = 5,
    /// The caller cancelled it.
    Cancelled = 6,
    /// The server is draining.
    ShuttingDown = 7,
    /// The device failed while computing it.
    DeviceFailed = 8,
    /// A part of the protocol that this export or version does not offer.
    Unsupported = 9,
}

impl RefusalKind {
    /// Every kind, in wire order.
    pub const ALL: [RefusalKind; 9] = [
        RefusalKind::BadRequest,
        RefusalKind::UnknownItem,
        RefusalKind::TooLong,
        RefusalKind::Overloaded,
        RefusalKind::Deadline,
        RefusalKind::Cancelled,
        RefusalKind::ShuttingDown,
        RefusalKind::DeviceFailed,
        RefusalKind::Unsupported,
    ];

    /// The name that logs, metrics and JSON use.
    pub fn name(self) -> &'static str {
        match self {
            RefusalKind::BadRequest => "BAD_REQUEST",
            RefusalKind::UnknownItem => "UNKNOWN_ITEM",
            RefusalKind::TooLong => "TOO_LONG",
            RefusalKind::Overloaded => "OVERLOADED",
            RefusalKind::Deadline => "DEADLINE",
            RefusalKind::Cancelled => "CANCELLED",
            RefusalKind::ShuttingDown => "SHUTTING_DOWN",
            RefusalKind::DeviceFailed => "DEVICE_FAILED",
            RefusalKind::Unsupported => "UNSUPPORTED",
        }
    }
}

/// A named refusal: what stopped the request, with the number that broke it in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Category.
    pub kind: RefusalKind,
    /// What, where, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal of `kind` saying `message`.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into() }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl std::error::Error for Refusal {}

/// Exactly one of these answers every request.
pub type Answer = Result<Recommendation, Refusal>;
