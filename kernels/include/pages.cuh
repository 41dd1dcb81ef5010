// One idea: where a token's key and value lie in a slot's pages.
#pragma once
#include "ptx.h"

#include "params/common.h"

#define NO_ROW 0xffffffffu

DEVICE const uint32_t* block_table(const PagedKeys& kv, uint32_t slot) {
    return pointer<const uint32_t>(kv.block_table) + static_cast<uint64_t>(slot) * kv.table_stride;
}

// Valid tokens of a slot's segment.
DEVICE uint32_t segment_length(const PagedKeys& kv, uint32_t slot) {
    return pointer<const uint32_t>(kv.lengths)[static_cast<uint64_t>(slot) * kv.table_stride];
}

// A token's row of `dim` elements, the same in keys and values. A layer has fewer than 2^32 - 1 of them (at the smallest head,
// 64 bytes, that is 256 GiB).
DEVICE uint32_t page_row(const PagedKeys& kv, const uint32_t* table, uint32_t kv_head, uint32_t position) {
    const uint32_t page = position / kv.page_tokens;
    return (table[page] * kv.kv_heads + kv_head) * kv.page_tokens + (position - page * kv.page_tokens);
}
