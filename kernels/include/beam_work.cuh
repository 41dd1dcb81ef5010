// One idea: what a block of beam attention works on. All live beams of a request and the query heads that share a KV head are
// rows of one matrix product: virtual row v is beam v / group, query head v % group of the group. A block takes ROWS of them
// and some splits of the request's shared keys.
//
// Where a segment is cut depends on its own length alone, so a row's splits are the same in every batch and every bucket.
#pragma once
#include "pages.cuh"
#include "params/beam_attention.h"

struct BeamWork {
    uint32_t first_row;    // of the request, in the query and output buffers
    uint32_t first;        // virtual row that the block starts at
    uint32_t rows;         // virtual rows of the block that there are
    uint32_t group;        // query heads of a KV head
    uint32_t kv_head;
    uint32_t length;       // shared keys
    uint32_t split_length; // keys of a split
    uint32_t splits;
    uint32_t first_split;  // of the block
    uint32_t end_split;
    const uint32_t* table;
};

DEVICE uint32_t divide_up(uint32_t n, uint32_t by) { return (n + by - 1) / by; }

// Keys of a split of `length` keys.
DEVICE uint32_t split_length(uint32_t length) {
    return max(divide_up(length, BEAM_SPLIT_TOKENS * BEAM_MAX_SPLITS), 1u) * BEAM_SPLIT_TOKENS;
}

DEVICE bool has_shared(const BeamAttentionParams& p) { return p.shared.keys != 0; }
DEVICE bool has_own(const BeamAttentionParams& p) { return p.own.keys != 0; }

// Shared keys of a slot.
DEVICE uint32_t shared_length(const BeamAttentionParams& p, uint32_t slot) {
    return has_shared(p) ? segment_length(p.shared, slot) : 0;
}

// Live beams of request `index`, which may be one that the bucket has room for and the cohort does not have.
DEVICE uint32_t live_beams(const BeamAttentionParams& p, uint32_t index) {
    return index < pointer<const uint32_t>(p.counts)[0] ? pointer<const uint32_t>(p.live)[index] : 0;
}

// Row and query head of a virtual row of the block.
DEVICE uint32_t buffer_row(const BeamWork& work, uint32_t row) { return work.first_row + (work.first + row) / work.group; }
DEVICE uint32_t query_head(const BeamWork& work, uint32_t row) {
    return work.kv_head * work.group + (work.first + row) % work.group;
}

// False where this block of the bucket's grid has nothing to do. Grid: row tiles, KV heads x blocks of SPLITS splits (one block
// for all where nothing is left to be merged), requests.
template <int ROWS, int SPLITS>
DEVICE bool find_work(const BeamAttentionParams& p, BeamWork& work) {
    const uint32_t request = blockIdx.z;
    const uint32_t live = live_beams(p, request);
    work.group = p.heads / p.kv_heads;
    work.first = blockIdx.x * ROWS;
    if (work.first >= live * work.group) return false;
    const RequestEntry entry = pointer<const RequestEntry>(p.requests)[request];
    work.first_row = entry.first_row;
    work.rows = min(live * work.group - work.first, static_cast<uint32_t>(ROWS));
    work.kv_head = blockIdx.y % p.kv_heads;
    work.length = shared_length(p, entry.slot);
    work.split_length = split_length(work.length);
    work.splits = divide_up(work.length, work.split_length);
    work.table = has_shared(p) ? block_table(p.shared, entry.slot) : nullptr;
    if (p.partial_output == 0) {
        work.first_split = 0;
        work.end_split = work.splits;
        return true;
    }
    work.first_split = blockIdx.y / p.kv_heads * SPLITS;
    work.end_split = min(work.first_split + SPLITS, work.splits);
    return work.first_split < work.splits;
}

// Bias of a query head by key position - query position.
DEVICE float distance_bias(const BeamAttentionParams& p, uint32_t head, int distance) {
    const int reach = static_cast<int>(p.max_distance);
    const float* by_distance = pointer<const float>(p.bias) + static_cast<uint64_t>(head) * (2 * reach + 1);
    return by_distance[reach + max(-reach, min(distance, reach))];
}

// Where a split's part of a row is kept until it is merged, in rows of `dim` (or of one Softmax).
DEVICE uint64_t partial_row(const BeamAttentionParams& p, uint32_t split, uint32_t row, uint32_t head) {
    return (static_cast<uint64_t>(split) * p.partial_rows + row) * p.heads + head;
}
