/* Parameters of norm. */
#pragma once
#include "params/common.h"

typedef struct NormParams {
    uint64_t x;      /* f32[rows][x_stride] */
    uint64_t weight; /* f32[cols] */
    uint64_t live;   /* u32: rows now */
    uint64_t out;    /* T[rows][out_stride] */
    uint32_t cols;
    uint32_t x_stride;
    uint32_t out_stride;
    float eps;
} NormParams;
