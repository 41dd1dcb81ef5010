//! Faults on demand: `GPU_EMULATOR_FAIL="launch:120, alloc:3, htod:7*, graph:5!"`.
//!
//! Each entry names a kind of call and which one of them, counted from 1 over the whole process, fails. `*` means that one and all
//! after it. As on hardware an asynchronous call reports nothing itself: its error appears when the work runs. `!` makes the call
//! answer the error at once, which a real driver may also do.

use thiserror::Error;

/// The calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Kernel launches outside a capture.
    Launch,
    /// cuBLASLt's products outside a capture.
    Product,
    /// cuBLASLt's calls that enqueue nothing.
    Cublas,
    /// Device allocations.
    Alloc,
    /// Pinned host allocations.
    Pinned,
    /// Copies to the device.
    HostToDevice,
    /// Copies from the device.
    DeviceToHost,
    /// Instantiations of graphs.
    Instantiate,
    /// Graph launches.
    Graph,
    /// Waits: stream, event and context synchronisation.
    Sync,
}

const KINDS: [(&str, Kind); 10] = [
    ("launch", Kind::Launch),
    ("product", Kind::Product),
    ("cublas", Kind::Cublas),
    ("alloc", Kind::Alloc),
    ("pinned", Kind::Pinned),
    ("htod", Kind::HostToDevice),
    ("dtoh", Kind::DeviceToHost),
    ("instantiate", Kind::Instantiate),
    ("graph", Kind::Graph),
    ("sync", Kind::Sync),
];

impl Kind {
    /// The kind's name in a plan.
    pub fn name(self) -> &'static str {
        KINDS[self as usize].0
    }
}

/// When an injected error appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// When the work runs.
    WhenRun,
    /// From the call itself.
    AtCall,
}

/// Why a plan was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// An entry is not `kind:number`, with `*` or `!` after it.
    #[error("{0:?} is not KIND:N, KIND:N* or KIND:N!")]
    Entry(String),
    /// An entry names no kind of call.
    #[error("{0:?} is not one of launch, product, cublas, alloc, pinned, htod, dtoh, instantiate, graph, sync")]
    Kind(String),
}

#[derive(Clone, Debug)]
struct Entry {
    kind: Kind,
    number: u64,
    onwards: bool,
    timing: Timing,
}

/// Which calls fail, and how many of each kind were made.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    entries: Vec<Entry>,
    made: [u64; KINDS.len()],
}

impl FaultPlan {
    /// Reads a plan.
    pub fn parse(text: &str) -> Result<FaultPlan, PlanError> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Entry::parse);
        Ok(FaultPlan { entries: entries.collect::<Result<_, _>>()?, ..FaultPlan::default() })
    }

    /// Counts one call; if it must fail, its number and when the error appears.
    pub fn count(&mut self, kind: Kind) -> Option<(u64, Timing)> {
        let made = &mut self.made[kind as usize];
        *made += 1;
        let made = *made;
        let hit = |entry: &&Entry| entry.kind == kind && (entry.number == made || entry.onwards && made > entry.number);
        self.entries.iter().find(hit).map(|entry| (made, entry.timing))
    }

    /// Calls counted so far, by kind.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.iter().map(|&(name, kind)| (name, self.made[kind as usize]))
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Entry, PlanError> {
        let wrong = || PlanError::Entry(text.to_owned());
        let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (_, kind) =
            KINDS.iter().find(|(known, _)| *known == name.trim()).ok_or(PlanError::Kind(name.to_owned()))?;
        let number = rest.trim_end_matches(['*', '!']);
        let marks = &rest[number.len()..];
        let number = number.trim().parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
        let timing = if marks.contains('!') { Timing::AtCall } else { Timing::WhenRun };
        Ok(Entry { kind: *kind, number, onwards: marks.contains('*'), timing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbered_call_fails_once_and_a_star_means_onwards() {
        let mut plan = FaultPlan::parse("launch:2, htod:2*!,").unwrap();
        let launches: Vec<_> = (0..4).map(|_| plan.count(Kind::Launch)).collect();
        assert_eq!(launches, [None, Some((2, Timing::WhenRun)), None, None]);
        let copies: Vec<_> = (0..3).map(|_| plan.count(Kind::HostToDevice)).collect();
        assert_eq!(copies, [None, Some((2, Timing::AtCall)), Some((3, Timing::AtCall))]);
        assert_eq!(plan.count(Kind::Sync), None);
    }

    #[test]
    fn a_plan_that_cannot_be_read_is_refused() {
        assert_eq!(FaultPlan::parse("launch").unwrap_err(), PlanError::Entry("launch".into()));
        assert_eq!(FaultPlan::parse("launch:0").unwrap_err(), PlanError::Entry("launch:0".into()));
        assert_eq!(FaultPlan::parse("launch:x*").unwrap_err(), PlanError::Entry("launch:x*".into()));
        assert_eq!(FaultPlan::parse("lunch:1").unwrap_err(), PlanError::Kind("lunch".into()));
    }
}
