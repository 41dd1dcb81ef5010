//! Sidereal: serves generative recommenders. A long user history goes in, semantic IDs of real items come out.
//!
//! `ARCHITECTURE.md` has the bird's eye view, the code map and the invariants. Dependencies point one way:
//! `cli, bench, serve -> schedule -> model, search, kv -> device -> sidereal-ffi`; `request`, `sampling`, `catalog` and
//! `export` depend on nothing above them.

pub mod bench;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod device;
pub mod export;
pub mod inspect;
pub mod kv;
pub mod model;
pub mod request;
pub mod sampling;
pub mod schedule;
pub mod search;
pub mod serve;
pub mod store;
