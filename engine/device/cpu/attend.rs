//! The KV and attention operations: from handles and descriptors to slices.

use super::CpuDevice;
use super::attention::{self, BeamAttention, DistanceBias, HistoryAttention, OwnTokens, SharedPages};
use super::kv::{self, HeadNormWeights, KvDestination, QueryRows, RopeTables, WriteKv};
use super::lanes::end_of;
use super::store::expect_shape;
use super::views::{compute_rows, compute_rows_mut, strided};
use crate::device::{
    BeamAttentionArgs, Dtype, HistoryAttentionArgs, KvTarget, RelativeBias, Rows, Tensor, WriteKvArgs,
};

/// Rows of heads: (rows that exist, elements of a row).
fn expect_heads(op: &str, name: &str, tensor: Tensor, rows: usize, head_dim: usize, dtype: Dtype) -> usize {
    assert_eq!(tensor.dtype, dtype, "{op}: type of {name}");
    assert!(tensor.cols.is_multiple_of(head_dim), "{op}: {name} has {} columns, heads {head_dim}", tensor.cols);
    expect_shape(op, name, tensor, rows, tensor.cols);
    tensor.cols / head_dim
}

impl CpuDevice {
    fn distance_bias(&self, bias: RelativeBias, heads: usize) -> DistanceBias<'_> {
        let bias = &self.weights.biases[bias.0 as usize];
        assert_eq!(bias.heads, heads, "attention: heads of the bias");
        DistanceBias { by_distance: &bias.by_distance, max_distance: bias.max_distance }
    }

    pub(super) fn run_write_kv(&mut self, args: &WriteKvArgs) {
        let op = "write_kv";
        let CpuDevice { facts, isa, pool, store, weights, kv_pools, own_slabs, lanes, token_spans, beam_spans, .. } =
            self;
        let (head_dim, kv_heads) = match args.target {
            KvTarget::Pages { pool, .. } => kv_pools[pool.0 as usize].heads(),
            KvTarget::Own { slab, .. } => own_slabs[slab.0 as usize].heads(),
        };
        let rows = end_of(&lanes.ranges(args.rows));
        for (name, tensor) in [("key", args.key), ("value", args.value)] {
            let heads = expect_heads(op, name, tensor, rows, head_dim, Dtype::F32);
            assert_eq!(heads, kv_heads, "{op}: heads of {name}");
        }
        let key = store.read(op, args.key);
        let value = store.read(op, args.value);
        assert_eq!(args.query.is_some(), args.query_out.is_some(), "{op}: a query has a place to go");
        let mut query_buffers = args.query.zip(args.query_out).map(|(query, out)| {
            let heads = expect_heads(op, "query", query, rows, head_dim, Dtype::F32);
            let out_heads = expect_heads(op, "query_out", out, rows, head_dim, facts.compute);
            assert_eq!(heads, out_heads, "{op}: heads of query_out");
            (store.read(op, query), query, store.write(op, out), out, heads)
        });
        let query = query_buffers.as_mut().map(|(buffer, query, out_buffer, out, heads)| QueryRows {
            input: strided(buffer, *query),
            output: compute_rows_mut(out_buffer, *out),
            heads: *heads,
            scale: args.query_scale,
        });
        let head_norm = args.head_norm.map(|norm| {
            let (query, key) = (&weights.vectors[norm.query.0 as usize], &weights.vectors[norm.key.0 as usize]);
            assert!(query.len() == head_dim && key.len() == head_dim, "{op}: widths of the head norms");
            HeadNormWeights { query, key, eps: norm.eps }
        });
        let rope = args.rope.map(|rope| {
            let rope = &weights.ropes[rope.0 as usize];
            assert_eq!(rope.cos.len(), rope.positions * (head_dim / 2), "{op}: RoPE tables for heads of {head_dim}");
            RopeTables { cos: &rope.cos, sin: &rope.sin }
        });
        let destination = match (args.target, args.rows) {
            (KvTarget::Pages { pool, segment, layer }, Rows::Tokens(lane)) => {
                let kv = &mut kv_pools[pool.0 as usize];
                let batch = &lanes.tokens[lane.0 as usize];
                lanes.slots.token_spans(segment, kv.shape().page_tokens, batch, token_spans);
                for span in token_spans.iter() {
                    let end = span.first_position + span.rows;
                    assert!(end <= span.kv_len, "{op}: token {} of a segment of {}", end - 1, span.kv_len);
                }
                KvDestination::Pages { kv, layer, pages: lanes.slots.tables(segment).pages(), spans: token_spans }
            }
            (KvTarget::Own { slab, layer, step }, Rows::Beams(lane)) => {
                lanes.slots.beam_spans(None, &lanes.cohorts[lane.0 as usize], beam_spans);
                KvDestination::Own { kv: &mut own_slabs[slab.0 as usize], layer, step, spans: beam_spans }
            }
            (target, rows) => panic!("{op}: {rows:?} to {target:?}"),
        };
        let (key, value) = (strided(&key, args.key), strided(&value, args.value));
        kv::write_kv(pool, *isa, WriteKv { query, key, value, head_norm, rope, destination });
    }

    pub(super) fn run_history_attention(&mut self, args: &HistoryAttentionArgs) {
        let op = "history_attention";
        let mut spans = std::mem::take(&mut self.token_spans);
        let kv = &self.kv_pools[args.pool.0 as usize];
        let slots = &self.lanes.slots;
        let page_tokens = kv.shape().page_tokens;
        match args.rows {
            Rows::Tokens(lane) => {
                slots.token_spans(args.segment, page_tokens, &self.lanes.tokens[lane.0 as usize], &mut spans);
            }
            Rows::Last(lane) => {
                slots.last_spans(args.segment, page_tokens, &self.lanes.tokens[lane.0 as usize], &mut spans);
            }
            rows => panic!("{op}: {rows:?} have no positions"),
        }
        let (head_dim, _) = kv.heads();
        let rows = end_of(&self.lanes.ranges(args.rows));
        let heads = expect_heads(op, "query", args.query, rows, head_dim, self.facts.compute);
        expect_heads(op, "out", args.out, rows, head_dim, self.facts.compute);
        expect_shape(op, "out", args.out, rows, args.query.cols);
        let query = self.store.read(op, args.query);
        let mut out = self.store.write(op, args.out);
        let attention = HistoryAttention {
            kv,
            layer: args.layer,
            pages: slots.tables(args.segment).pages(),
            spans: &spans,
            heads,
            mask: args.mask,
            bias: args.bias.map(|bias| self.distance_bias(bias, heads)),
            query: compute_rows(&query, args.query),
            out: compute_rows_mut(&mut out, args.out),
        };
        attention::history_attention(&self.pool, self.isa, attention);
        drop((query, out));
        self.token_spans = spans;
    }

    pub(super) fn run_beam_attention(&mut self, args: &BeamAttentionArgs) {
        let op = "beam_attention";
        let mut spans = std::mem::take(&mut self.beam_spans);
        let cohort = &self.lanes.cohorts[args.lane.0 as usize];
        let slots = &self.lanes.slots;
        let shared = args.shared.map(|keys| (keys, &self.kv_pools[keys.pool.0 as usize]));
        let own = args.own.map(|keys| (keys, &self.own_slabs[keys.slab.0 as usize]));
        let segment = shared.map(|(keys, kv)| (keys.segment, kv.shape().page_tokens));
        slots.beam_spans(segment, cohort, &mut spans);
        let shared_heads = shared.map(|(_, kv)| kv.heads());
        let Some((head_dim, _)) = shared_heads.or(own.map(|(_, kv)| kv.heads())) else {
            panic!("{op}: neither shared nor own keys");
        };
        let rows = end_of(&cohort.live_ranges);
        let heads = expect_heads(op, "query", args.query, rows, head_dim, self.facts.compute);
        expect_heads(op, "out", args.out, rows, head_dim, self.facts.compute);
        expect_shape(op, "out", args.out, rows, args.query.cols);
        let query = self.store.read(op, args.query);
        let mut out = self.store.write(op, args.out);
        let attention = BeamAttention {
            shared: shared.map(|(keys, kv)| SharedPages {
                kv,
                layer: keys.layer,
                pages: slots.tables(keys.segment).pages(),
            }),
            own: own.map(|(keys, kv)| OwnTokens {
                kv,
                layer: keys.layer,
                step: keys.step,
                ancestors: &cohort.now.ancestors,
                max_steps: cohort.steps,
            }),
            spans: &spans,
            heads,
            bias: args.bias.map(|bias| self.distance_bias(bias, heads)),
            query: compute_rows(&query, args.query),
            out: compute_rows_mut(&mut out, args.out),
        };
        attention::beam_attention(&self.pool, self.isa, attention);
        drop((query, out));
        self.beam_spans = spans;
    }
}

impl super::KvPages {
    /// (elements of a head, KV heads)
    fn heads(&self) -> (usize, usize) {
        (self.shape().head_dim, self.shape().kv_heads)
    }
}

impl super::OwnKv {
    /// (elements of a head, KV heads)
    fn heads(&self) -> (usize, usize) {
        (self.shape().head_dim, self.shape().kv_heads)
    }
}
