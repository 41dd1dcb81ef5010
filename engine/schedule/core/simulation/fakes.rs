//! A device and a model that compute nothing and tell the [`World`] of every call.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::world::Shared;
use crate::catalog::{Catalog, Change, NodeMask, Snapshot, SourceOptions, read_source};
use crate::device::{
    Beam, BeamAttentionArgs, Cohort, CohortLane, CohortPlan, Device, DeviceError, DeviceFacts, Dtype, Embedding,
    ExpandArgs, ForceArgs, Head, HeadArgs, HeadSource, HistoryAttentionArgs, KvPool, KvShape, Linear, LinearArgs,
    LinearSource, Mark, Marks, NormArgs, OwnShape, OwnSlab, Queue, RelativeBias, RelativeBiasSource, Rope, RopeSource,
    Rows, SlotPlan, SlotState, Target, Tensor, TokenBatch, TokenLane, TrieId, Vector, WriteKvArgs,
};
use crate::export::{Manifest, TensorView};
use crate::model::{CohortLanes, Model};
use crate::search::{SearchPlan, Searcher};

/// Manifests with different numbers of steps, and their catalogues.
pub const EXPORTS: [&str; 3] = ["qwen3-gqa", "t5-end-penalty", "t5-small-catalog"];

/// Semantic IDs of the longest list that scenarios ask for.
pub const LONGEST_LIST: usize = 3;

/// Manifest and catalogue of one of [`EXPORTS`]; read once.
pub fn export(which: usize) -> &'static (Manifest, Arc<Catalog>) {
    static READ: [OnceLock<(Manifest, Arc<Catalog>)>; EXPORTS.len()] = [const { OnceLock::new() }; EXPORTS.len()];
    READ[which].get_or_init(|| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(EXPORTS[which]);
        let manifest = Manifest::open(&folder.join("sidereal.json")).unwrap();
        let codes = manifest.levels().iter().map(|level| level.codes() as u32).collect();
        let options = SourceOptions { codes: Some(codes), ..SourceOptions::default() };
        let catalog = read_source(&folder.join("items.csv"), &options, &mut |_, _| {}).unwrap().finish().unwrap();
        (manifest, Arc::new(catalog))
    })
}

/// Snapshots of one of [`EXPORTS`]: everything live, then more and more delisted; made once.
pub fn snapshots(which: usize) -> &'static [Arc<Snapshot>] {
    static MADE: [OnceLock<Vec<Arc<Snapshot>>>; EXPORTS.len()] = [const { OnceLock::new() }; EXPORTS.len()];
    MADE[which].get_or_init(|| {
        let catalog = &export(which).1;
        let mut made = vec![Snapshot::new(Arc::clone(catalog), Vec::new())];
        for (epoch, items) in (1..).zip(catalog.ids().chunks(2).take(5)) {
            let change = Change { delists: true, unix_ms: 0, items: items.to_vec() };
            made.push(made[made.len() - 1].after(&[change], epoch));
        }
        made.into_iter().map(Arc::new).collect()
    })
}

/// The search of one of [`EXPORTS`] on the fake device.
pub fn searcher(which: usize, rows: usize, device: &mut dyn Device) -> Searcher {
    let (manifest, catalog) = export(which);
    let head = TensorView::owned("head", vec![1, 1], vec![0.0]);
    Searcher::load(SearchPlan::new(manifest).with_lists(LONGEST_LIST), manifest, head.into(), catalog, rows, device)
        .unwrap()
}

const TENSOR: Tensor = Tensor { buffer: 0, rows: 0, first_col: 0, cols: 0, stride: 0, dtype: Dtype::F32 };

/// Token lane 0 is for prompts, lane i + 1 for the decoder prefixes of cohort lane i.
pub struct FakeDevice {
    world: Shared,
    /// Number of the weights on it.
    policy: u64,
    facts: DeviceFacts,
    marks: Marks<Instant>,
}

impl FakeDevice {
    pub fn new(world: Shared, policy: u64) -> FakeDevice {
        let facts = DeviceFacts { name: "fake".into(), compute: Dtype::F32, threads: 1 };
        FakeDevice { world, policy, facts, marks: Marks::default() }
    }
}

pub struct FakeModel {
    pub world: Shared,
    /// Number of the weights.
    pub policy: u64,
    pub stages: usize,
}

impl Model for FakeModel {
    fn prefill_stages(&self) -> usize {
        self.stages
    }

    fn prefill(&mut self, _: &mut dyn Device, lane: TokenLane, stage: usize) -> Result<(), DeviceError> {
        assert_eq!(lane, TokenLane(0));
        self.world.lock().on(self.policy).prefill(stage)
    }

    fn first_hidden(&mut self, _: &mut dyn Device, lanes: &CohortLanes) -> Result<Tensor, DeviceError> {
        self.world.lock().on(self.policy).step(lanes.index, 0, 0).map(|()| TENSOR)
    }

    fn next_hidden(&mut self, _: &mut dyn Device, lanes: &CohortLanes, step: usize) -> Result<Tensor, DeviceError> {
        self.world.lock().on(self.policy).step(lanes.index, step + 1, 0).map(|()| TENSOR)
    }
}

impl Device for FakeDevice {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn buffer(&mut self, _: usize, _: usize, _: Dtype) -> Result<Tensor, DeviceError> {
        Ok(TENSOR)
    }

    fn head_weight(&mut self, _: &HeadSource) -> Result<Head, DeviceError> {
        Ok(Head(0))
    }

    fn trie(&mut self, _: &Arc<Catalog>) -> Result<TrieId, DeviceError> {
        Ok(TrieId(0))
    }

