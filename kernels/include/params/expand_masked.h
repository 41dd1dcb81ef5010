/* Parameters of expand_masked: the softmax over each beam's legal children, and what sampling draws from it. */
#pragma once
#include "params/common.h"
#include "params/legal.h"

/* f32 a row of `norms`: log-normaliser over the legal children; of sampled beams also the largest legal logit, and ln of the sum
   of exp((logit - largest) * scale). */
#define MASKED_NORMS 4u

typedef struct MaskedParams {
    BeamState now;        /* beams before this level */
    uint64_t requests;    /* RequestEntry[requests] */
    uint64_t row_request; /* u32[rows] */
    uint64_t counts;      /* u32[4]: requests, end of the last row */
    Legality legal;       /* which children count */
    uint64_t codes;       /* u16[nodes of the level] */
    uint64_t first_child; /* u32[nodes of the level above + 1]; level 0: of the root */
    uint64_t logits;      /* f32[rows][logits_stride]; at level 0 a row a request, else a row a beam */
    uint64_t norms;       /* f32[rows][MASKED_NORMS], rows as those of `logits` */
    uint64_t keys;        /* f32[rows][key_stride]: perturbed log-probability of each child of a beam of distinct samples */
    uint64_t draws;       /* u32[rows]: place of the child that an independent sequence took, EXPAND_NONE if none */
    uint32_t logits_stride;
    uint32_t key_stride; /* children that the widest node of the trie has */
    uint32_t level;
    uint32_t normalizes; /* 1 when requests that are not sampled need the log-normaliser too */
} MaskedParams;
