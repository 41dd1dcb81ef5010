//! Other weights, while requests are served.
//!
//! Who prepares them ([`crate::schedule::replace`]) sends a [`Swap`], mostly with a second device that the model is on
//! already. From then on nobody gets a slot; those who have one are served to their end by the weights that they began with;
//! then the new device takes the place of the old. Whoever waited goes on to the new one. Nothing that was computed with the
//! old weights outlives them: history KV is that of requests with a slot, and there is none.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::recovery::GIVEN_UP;
use super::{Core, Hardware, Reopen};
use crate::request::Policy;
use crate::schedule::load::LoadError;

/// Weights that are to take the place of those that serve.
pub(in crate::schedule) struct Swap {
    pub policy: Policy,
    /// A device that holds them, beside the one that serves; without it, the old device goes before the new one is opened.
    pub hardware: Option<Hardware>,
    /// Opens a device with them.
    pub reopen: Reopen,
    /// Whom to tell.
    pub told: Sender<Swapped>,
}

/// What became of a swap.
pub(in crate::schedule) struct Swapped {
    /// What is of no use any more, to be dropped where nobody waits for it: the device and the mapped weights of the side
    /// that does not serve.
    pub leftover: (Option<Hardware>, Reopen),
    /// How long nobody got a slot: from when the swap was seen to when it was done.
    pub pause: Duration,
    /// Why the old weights serve on, if they do.
    pub outcome: Result<(), LoadError>,
}

/// A swap that waits for those with a slot.
pub(super) struct Pending {
    swap: Swap,
    since: Instant,
}

/// Held by whoever opens a device on another thread: a lost one is not opened again while that lasts. A card's context is
/// the process's, and must be let go by everybody before it can be had anew.
pub(in crate::schedule) type Opening = Arc<Mutex<()>>;

impl Core {
    /// From now on nobody is admitted until `swap` is done.
    pub(super) fn expect_swap(&mut self, swap: Swap) {
        assert!(self.swap.is_none(), "one replacement at a time");
        self.swap = Some(Pending { swap, since: self.now() });
    }

    fn receive_swap(&mut self) {
        if self.swap.is_none()
            && let Ok(swap) = self.swaps.try_recv()
        {
            self.expect_swap(swap);
        }
    }

    /// Takes in a swap, and does it once nobody has a slot.
    pub(super) fn replace_weights(&mut self) {
        self.receive_swap();
        if self.free_slots.len() < self.slots.len() {
            return;
        }
        let Some(Pending { swap, since }) = self.swap.take() else { return };
        assert!(
            self.prefill.is_none() && self.searches.iter().all(Option::is_none),
            "who has no slot computes nothing"
        );
        let Swap { policy, hardware, mut reopen, told } = swap;
        let (hardware, outcome) = match hardware {
            hardware if self.hardware.is_none() => (hardware, Err(LoadError::Unsupported(GIVEN_UP.into()))),
            Some(hardware) => (self.hardware.replace(hardware), Ok(())),
            None => (None, self.open_in_place(&mut reopen)),
        };
        if outcome.is_ok() {
            std::mem::swap(&mut self.reopen, &mut reopen);
            self.policy = Arc::new(policy);
            // What was known of the device was of the old one. Costs are those of the shapes, which are the same.
            self.timings.clear();
            self.masks.forget();
        }
        // Who asked may be gone; what was done is done.
        drop(told.send(Swapped { leftover: (hardware, reopen), pause: self.now() - since, outcome }));
    }

    /// Opens the device with other weights after the old one has gone, or else with the old ones again.
    fn open_in_place(&mut self, reopen: &mut Reopen) -> Result<(), LoadError> {
        self.hardware = None;
        self.stats.reopening.store(true, Ordering::Release);
        let outcome = reopen().map(|hardware| self.hardware = Some(hardware));
        if outcome.is_err() {
            self.timings.clear();
            self.masks.forget();
            match (self.reopen)() {
                Ok(hardware) => self.hardware = Some(hardware),
                Err(error) => {
                    tracing::error!(%error, "neither the new weights nor the old can be brought to the device");
                    self.give_up();
                }
            }
        }
        self.stats.reopening.store(self.hardware.is_none(), Ordering::Release);
        outcome
    }

    /// The device was lost: what was opened beside it is lost as well, and is opened when its turn has come.
    pub(super) fn forget_opened(&mut self) {
        self.receive_swap();
        if let Some(pending) = &mut self.swap {
            pending.swap.hardware = None;
        }
    }
}