    fn planned_bytes(&self) -> (usize, usize, usize) {
        (0, 0, 0)
    }

    fn write_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError> {
        self.world.lock().on(self.policy).write_slot(slot, state)
    }

    fn write_tokens(&mut self, lane: TokenLane, batch: &TokenBatch) -> Result<(), DeviceError> {
        match lane.0.checked_sub(1) {
            None => self.world.lock().on(self.policy).write_prompts(batch),
            Some(cohort) => self.world.lock().on(self.policy).write_prefixes(cohort as usize, batch),
        }
    }

    fn write_mask(&mut self, slot: u32, mask: &Arc<NodeMask>) -> Result<(), DeviceError> {
        self.world.lock().on(self.policy).write_mask(slot, mask)
    }

    fn write_cohort(&mut self, lane: CohortLane, cohort: &Cohort) -> Result<(), DeviceError> {
        self.world.lock().on(self.policy).write_cohort(lane.0 as usize, cohort)
    }

    fn replay(
        &mut self,
        _: (CohortLane, TokenLane),
        _: usize,
        body: &mut dyn FnMut(&mut dyn Device) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        body(self)
    }

    fn head(&mut self, args: &HeadArgs) -> Result<(), DeviceError> {
        let mut world = self.world.lock();
        let world = world.on(self.policy);
        let (lane, step) = match (args.rows, args.target) {
            (Rows::Requests(lane), Target::Level(0)) => (lane, 0),
            // Which semantic ID of a list and which end token it is shows only in the selection that follows.
            (Rows::Beams(lane), _) => (lane, world.step_of(lane.0 as usize)),
            other => panic!("{other:?}"),
        };
        let level = match args.target {
            Target::Level(level) => Some(level),
            Target::Token(_) => None,
        };
        assert_eq!(level, world.level_of(lane.0 as usize, step));
        world.step(lane.0 as usize, step, 1)
    }

    fn expand_select(&mut self, args: &ExpandArgs) -> Result<(), DeviceError> {
        let mut world = self.world.lock();
        let world = world.on(self.policy);
        let step = world.first_step(args.item) + args.level;
        world.step(args.lane.0 as usize, step, 2)
    }

    fn force_token(&mut self, args: &ForceArgs) -> Result<(), DeviceError> {
        self.world.lock().on(self.policy).step(args.lane.0 as usize, args.step, 2)
    }

    fn mark(&mut self, _: Queue) -> Result<Mark, DeviceError> {
        Ok(self.marks.put(self.world.lock().now()))
    }

    fn between(&mut self, from: Mark, to: Mark) -> Result<Option<Duration>, DeviceError> {
        let (from, to) = (self.marks.take(from), self.marks.take(to));
        Ok(Some(to - from))
    }

    fn collect_beams(&mut self, _: CohortLane) -> Result<(), DeviceError> {
        Ok(())
    }

    fn beams_are_here(&mut self, lane: CohortLane) -> Result<bool, DeviceError> {
        Ok(self.world.lock().on(self.policy).is_here(lane.0 as usize))
    }

    fn read_beams(&mut self, lane: CohortLane) -> Result<Vec<Vec<Beam>>, DeviceError> {
        self.world.lock().on(self.policy).read_beams(lane.0 as usize)
    }

    // What only models, start-up and checks use.

    fn read_buffer(&mut self, _: Tensor, _: usize) -> Result<Vec<f32>, DeviceError> {
        unreachable!()
    }
    fn write_buffer(&mut self, _: Tensor, _: &[f32]) -> Result<(), DeviceError> {
        unreachable!()
    }

    fn linear_weight(&mut self, _: &LinearSource) -> Result<Linear, DeviceError> {
        unreachable!()
    }
    fn vector(&mut self, _: &TensorView, _: f32) -> Result<Vector, DeviceError> {
        unreachable!()
    }
    fn embedding(&mut self, _: &TensorView) -> Result<Embedding, DeviceError> {
        unreachable!()
    }
    fn relative_bias(&mut self, _: &RelativeBiasSource) -> Result<RelativeBias, DeviceError> {
        unreachable!()
    }
    fn rope(&mut self, _: &RopeSource) -> Result<Rope, DeviceError> {
        unreachable!()
    }
    fn kv_pool(&mut self, _: KvShape) -> Result<KvPool, DeviceError> {
        unreachable!()
    }
    fn own_slab(&mut self, _: OwnShape) -> Result<OwnSlab, DeviceError> {
        unreachable!()
    }
    fn plan_masks(&mut self, _: TrieId, _: usize) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn plan_slots(&mut self, _: SlotPlan) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn token_lane(&mut self, _: usize, _: Queue) -> Result<TokenLane, DeviceError> {
        unreachable!()
    }
    fn cohort_lane(&mut self, _: CohortPlan) -> Result<CohortLane, DeviceError> {
        unreachable!()
    }
    fn embed(&mut self, _: Rows, _: Embedding, _: Tensor) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn norm(&mut self, _: &NormArgs) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn linear(&mut self, _: &LinearArgs) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn write_kv(&mut self, _: &WriteKvArgs) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn history_attention(&mut self, _: &HistoryAttentionArgs) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn beam_attention(&mut self, _: &BeamAttentionArgs) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn gather_last(&mut self, _: TokenLane, _: Tensor, _: Tensor) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn store_slots(&mut self, _: TokenLane, _: Tensor, _: Tensor) -> Result<(), DeviceError> {
        unreachable!()
    }
    fn load_slots(&mut self, _: CohortLane, _: Tensor, _: Tensor) -> Result<(), DeviceError> {
        unreachable!()
    }
}
