//! Limits, admission, batches and the engine loop.
//!
//! A request passes three threads: the caller's (checked at the door), the host thread (resolved, and later expanded into
//! a reply), and the engine thread in between, which owns all device state. They meet in bounded queues.

mod answer;
mod blueprint;
mod bring_up;
mod core;
mod cost;
mod engine;
mod histogram;
mod host;
mod instructions;
mod limits;
mod load;
mod replace;
mod resolve;
mod scenarios;
mod snapshots;
mod stats;
mod teacher;
mod text;
mod ticket;

pub(crate) use blueprint::Blueprint;
pub(crate) use core::Hardware;
pub use engine::{Engine, EngineConfig, Sidecars};
pub use histogram::HistogramSnapshot;
pub(crate) use instructions::Instructions;
pub use limits::Limits;
pub use load::{DeviceChoice, DeviceKind, LoadError, catalog_folder, open_catalog};
pub use replace::{ReplaceError, Replacement, Stage, WeightsStatus};
pub use stats::EngineCounts;
pub use teacher::Teacher;
pub use ticket::Done;

use crate::request::Provenance;

/// What an engine serves, and on what.
#[derive(Clone, Debug)]
pub struct EngineFacts {
    /// Model, catalogue, device and type.
    pub provenance: Provenance,
    /// Compute threads.
    pub threads: usize,
    /// Levels of a semantic ID.
    pub levels: usize,
    /// Items of the catalogue.
    pub items: usize,
    /// Widest beam served.
    pub max_beams: usize,
    /// Longest prompt served.
    pub max_prompt_tokens: usize,
}
