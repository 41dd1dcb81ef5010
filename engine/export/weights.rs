//! The weights of an export: one safetensors file, or several under an index. Files are mapped, never read; a tensor is a
//! range of a mapping, and what is never asked for is never touched.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Dtype;
use serde_json::Value;
use sidereal_ffi::MappedFile;

use super::header::{self, Entry};
use super::json::{self, Node};
use super::{ExportError, TensorView, WeightDtype, first_non_finite};

/// The single file.
pub const SINGLE: &str = "model.safetensors";
/// The index of a sharded export.
pub const INDEX: &str = "model.safetensors.index.json";

/// Every tensor of an export, by name.
#[derive(Debug)]
pub struct Weights {
    /// The single file or the index: what errors about names point at.
    root: PathBuf,
    files: Vec<Arc<MappedFile>>,
    /// Name -> (number of the file, place in it).
    tensors: BTreeMap<String, (usize, Entry)>,
}

/// What is known of a tensor without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFacts<'a> {
    /// Name in the export.
    pub name: &'a str,
    /// Element type as safetensors names it, e.g. `BF16`; not necessarily one that is read.
    pub dtype: String,
    /// Dimensions.
    pub shape: &'a [usize],
    /// The file that holds it.
    pub file: &'a Path,
}

impl Weights {
    /// Maps the weights of the export in `dir` and checks every header.
    pub fn open(dir: &Path) -> Result<Weights, ExportError> {
        let single = json::regular_file_bytes(&dir.join(SINGLE))?.is_some();
        let index = json::regular_file_bytes(&dir.join(INDEX))?.is_some();
        match (single, index) {
            // Some writers make an index for a single file too; that is no contradiction.
            (true, true) if read_index(&dir.join(INDEX))?.values().any(|file| file != SINGLE) => {
                Err(ExportError::AmbiguousWeights { dir: dir.to_owned() })
            }
            (true, true) => Weights::open_sharded(dir, dir.join(INDEX)),
            (true, false) => Weights::open_single(dir.join(SINGLE)),
            (false, true) => Weights::open_sharded(dir, dir.join(INDEX)),
            (false, false) => Err(foreign(dir)?),
        }
    }

    /// Maps one safetensors file and checks its header.
    pub(super) fn open_single(path: PathBuf) -> Result<Weights, ExportError> {
        if json::regular_file_bytes(&path)?.is_none() {
            let advice = "give a safetensors file, or a directory with model.safetensors".to_owned();
            return Err(ExportError::MissingFile { path, advice });
        }
        let file = Arc::new(MappedFile::open(&path)?);
        let tensors = header::read(&path, &file)?.into_iter().map(|(name, entry)| (name, (0, entry))).collect();
        Ok(Weights { root: path, files: vec![file], tensors })
    }

    fn open_sharded(dir: &Path, index: PathBuf) -> Result<Weights, ExportError> {
        let placed = read_index(&index)?;
        let mut shards: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, file) in &placed {
            shards.entry(file).or_insert(name);
        }
        let mut files = Vec::new();
        let mut tensors: BTreeMap<String, (usize, Entry)> = BTreeMap::new();
        let shard_names: Vec<&str> = shards.keys().copied().collect();
        for (number, (&shard, &example)) in shards.iter().enumerate() {
            let path = dir.join(shard);
            if json::regular_file_bytes(&path)?.is_none() {
                let (name, file) = (example.to_owned(), shard.to_owned());
                return Err(ExportError::MissingShard { path: index, name, file });
            }
            let file = Arc::new(MappedFile::open(&path)?);
            for (name, entry) in header::read(&path, &file)? {
                if let Some((other, _)) = tensors.get(&name) {
                    let (first, second) = (shard_names[*other].to_owned(), shard.to_owned());
                    return Err(ExportError::TensorInTwoShards { path: index, name, first, second });
                }
                tensors.insert(name, (number, entry));
            }
            files.push(file);
        }
        for (name, file) in &placed {
            if tensors.get(name).is_none_or(|(number, _)| shard_names[*number] != file) {
                return Err(ExportError::NotInShard { path: index, name: name.clone(), file: file.clone() });
            }
        }
        if let Some((name, (number, _))) = tensors.iter().find(|(name, _)| !placed.contains_key(*name)) {
            let (name, file) = (name.clone(), shard_names[*number].to_owned());
            return Err(ExportError::NotInIndex { path: index, name, file });
        }
        Ok(Weights { root: index, files, tensors })
    }

    /// The tensor `name`; an error that suggests the nearest name if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorView, ExportError> {
        self.optional(name)?.ok_or_else(|| self.missing(name))
    }

    /// The tensor `name`, or `None`; still an error if it is there with an element type that is not read.
    pub fn optional(&self, name: &str) -> Result<Option<TensorView>, ExportError> {
        let Some((name, (number, entry))) = self.tensors.get_key_value(name) else {
            return Ok(None);
        };
        let file = &self.files[*number];
        let dtype = match entry.dtype {
            Dtype::F32 => WeightDtype::F32,
            Dtype::F16 => WeightDtype::F16,
            Dtype::BF16 => WeightDtype::Bf16,
            other => {
                let (path, name) = (file.path().to_owned(), name.clone());
                return Err(ExportError::TensorDtype { path, name, dtype: other.to_string() });
            }
        };
        let shape = entry.shape.clone();
        Ok(Some(TensorView::mapped(name.clone(), dtype, shape, file.clone(), entry.range.clone())))
    }

    /// The tensor `name`, which must have exactly `shape`.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<TensorView, ExportError> {
        let tensor = self.tensor(name)?;
        self.check_shape(&tensor, shape)?;
        Ok(tensor)
    }

    /// The tensor `name`, which must have exactly `shape` and hold finite numbers: all of it is read.
    pub fn expect_finite(&self, name: &str, shape: &[usize]) -> Result<(), ExportError> {
        let tensor = self.expect(name, shape)?;
        let Some(at) = first_non_finite(&tensor) else { return Ok(()) };
        Err(ExportError::TensorNotFinite { path: self.file_of(name).to_owned(), name: name.to_owned(), at })
    }

    /// Whether there is a tensor `name`, whatever its type.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Every name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type, shape and file of every tensor, sorted by name.
    pub fn facts(&self) -> impl Iterator<Item = TensorFacts<'_>> {
        self.tensors.iter().map(|(name, (number, entry))| TensorFacts {
            name,
            dtype: entry.dtype.to_string(),
            shape: &entry.shape,
            file: self.files[*number].path(),
        })
    }

    /// The mapped files.
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// The single file, or the index of a sharded export.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn missing(&self, name: &str) -> ExportError {
        let advice = match json::nearest(name, self.names()) {
            Some(near) => format!("the nearest name is `{near}`"),
            None => match self.names().next() {
                Some(first) => format!("it holds {} tensors, the first is `{first}`", self.tensors.len()),
                None => "it holds no tensors at all".to_owned(),
            },
        };
        ExportError::MissingTensor { path: self.root.clone(), name: name.to_owned(), advice }
    }

    /// The file that holds the tensor `name`.
    fn file_of(&self, name: &str) -> &Path {
        self.tensors.get(name).map_or(&*self.root, |(number, _)| self.files[*number].path())
    }

    fn check_shape(&self, tensor: &TensorView, shape: &[usize]) -> Result<(), ExportError> {
        if tensor.shape() == shape {
            return Ok(());
        }
        Err(ExportError::TensorShape {
            path: self.file_of(tensor.name()).to_owned(),
            name: tensor.name().to_owned(),
            expected: shape.into(),
            found: tensor.shape().into(),
        })
    }
}

