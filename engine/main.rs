//! The `sidereal` binary.

fn main() {}
