// One idea: what a block of history attention works on, whatever its element type. A block takes ROWS query rows of a tile and one or
// more heads that share a KV head, and walks the keys that any of its rows sees in tiles of KEYS, cut at absolute positions. What a
// key tile needs beside keys and values, where its rows lie and its biases by distance, is looked up one tile ahead.
#pragma once
#include "pages.cuh"

#include "params/history_attention.h"

struct AttentionWork {
    uint32_t first_row; // of the query and output buffers
    uint32_t rows;
    uint32_t first_position;
    uint32_t head; // the block's first
    uint32_t kv_head;
    uint32_t length; // valid keys
    uint32_t keys;   // keys that any row of the block sees
    const uint32_t* table;
};

// Keys that row `row` of the block sees: those at positions below this.
DEVICE uint32_t visible_keys(const HistoryAttentionParams& p, const AttentionWork& work, uint32_t row) {
    return p.mask == MASK_CAUSAL ? min(work.length, work.first_position + row + 1) : work.length;
}

// The work of a block of `heads` heads. False where a block of the bucket's grid has nothing to do.
template <int ROWS>
DEVICE bool find_work(const HistoryAttentionParams& p, uint32_t heads, AttentionWork& work) {
    const uint32_t tiles = *pointer<const uint32_t>(p.tile_count);
    const uint32_t skipped = blockIdx.z * ROWS;
    if (blockIdx.x >= tiles) return false;
    // Under a causal mask a span's last tiles have the most keys: they start first.
    const QueryTile tile = pointer<const QueryTile>(p.tiles)[tiles - 1 - blockIdx.x];
    if (skipped >= tile.rows) return false;
    work.first_row = tile.first_row + skipped;
    work.rows = min(tile.rows - skipped, static_cast<uint32_t>(ROWS));
    work.first_position = tile.first_position + skipped;
    work.head = blockIdx.y * heads;
    work.kv_head = work.head / (p.heads / p.kv.kv_heads);
    work.length = segment_length(p.kv, tile.slot);
    work.table = block_table(p.kv, tile.slot);
    work.keys = visible_keys(p, work, work.rows - 1);
    return true;
}

// Of one key tile, in shared memory. Biases are those of the block's first head: with a bias a block has but one.
template <int ROWS, int KEYS>
struct KeyTile {
    uint32_t rows[KEYS];     // page rows, NO_ROW beyond the block's keys
    float bias[ROWS + KEYS]; // entry key - row + ROWS - 1
};

// A thread's share of it, for blocks of at least (ROWS + KEYS) / 2 threads.
struct KeyTileEntry {
    uint32_t row;
    float bias[2];
};

template <int ROWS, int KEYS>
DEVICE KeyTileEntry look_up(const HistoryAttentionParams& p, const AttentionWork& work, uint32_t first_key) {
    KeyTileEntry entry = {NO_ROW, {0.0f, 0.0f}};
    const uint32_t key = first_key + threadIdx.x;
    if (threadIdx.x < KEYS && key < work.keys) entry.row = page_row(p.kv, work.table, work.kv_head, key);
    if (p.bias != 0) {
        const int reach = static_cast<int>(p.max_distance);
        const float* by_distance = pointer<const float>(p.bias) + static_cast<uint64_t>(work.head) * (2 * reach + 1);
        for (int i = 0; i < 2; i++) {
            const int distance = static_cast<int>(key + i * blockDim.x - work.first_position) - (ROWS - 1);
            entry.bias[i] = by_distance[reach + max(-reach, min(distance, reach))];
        }
    }
    return entry;
}

template <int ROWS, int KEYS>
DEVICE void publish(KeyTile<ROWS, KEYS>& tile, const KeyTileEntry& entry) {
    if (threadIdx.x < KEYS) tile.rows[threadIdx.x] = entry.row;
    for (int i = 0; i < 2; i++) {
        const uint32_t index = threadIdx.x + i * blockDim.x;
        if (index < ROWS + KEYS) tile.bias[index] = entry.bias[i];
    }
}
