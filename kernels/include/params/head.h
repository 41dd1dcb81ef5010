/* Parameters of head.cu. */
#pragma once
#include "params/gemm.h"

/* Columns that one (maximum, sum) stands for. */
#define HEAD_PARTIAL_COLUMNS 64u

typedef struct HeadParams {
    Product product;
    uint64_t counted;  /* u32[groups]: bit c says that column c of the group is part of the normaliser */
    uint64_t logits;   /* f32[rows][logits_stride] */
    uint64_t partials; /* f32[rows][partial_count][2]: maximum and sum of exp(logit - maximum) */
    uint32_t logits_stride;
    uint32_t first_wanted; /* computed columns whose logits are stored: first_wanted .. end_wanted */
    uint32_t end_wanted;
    uint32_t partial_count;
    uint32_t aligned; /* 1 when `logits`, less `first_wanted` elements, is a multiple of 16 */
    uint32_t reserved;
} HeadParams;

typedef struct HeadMergeParams {
    uint64_t partials; /* as above */
    uint64_t lognorm;  /* f32[rows][lognorm_stride] */
    uint64_t live;     /* u32[1] */
    uint32_t lognorm_stride;
    uint32_t partial_count;
} HeadMergeParams;
