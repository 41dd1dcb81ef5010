//! What can be wrong with an export: one variant a kind of fault, the values in it, and a message that says what, where
//! and what to do.

use std::path::PathBuf;

use sidereal_ffi::MapError;

/// Why an export was refused. Paths are as the caller named them; keys are JSON paths such as `sid.levels[1].codes`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    // -- The directory ------------------------------------------------------------------------------------------------
    /// Nothing is at the path.
    #[error("{path}: does not exist; give the directory that holds config.json, sidereal.json and model.safetensors")]
    NoSuchDirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The path is a file.
    #[error(
        "{path}: is not a directory; an export is the directory that holds config.json, sidereal.json and the weights"
    )]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// A required file is absent.
    #[error("{path}: file not found; {advice}")]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// How to get it.
        advice: String,
    },
    /// The system refused to read it.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{path}: is not a regular file")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// A file that is read into memory is beyond any sensible size.
    #[error("{path}: is {bytes} bytes long; such a file is at most {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The file could not be mapped.
    #[error("{0}")]
    Map(#[from] MapError),
    /// `tokenizer.json` is not one that can be served.
    #[error("{path}: is not a tokenizer that can be served: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `tokenizer.json` belongs to another model.
    #[error(
        "{path}: token {token:?} has id {id}, the model's vocabulary ends at {vocabulary}; take the tokenizer that the model \
         was trained with, or remove the file to serve without text"
    )]
    TokenBeyondVocabulary {
        /// The file.
        path: PathBuf,
        /// The token with the highest id.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// The weights are in a format that is not served.
    #[error("{path}: {format} cannot be served; {advice}")]
    ForeignWeights {
        /// The file found.
        path: PathBuf,
        /// What it is.
        format: &'static str,
        /// How to convert it.
        advice: &'static str,
    },
    /// Two kinds of weights, so that nobody knows which are meant.
    #[error(
        "{dir}: holds both model.safetensors and model.safetensors.index.json; remove the one that is left over from an \
         earlier save"
    )]
    AmbiguousWeights {
        /// The export.
        dir: PathBuf,
    },

    // -- JSON files ---------------------------------------------------------------------------------------------------
    /// Not UTF-8.
    #[error("{path}: is not UTF-8 text (byte {at})")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first bad byte.
        at: usize,
    },
    /// Not JSON, or an object with the same key twice.
    #[error("{path}: is not valid JSON: {detail}", detail = shown(detail))]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        detail: String,
    },
    /// A required key is absent.
    #[error("{path}: `{key}` is missing; expected {expected}", key = shown(key), expected = shown(expected))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// JSON path of the key.
        key: String,
        /// What should be there.
        expected: String,
    },
    /// A value of the wrong type or out of range.
    #[error("{path}: `{key}` must be {expected}, found {found}", key = shown(key), expected = shown(expected), found = shown(found))]
    WrongValue {
        /// The file.
        path: PathBuf,
        /// JSON path of the value.
        key: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A key that means nothing.
    #[error("{path}: unknown key `{key}`; {advice}", key = shown(key), advice = shown(advice))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// JSON path of the key.
        key: String,
        /// The nearest known key, or all of them.
        advice: String,
    },
    /// Values that are each fine but not together.
    #[error("{path}: `{key}`: {detail}", key = shown(key), detail = shown(detail))]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// JSON path of the value to change.
        key: String,
        /// What contradicts what.
        detail: String,
    },
    /// A setting of the model that the engine does not implement.
    #[error("{path}: `{key}` = {found} is not supported; {advice}", key = shown(key), found = shown(found), advice = shown(advice))]
    UnsupportedConfig {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is supported.
        advice: String,
    },
    /// A token id that the model has no embedding for.
    #[error("{path}: `{key}` names token {token}, but the model's vocabulary has {vocabulary} tokens (0 to {})", vocabulary.saturating_sub(1), key = shown(key))]
    TokenOutsideVocabulary {
        /// The manifest.
        path: PathBuf,
        /// JSON path.
        key: String,
        /// The token id.
        token: u32,
        /// Tokens of the model.
        vocabulary: usize,
    },
    /// A semantic ID that does not fit the manifest's levels.
    #[error("{path}: semantic ID {sid:?} does not fit `sid.levels`: {detail}", detail = shown(detail))]
    SidOutOfRange {
        /// The manifest.
        path: PathBuf,
        /// Its codes.
        sid: Vec<u16>,
        /// Which level, which bound.
        detail: String,
    },

    // -- Weights ------------------------------------------------------------------------------------------------------
    /// Something else under the name of a safetensors file.
    #[error("{path}: is not a safetensors file but {found}; {advice}")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The header's length cannot be true.
    #[error(
        "{path}: the first 8 bytes announce a header of {header_bytes} bytes, more than the {limit} that safetensors allows; the file is corrupt or not safetensors"
    )]
    HeaderTooLarge {
        /// The file.
        path: PathBuf,
        /// Announced length.
        header_bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The file ends before its header or its last tensor does.
    #[error("{path}: is cut short: {what} needs {needs} bytes, the file has {has}; copy or download it again", what = shown(what))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Header, or the tensor that ends last.
        what: String,
        /// Bytes that the file must have.
        needs: u64,
        /// Bytes that it has.
        has: u64,
    },
    /// Bytes that belong to no tensor follow the last one.
    #[error("{path}: {extra} bytes follow the last tensor `{last}`; the file is corrupt, save it again", last = shown(last))]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// The tensor that ends last, empty if there is none.
        last: String,
        /// How many bytes.
        extra: u64,
    },
    /// The header is not what safetensors prescribes.
    #[error("{path}: bad safetensors header: {detail}", detail = shown(detail))]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The data of two tensors overlap.
    #[error(
        "{path}: tensor `{second}` begins at data byte {begins}, inside tensor `{first}` that ends at {ends}; the file is corrupt, save it again"
    , second = shown(second), first = shown(first))]
    TensorsOverlap {
        /// The file.
        path: PathBuf,
        /// The earlier tensor.
        first: String,
        /// The tensor that begins inside it.
        second: String,
        /// Where the earlier one ends.
        ends: usize,
        /// Where the other begins.
        begins: usize,
    },
    /// Bytes between two tensors belong to neither.
    #[error(
        "{path}: {bytes} bytes before tensor `{name}` (at data byte {at}) belong to no tensor; the file is corrupt, save it again"
    , name = shown(name))]
    TensorGap {
        /// The file.
        path: PathBuf,
        /// The tensor after the gap.
        name: String,
        /// Where the gap begins.
        at: usize,
        /// Its length.
        bytes: usize,
    },
    /// Shape, type and bytes disagree.
    #[error("{path}: tensor `{name}`: {detail}", name = shown(name), detail = shown(detail))]
    TensorBytes {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The disagreement.
        detail: String,
    },
    /// An index names a file outside the export.
    #[error(
        "{path}: `weight_map` sends tensor `{name}` to `{file}`, which is not a plain path inside the export; shards lie beside the index"
    , name = shown(name), file = shown(file))]
    ShardPath {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The file named.
        file: String,
    },
    /// An index names a file that is absent.
    #[error("{path}: shard `{file}` is named by the index (for tensor `{name}`) but absent; copy or download it again", file = shown(file), name = shown(name))]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// A tensor that should be in it.
        name: String,
        /// The file named.
        file: String,
    },
    /// An index names a tensor that its shard does not hold.
    #[error(
        "{path}: `weight_map` says tensor `{name}` is in `{file}`, but it is not; index and shards come from different saves"
    , name = shown(name), file = shown(file))]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shard.
        file: String,
    },
    /// A shard holds a tensor that the index does not place there.
    #[error(
        "{path}: shard `{file}` holds tensor `{name}`, which the index does not list; index and shards come from different saves"
    , file = shown(file), name = shown(name))]
    NotInIndex {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shard.
        file: String,
    },
    /// One tensor, two shards.
    #[error(
        "{path}: tensor `{name}` is in two shards, `{first}` and `{second}`; index and shards come from different saves"
    , name = shown(name), first = shown(first), second = shown(second))]
    TensorInTwoShards {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// One shard.
        first: String,
        /// The other.
        second: String,
    },
    /// A tensor that the model needs is absent.
    #[error("{path}: there is no tensor `{name}`; {advice}", name = shown(name), advice = shown(advice))]
    MissingTensor {
        /// The weights file, or the index of a sharded export.
        path: PathBuf,
        /// The tensor asked for.
        name: String,
        /// The nearest name, or what the file holds.
        advice: String,
    },
    /// A tensor whose element type is not read.
    #[error("{path}: tensor `{name}` holds {dtype}; weights are read as F32, F16 or BF16, so save it as one of these", name = shown(name))]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type, as safetensors names it.
        dtype: String,
    },
    /// A tensor of another shape than the configuration implies.
    #[error("{path}: tensor `{name}` must be {expected:?} by config.json, found {found:?}", name = shown(name))]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What the configuration implies.
        expected: Box<[usize]>,
        /// What is there.
        found: Box<[usize]>,
    },
    /// A tensor with an infinite number, or with what is none.
    #[error(
        "{path}: tensor `{name}`: value {at} is not finite; the training run or the conversion broke it",
        name = shown(name)
    )]
    TensorNotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Which element, counted row-major.
        at: usize,
    },

    // -- Catalogue and goldens ----------------------------------------------------------------------------------------
    /// The manifest's `catalog`, or several sources, cannot be used.
    #[error("{path}: {detail}", detail = shown(detail))]
    Catalog {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        detail: String,
    },
    /// A line of `golden/cases.jsonl`.
    #[error("{path}:{line}: {detail}", detail = shown(detail))]
    Golden {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Field and fault.
        detail: String,
    },
    /// `golden/activations.safetensors`.
    #[error("{path}: {detail}; it is made by tools/python/activations.py", detail = shown(detail))]
    Activations {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// Text that came from a file, fit for a terminal and a log line: control characters escaped, not longer than a line or two.
fn shown(text: &str) -> impl std::fmt::Display {
    const LONGEST: usize = 300;
    struct Shown<'a>(&'a str);
    impl std::fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            for c in self.0.chars().take(LONGEST) {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { std::fmt::Write::write_char(f, c)? }
            }
            f.write_str(if self.0.chars().nth(LONGEST).is_some() { "..." } else { "" })
        }
    }
    Shown(text)
}
