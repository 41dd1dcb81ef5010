// Bitonic sort of u64 keys by one block, in shared or global memory.
#pragma once
#include "ptx.h"

// The least power of two that is not less than `n`; 1 for 0.
DEVICE uint32_t sorted_length(uint32_t n) { return n <= 1 ? 1 : 1u << (32 - __clz(static_cast<int>(n - 1))); }

// Puts the two keys of a pair in order: the pair's keys are `stride` apart, and runs of `size` keys alternate in direction.
DEVICE void order_pair(uint64_t* keys, uint32_t pair, uint32_t stride, uint32_t size) {
    const uint32_t i = 2 * pair - (pair & (stride - 1));
    const uint64_t first = keys[i], second = keys[i + stride];
    const bool descending = (i & size) == 0;
    if ((first < second) == descending) keys[i] = second, keys[i + stride] = first;
}

// Rounds whose pairs are at most 32 apart, for sizes `from` .. `to`. Such pairs lie within 64 keys that one warp has: no
// barrier of the block is needed between these rounds, and warps without keys skip them.
template <int THREADS>
DEVICE void order_nearby(uint64_t* keys, uint32_t length, uint32_t from, uint32_t to) {
    for (uint32_t base = 0; base < length / 2; base += THREADS) {
        const uint32_t pair = base + threadIdx.x;
        if ((pair & ~31u) >= length / 2) break;
        for (uint32_t size = from; size <= to; size *= 2) {
            for (uint32_t stride = min(size / 2, 32u); stride > 0; stride /= 2) {
                if (pair < length / 2) order_pair(keys, pair, stride, size);
                __syncwarp();
            }
        }
    }
    __syncthreads();
}

// Sorts `length` keys (a power of two), largest first. All threads of the block call it, and see the result after it; what
// they wrote before, they have waited for with a barrier.
template <int THREADS>
DEVICE void sort_descending(uint64_t* keys, uint32_t length) {
    order_nearby<THREADS>(keys, length, 2, min(length, 64u));
    for (uint32_t size = 128; size <= length; size *= 2) {
        for (uint32_t stride = size / 2; stride > 32; stride /= 2) {
            for (uint32_t pair = threadIdx.x; pair < length / 2; pair += THREADS) order_pair(keys, pair, stride, size);
            __syncthreads();
        }
        order_nearby<THREADS>(keys, length, size, size);
    }
}
