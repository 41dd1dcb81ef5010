//! The engine behind a server: what joins `schedule` and `serve`, which do not know each other.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::request::{Answer, Request};
use crate::schedule::Engine;
use crate::serve::{ServerFacts, Service};

/// An engine, answering for a server.
pub struct EngineService(pub Arc<Engine>);

impl Service for EngineService {
    fn submit(
        &self,
        request: Request,
        arrived: Instant,
        cancel: Arc<AtomicBool>,
        done: Box<dyn FnOnce(Answer) + Send>,
    ) {
        self.0.submit(request, arrived, cancel, done);
    }

    fn stats(&self) -> String {
        self.0.stats().to_string()
    }

    fn facts(&self) -> ServerFacts {
        let facts = self.0.facts();
        let catalog = self.0.catalog();
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
