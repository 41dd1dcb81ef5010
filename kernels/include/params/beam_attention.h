/* Attention of beam rows over a shared paged segment and their own tokens. */
#pragma once
#include "params/common.h"

/* A segment of n tokens is cut into splits of BEAM_SPLIT_TOKENS * ceil(n / (BEAM_SPLIT_TOKENS * BEAM_MAX_SPLITS)) tokens: at
   most BEAM_MAX_SPLITS of them, whatever the batch. */
#define BEAM_SPLIT_TOKENS 256u
#define BEAM_MAX_SPLITS 8u

/* Splits that a block of the bf16 kernel takes at a time, one by each half of its warps. */
#define BEAM_BLOCK_SPLITS 2u

/* Of the kernels over shared keys and of the one that merges their splits. */
typedef struct BeamAttentionParams {
    uint64_t query;    /* T[rows][query_stride]: heads of head_dim elements, already scaled */
    uint64_t out;      /* T[rows][out_stride]: the same columns */
    uint64_t requests; /* RequestEntry[] */
    uint64_t counts;   /* u32[4]: requests in element 0 */
    uint64_t live;     /* u32[requests]: live beams */
    uint64_t bias;     /* f32[heads][2 max_distance + 1], or 0; only with own tokens */
    /* What the splits of a row found, until they are merged: f32[BEAM_MAX_SPLITS][partial_rows][heads][dim] and
       f32[BEAM_MAX_SPLITS][partial_rows][heads][2] (maximum, denominator). 0: each block walks all splits and stores `out`. */
    uint64_t partial_output;
    uint64_t partial_softmax;
    PagedKeys shared; /* keys 0: none */
    OwnKeys own;      /* keys 0: none */
    uint32_t query_stride;
    uint32_t out_stride;
    uint32_t heads; /* a multiple of kv_heads */
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t dim; /* of keys, values and partial outputs: 32, 64, 128 or 256 */
    uint32_t max_distance;
    uint32_t partial_rows;
} BeamAttentionParams;
