//! `write_kv` in plain loops.

use super::plain::{self, Prepare};
use super::store::expect_shape;
use super::{CpuDevice, matrix, matrix_mut};
use crate::device::{DeviceError, KvTarget, Rows, WriteKvArgs};

pub(super) fn write_kv(device: &mut CpuDevice, args: &WriteKvArgs) -> Result<(), DeviceError> {
    let CpuDevice { lanes, store, weights, kv_pools, own_slabs, .. } = device;
    let head_dim = match args.target {
        KvTarget::Pages { pool, .. } => kv_pools[pool.0 as usize].shape.head_dim,
        KvTarget::Own { slab, .. } => own_slabs[slab.0 as usize].shape.head_dim,
    };
    let norm = |vector: crate::device::Vector, eps| (&weights.vectors[vector.0 as usize][..], eps);
    let prepare = Prepare {
        head_dim,
        compute: device.facts.compute,
        query_norm: args.head_norm.map(|n| norm(n.query, n.eps)),
        key_norm: args.head_norm.map(|n| norm(n.key, n.eps)),
        rope: args.rope.map(|rope| &weights.ropes[rope.0 as usize]),
        query_scale: args.query_scale,
    };
    let ranges = lanes.ranges(args.rows);
    let end = ranges.last().map_or(0, |range| range.end);
    expect_shape("write_kv", "value", args.value, end, args.key.cols);
    let key = store.read("write_kv", args.key);
    let value = store.read("write_kv", args.value);
    for row in ranges.iter().cloned().flatten() {
        let (slot, position) = match (args.rows, args.target) {
            (Rows::Tokens(lane), KvTarget::Pages { .. }) => {
                let state = &lanes.tokens[lane.0 as usize];
                (&lanes.slots[state.slots[row] as usize], state.positions[row] as usize)
            }
            (Rows::Beams(lane), KvTarget::Own { step, .. }) => {
                let cohort = &lanes.cohorts[lane.0 as usize];
                let request = cohort.requests.iter().find(|request| request.rows().contains(&row));
                let slot = &lanes.slots[request.expect("a live row has a request").slot as usize];
                (slot, slot.history_len as usize + slot.prefix_len as usize + step)
            }
            (rows, target) => panic!("write_kv: {rows:?} to {target:?}"),
        };
        let mut keys = matrix(&key, args.key).row(row, args.key.cols);
        let mut values = matrix(&value, args.value).row(row, args.value.cols);
        prepare.key(&mut keys, position);
        plain::round_row(&mut values, device.facts.compute);
        match args.target {
            KvTarget::Pages { pool, segment, layer } => {
                let pages = plain::pages_of(slot, segment).0;
                plain::write_page(&mut kv_pools[pool.0 as usize], layer, pages, position, &keys, &values);
            }
            KvTarget::Own { slab, layer, step } => {
                plain::write_own(&mut own_slabs[slab.0 as usize], layer, step, row, &keys, &values);
            }
        }
        if let (Some(query), Some(query_out)) = (args.query, args.query_out) {
            expect_shape("write_kv", "query_out", query_out, end, query.cols);
            let mut values = matrix(&store.read("write_kv", query), query).row(row, query.cols);
            prepare.query(&mut values, position);
            let mut out = store.write("write_kv", query_out);
            matrix_mut(&mut out, query_out).set_row(row, &values);
        }
    }
    Ok(())
}
