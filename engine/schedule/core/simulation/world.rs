//! What a device would see, checked instead of computed.
//!
//! A prompt token says whose it is and where it stands, a ban list says whose search it is, and the leaf of a beam says
//! whose answer it is: so that anything that reaches the wrong place is seen.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::catalog::NodeMask;
use crate::device::{Beam, Cohort, DeviceError, SlotState, TokenBatch};
use crate::request::{Answer, RefusalKind};

/// A small seeded generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Seeded(pub u64);

impl Seeded {
    /// Uniform below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The prompt of request `id`: token i is `id` and i.
pub fn prompt(id: usize, tokens: usize) -> Vec<u32> {
    assert!(id < 1 << 16 && tokens < 1 << 16, "a token has 16 bits for each");
    (0..tokens).map(|at| (id << 16 | at) as u32).collect()
}

/// The shape of the device and of what runs on it.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub prefill_rows: usize,
    pub cohort_rows: usize,
    pub slots: usize,
    pub page_tokens: usize,
    pub history_pages: usize,
    pub masks: usize,
    pub prefix: Vec<u32>,
    pub stages: usize,
    pub levels: usize,
    /// Scored end tokens.
    pub end: usize,
}

/// What operations take, and how often they fail.
#[derive(Clone, Debug, Default)]
pub struct Temper {
    pub launch_ns: u64,
    pub token_ns: u64,
    pub row_ns: u64,
    /// Operations that take a thousand times as long, from the first on.
    pub slow_ops: u64,
    /// In 10,000.
    pub faults: u64,
    /// Faults that lose the device, in 100; then it does not always open again.
    pub losses: u64,
    /// Operations that lose it in any case.
    pub lose_at: Vec<u64>,
    /// The operation that panics.
    pub panic_at: Option<u64>,
    /// How long a lost device takes to open, if more than a millisecond.
    pub open_ns: u64,
    /// Beams are there as soon as they are computed.
    pub punctual: bool,
}

/// A request as the world knows it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub tokens: usize,
    pub beams: usize,
    /// Semantic IDs of its lists; 0 is 1.
    pub items: usize,
    /// What it is searched within.
    pub mask: Option<Arc<NodeMask>>,
    /// The weights that it began with.
    pub policy: Option<u64>,
    /// When its beams were read.
    pub read: Option<Instant>,
    /// Answers so far: kind (`None` = results), message, when.
    pub answers: Vec<(Option<RefusalKind>, String, Instant)>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    state: SlotState,
    owner: Option<usize>,
    prefilled: usize,
}

/// A slot and whose it was when the batch or cohort was written.
#[derive(Clone, Copy, Debug)]
struct Member {
    slot: u32,
    id: usize,
    mask: Option<u32>,
}

#[derive(Debug)]
struct Batch {
    /// With the prompt tokens that are done afterwards.
    members: Vec<(Member, usize)>,
    rows: u64,
    stage: usize,
}

#[derive(Debug)]
struct Run {
    members: Vec<Member>,
    rows: u64,
    /// Semantic IDs of its lists.
    items: usize,
    step: usize,
    /// Operations of the step so far: hidden states, head, selection.
    phase: usize,
}

#[derive(Debug)]
pub struct World {
    shape: Shape,
    temper: Temper,
    chance: Seeded,
    start: Instant,
    passed_ns: u64,
    pub known: Vec<Known>,
    pub ops: u64,
    pub faults: u64,
    /// The device was lost and is not open yet.
    pub lost: bool,
    /// How often it was opened again.
    pub reopened: u64,
    /// Number of the weights on the device that was used last.
    pub policy: u64,
    /// How often other weights took their place.
    pub swapped: u64,
    /// Hash of everything that happened, and when.
    pub trace: u64,
    slots: Vec<Slot>,
    prefill: Option<Batch>,
    /// Slots of the decoder prefixes last written, by cohort lane.
    prefixes: Vec<Vec<u32>>,
    runs: Vec<Option<Run>>,
    /// Contents of the mask slots.
    masks: Vec<Option<Arc<NodeMask>>>,
    /// How often each lane was asked whether its beams have come.
    looked_at: Vec<u32>,
}

