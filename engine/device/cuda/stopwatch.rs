//! Times what a queue runs, by the card's own clock: for benchmarks, never while serving.
//!
//! What is timed is recorded once and replayed, as a step is while serving, so that a figure holds the kernels and the gaps
//! between them, and no call of the host's. Lanes that are timed together are on one queue.

use std::time::Duration;

use cudarc::driver::DriverError;

use super::driver::failed;
use super::memory::Purpose;
use super::{CudaDevice, Driver, Queue};
use crate::device::{Device, DeviceError};

/// How often something is timed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Which queue what is timed runs on.
    pub queue: Queue,
    /// Replays that are run and not counted.
    pub warm_ups: usize,
    /// Replays that are counted.
    pub replays: usize,
    /// Bytes that the card zeroes before each replay. While it is at that the host enqueues the replay, which else would wait
    /// for the host within the time that is measured.
    pub ballast_bytes: usize,
}

/// What is enqueued.
pub type Enqueue<'a> = dyn FnMut(&mut dyn Device) -> Result<(), DeviceError> + 'a;

impl CudaDevice {
    /// Time that each counted replay of `body` took on its queue. `prepare` is enqueued before every replay, and
    /// not timed: it brings back what `body` changes, such as a cohort's state.
    ///
    /// # Errors
    /// What `prepare` and `body` answer, or a lost device.
    pub fn time_replays(
        &mut self,
        timing: Timing,
        prepare: &mut Enqueue<'_>,
        body: &mut Enqueue<'_>,
    ) -> Result<Vec<Duration>, DeviceError> {
        let lost = |error| failed("time_replays", error);
        let ballast = self.ballast(timing.ballast_bytes)?;
        prepare(self)?;
        self.driver.begin_recording(timing.queue).map_err(lost)?;
        let outcome = body(self);
        let recording = self.driver.end_recording(timing.queue);
        outcome?;
        let Some(recording) = recording.map_err(lost)? else { return Ok(vec![Duration::ZERO; timing.replays]) };
        let replay = |driver: &Driver| -> Result<Duration, DriverError> {
            driver.zero(timing.queue, ballast, timing.ballast_bytes.max(1))?;
            let begun = driver.stamp(timing.queue, None)?;
            driver.replay(&recording)?;
            let ended = driver.stamp(timing.queue, None)?;
            driver.drain()?;
            Ok(driver.elapsed(&begun, &ended)?.unwrap_or_default())
        };
        let mut times = Vec::with_capacity(timing.replays);
        for index in 0..timing.warm_ups + timing.replays {
            if index > 0 {
                prepare(self)?;
            }
            let time = replay(&self.driver).map_err(lost)?;
            if index >= timing.warm_ups {
                times.push(time);
            }
        }
        Ok(times)
    }

    /// Memory to zero: planned at the first call.
    fn ballast(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        match self.ballast {
            Some((address, planned)) if planned >= bytes => Ok(address),
            _ => {
                let address = self.memory.zeroed(Purpose::Workspace, "stopwatch".to_owned(), bytes)?;
                self.ballast = Some((address, bytes));
                Ok(address)
            }
        }
    }
}
