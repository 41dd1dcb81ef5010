//! The decoder's prompt of an export that has instructions: one vector of the decoder's width for each token of the prefix and
//! for each instruction, in f32. Computed on the host, off the engine thread: a few thousand products a request.

use std::collections::HashMap;

use crate::catalog::{Catalog, ItemIndex};
use crate::device::Activation;
use crate::device::cpu::gemm::activate;
use crate::export::{Export, ExportError, Instruction, InstructionSource, Manifest, TensorView};
use crate::model::Description;
use crate::request::{InstructionUsed, InstructionValue, Origin, Refusal, RefusalKind, Request};

/// The instructions of an export, with their weights.
#[derive(Debug)]
pub(crate) struct Instructions {
    hidden: usize,
    /// Input vectors of the decoder's prefix: `[tokens, hidden]`.
    prefix: Vec<f32>,
    /// The model's embeddings: `[vocabulary, hidden]`.
    embeddings: TensorView,
    parts: Vec<Part>,
}

/// One instruction.
#[derive(Debug)]
struct Part {
    instruction: Instruction,
    default: Vec<f32>, // [hidden]
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    /// A vector, through its adapter.
    Adapter(Mlp),
    /// A row of a table.
    Table(Table),
    /// A row of a table, and an item or what stands for none: `[2 hidden]` through a fusion.
    Fused { table: Table, no_trigger: Vec<f32>, fusion: Mlp },
}

/// Vectors by id.
#[derive(Debug)]
struct Table {
    rows: HashMap<u32, usize>,
    vectors: TensorView, // [ids, hidden]
}

/// `W1 gelu(W0 x + b0) + b1`, with the exact (erf) GELU.
#[derive(Debug)]
struct Mlp {
    first: Layer,
    second: Layer,
}

#[derive(Debug)]
struct Layer {
    weight: Vec<f32>, // [out, in]
    bias: Vec<f32>,   // [out]
}

/// A decoder prompt, and what the reply says of it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct DecoderPrompt {
    /// `[prefix tokens + instructions, hidden]`; empty where the export has no instructions.
    pub vectors: Vec<f32>,
    /// Each instruction.
    pub used: Vec<InstructionUsed>,
}

/// What came of looking an instruction up for a user.
pub(crate) type Looked<'a> = &'a dyn Fn(&str) -> (Origin, Option<(u64, Vec<f32>)>);

impl Instructions {
    /// Reads the weights of what the manifest lists; `None` if it lists nothing.
    ///
    /// # Errors
    /// Naming a tensor that is missing or has another shape.
    pub fn load(export: &Export, description: &Description) -> Result<Option<Instructions>, ExportError> {
        let manifest = export.manifest();
        if manifest.instructions().is_empty() {
            return Ok(None);
        }
        let hidden = description.hidden;
        // Tokens index the table below.
        manifest.validate_against(description.vocabulary, description.encoder_decoder)?;
        let embeddings = export.weights().expect(&description.embeddings, &[description.vocabulary, hidden])?;
        let tokens = manifest.decoder_prefix().unwrap_or_default();
        let mut prefix = vec![0.0; tokens.len() * hidden];
        for (token, row) in tokens.iter().zip(prefix.chunks_exact_mut(hidden)) {
            embeddings.read_row(*token as usize, row);
        }
        let parts = manifest.instructions().iter().map(|instruction| Part::load(export, instruction, hidden));
        Ok(Some(Instructions { hidden, prefix, embeddings, parts: parts.collect::<Result<_, _>>()? }))
    }

