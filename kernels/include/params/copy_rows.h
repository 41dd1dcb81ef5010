/* Parameters of copy_rows. */
#pragma once
#include "params/common.h"

/* Which row the i-th copy reads or writes: word i * stride of the list, or i itself when there is no list. */
typedef struct RowList {
    uint64_t rows; /* u32[count][stride], or 0 */
    uint32_t stride;
    uint32_t reserved;
} RowList;

typedef struct CopyParams {
    uint64_t from;
    uint64_t to;
    uint64_t live; /* u32: copies now */
    RowList from_rows;
    RowList to_rows;
    uint32_t from_stride_bytes;
    uint32_t to_stride_bytes;
    uint32_t row_bytes;
    uint32_t unit_bytes; /* 16, 4 or 2: divides both addresses, both strides and row_bytes */
} CopyParams;
