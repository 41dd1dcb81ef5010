//! Pinned staging for descriptors: written by the host, copied in queue order, reused when its copy has run.

use std::sync::Arc;

use super::driver::{Driver, Marker, Pinned, failed};
use crate::device::{DeviceError, Queue};

/// A ring of pinned buffers of one size.
pub(super) struct Staging {
    driver: Arc<Driver>,
    entries: Vec<(Pinned, Marker)>,
    next: usize,
}

impl Staging {
    /// `entries` buffers of `words` words.
    pub(super) fn plan(driver: &Arc<Driver>, entries: usize, words: usize) -> Result<Staging, DeviceError> {
        let marker = || driver.marker().map_err(|error| failed("pin", error));
        let entry = || Ok((driver.pin("descriptors", words)?, marker()?));
        let entries = (0..entries).map(|_| entry()).collect::<Result<_, _>>()?;
        Ok(Staging { driver: Arc::clone(driver), entries, next: 0 })
    }

    /// Lets `fill` write into a buffer and say how many words it used, then enqueues their copy to `address`. Waits only when
    /// every buffer's copy is still outstanding.
    pub(super) fn send(
        &mut self,
        queue: Queue,
        address: u64,
        fill: impl FnOnce(&mut [u32]) -> usize,
    ) -> Result<(), DeviceError> {
        let index = self.next;
        self.next = (index + 1) % self.entries.len();
        let (buffer, marker) = &mut self.entries[index];
        let send = || {
            self.driver.wait(marker)?;
            let words = fill(buffer);
            // SAFETY: the buffer is written again only after its marker has passed, and it is freed only after the memory
            // plan, whose drop drains the queues.
            unsafe { self.driver.enqueue_write(queue, address, &buffer[..words]) }?;
            self.driver.mark(queue, marker)
        };
        send().map_err(|error| failed("stage", error))
    }
}