    /// Checks that need no look-up: names, lengths and numbers of what the request brings.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        for (name, value) in &request.instructions {
            let Some(part) = self.parts.iter().find(|part| part.instruction.name == *name) else {
                let names: Vec<&str> = self.parts.iter().map(|part| part.instruction.name.as_str()).collect();
                let message = format!("instruction {name:?} is not of this export; it has {}", names.join(", "));
                return Err(Refusal::new(RefusalKind::BadRequest, message));
            };
            part.check(value)
                .map_err(|told| Refusal::new(RefusalKind::BadRequest, format!("instruction {name:?}: {told}")))?;
        }
        if let Some(at) = (1..request.instructions.len())
            .find(|&at| request.instructions[..at].iter().any(|(name, _)| *name == request.instructions[at].0))
        {
            let message = format!("instruction {:?} is given twice", request.instructions[at].0);
            return Err(Refusal::new(RefusalKind::BadRequest, message));
        }
        let takes = |part: &Part| matches!(part.instruction.source, InstructionSource::Scenario { trigger: true, .. });
        if request.trigger.is_some() && !self.parts.iter().any(takes) {
            return Err(Refusal::new(RefusalKind::Unsupported, "this export's instructions take no trigger item"));
        }
        Ok(())
    }

    /// The scenarios that have a row of their own.
    pub fn scenarios(&self) -> &[u32] {
        let ids = self.parts.iter().find_map(|part| match &part.instruction.source {
            InstructionSource::Scenario { ids, .. } => Some(ids.as_slice()),
            _ => None,
        });
        ids.unwrap_or_default()
    }

    /// The prompt of a request that was checked, its trigger item being `trigger`.
    pub fn prompt(
        &self,
        request: &Request,
        trigger: Option<ItemIndex>,
        looked: Looked<'_>,
        catalog: &Catalog,
        manifest: &Manifest,
    ) -> DecoderPrompt {
        let mut vectors = self.prefix.clone();
        let mut used = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let name = &part.instruction.name;
            let given = request.instructions.iter().find(|(given, _)| given == name).map(|(_, value)| value);
            let (vector, origin, version) = match (&part.instruction.source, &part.weights, given) {
                (_, Weights::Adapter(adapter), Some(InstructionValue::Vector(vector))) => {
                    (Some(adapter.apply(vector)), Origin::Given, None)
                }
                (InstructionSource::Id { .. }, Weights::Table(table), Some(InstructionValue::Id(id))) => {
                    (table.row(*id), Origin::Given, None)
                }
                (InstructionSource::Store { size }, Weights::Adapter(adapter), None) => match looked(name) {
                    (origin, Some((version, vector))) if vector.len() == *size => {
                        (Some(adapter.apply(&vector)), origin, Some(version))
                    }
                    (_, Some((version, _))) => (None, Origin::Unusable, Some(version)),
                    (origin, None) => (None, origin, None),
                },
                (InstructionSource::Scenario { .. }, Weights::Table(table), _) => {
                    (request.scenario.and_then(|id| table.row(id)), Origin::Given, None)
                }
                (_, Weights::Fused { table, no_trigger, fusion }, _) => {
                    let scenario = request.scenario.and_then(|id| table.row(id));
                    let fused = scenario.map(|mut pair| {
                        match trigger {
                            Some(item) => pair.extend(self.item(item, catalog, manifest)),
                            None => pair.extend(no_trigger),
                        }
                        fusion.apply(&pair)
                    });
                    (fused, Origin::Given, None)
                }
                _ => (None, Origin::Missing, None),
            };
            let origin = match (&vector, origin) {
                (None, Origin::Given) => Origin::Missing,
                (_, origin) => origin,
            };
            vectors.extend(vector.as_deref().unwrap_or(&part.default));
            used.push(InstructionUsed { name: name.clone(), origin, version });
        }
        DecoderPrompt { vectors, used }
    }

    /// The decoder's inputs of a request that brings nothing, and of the `tokens` that follow: `[prefix + instructions +
    /// tokens, hidden]`.
    pub fn default_vectors(&self, tokens: &[u32]) -> Vec<f32> {
        let mut vectors = self.prefix.clone();
        self.parts.iter().for_each(|part| vectors.extend(&part.default));
        for token in tokens {
            let mut row = vec![0.0; self.hidden];
            self.embeddings.read_row(*token as usize, &mut row);
            vectors.extend(row);
        }
        vectors
    }

    /// The vector of an item: the sum of the embeddings of its semantic ID's tokens, level by level.
    fn item(&self, item: ItemIndex, catalog: &Catalog, manifest: &Manifest) -> Vec<f32> {
        let mut sid = vec![0; catalog.levels()];
        catalog.sid_of_leaf(catalog.leaf_of(item), &mut sid);
        let mut sum = vec![0.0; self.hidden];
        let mut row = vec![0.0; self.hidden];
        for (level, code) in manifest.levels().iter().zip(sid) {
            // Catalogue, manifest and vocabulary were compared at start.
            let Some(token) = level.token(code) else { continue };
            self.embeddings.read_row(token as usize, &mut row);
            sum.iter_mut().zip(&row).for_each(|(sum, value)| *sum += value);
        }
        sum
    }
}

