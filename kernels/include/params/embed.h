/* Parameters of embed. */
#pragma once
#include "params/common.h"

typedef struct EmbedParams {
    uint64_t table;  /* T[vocabulary][cols], as in the file */
    uint64_t tokens; /* u32[rows] */
    uint64_t live;   /* u32: rows now */
    uint64_t out;    /* f32[rows][out_stride] */
    uint32_t vocabulary;
    uint32_t cols;
    uint32_t out_stride;
    uint32_t reserved;
} EmbedParams;
