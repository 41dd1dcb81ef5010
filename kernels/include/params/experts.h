/* Parameters of experts.cu and experts_linear.cu: a mixture of experts. A row's experts are its choices, best first; `pairs` are
   rows times choices. The pairs of one expert stand together, in row order, at their `positions`. */
#pragma once
#include "params/linear.h"

/* Most experts of a layer. */
#define MAX_EXPERTS 64u
/* Rows of x that a block of experts_route takes. */
#define ROUTE_ROWS 4u
/* Positions of a tile. */
#define EXPERT_TILE_ROWS 64u
/* Threads of experts_group; its dynamic shared memory is u32[experts][EXPERT_GROUP_THREADS]. */
#define EXPERT_GROUP_THREADS 256u

/* Softmax over all experts and then the choice, or over the chosen. */
#define ROUTER_SOFTMAX_TOP_K 0u
#define ROUTER_TOP_K_SOFTMAX 1u

/* Positions first .. end, all of one expert. */
typedef struct ExpertTile {
    uint32_t expert;
    uint32_t first;
    uint32_t end;
    uint32_t reserved;
} ExpertTile;

typedef struct ExpertsRouteParams {
    uint64_t x;       /* T[rows][x_stride], 16-byte aligned; columns from `cols` on count as zero */
    uint64_t router;  /* f32[experts][router_stride], zeros behind `cols` */
    uint64_t live;    /* u32: rows now */
    uint64_t choices; /* u32[rows][top_k]: experts, best first */
    uint64_t weights; /* f32[rows][top_k] */
    uint32_t x_stride;
    uint32_t router_stride; /* a multiple of 4 */
    uint32_t cols;
    uint32_t experts;
    uint32_t top_k;
    uint32_t order;
    uint32_t renormalise; /* 1: chosen weights are divided by their sum */
    float scale;
} ExpertsRouteParams;

typedef struct ExpertsGroupParams {
    uint64_t choices;    /* u32[rows][top_k] */
    uint64_t live;       /* u32: rows now */
    uint64_t tiles;      /* ExpertTile[] */
    uint64_t tile_count; /* u32[1] */
    uint64_t rows;       /* u32[positions]: the row that stands there */
    uint64_t positions;  /* u32[rows][top_k] */
    uint32_t experts;
    uint32_t top_k;
} ExpertsGroupParams;

typedef struct ExpertsLinearParams {
    LinearParams linear; /* `weight` and `live` of its product are 0: an expert's weight and a tile's end take their place */
    uint64_t weights;    /* u64[experts]: addresses of packed weights */
    uint64_t tiles;      /* ExpertTile[] */
    uint64_t tile_count; /* u32[1] */
    uint64_t rows;       /* u32[positions]: rows of x; not read by experts_output_*, whose x has a row a position */
} ExpertsLinearParams;

typedef struct ExpertsSumParams {
    uint64_t outputs;   /* f32[positions][outputs_stride] */
    uint64_t positions; /* u32[rows][top_k] */
    uint64_t weights;   /* f32[rows][top_k] */
    uint64_t live;      /* u32: rows now */
    uint64_t out;       /* f32[rows][out_stride], added to */
    uint32_t outputs_stride;
    uint32_t out_stride;
    uint32_t cols;
    uint32_t top_k;
} ExpertsSumParams;
