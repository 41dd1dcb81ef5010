// Which rows of x a product multiplies.
#pragma once
#include "ptx.h"

// Rows of the product are rows of x.
struct RowsInOrder {
    __device__ uint32_t of(uint32_t row, uint32_t) const { return row; }
};

// Row i of the product is row list[i] of x. The list is not read beyond the live rows.
struct ListedRows {
    uint64_t list; // u32[live]

    __device__ uint32_t of(uint32_t row, uint32_t live) const { return row < live ? pointer<const uint32_t>(list)[row] : 0; }
};
