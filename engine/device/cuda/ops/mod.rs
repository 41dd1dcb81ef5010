//! One file an operation: which kernels it has, how its launch is shaped, what its parameters hold.
//!
//! A launcher checks handles and shapes (a wrong one is a bug in a model file and panics with the operation's name) and
//! enqueues; it computes nothing and waits for nothing.

mod add_positions;
mod beam_attention;
mod beam_state;
mod copy_rows;
mod embed;
mod embed_dense;
mod expand_select;
pub(super) mod head;
mod history_attention;
pub(super) mod linear;
mod linear_plain;
mod norm;
mod params;
mod product;
mod write_kv;

use std::path::Path;

use super::driver::{Driver, Kernel};
use super::images;
use super::load::Loader;
use crate::device::{DeviceError, Dtype};

pub(super) use beam_attention::split_bucket;

/// Memory between an operation's kernels, planned with the lanes and weights that decide its size.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) beam_attention: beam_attention::Scratch,
    expand: expand_select::Scratch,
    head: head::Scratch,
}

/// Every operation's kernels for a compute type.
fn kernels(compute: Dtype) -> Vec<Kernel> {
    [
        &add_positions::KERNELS[..],
        &beam_attention::kernels(compute),
        &beam_state::KERNELS,
        &copy_rows::KERNELS,
        &embed::KERNELS,
        &embed_dense::KERNELS,
        &expand_select::KERNELS,
        &head::kernels(compute),
        &history_attention::kernels(compute),
        &linear::kernels(compute),
        &linear_plain::KERNELS,
        &norm::KERNELS,
        &write_kv::kernels(compute),
    ]
    .concat()
}

/// Loads the modules that hold the kernels for `compute`, each once.
pub(super) fn load_kernels(driver: &mut Driver, compute: Dtype, cache: &Path) -> Result<(), DeviceError> {
    let loader = Loader::new(driver.facts().card, cache.to_owned());
    let mut kernels = kernels(compute);
    kernels.sort_by_key(|kernel| kernel.module);
    for kernels in kernels.chunk_by(|a, b| a.module == b.module) {
        let name = kernels[0].module;
        let module = images::module(name).unwrap_or_else(|| panic!("no file kernels/{name}.cu"));
        let loaded = loader.load(module, |image| driver.load(&image.bytes));
        let loaded = loaded.map_err(|error| DeviceError::Unavailable(error.to_string()))?;
        for kernel in kernels {
            driver.add_kernel(&loaded, kernel)?;
        }
    }
    Ok(())
}
