/* Norm, rotation and scale of queries and keys; keys and values to where attention reads them. */
#pragma once
#include "params/common.h"

typedef struct WriteKvParams {
    uint64_t query;        /* f32[rows][query_stride]: heads of head_dim elements; 0 when only K and V are written */
    uint64_t key;          /* f32[rows][key_stride]: KV heads of head_dim elements */
    uint64_t value;        /* f32[rows][value_stride]: the same columns */
    uint64_t query_out;    /* T[rows][query_out_stride]: columns as in query */
    uint64_t query_norm;   /* f32[head_dim], or 0 */
    uint64_t key_norm;     /* f32[head_dim]; there when query_norm is */
    uint64_t cosines;      /* f32[positions][head_dim / 2], or 0 */
    uint64_t sines;        /* the same shape; there when cosines are */
    uint64_t live;         /* address of a u32: rows there are now */
    uint64_t row_slot;     /* u32[rows] of a token lane; 0 for beams */
    uint64_t row_position; /* u32[rows] of a token lane; 0 for beams */
    uint64_t row_request;  /* u32[rows] of a cohort lane; 0 for tokens */
    uint64_t requests;     /* RequestEntry[] of a cohort lane; 0 for tokens */
    uint64_t prefix_lengths; /* as kv.lengths (histories), of prefixes; 0 for tokens */
    PagedKeys kv;          /* for beams keys and values are T[rows][kv_heads][dim] of the slab's step, and there is no table */
    uint32_t query_stride;
    uint32_t key_stride;
    uint32_t value_stride;
    uint32_t query_out_stride;
    uint32_t heads;
    uint32_t head_dim;
    uint32_t own_step; /* step that the beams' tokens belong to; 0 for tokens */
    float query_scale;
    float eps; /* of the norms */
    uint32_t reserved;
} WriteKvParams;
