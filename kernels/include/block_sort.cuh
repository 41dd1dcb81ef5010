// Bitonic sort of u64 keys by one block, in shared or global memory.
#pragma once
#include "ptx.h"

// The least power of two that is not less than `n`; 1 for 0.
DEVICE uint32_t sorted_length(uint32_t n) { return n <= 1 ? 1 : 1u << (32 - __clz(static_cast<int>(n - 1))); }

// Sorts `length` keys (a power of two), largest first. All threads of the block call it, and see the result after it; what
// they wrote before, they have waited for with a barrier.
//
// Pairs at most 32 apart lie within the 64 keys of one warp, so that those rounds need no barrier of the block.
template <int THREADS>
DEVICE void sort_descending(uint64_t* keys, uint32_t length) {
    for (uint32_t size = 2; size <= length; size *= 2) {
        for (uint32_t stride = size / 2; stride > 0; stride /= 2) {
            for (uint32_t pair = threadIdx.x; pair < length / 2; pair += THREADS) {
                uint32_t i = 2 * pair - (pair & (stride - 1));
                uint64_t first = keys[i], second = keys[i + stride];
                bool descending = (i & size) == 0;
                if ((first < second) == descending) keys[i] = second, keys[i + stride] = first;
            }
            uint32_t next = stride > 1 ? stride / 2 : size;
            if (max(stride, next) > 32) {
                __syncthreads();
            } else {
                __syncwarp();
            }
        }
    }
    __syncthreads();
}