impl Part {
    fn load(export: &Export, instruction: &Instruction, hidden: usize) -> Result<Part, ExportError> {
        let weights = export.weights();
        let vector = |part: &str| Ok::<_, ExportError>(weights.expect(&instruction.tensor(part), &[hidden])?.to_f32());
        let table = |ids: &[u32]| {
            let vectors = weights.expect(&instruction.tensor("table.weight"), &[ids.len(), hidden])?;
            let rows = ids.iter().enumerate().map(|(row, id)| (*id, row)).collect();
            Ok::<_, ExportError>(Table { rows, vectors })
        };
        let parts = match &instruction.source {
            InstructionSource::Store { size } | InstructionSource::Vector { size } => {
                Weights::Adapter(Mlp::load(export, instruction, "adapter", *size, hidden)?)
            }
            InstructionSource::Id { ids } | InstructionSource::Scenario { ids, trigger: false } => {
                Weights::Table(table(ids)?)
            }
            InstructionSource::Scenario { ids, trigger: true } => Weights::Fused {
                table: table(ids)?,
                no_trigger: vector("trigger_default")?,
                fusion: Mlp::load(export, instruction, "fusion", 2 * hidden, hidden)?,
            },
        };
        Ok(Part { instruction: instruction.clone(), default: vector("default")?, weights: parts })
    }

    fn check(&self, value: &InstructionValue) -> Result<(), String> {
        match (&self.instruction.source, value) {
            (
                InstructionSource::Store { size } | InstructionSource::Vector { size },
                InstructionValue::Vector(vector),
            ) => {
                if vector.len() != *size {
                    return Err(format!("the vector has {} elements; {size} are needed", vector.len()));
                }
                match vector.iter().position(|value| !value.is_finite()) {
                    Some(at) => Err(format!("element {at} is {}", vector[at])),
                    None => Ok(()),
                }
            }
            (InstructionSource::Id { ids }, InstructionValue::Id(id)) => match &self.weights {
                Weights::Table(table) if !table.rows.contains_key(id) => {
                    Err(format!("id {id} is not one of its {}", ids.len()))
                }
                _ => Ok(()),
            },
            (InstructionSource::Scenario { .. }, _) => Err("it follows from the request's scenario".into()),
            (_, InstructionValue::Id(id)) => Err(format!("it takes a vector, not the id {id}")),
            (_, InstructionValue::Vector(_)) => Err("it takes an id, not a vector".into()),
        }
    }
}

impl Table {
    fn row(&self, id: u32) -> Option<Vec<f32>> {
        let mut values = vec![0.0; self.vectors.cols()];
        self.vectors.read_row(*self.rows.get(&id)?, &mut values);
        Some(values)
    }
}

impl Mlp {
    /// `instructions.NAME.PART.{0,1}.{weight,bias}`; the inner width is the file's.
    fn load(
        export: &Export,
        instruction: &Instruction,
        part: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Mlp, ExportError> {
        let name = |layer: usize, what: &str| instruction.tensor(&format!("{part}.{layer}.{what}"));
        let weights = export.weights();
        let inner = weights.tensor(&name(0, "weight"))?.shape().first().copied().unwrap_or(0);
        let layer = |at, rows, cols| {
            Ok::<_, ExportError>(Layer {
                weight: weights.expect(&name(at, "weight"), &[rows, cols])?.to_f32(),
                bias: weights.expect(&name(at, "bias"), &[rows])?.to_f32(),
            })
        };
        Ok(Mlp { first: layer(0, inner, inputs)?, second: layer(1, outputs, inner)? })
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let inner: Vec<f32> =
            self.first.apply(x).into_iter().map(|value| activate(Activation::GeluErf, value)).collect();
        self.second.apply(&inner)
    }
}

impl Layer {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        // An empty inner layer gives the bias alone.
        let row = |at: usize| &self.weight[at * x.len()..][..x.len()];
        self.bias.iter().enumerate().map(|(at, bias)| bias + dot(row(at), x)).collect()
    }
}

/// In f32, in sixteen sums side by side: the compiler makes vector instructions of it.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
