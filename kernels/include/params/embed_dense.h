/* Parameters of embed_dense. */
#pragma once
#include "params/common.h"

typedef struct EmbedDenseParams {
    uint64_t values; /* f32[rows][cols] */
    uint64_t live;   /* u32: rows now */
    uint64_t out;    /* T[rows][out_stride] */
    uint32_t cols;
    uint32_t out_stride;
} EmbedDenseParams;