/// `weight_map` of an index: tensor -> shard, every shard a plain path inside the export.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, ExportError> {
    let value = json::parse(path, &json::read_text(path, json::MAX_JSON_BYTES, "")?)?;
    let root = Node::root(path, &value);
    if !value.is_object() {
        return Err(root.wrong("an object with `weight_map`"));
    }
    let map = root.require("weight_map", "an object: tensor name to file name")?;
    let Value::Object(entries) = map.value else {
        return Err(map.wrong("an object: tensor name to file name"));
    };
    if entries.is_empty() {
        return Err(map.wrong("an object that names at least one tensor"));
    }
    let mut placed = BTreeMap::new();
    for (name, file) in entries {
        let Value::String(file) = file else {
            return Err(Node { path, at: map.key(name), value: file }.wrong("a file name"));
        };
        if !is_inside(file) {
            let (name, file) = (name.clone(), file.clone());
            return Err(ExportError::ShardPath { path: path.to_owned(), name, file });
        }
        placed.insert(name.clone(), file.clone());
    }
    Ok(placed)
}

/// Whether `file` is a relative path that stays below where it starts. A matter of spelling: symbolic links are followed,
/// since Hugging Face's cache is made of them.
pub(super) fn is_inside(file: &str) -> bool {
    let path = Path::new(file);
    !file.is_empty()
        && !file.contains(['\\', '\0'])
        && path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        && path.file_name().is_some()
}

/// Why a directory without safetensors weights has none, as well as its files tell.
fn foreign(dir: &Path) -> Result<ExportError, ExportError> {
    let failed = |source| ExportError::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for kind in &FOREIGN {
        if let Some(name) = names.iter().find(|name| (kind.matches)(name)) {
            let (path, format, advice) = (dir.join(name), kind.format, kind.advice);
            return Ok(ExportError::ForeignWeights { path, format, advice });
        }
    }
    let advice = format!("save the model with `save_pretrained`; sharded weights come with {INDEX}");
    Ok(ExportError::MissingFile { path: dir.join(SINGLE), advice })
}

/// Weights that are not served, told by a file's name.
struct Foreign {
    matches: fn(&str) -> bool,
    format: &'static str,
    advice: &'static str,
}

/// The first that matches is named, so the more telling ones come first.
const FOREIGN: [Foreign; 6] = [
    Foreign {
        matches: |n| n == "adapter_config.json" || n == "adapter_model.safetensors",
        format: "an unmerged LoRA adapter",
        advice: "merge it into its base model (`merge_and_unload()`, then `save_pretrained`) and serve the merged directory",
    },
    Foreign {
        matches: |n| n.starts_with("pytorch_model") && (n.ends_with(".bin") || n.ends_with(".bin.index.json")),
        format: "a PyTorch pickle",
        advice: "load it with `from_pretrained` and save it with `save_pretrained(safe_serialization=True)`",
    },
    Foreign {
        matches: |n| n.ends_with(".gguf"),
        format: "a GGUF file",
        advice: "export the original Hugging Face checkpoint as safetensors instead",
    },
    Foreign {
        matches: |n| n.ends_with(".ckpt") || n.ends_with(".pt") || n.ends_with(".pth"),
        format: "a training checkpoint (Lightning or plain PyTorch)",
        advice: "load it in its training code and save the inner Hugging Face model with `save_pretrained`",
    },
    Foreign {
        matches: |n| n.starts_with("model-") && n.ends_with(".safetensors"),
        format: "a shard without its index",
        advice: "model.safetensors.index.json belongs beside it; copy or download it too",
    },
    Foreign {
        matches: |n| n.ends_with(".safetensors"),
        format: "a safetensors file under another name",
        advice: "name it model.safetensors if it is the whole model",
    },
];
