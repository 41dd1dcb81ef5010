//! A lost device: opened again once, and everything that was on it done again.
//!
//! The requests of the batch that met the error are refused. All others lost their KV, not their callers' patience: they keep
//! slots and pages and start over with their prefill. A loss within [`APART`] of that, or a device that does not open again,
//! ends the engine's work: everybody is refused with the reason, newcomers too, and whoever serves is told by
//! [`Stats::given_up`](crate::schedule::stats::Stats::given_up).

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Core;
use crate::request::RefusalKind;

/// A device that does not last this long is not bad luck.
const APART: Duration = Duration::from_secs(60);

/// What requests are told when there is no device any more.
pub(super) const GIVEN_UP: &str = "the device was lost and could not be brought back; the server is going down";

impl Core {
    /// Opens the device again, or gives up.
    pub(super) fn recover(&mut self) {
        let now = self.now();
        let too_soon = self.back_at.is_some_and(|before| now - before < APART);
        self.start_over();
        // Who opens a device at this moment fails soon, or hands it over; it is of no use, and keeps the card's broken context.
        let opening = Arc::clone(&self.opening);
        let _opening = opening.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget_opened();
        // The old device goes first: both would not fit.
        self.hardware = None;
        if too_soon {
            tracing::error!("the device was lost again within {} s", APART.as_secs());
            return self.give_up();
        }
        self.stats.reopening.store(true, Ordering::Release);
        match (self.reopen)() {
            Ok(hardware) => {
                tracing::warn!(restarted = self.prefilling.len(), "the device was lost and is open again");
                self.hardware = Some(hardware);
                // Not since the loss: opening a large model may itself take longer than that.
                self.back_at = Some(self.now());
                self.stats.device_losses.fetch_add(1, Ordering::Relaxed);
                self.stats.reopening.store(false, Ordering::Release);
            }
            Err(error) => {
                tracing::error!(%error, "the device was lost and does not open again");
                self.give_up();
            }
        }
    }

    /// Puts everybody who holds a slot back to the beginning of their prefill.
    fn start_over(&mut self) {
        self.prefill = None;
        self.timings.clear();
        self.masks.forget();
        for lane in 0..self.searches.len() {
            if let Some(search) = self.searches[lane].take() {
                search.return_bans(self);
            }
        }
        self.ready.clear();
        self.prefilling.clear();
        for (slot, running) in (0..).zip(&mut self.slots) {
            if let Some(running) = running {
                running.prefilled = 0;
                // It waits again; what follows begins where its last finished stage ended.
                running.marks.queue += std::mem::take(&mut running.marks.prefill);
                self.prefilling.push(slot);
            }
        }
    }

    pub(super) fn give_up(&mut self) {
        self.stats.given_up.store(true, Ordering::Release);
        for slot in std::mem::take(&mut self.prefilling) {
            self.release(slot).ticket.refuse(RefusalKind::DeviceFailed, GIVEN_UP);
        }
        for newcomer in std::mem::take(&mut self.waiting).into_values() {
            newcomer.ticket.refuse(RefusalKind::DeviceFailed, GIVEN_UP);
        }
    }
}
