// The want-th largest of distinct u64 keys, by radix: a block counts the keys by their leading bits, descends into the bin
// that the wanted key is in, and stops as soon as few enough keys are left. Counting starts at the first bit in which any
// two keys differ, so that scores of one magnitude are told apart in the first round.
#pragma once
#include "ptx.h"

#define THRESHOLD_BITS 11
#define THRESHOLD_BINS (1 << THRESHOLD_BITS)

template <int THREADS>
struct ThresholdShared {
    uint64_t low[THREADS / 32];
    uint64_t high[THREADS / 32];
    uint32_t bins[THRESHOLD_BINS];
    uint32_t warps[THREADS / 32];  // keys that a warp's bins hold
    uint32_t bin;                  // the bin of the wanted key
    uint32_t above;                // keys in higher bins
};

DEVICE uint64_t warp_lowest(uint64_t x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x = min(x, __shfl_xor_sync(FULL_WARP, x, distance));
    return x;
}

DEVICE uint64_t warp_highest(uint64_t x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x = max(x, __shfl_xor_sync(FULL_WARP, x, distance));
    return x;
}

// Sum over this lane and those before it.
DEVICE uint32_t warp_prefix_sum(uint32_t x) {
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1) {
        uint32_t before = __shfl_up_sync(FULL_WARP, x, distance);
        if ((threadIdx.x & 31) >= distance) x += before;
    }
    return x;
}

// The least and the largest key, to all threads.
template <int THREADS>
DEVICE void key_range(const uint64_t* keys, uint32_t count, ThresholdShared<THREADS>& shared, uint64_t& low, uint64_t& high) {
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    low = ~0ull, high = 0;
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        uint64_t key = keys[i];
        low = min(low, key), high = max(high, key);
    }
    low = warp_lowest(low), high = warp_highest(high);
    if (lane == 0) shared.low[warp] = low, shared.high[warp] = high;
    __syncthreads();
    const uint32_t other = lane % (THREADS / 32);
    low = warp_lowest(shared.low[other]);
    high = warp_highest(shared.high[other]);
}

// Finds the bin in which the want-th largest of the counted keys lies; all threads see `shared` after it.
template <int THREADS>
DEVICE void find_bin(uint32_t want, ThresholdShared<THREADS>& shared) {
    constexpr int OWN = THRESHOLD_BINS / THREADS;  // bins of a thread; thread 0 has the highest
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint32_t first = THRESHOLD_BINS - OWN * (threadIdx.x + 1);
    uint32_t held[OWN], own = 0;
#pragma unroll
    for (int i = 0; i < OWN; i++) own += held[i] = shared.bins[first + i];
    uint32_t through = warp_prefix_sum(own);
    if (lane == 31) shared.warps[warp] = through;
    __syncthreads();
    uint32_t warps = warp_prefix_sum(lane < THREADS / 32 ? shared.warps[lane] : 0);
    uint32_t before = __shfl_sync(FULL_WARP, warps, (warp + 31) & 31);
    if (warp > 0) through += before;
    uint32_t above = through - own;
    if (above < want && want <= through) {
#pragma unroll
        for (int i = OWN - 1; i >= 0; i--) {
            if (above < want && want <= above + held[i]) shared.bin = first + i, shared.above = above;
            above += held[i];
        }
    }
    __syncthreads();
}

// A key's lower bound T such that `want` to `limit` keys are at least T (exactly `want` if the two are equal). All threads
// of the block call it; there are more than `want` keys, all of them distinct, and 1 <= want <= limit.
template <int THREADS>
DEVICE uint64_t threshold(
    const uint64_t* keys, uint32_t count, uint32_t want, uint32_t limit, ThresholdShared<THREADS>& shared) {
    static_assert(THRESHOLD_BINS % THREADS == 0 && THREADS % 32 == 0, "a thread owns whole bins");
    uint64_t low, floor;
    key_range(keys, count, shared, low, floor);
    // Keys that are still in question are floor + 0 .. 2^width, and `taken` keys are above them.
    int width = 64 - __clzll(static_cast<long long>(low ^ floor));
    floor = width == 64 ? 0 : floor >> width << width;
    uint32_t taken = 0;
    for (;;) {
        const int shift = max(width - THRESHOLD_BITS, 0);
        for (uint32_t i = threadIdx.x; i < THRESHOLD_BINS; i += THREADS) shared.bins[i] = 0;
        __syncthreads();
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
