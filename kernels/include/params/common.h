/* What several kernels' parameters share. Plain C with fixed-width fields: CUDA C++ and bindgen read the same text.
   Addresses of device memory are uint64_t. */
#pragma once
#ifndef __CUDACC_RTC__
#include <stdint.h>
#endif

/* Element types of a buffer. */
#define DTYPE_F32 0u
#define DTYPE_BF16 1u
#define DTYPE_F16 2u /* embedding tables only */

/* One layer of a paged segment, and how a slot finds its pages. */
typedef struct PagedKeys {
    uint64_t keys;        /* T[pages][kv_heads][page_tokens][dim]; T is the compute type */
    uint64_t values;      /* the same shape */
    uint64_t lengths;     /* u32: valid tokens of slot s at lengths[s * table_stride] */
    uint64_t block_table; /* u32: page ids of slot s from block_table[s * table_stride] on */
    uint32_t table_stride;
    uint32_t page_tokens;
    uint32_t kv_heads;
    uint32_t dim; /* head_dim rounded up to one of 32, 64, 128, 256; the padding is zero */
} PagedKeys;

/* Own tokens of a cohort's beams, one layer. */
typedef struct OwnKeys {
    uint64_t keys;   /* T[steps][rows][kv_heads][dim] */
    uint64_t values; /* the same shape */
    uint64_t ancestors; /* u32[steps][rows]: row at which the token of that step was decoded, of the current beams */
    uint32_t rows;      /* row capacity of the slab and of the ancestor table */
    uint32_t step;      /* step being decoded: steps 0 ..= step are attended to */
} OwnKeys;

/* State of every beam row after a step; a lane has two and steps alternate between them. */
typedef struct BeamState {
    uint64_t node;      /* u32[rows] node of the newest level */
    uint64_t score;     /* f32[rows] */
    uint64_t token;     /* u32[rows] newest token */
    uint64_t live;      /* u32[requests] live beams of each request */
    uint64_t ancestors; /* u32[steps][rows] */
    uint64_t log_prob;  /* f32[rows] sum of behaviour log-probabilities; of distinct samples only */
    uint64_t key;       /* f32[rows] perturbed log-probability; of distinct samples only */
} BeamState;

/* How a request's children are chosen. */
#define SAMPLING_NONE 0u
#define SAMPLING_INDEPENDENT 1u
#define SAMPLING_DISTINCT 2u

/* One request of a cohort. */
typedef struct RequestEntry {
    uint32_t slot;
    uint32_t beams;     /* beam width */
    uint32_t first_row; /* its rows are first_row .. first_row + beams */
    uint32_t mask;      /* 1 + its mask slot; 0: it has none, and every node of the trie is allowed */
    uint32_t sampling;  /* SAMPLING_NONE, .. */
    uint32_t seed_low;
    uint32_t seed_high;
    float scale;    /* 1 / temperature */
    float root_key; /* perturbed log-probability of the root, of distinct samples */
    uint32_t reserved;
} RequestEntry;

/* A block of query rows that belong to one slot and stand one after another. */
typedef struct QueryTile {
    uint32_t first_row; /* of the query and output buffers */
    uint32_t rows;      /* 1 ..= QUERY_TILE_ROWS */
    uint32_t slot;
    uint32_t first_position; /* position of the first row in its segment */
} QueryTile;

/* Query rows of a tile; tiles start at a span's first row. */
#define QUERY_TILE_ROWS 64u
/* Most levels of a semantic ID. */
#define MAX_LEVELS 8u