/// Shared by the device, the model, the clock and the test.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl World {
    pub fn shared(shape: Shape, temper: Temper, lanes: usize, seed: u64) -> Shared {
        Shared(Arc::new(Mutex::new(World {
            slots: vec![Slot::default(); shape.slots],
            prefixes: vec![Vec::new(); lanes],
            runs: (0..lanes).map(|_| None).collect(),
            masks: vec![None; shape.masks],
            looked_at: vec![0; lanes],
            shape,
            temper,
            chance: Seeded(seed),
            start: Instant::now(),
            passed_ns: 0,
            known: Vec::new(),
            ops: 0,
            faults: 0,
            lost: false,
            reopened: 0,
            policy: 0,
            swapped: 0,
            trace: 0,
            prefill: None,
        })))
    }

    pub fn start(&self) -> Instant {
        self.start
    }

    pub fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.passed_ns)
    }

    /// The clock moves to `time`, never back.
    pub fn wait_until(&mut self, time: Instant) {
        let until = (time - self.start).as_nanos() as u64;
        self.passed_ns = self.passed_ns.max(until);
    }

    fn note(&mut self, what: u64) {
        for word in [what, self.passed_ns] {
            self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x0100_0000_01B3);
        }
    }

    /// Notes an answer. Runs within the caller's callback, where a panic would be swallowed: the test judges later.
    pub fn answered(&mut self, id: usize, answer: &Answer) {
        let (kind, message) = match answer {
            Ok(_) => (None, String::new()),
            Err(refusal) => (Some(refusal.kind), refusal.message.clone()),
        };
        self.note(0x1000 + id as u64 * 16 + kind.map_or(0, |kind| kind as u64));
        let now = self.now();
        self.known[id].answers.push((kind, message, now));
    }

    fn op(&mut self, name: &'static str, cost_ns: u64) -> Result<(), DeviceError> {
        let slow = if self.ops < self.temper.slow_ops { 1000 } else { 1 };
        self.ops += 1;
        self.passed_ns += cost_ns * slow;
        self.note(name.len() as u64);
        assert!(!self.lost, "{name} on a lost device");
        assert!(self.temper.panic_at != Some(self.ops), "an operation that was told to panic");
        let told = self.temper.lose_at.contains(&self.ops);
        if told || self.chance.below(10_000) < self.temper.faults {
            self.faults += 1;
            if told || self.chance.below(100) < self.temper.losses {
                self.lost = true;
                return Err(DeviceError::Lost { op: name, reason: "it was told to".into() });
            }
            return Err(DeviceError::Failed { op: name, reason: "it was told to".into() });
        }
        Ok(())
    }

    /// A new device, with the weights of `policy` on it: in place of a lost one, or of one that went to make room for others.
    pub fn reopen(&mut self, policy: u64) -> Result<(), DeviceError> {
        self.passed_ns += self.temper.open_ns.max(1_000_000);
        self.note(0x0b);
        if self.temper.losses > 0 && self.chance.below(8) == 0 {
            self.faults += 1;
            return Err(DeviceError::Unavailable("it was told to".into()));
        }
        self.reopened += u64::from(std::mem::take(&mut self.lost));
        self.use_device(policy);
        Ok(())
    }

    /// Every call names the weights of the device that it is made to: with the first one to a new device, what was on the old one
    /// is gone.
    pub fn on(&mut self, policy: u64) -> &mut World {
        if policy != self.policy {
            let served = (0..self.slots.len() as u32).find(|slot| self.is_live(*slot));
            assert!(served.is_none(), "other weights come while slot {served:?} is served");
            self.swapped += 1;
            self.use_device(policy);
        }
        self
    }

    fn use_device(&mut self, policy: u64) {
        self.policy = policy;
        self.prefill = None;
        self.slots.fill(Slot::default());
        self.runs.fill_with(|| None);
        self.masks.fill(None);
        self.prefixes.fill(Vec::new());
    }

    /// Whether a request's KV is still needed: it is neither answered nor read.
    fn is_wanted(&self, id: usize) -> bool {
        let known = &self.known[id];
        known.answers.is_empty() && known.read.is_none()
    }

    fn is_live(&self, slot: u32) -> bool {
        self.slots[slot as usize].owner.is_some_and(|id| self.is_wanted(id))
    }

    fn expect_unused(&self, slot: u32) {
        let touched = |member: &Member| member.slot == slot && self.is_wanted(member.id);
        let prefilled = self.prefill.iter().flat_map(|batch| &batch.members).any(|(member, _)| touched(member));
        assert!(!prefilled, "slot {slot} is touched while it is being prefilled");
        let searched = self.runs.iter().flatten().flat_map(|run| &run.members).any(touched);
        assert!(!searched, "slot {slot} is touched while it is searched");
    }

    pub fn write_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError> {
        self.expect_unused(slot);
        let Shape { page_tokens, history_pages, slots, .. } = self.shape;
        let pages = &state.history_pages;
        assert!((slot as usize) < slots, "slot {slot} of {slots}");
        assert!(state.history_len as usize <= pages.len() * page_tokens, "{state:?}: too few pages of {page_tokens}");
        assert!(pages.iter().all(|page| (*page as usize) < history_pages), "{state:?}: {history_pages} pages exist");
        assert_eq!(state.prefix_len as usize, self.shape.prefix.len());
        for (index, page) in pages.iter().enumerate() {
            assert!(!pages[..index].contains(page), "page {page} twice in slot {slot}");
            for other in (0..self.slots.len() as u32).filter(|other| *other != slot && self.is_live(*other)) {
                let held = &self.slots[other as usize].state.history_pages;
                assert!(!held.contains(page), "page {page} of slot {other} given to slot {slot}");
            }
        }
        self.op("write_slot", 100)?;
        self.slots[slot as usize].state = state.clone();
        Ok(())
    }

    fn check_spans(batch: &TokenBatch, capacity: usize) {
        assert!(batch.tokens.len() <= capacity, "{} rows in a lane of {capacity}", batch.tokens.len());
        let mut row = 0;
        for span in &batch.spans {
            assert!(span.first_row as usize == row && span.rows > 0, "{span:?} at row {row}");
            row += span.rows as usize;
        }
        assert!(row == batch.tokens.len() && row > 0, "spans cover {row} of {} rows", batch.tokens.len());
        let mut slots: Vec<u32> = batch.spans.iter().map(|span| span.slot).collect();
        slots.sort_unstable();
        assert!(slots.windows(2).all(|pair| pair[0] != pair[1]), "a slot twice in a batch");
    }

    pub fn write_prompts(&mut self, batch: &TokenBatch) -> Result<(), DeviceError> {
        Self::check_spans(batch, self.shape.prefill_rows);
        if let Some(running) = self.prefill.take() {
            let wanted = running.members.iter().any(|(member, _)| self.is_wanted(member.id));
            assert!(!wanted, "a prefill is written while another is under way");
        }
        let mut members = Vec::new();
        for span in &batch.spans {
            let rows = &batch.tokens[span.first_row as usize..][..span.rows as usize];
            let (id, first) = ((rows[0] >> 16) as usize, span.first_position as usize);
            let end = first + rows.len();
            assert_eq!(rows, &prompt(id, end)[first..], "the rows of {span:?} are not those of request {id}");
            let live = self.is_live(span.slot);
            let slot = &mut self.slots[span.slot as usize];
            assert_eq!(slot.state.history_len as usize, end, "slot {} was not told of {span:?}", span.slot);
            if first == 0 {
                assert!(!live, "slot {} is given to request {id} while it serves {:?}", span.slot, slot.owner);
                slot.owner = Some(id);
                let began = *self.known[id].policy.get_or_insert(self.policy);
                assert_eq!(began, self.policy, "request {id} starts over with other weights");
            } else {
                assert_eq!((slot.owner, slot.prefilled), (Some(id), first), "{span:?} does not go on where it stopped");
            }
            slot.prefilled = first;
            assert_eq!(span.last, end == self.known[id].tokens, "{span:?} of {} tokens", self.known[id].tokens);
            members.push((Member { slot: span.slot, id, mask: None }, end));
        }
        self.op("write_tokens", 500)?;
        self.prefill = Some(Batch { members, rows: batch.tokens.len() as u64, stage: 0 });
        Ok(())
    }

    pub fn prefill(&mut self, stage: usize) -> Result<(), DeviceError> {
        let mut batch = self.prefill.take().expect("a batch was written");
        assert_eq!(stage, batch.stage, "stages come in order");
        assert!(batch.members.iter().any(|(member, _)| self.is_wanted(member.id)), "a batch goes on for nobody");
        self.op("prefill", self.temper.launch_ns + self.temper.token_ns * batch.rows)?;
        batch.stage += 1;
        if batch.stage < self.shape.stages {
            self.prefill = Some(batch);
            return Ok(());
        }
        for (member, end) in batch.members {
            self.slots[member.slot as usize].prefilled = end;
        }
        Ok(())
    }

    pub fn write_prefixes(&mut self, lane: usize, batch: &TokenBatch) -> Result<(), DeviceError> {
        Self::check_spans(batch, self.shape.slots * self.shape.prefix.len());
        assert_eq!(batch.tokens, self.shape.prefix.repeat(batch.spans.len()));
        assert!(batch.spans.iter().all(|span| span.last && span.first_position == 0));
        self.op("write_prefixes", 500)?;
        self.prefixes[lane] = batch.spans.iter().map(|span| span.slot).collect();
        Ok(())
    }

    pub fn write_mask(&mut self, slot: u32, mask: &Arc<NodeMask>) -> Result<(), DeviceError> {
        let reads = |member: &Member| member.mask == Some(slot) && self.is_wanted(member.id);
        let read = self.runs.iter().flatten().flat_map(|run| &run.members).any(reads);
        assert!(!read, "mask slot {slot} is written while it is read");
        assert!((slot as usize) < self.masks.len(), "mask slot {slot} of {}", self.masks.len());
        self.op("write_mask", 200)?;
        self.masks[slot as usize] = Some(Arc::clone(mask));
        Ok(())
    }

    pub fn write_cohort(&mut self, lane: usize, cohort: &Cohort) -> Result<(), DeviceError> {
        if let Some(run) = self.runs[lane].take() {
            let wanted = run.members.iter().any(|member| self.is_wanted(member.id));
            assert!(!wanted, "lane {lane} is written while it is searched");
        }
        assert!(!cohort.requests.is_empty(), "a cohort of nobody");
        let mut row = 0;
        let mut members = Vec::new();
        for request in &cohort.requests {
            self.expect_unused(request.slot);
            assert!(self.is_live(request.slot), "slot {} is searched for nobody", request.slot);
            let slot = &self.slots[request.slot as usize];
            let id = slot.owner.expect("a live slot is owned");
            let marked = request.banned_nodes.first().and_then(|nodes| nodes.first());
            assert!(marked.is_none_or(|mark| *mark as usize == id), "the bans of {marked:?} came to request {id}");
            assert_eq!(slot.prefilled, self.known[id].tokens, "request {id} is searched before its prefill is done");
            assert_eq!(request.beams as usize, self.known[id].beams);
            assert_eq!(request.items(), self.known[id].items.max(1), "request {id} is searched for other lists");
            assert_eq!(request.items(), cohort.requests[0].items(), "two lengths of lists in a cohort");
            assert!(request.first_row >= row && request.beams > 0, "{request:?} after row {row}");
            row = request.first_row + request.beams;
            let mask = request.mask.and_then(|mask| self.masks[mask as usize].clone());
            let is_its = match (&mask, &self.known[id].mask) {
                (Some(mask), Some(own)) => Arc::ptr_eq(mask, own),
                (mask, own) => mask.is_none() && own.is_none() && request.mask.is_none(),
            };
            assert!(is_its, "request {id} is searched within the mask of another snapshot");
            members.push(Member { slot: request.slot, id, mask: request.mask });
        }
        assert!(row as usize <= self.shape.cohort_rows, "{row} of {} rows", self.shape.cohort_rows);
        if !self.shape.prefix.is_empty() {
            let slots: Vec<u32> = members.iter().map(|member| member.slot).collect();
            assert_eq!(self.prefixes[lane], slots, "decoder prefixes and requests are in the same order");
        }
        self.op("write_cohort", 500)?;
        self.runs[lane] =
            Some(Run { members, rows: u64::from(row), items: cohort.requests[0].items(), step: 0, phase: 0 });
        Ok(())
    }

    /// One operation of step `step`: 0 hidden states, 1 head, 2 selection.
    pub fn step(&mut self, lane: usize, step: usize, phase: usize) -> Result<(), DeviceError> {
        let mut run = self.runs[lane].take().expect("a cohort was written");
        assert_eq!((step, phase), (run.step, run.phase), "steps come in order");
        assert!(run.members.iter().any(|member| self.is_wanted(member.id)), "a search goes on for nobody");
        let cost = if phase == 0 { self.temper.launch_ns + self.temper.row_ns * run.rows } else { 1000 };
        self.op(["hidden", "head", "selection"][phase], cost)?;
        run.phase = (phase + 1) % 3;
        run.step += usize::from(run.phase == 0);
        self.runs[lane] = Some(run);
        Ok(())
    }

    /// The step that a cohort is at.
    pub fn step_of(&self, lane: usize) -> usize {
        self.runs[lane].as_ref().expect("a cohort was written").step
    }

    /// The first step of semantic ID `item` of a list.
    pub fn first_step(&self, item: usize) -> usize {
        item * self.shape.levels
    }

    /// The level of which step `step` chooses a code; `None` if it forces an end token.
    pub fn level_of(&self, lane: usize, step: usize) -> Option<usize> {
        let items = self.runs[lane].as_ref().expect("a cohort was written").items;
        (step < self.first_step(items)).then(|| step % self.shape.levels)
    }

    /// Whether a finished cohort's beams have arrived, as far as one can see without waiting: some not until the third look.
    pub fn is_here(&mut self, lane: usize) -> bool {
        self.looked_at[lane] += 1;
        self.temper.punctual || self.looked_at[lane] >= 3 || self.chance.below(2) > 0
    }

    pub fn read_beams(&mut self, lane: usize) -> Result<Vec<Vec<Beam>>, DeviceError> {
        self.looked_at[lane] = 0;
        let run = self.runs[lane].take().expect("a cohort was written");
        let steps = self.first_step(run.items) + self.shape.end;
        assert_eq!((run.step, run.phase), (steps, 0), "read once, after the last step");
        self.op("read_beams", 1000)?;
        let now = self.now();
        let mut beams = Vec::new();
        for Member { id, .. } in run.members {
            assert_eq!(
                self.known[id].policy,
                Some(self.policy),
                "request {id} ends with other weights than it began with"
            );
            assert!(self.known[id].read.replace(now).is_none(), "request {id} is searched twice");
            beams.push(vec![Beam { leaf: id as u32, score: -1.0, ..Beam::default() }]);
        }
        Ok(beams)
    }
}
