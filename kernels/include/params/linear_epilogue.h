/* Parameters of linear_epilogue.cu. */
#pragma once
#include "params/linear.h"

typedef struct LinearEpilogueParams {
    uint64_t sums; /* f32[rows][sums_stride]: rows first_row .. of the product */
    uint64_t out;  /* f32 or bf16 [rows][out_stride], of the same rows */
    uint64_t live; /* u32: rows now, counted from row 0 */
    uint32_t first_row;
    uint32_t sums_stride;
    uint32_t out_stride;
    uint32_t columns; /* of the output; COMBINE_GATE reads twice as many: all gates, then all up projections */
    uint32_t out_dtype; /* DTYPE_F32 or DTYPE_BF16 */
    uint32_t combine;
    uint32_t activation;
    uint32_t aligned; /* 1 when `out` is a multiple of 16 */
} LinearEpilogueParams;
