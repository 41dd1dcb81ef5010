/* Parameters of linear.cu. */
#pragma once
#include "params/gemm.h"

#define ACTIVATION_NONE 0u
#define ACTIVATION_RELU 1u
#define ACTIVATION_GELU_TANH 2u
#define ACTIVATION_GELU_ERF 3u
#define ACTIVATION_SILU 4u

/* What becomes of the products; `out` is f32 where it is added to. */
#define COMBINE_STORE 0u
#define COMBINE_ADD 1u
#define COMBINE_GATE 2u

typedef struct LinearParams {
    Product product;
    uint64_t out;       /* f32 or bf16 [rows][out_stride] */
    uint64_t bias;      /* f32[groups * GEMM_GROUP] in the order of the packed columns, or 0 */
    uint32_t out_stride;
    uint32_t columns;   /* of the output; half the weight's for COMBINE_GATE */
    uint32_t out_dtype; /* DTYPE_F32 or DTYPE_BF16 */
    uint32_t combine;
    uint32_t activation; /* of the products, or of the gate's half of them */
    uint32_t aligned;    /* 1 when `out` is a multiple of 16 */
} LinearParams;
