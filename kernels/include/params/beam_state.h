/* Parameters of begin_cohort and force_token: steps of the beam state without a choice of children. */
#pragma once
#include "params/common.h"

typedef struct BeginParams {
    BeamState state;   /* the beams before step 0 */
    uint64_t requests; /* RequestEntry[requests] */
    uint64_t counts;   /* u32[4]: requests, end of the last row */
} BeginParams;

typedef struct ForceParams {
    BeamState now;     /* beams before this step */
    BeamState next;    /* beams after it */
    uint64_t requests; /* RequestEntry[requests] */
    uint64_t counts;   /* u32[4]: requests, end of the last row */
    uint64_t logits;   /* f32[rows][logits_stride]: the token's logit in column 0; 0 when the token is not scored */
    uint64_t lognorm;  /* f32[rows][lognorm_stride]; 0 when the token is not scored */
    uint64_t log_probs; /* f32[steps][rows][2] */
    uint64_t order;    /* scratch u64[rows][EXPAND_ORDER] */
    uint32_t logits_stride;
    uint32_t lognorm_stride;
    uint32_t token;
    uint32_t step; /* tokens chosen before this one */
    uint32_t rows; /* row capacity of the ancestor tables */
    uint32_t reserved;
} ForceParams;
