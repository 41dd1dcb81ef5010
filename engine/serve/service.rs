//! The engine behind a server: the one place where `serve` meets `schedule`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::{ServerFacts, Service};
use crate::request::{Answer, Request};
use crate::schedule::{Engine, EngineCounts, ReplaceError, WeightsStatus};

impl Service for Engine {
    fn submit(
        &self,
        request: Request,
        arrived: Instant,
        cancel: Arc<AtomicBool>,
        done: Box<dyn FnOnce(Answer) + Send>,
    ) {
        Engine::submit(self, request, arrived, cancel, done);
    }

    fn stats(&self) -> String {
        Engine::stats(self).to_string()
    }

    fn counts(&self) -> EngineCounts {
        Engine::counts(self)
    }

    fn replace_weights(&self, path: &Path, version: &str) -> Result<u64, ReplaceError> {
        Engine::replace_weights(self, path, version)
    }

    fn weights(&self) -> WeightsStatus {
        Engine::weights(self)
    }

    fn facts(&self) -> ServerFacts {
        let facts = Engine::facts(self);
        let catalog = self.catalog();
        // Limits were checked to fit 32 bits when the engine started.
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        ServerFacts {
            model: facts.provenance.model.clone(),
            catalog: facts.provenance.catalog.clone(),
            device: facts.provenance.device.clone(),
            dtype: facts.provenance.dtype.clone(),
            levels: (0..catalog.levels()).map(|level| catalog.codes(level)).collect(),
            max_beams: narrow(facts.max_beams),
            max_prompt_tokens: narrow(facts.max_prompt_tokens),
        }
    }
}
