//! Input vectors beside the tokens of a lane: staged by the host, copied in queue order, read by `embed_dense`.

use std::sync::Arc;

use super::driver::Driver;
use super::lanes::STAGED_BATCHES;
use super::memory::{Memory, Purpose};
use super::staging::Staging;
use crate::device::{DeviceError, Queue};

/// Room for a vector a row. What is written lies densely, `[rows, columns written]`, so that a write is one copy.
pub(super) struct Dense {
    /// Elements of the widest vector.
    pub(super) cols: usize,
    pub(super) address: u64, // f32[rows * cols]
    /// Values of the lane's batch that were written.
    pub(super) written: usize,
    staging: Staging,
}

impl Dense {
    /// Room for `rows` vectors of `cols` elements.
    pub(super) fn plan(
        driver: &Arc<Driver>,
        memory: &mut Memory,
        (rows, cols): (usize, usize),
    ) -> Result<Dense, DeviceError> {
        let what = format!("input vectors of {rows} rows, {cols} columns");
        let address = memory.zeroed(Purpose::Workspace, what, rows * cols * size_of::<f32>())?;
        Ok(Dense { cols, address, written: 0, staging: Staging::plan(driver, STAGED_BATCHES, rows * cols)? })
    }

    /// Enqueues the copy of a batch's vectors, which are known to fit.
    pub(super) fn write(&mut self, queue: Queue, values: &[f32]) -> Result<(), DeviceError> {
        self.staging.send(queue, self.address, |words| {
            words[..values.len()].copy_from_slice(bytemuck::cast_slice(values));
            values.len()
        })?;
        self.written = values.len();
        Ok(())
    }

    /// Another batch is in the lane: these are not its vectors.
    pub(super) fn forget(&mut self) {
        self.written = 0;
    }
}
