//! The wire protocol: byte-level vectors, properties of the codec, and the server over real sockets with a pretend engine.
//!
//! After a deliberate change of the format: `SIDEREAL_WRITE_VECTORS=1 cargo test --test protocol` rewrites
//! `tests/wire/vectors`; without the variable the same test proves that the committed files are current.
//! Round-trip times: `cargo bench --bench protocol`.

#[path = "wire/fake.rs"]
mod fake;
#[path = "wire/hostile.rs"]
mod hostile;
#[path = "wire/lifecycle.rs"]
mod lifecycle;
#[path = "wire/properties.rs"]
mod properties;
#[path = "wire/python.rs"]
mod python;
#[path = "wire/requests.rs"]
mod requests;
#[path = "wire/vectors.rs"]
mod vectors;
