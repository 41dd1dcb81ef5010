//! Exports with seeded random weights, made where they are needed: a model of any size weighs nothing on the way there.
//!
//! An export made here is one like any other (docs/export-format.md). The weights say nothing; their scale is that of a model
//! before training, so that activations and scores stay within what trained ones have.

mod shapes;
mod weights;

use std::path::Path;

use serde_json::{Value, json};
use sidereal::catalog::{Catalog, CatalogBuilder, NewItem};

pub use shapes::{Layout, qwen3, t5};

use crate::error::{CheckError, at};
use crate::random::Random;

/// How a tensor's values are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// All 1.
    Ones,
    /// Uniform around 0, with this standard deviation.
    Uniform(f32),
}

/// A tensor to be made.
#[derive(Clone, Debug)]
pub struct NewTensor {
    /// Name.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Values.
    pub fill: Fill,
}

/// A model to be made.
#[derive(Clone, Debug)]
pub struct Model {
    /// `config.json`.
    pub config: Value,
    /// All tensors, in the file's order.
    pub tensors: Vec<NewTensor>,
    /// Token ids that a prompt may hold, apart from semantic IDs: `0 .. first_code`.
    pub first_code: usize,
    /// Whether there is an encoder.
    pub is_encoder_decoder: bool,
}

/// Semantic IDs of three levels.
#[derive(Clone, Copy, Debug)]
pub struct Items {
    /// Codes of each level.
    pub codes: usize,
    /// Items; each draws its semantic ID at random.
    pub count: usize,
}

/// Levels of every semantic ID here.
pub const LEVELS: usize = 3;

/// Writes an export into an empty or absent folder.
pub fn write(folder: &Path, model: &Model, items: Items) -> Result<(), CheckError> {
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    weights::write(&folder.join("model.safetensors"), &model.tensors)?;
    builder(items)?.write(&folder.join("catalog.sid"))?;
    let levels: Vec<Value> = (0..LEVELS)
        .map(|level| json!({ "codes": items.codes, "tokens": { "first": model.first_code + level * items.codes } }))
        .collect();
    let mut manifest = json!({
        "sidereal": 1,
        "name": "seeded",
        "version": "1",
        "sid": { "levels": levels },
        "score": "full_then_mask",
    });
    if model.is_encoder_decoder {
        manifest["decoder_prefix"] = json!([0]);
    }
    for (name, value) in [("config.json", &model.config), ("sidereal.json", &manifest)] {
        let path = folder.join(name);
        std::fs::write(&path, format!("{value:#}\n")).map_err(at(&path))?;
    }
    Ok(())
}

/// A catalogue in memory.
pub fn catalog(items: Items) -> Result<Catalog, CheckError> {
    Ok(builder(items)?.finish()?)
}

fn builder(items: Items) -> Result<CatalogBuilder, CheckError> {
    let mut builder = CatalogBuilder::new(&[items.codes as u32; LEVELS])?;
    builder.set_version("seeded")?;
    builder.reserve(items.count);
    let mut random = Random::new(77);
    for id in 0..items.count as u64 {
        let sid: [u16; LEVELS] = std::array::from_fn(|_| random.below(items.codes as u64) as u16);
        builder.add(NewItem { id, sid: &sid, ..NewItem::default() })?;
    }
    Ok(builder)
}

/// A prompt of `tokens` tokens: semantic IDs of random items.
pub fn prompt(model: &Model, items: Items, tokens: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    let code = |level: usize, random: &mut Random| {
        (model.first_code + level * items.codes) as u32 + random.below(items.codes as u64) as u32
    };
    (0..tokens).map(|place| code(place % LEVELS, &mut random)).collect()
}

#[cfg(test)]
mod tests {
    use sidereal::export::Export;
    use sidereal::request::{History, Request};
    use sidereal::schedule::{DeviceChoice, DeviceKind, Engine, EngineConfig, Limits};

    use super::*;

    const ITEMS: Items = Items { codes: 16, count: 200 };

    fn models() -> [Model; 2] {
        let layout =
            Layout { hidden: 32, heads: 2, kv_heads: 1, head_dim: 16, inner: 48, layers: 2, vocabulary: 32, codes: 48 };
        [qwen3(layout), t5(layout)]
    }

    #[test]
    fn an_export_made_here_is_served_on_the_cpu() {
        for model in models() {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &model, ITEMS).unwrap();
            let limits = Limits { max_prompt_tokens: 64, max_cohort_rows: 16, max_beams: 16, ..Limits::default() };
            let device = DeviceChoice { kind: DeviceKind::Cpu, threads: Some(1), ..DeviceChoice::default() };
            let engine = Engine::start(&EngineConfig { device, limits, ..EngineConfig::new(folder.path()) }).unwrap();
            let answer =
                engine.recommend(Request::new(1, History::Tokens(prompt(&model, ITEMS, 30, 5)), 8, 8)).unwrap();
            assert_eq!(answer.results.len(), 8);
            assert!(answer.results.iter().all(|result| result.score.is_finite()));
            assert!(answer.results.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
    }

    #[test]
    fn every_tensor_that_the_family_wants_is_there() {
        for model in models() {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &model, ITEMS).unwrap();
            let export = Export::open(folder.path()).unwrap();
            let description = sidereal::model::family(export.checkpoint()).unwrap().description(&export).unwrap();
            for tensor in &description.tensors {
                export.weights().expect(&tensor.name, &tensor.shape).unwrap();
            }
            assert_eq!(
                description.tensors.len(),
                export.weights().names().count(),
                "nothing is there that is not read"
            );
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_file() {
        let [model, _] = models();
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [a, b] = folders.map(|folder| {
            write(folder.path(), &model, ITEMS).unwrap();
            std::fs::read(folder.path().join("model.safetensors")).unwrap()
        });
        assert!(a == b && a.len() > 10_000);
    }
}
