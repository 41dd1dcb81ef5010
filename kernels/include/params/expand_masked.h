/* Parameters of expand_masked: the softmax over each beam's legal children. */
#pragma once
#include "params/common.h"

/* f32 a row of `norms`: log-normaliser over the legal children. */
#define MASKED_NORMS 1u

typedef struct MaskedParams {
    BeamState now;        /* beams before this level */
    uint64_t requests;    /* RequestEntry[requests] */
    uint64_t row_request; /* u32[rows] */
    uint64_t counts;      /* u32[4]: requests, end of the last row */
    uint64_t ban_ends;    /* u32[requests][MAX_LEVELS + 1] */
    uint64_t ban_nodes;   /* u32[] sorted within a request's level */
    uint64_t codes;       /* u16[nodes of the level] */
    uint64_t first_child; /* u32[nodes of the level above + 1]; level 0: of the root */
    uint64_t logits;      /* f32[rows][logits_stride]; at level 0 a row a request, else a row a beam */
    uint64_t norms;       /* f32[rows][MASKED_NORMS], rows as those of `logits` */
    uint32_t logits_stride;
    uint32_t level;
} MaskedParams;
