//! Which mask is in which of the device's slots.
//!
//! A mask never changes, so a slot is a cache of one: it keeps its mask until another one needs the place. What a search reads
//! stays where it is until the search has been read or given up; so a request sees the one set of items that it was resolved
//! with, whatever is delisted meanwhile.

use std::sync::Arc;

use crate::catalog::NodeMask;

/// Where a mask is or may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is there.
    Held(u32),
    /// Nobody reads what is there.
    Free(u32),
}

/// The slots' contents.
pub(super) struct MaskSlots {
    held: Vec<Option<Arc<NodeMask>>>,
    used: Vec<u64>, // [slots] when each was last asked for
    asked: u64,
}

impl MaskSlots {
    /// Slots of a device that holds nothing yet.
    pub fn new(slots: usize) -> MaskSlots {
        MaskSlots { held: vec![None; slots], used: vec![0; slots], asked: 0 }
    }

    /// A slot for `mask`, not one of those in `busy` unless it is there already: the one that was not needed for longest.
    /// `None` while all are busy with others.
    pub fn find(&mut self, mask: &Arc<NodeMask>, busy: impl Fn(u32) -> bool) -> Option<Place> {
        self.asked += 1;
        let is_it = |held: &Option<Arc<NodeMask>>| held.as_ref().is_some_and(|held| Arc::ptr_eq(held, mask));
        let place = match self.held.iter().position(is_it) {
            Some(slot) => Place::Held(slot as u32),
            None => {
                let free = (0..self.held.len()).filter(|&slot| !busy(slot as u32));
                Place::Free(free.min_by_key(|&slot| self.used[slot])? as u32)
            }
        };
        let (Place::Held(slot) | Place::Free(slot)) = place;
        self.used[slot as usize] = self.asked;
        Some(place)
    }

    /// Notes that a mask was written to a slot.
    pub fn put(&mut self, slot: u32, mask: Arc<NodeMask>) {
        self.held[slot as usize] = Some(mask);
    }

    /// Nothing is held any more: the device is a new one, or a write did not succeed.
    pub fn forget(&mut self) {
        self.held.fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::core::simulation::fakes::export;

    #[test]
    fn a_slot_keeps_its_mask_while_it_is_read_and_as_long_as_nobody_needs_the_place() {
        let catalog = &export(0).1;
        let [a, b, c] = [(); 3].map(|()| Arc::new(NodeMask::none(catalog)));
        let mut slots = MaskSlots::new(2);
        let put = |slots: &mut MaskSlots, mask: &Arc<NodeMask>, busy: &[u32]| {
            let place = slots.find(mask, |slot| busy.contains(&slot));
            if let Some(Place::Free(slot)) = place {
                slots.put(slot, Arc::clone(mask));
            }
            place
        };
        assert_eq!(put(&mut slots, &a, &[]), Some(Place::Free(0)));
        assert_eq!(put(&mut slots, &b, &[]), Some(Place::Free(1)));
        assert_eq!(put(&mut slots, &a, &[0, 1]), Some(Place::Held(0)));
        assert_eq!(put(&mut slots, &c, &[0, 1]), None);
        assert_eq!(put(&mut slots, &c, &[]), Some(Place::Free(1)), "b was not needed for longest");
        assert_eq!(put(&mut slots, &b, &[1]), Some(Place::Free(0)));
        slots.forget();
        assert!(matches!(put(&mut slots, &b, &[]), Some(Place::Free(_))));
    }
}
