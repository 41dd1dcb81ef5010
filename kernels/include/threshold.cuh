// The want-th largest of distinct u64 keys, by radix: a block counts the keys by their leading bits, descends into the bin
// that the wanted key is in, and stops as soon as few enough keys are left. Counting starts at the first bit in which any
// two keys differ, so that scores of one magnitude are told apart in the first round.
#pragma once
#include "ptx.h"

// Few bins: a round costs as many instructions for its bins as for its keys.
#define THRESHOLD_BITS 8
#define THRESHOLD_BINS (1u << THRESHOLD_BITS)

template <int THREADS>
struct ThresholdShared {
    uint32_t low[THREADS / 32];
    uint32_t high[THREADS / 32];
    uint32_t bins[THRESHOLD_BINS];
    uint32_t warps[THRESHOLD_BINS / 32];  // keys in a warp's bins
    uint32_t bin;                         // the bin of the wanted key
    uint32_t above;                       // keys in higher bins
};

// Sum over this lane and those before it.
DEVICE uint32_t warp_prefix_sum(uint32_t x) {
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1) {
        uint32_t before = __shfl_up_sync(FULL_WARP, x, distance);
        if ((threadIdx.x & 31) >= distance) x += before;
    }
    return x;
}

// How many low bits tell apart all keys; more may be said where they differ in the low half alone.
template <int THREADS>
DEVICE int differing_bits(const uint64_t* keys, uint32_t count, ThresholdShared<THREADS>& shared) {
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint32_t low = ~0u, high = 0;
#pragma unroll 2  // left alone, ptxas unrolls until registers of 1,024 threads run out
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        const uint32_t half = static_cast<uint32_t>(keys[i] >> 32);
        low = min(low, half), high = max(high, half);
    }
    low = warp_min_u32(low), high = warp_max_u32(high);
    if (lane == 0) shared.low[warp] = low, shared.high[warp] = high;
    __syncthreads();
    const uint32_t other = lane % (THREADS / 32);
    low = warp_min_u32(shared.low[other]), high = warp_max_u32(shared.high[other]);
    return 64 - __clz(static_cast<int>(low ^ high));
}

// Finds the bin in which the want-th largest of the counted keys lies; all threads see `shared` after it.
template <int THREADS>
DEVICE void find_bin(uint32_t want, ThresholdShared<THREADS>& shared) {
    static_assert(THREADS >= THRESHOLD_BINS, "a bin is one thread's");
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const bool owns = threadIdx.x < THRESHOLD_BINS;
    const uint32_t bin = THRESHOLD_BINS - 1 - threadIdx.x;  // thread 0 has the highest
    uint32_t own = 0, through = 0;
    if (owns) {
        own = shared.bins[bin];
        through = warp_prefix_sum(own);
        if (lane == 31) shared.warps[warp] = through;
    }
    __syncthreads();
    if (owns) {
        for (uint32_t i = 0; i < warp; i++) through += shared.warps[i];
        const uint32_t above = through - own;
        if (above < want && want <= through) shared.bin = bin, shared.above = above;
    }
    __syncthreads();
}

// A key's lower bound T such that `want` to `limit` keys are at least T (exactly `want` if the two are equal). All threads
// of the block call it; there are more than `want` keys, all of them distinct, and 1 <= want <= limit.
template <int THREADS>
DEVICE uint64_t threshold(
    const uint64_t* keys, uint32_t count, uint32_t want, uint32_t limit, ThresholdShared<THREADS>& shared) {
    int width = differing_bits(keys, count, shared);
    // Keys that are still in question are floor + 0 .. 2^width, and `taken` keys are above them.
    uint64_t floor = width == 64 ? 0 : keys[0] >> width << width;
    uint32_t taken = 0;
    for (;;) {
        const int shift = max(width - THRESHOLD_BITS, 0);
        if (threadIdx.x < THRESHOLD_BINS) shared.bins[threadIdx.x] = 0;
        __syncthreads();
#pragma unroll 2
        for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
            // Below the floor this wraps to more than any bin.
            uint64_t bin = (keys[i] - floor) >> shift;
            if (bin < (1u << (width - shift))) atomicAdd(&shared.bins[bin], 1u);
        }
        __syncthreads();
        find_bin(want - taken, shared);
        floor += static_cast<uint64_t>(shared.bin) << shift;
        taken += shared.above;
        width = shift;
        const uint32_t reached = taken + shared.bins[shared.bin];
        __syncthreads();  // before the bins are cleared
        if (reached <= limit || shift == 0) return floor;
    }
}
