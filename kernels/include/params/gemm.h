/* What every product with a packed weight takes. */
#pragma once
#ifndef __CUDACC_RTC__
#include <stdint.h>
#endif

/* Packed columns that lie together; a weight is padded with zeros to whole groups. */
#define GEMM_GROUP 32u
/* Elements of k to which a packed weight is padded. */
#define GEMM_K_PADDING 64u

/* x W^T of the rows that live now. */
typedef struct Product {
    uint64_t x;      /* T[rows][x_stride], 16-byte aligned; columns from `k` on are not read */
    uint64_t weight; /* T, packed as engine/device/cuda/pack.rs says, from the first group that is wanted */
    uint64_t live;   /* u32[1]: rows that there are */
    uint32_t x_stride;
    uint32_t k;      /* columns of x */
    uint32_t k_padded;
    uint32_t groups; /* groups of packed columns to compute */
} Product;
