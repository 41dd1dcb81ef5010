//! Norm, rotation and scale of queries and keys, and the write of keys and values: some lanes of a warp for each head of a row.

use sidereal_ffi::params::{PagedKeys, WriteKvParams};

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use super::super::weights::{RopeTables, VectorOnCard};
use super::params::paged_keys;
use crate::device::{DeviceError, Dtype, KvTarget, Rows, Segment, WriteKvArgs};

/// Threads of a block.
const THREADS: usize = 128;

const fn kernel(name: &'static str) -> Kernel {
    Kernel { module: "write_kv", name, dynamic_shared: 0 }
}

/// The kernel for a compute type.
pub(super) fn kernels(compute: Dtype) -> [Kernel; 1] {
    match compute {
        Dtype::F32 => [kernel("write_kv_f32")],
        Dtype::Bf16 => [kernel("write_kv_bf16")],
    }
}

/// Which rows there are and where their keys and values go.
struct Destination {
    kv: PagedKeys,
    head_dim: usize,
    row_slot: u64,
    row_position: u64,
    row_request: u64,
    requests: u64,
    prefix_lengths: u64,
    own_step: usize,
}

impl CudaDevice {
    fn destination(&self, rows: Rows, target: KvTarget) -> Destination {
        match (target, rows) {
            (KvTarget::Pages { pool, segment, layer }, Rows::Tokens(lane)) => {
                let pool = &self.pools[pool.0 as usize];
                let view = self.token_lane_of(lane).view();
                Destination {
                    kv: paged_keys(pool, layer, self.slots().table(segment)),
                    head_dim: pool.shape.head_dim,
                    row_slot: view.row_slot,
                    row_position: view.row_position,
                    row_request: 0,
                    requests: 0,
                    prefix_lengths: 0,
                    own_step: 0,
                }
            }
            (KvTarget::Own { slab, layer, step }, Rows::Beams(lane)) => {
                let slab = &self.slabs[slab.0 as usize];
                let view = self.cohort_lane_of(lane).view();
                let history = self.slots().table(Segment::History);
                let (keys, values) = slab.layer(layer, step);
                let kv = PagedKeys {
                    keys,
                    values,
                    lengths: history.lengths,
                    block_table: 0,
                    table_stride: history.stride,
                    page_tokens: 0,
                    kv_heads: slab.shape.kv_heads as u32,
                    dim: slab.dim as u32,
                };
                Destination {
                    kv,
                    head_dim: slab.shape.head_dim,
                    row_slot: 0,
                    row_position: 0,
                    row_request: view.row_request,
                    requests: view.requests,
                    prefix_lengths: self.slots().table(Segment::Prefix).lengths,
                    own_step: step,
                }
            }
            (target, rows) => panic!("write_kv: {rows:?} to {target:?}"),
        }
    }

    /// Addresses of the norms of queries and keys, and of cosines and sines; 0 for what is not asked for.
    fn norms_and_angles(&self, args: &WriteKvArgs, head_dim: usize) -> ([u64; 2], [u64; 2]) {
        let norms = args.head_norm.map_or([0; 2], |norm| {
            [norm.query, norm.key].map(|vector| {
                let VectorOnCard { address, len } = self.weights.vectors[vector.0 as usize];
                assert_eq!(len, head_dim, "write_kv: width of a head norm");
                address
            })
        });
        let angles = args.rope.map_or([0; 2], |rope| {
            let RopeTables { cos, sin, half, .. } = self.weights.ropes[rope.0 as usize];
            assert_eq!(2 * half, head_dim, "write_kv: RoPE tables");
            [cos, sin]
        });
        (norms, angles)
    }

    pub(in crate::device::cuda) fn run_write_kv(&mut self, args: &WriteKvArgs) -> Result<(), DeviceError> {
        let op = "write_kv";
        let set = self.row_set(args.rows);
        let to = self.destination(args.rows, args.target);
        let (head_dim, kv_heads) = (to.head_dim, to.kv.kv_heads as usize);
        let compute = self.facts.compute;
        assert!(args.key.dtype == Dtype::F32 && args.value.dtype == Dtype::F32, "{op}: types of key and value");
        assert_eq!(args.query.is_some(), args.query_out.is_some(), "{op}: a query has a place to go");
        let query = args.query.zip(args.query_out);
        let heads = query.map_or(0, |(query, out)| {
            assert!(query.dtype == Dtype::F32 && out.dtype == compute, "{op}: types of query and query_out");
            assert!(query.cols.is_multiple_of(head_dim), "{op}: {} columns, heads {head_dim}", query.cols);
            query.cols / head_dim
        });
        let ([query_norm, key_norm], [cosines, sines]) = self.norms_and_angles(args, head_dim);
        let kv_cols = kv_heads * head_dim;
        let place = |tensor, cols| self.place(op, tensor, set.bucket, cols);
        let params = WriteKvParams {
            query: query.map_or(0, |(query, _)| place(query, heads * head_dim)),
            key: place(args.key, kv_cols),
            value: place(args.value, kv_cols),
            query_out: query.map_or(0, |(_, out)| place(out, heads * head_dim)),
            query_norm,
            key_norm,
            cosines,
            sines,
            live: set.live,
            row_slot: to.row_slot,
            row_position: to.row_position,
            row_request: to.row_request,
            requests: to.requests,
            prefix_lengths: to.prefix_lengths,
            kv: to.kv,
            query_stride: query.map_or(0, |(query, _)| query.stride as u32),
            key_stride: args.key.stride as u32,
            value_stride: args.value.stride as u32,
            query_out_stride: query.map_or(0, |(_, out)| out.stride as u32),
            heads: heads as u32,
            head_dim: head_dim as u32,
            own_step: to.own_step as u32,
            query_scale: args.query_scale,
            eps: args.head_norm.map_or(0.0, |norm| norm.eps),
            reserved: 0,
        };
        // As `group_lanes` of the kernel: two pairs of elements a lane.
        let lanes = (to.kv.dim as usize / 4).min(32);
        let blocks = ((heads + 2 * kv_heads) * lanes).div_ceil(THREADS);
        let shape = Shape {
            queue: set.queue,
            grid: [set.bucket as u32, blocks as u32, 1],
            threads: THREADS as u32,
            dynamic_shared: 0,
        };
        let [kernel] = kernels(compute);
        self.launch(&kernel, shape, params)
    }
}
