//! Placeholder until the commands are there.
mod card; mod emulated; mod error; mod probe; mod random;
fn main() {}
