//! How long the device took, told by its own marks: what the cost model learns from.
//!
//! The thread that enqueues is done long before the device is. So each launch of a prefill batch or a cohort is enclosed in
//! marks, and its time is known once the device has passed them.

use std::time::Duration;

use super::Core;
use crate::device::{Device, DeviceError, Mark, Queue};

/// What a finished timing teaches.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lesson {
    /// A prefill batch of this many tokens.
    Prefill(usize),
    /// A search over this many beam rows.
    Search(usize),
    /// It was given up: nothing.
    Nothing,
}

/// The launches of one batch or cohort.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// Launches whose time is not known yet, in order.
    open: Vec<(Mark, Mark)>,
    /// Of those that are.
    spent: Duration,
}

impl Timing {
    /// Encloses what `enqueue` enqueues on `queue`.
    pub fn enclose(
        &mut self,
        device: &mut dyn Device,
        queue: Queue,
        enqueue: impl FnOnce(&mut dyn Device) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let from = device.mark(queue)?;
        enqueue(device)?;
        let to = device.mark(queue)?;
        self.open.push((from, to));
        Ok(())
    }

    /// The whole time, once it is known.
    fn settle(&mut self, device: &mut dyn Device) -> Result<Option<Duration>, DeviceError> {
        while let Some(&(from, to)) = self.open.first() {
            let Some(spent) = device.between(from, to)? else { return Ok(None) };
            self.spent += spent;
            self.open.remove(0);
        }
        Ok(Some(self.spent))
    }
}

impl Core {
    /// Learns from timings that have become known.
    pub(super) fn learn(&mut self) {
        let Some(hardware) = &mut self.hardware else { return };
        let device = hardware.device.as_mut();
        let cost = &mut self.cost;
        self.timings.retain_mut(|(timing, lesson)| {
            // An error here is of the device's and will meet whoever launches next.
            let Ok(Some(spent)) = timing.settle(device) else { return true };
            match *lesson {
                Lesson::Prefill(tokens) => cost.observe_prefill(spent, tokens),
                Lesson::Search(rows) => cost.observe_search(spent, rows),
                Lesson::Nothing => {}
            }
            false
        });
    }
}
