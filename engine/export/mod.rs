//! An export on disk: configuration, manifest, mapped weights.

mod tensor;

pub use tensor::{TensorView, WeightDtype};
