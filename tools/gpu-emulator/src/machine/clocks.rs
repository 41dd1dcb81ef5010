//! Happens-before inside a block: a vector clock a warp, and inside a warp what each lane knows of the others.
//!
//! A warp's epoch grows with every block barrier and every `bar.warp.sync`. A block barrier orders whole warps, a warp barrier the
//! lanes it names. Shuffles, votes and matrix instructions order nothing: PTX promises no memory order for them.

/// Warps a block may have.
pub(crate) const MAX_WARPS: usize = 32;
/// Largest epoch that a record can hold.
pub(crate) const MAX_EPOCH: u32 = (1 << 17) - 1;

pub(crate) type Knowledge = [u32; MAX_WARPS];

/// The clocks of one warp.
#[derive(Clone, Debug)]
struct WarpClock {
    epoch: u32,
    /// For another warp: its epoch up to which this one is ordered behind it. For the own warp: the same, for all lanes.
    knows: Knowledge,
    /// What lane `i` knows of lane `j`, beyond `knows`; only once a warp barrier named fewer than all lanes.
    lanes: Option<Box<[[u32; 32]; 32]>>,
}

/// The clocks of a block.
#[derive(Clone, Debug)]
pub(crate) struct Clocks(Vec<WarpClock>);

impl Clocks {
    pub(crate) fn new(warps: usize) -> Self {
        Clocks(vec![WarpClock { epoch: 1, knows: [0; MAX_WARPS], lanes: None }; warps])
    }

    #[inline(always)]
    pub(crate) fn epoch(&self, warp: usize) -> u32 {
        self.0[warp].epoch
    }

    /// What barriers have told a warp.
    #[inline(always)]
    pub(crate) fn knows(&self, warp: usize) -> &Knowledge {
        &self.0[warp].knows
    }

    /// Whether an access by (`warp`, `lane`) at `epoch` came before what (`by`, `by_lane`) does now. `lane` none: several.
    #[inline(always)]
    pub(crate) fn ordered(&self, access: (usize, Option<usize>, u32), by: (usize, usize)) -> bool {
        let (warp, lane, epoch) = access;
        let clock = &self.0[by.0];
        if epoch <= clock.knows[warp] {
            return true;
        }
        if warp != by.0 {
            return false;
        }
        match (lane, &clock.lanes) {
            (Some(lane), _) if lane == by.1 => true,
            (Some(lane), Some(lanes)) => epoch <= lanes[by.1][lane],
            _ => false,
        }
    }

    /// What a warp knows, its own accesses so far included: what a barrier passes on.
    pub(crate) fn publish(&mut self, warp: usize) -> Knowledge {
        let clock = &mut self.0[warp];
        let mut knows = clock.knows;
        knows[warp] = clock.epoch;
        clock.epoch += 1;
        knows
    }

    /// Takes over what a barrier brought together.
    pub(crate) fn acquire(&mut self, warp: usize, joined: &Knowledge) {
        let clock = &mut self.0[warp];
        for (mine, other) in clock.knows.iter_mut().zip(joined) {
            *mine = (*mine).max(*other);
        }
    }

    /// `bar.warp.sync` of these lanes; `live` are all that have not exited.
    pub(crate) fn sync_lanes(&mut self, warp: usize, members: u32, live: u32) {
        let clock = &mut self.0[warp];
        let epoch = clock.epoch;
        clock.epoch += 1;
        if members & live == live {
            clock.knows[warp] = epoch;
            return;
        }
        let lanes = clock.lanes.get_or_insert_with(|| Box::new([[0; 32]; 32]));
        let mut joined = [0; 32];
        for lane in super::registers::lanes(members) {
            joined[lane] = epoch;
            for (mine, other) in joined.iter_mut().zip(&lanes[lane]) {
                *mine = (*mine).max(*other);
            }
        }
        for lane in super::registers::lanes(members) {
            lanes[lane] = joined;
        }
    }

    /// Whether some epoch is about to outgrow its record.
    pub(crate) fn is_worn(&self) -> bool {
        self.0.iter().any(|clock| clock.epoch >= MAX_EPOCH - 1)
    }
}
