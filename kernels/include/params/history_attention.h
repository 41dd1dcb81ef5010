/* Attention of token rows over a paged segment. */
#pragma once
#include "params/common.h"

#define MASK_FULL 0u
#define MASK_CAUSAL 1u

typedef struct HistoryAttentionParams {
    uint64_t query;      /* T[rows][query_stride]: heads of head_dim elements, already scaled */
    uint64_t out;        /* T[rows][out_stride]: the same columns */
    uint64_t tiles;      /* QueryTile[] */
    uint64_t tile_count; /* address of a u32: tiles there are now */
    uint64_t bias;       /* f32[heads][2 max_distance + 1], or 0 */
    PagedKeys kv;
    uint32_t query_stride;
    uint32_t out_stride;
    uint32_t heads; /* a multiple of kv.kv_heads */
    uint32_t head_dim;
    uint32_t max_distance;
    uint32_t mask; /* MASK_FULL or MASK_CAUSAL */
} HistoryAttentionParams;
