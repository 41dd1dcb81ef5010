//! The card by the driver's own calls, for what the engine's device does not do: probes, ceilings, facts.

use std::collections::BTreeMap;

use sidereal::device::cuda;
use sidereal::device::cuda::images::{self, Card as Capabilities};
use sidereal_card::{Attribute, Function, Shape};

use crate::error::{CheckError, calling};
use crate::probe::images as probe_images;
use crate::probe::{Launch, Machine};

/// A card.
pub struct Card {
    card: sidereal_card::Card,
    functions: BTreeMap<(&'static str, &'static str), Function>,
    /// What images have to suit.
    pub capabilities: Capabilities,
    /// Its name.
    pub name: String,
}

impl Card {
    /// Opens card 0.
    pub fn open() -> Result<Card, CheckError> {
        cuda::cards().map_err(|error| CheckError::NoCard(error.to_string()))?;
        let card = sidereal_card::Card::open().map_err(calling("open card 0"))?;
        let capabilities = Capabilities { capability: card.capability, driver: card.driver };
        Ok(Card { name: card.name.clone(), card, functions: BTreeMap::new(), capabilities })
    }

    /// An attribute, where the driver knows it.
    pub fn attribute(&self, which: Attribute) -> Option<i32> {
        self.card.attribute(which)
    }

    /// (free, total) bytes.
    pub fn memory(&self) -> Option<(usize, usize)> {
        self.card.memory()
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_or(1, i32::unsigned_abs)
    }

    fn function(&mut self, launch: &Launch) -> Result<Function, CheckError> {
        let key = (launch.module, launch.kernel);
        if let Some(function) = self.functions.get(&key) {
            return Ok(function.clone());
        }
        let module = probe_images::module(launch.module)?;
        let mut refusals = Vec::new();
        for image in images::choose(module.images, self.capabilities) {
            match self.card.load(&image.bytes, launch.kernel, launch.shared) {
                Ok(function) => return Ok(self.functions.entry(key).or_insert(function).clone()),
                Err(error) => refusals.push(format!("{}: {error:?}", image.target)),
            }
        }
        let (name, refusals) = (module.name, refusals.join("; "));
        Err(CheckError::Missing(format!("probes/{name}.cu: no image suits the card ({refusals})")))
    }

    /// Times a kernel that reads and writes nothing but a little scratch, in milliseconds.
    pub fn time_kernel(&mut self, launch: &Launch, repeats: usize) -> Result<Vec<f32>, CheckError> {
        let function = self.function(launch)?;
        self.card.time_kernel(&function, shape(launch), repeats).map_err(calling(launch.kernel))
    }

    /// Times a copy of `bytes` from one place of the card to another.
    pub fn time_copy(&mut self, bytes: usize, repeats: usize) -> Result<Vec<f32>, CheckError> {
        self.card.time_copy(bytes, repeats).map_err(calling("copy on the card"))
    }
}

fn shape(launch: &Launch) -> Shape {
    let Launch { blocks, threads, shared, count, .. } = *launch;
    Shape { blocks, threads, shared, count }
}

impl Machine for Card {
    fn run(&mut self, launch: &Launch, input: &[u8], output_bytes: usize) -> Result<Vec<u8>, CheckError> {
        let function = self.function(launch)?;
        self.card.run(&function, shape(launch), input, output_bytes).map_err(calling(launch.kernel))
    }
}
