// The softmax over each beam's legal children, before a level is selected.
//
//   m = max of the legal logits,  norm = m + ln(sum of exp(logit - m))
//
// A block of 256 threads a beam row of the bucket (at level 0 each request's first row). Thread i takes children i, i + 256,
// ..., in order; lanes are added in a butterfly, then warps in order: what engine/device/cpu/masked.rs does, to the same bits.
//
// Traffic, 512 beams of 1,221 children: codes 1.25 MB, and 12 MB of sectors of logits out of L2, twice: 8 us at 4 TB/s of L2.
// A root of 8,192 children keeps one block: 32 rounds of dependent loads, twice, 25 us a request, hidden behind other rows.
//
// budget: expand_masked registers <= 64, shared <= 128
#include "exact.cuh"
#include "legal.cuh"
#include "params/expand_masked.h"
#include "ptx.h"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// A beam's children.
struct Children {
    const uint16_t* codes;
    const float* logits;
    Banned banned;
    uint32_t first;
    uint32_t count;
};

// Calls f(place, logit) for this thread's legal children, in order.
template <class F>
DEVICE void for_each_legal(const Children& children, F f) {
    for (uint32_t place = threadIdx.x; place < children.count; place += THREADS) {
        if (children.banned.count > 0 && is_banned(children.banned, children.first + place)) continue;
        f(place, __ldg(children.logits + __ldg(children.codes + place)));
    }
}

// Largest of the threads' values; all threads get it. `shared` may be used again after the next barrier.
DEVICE float block_max(float x, float (&shared)[WARPS]) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
#pragma unroll
    for (int i = 1; i < WARPS; i++) x = fmaxf(x, shared[i]);
    __syncthreads();
    return x;
}

// Their sum: lanes in a butterfly, then warps in order.
DEVICE float block_sum(float x, float (&shared)[WARPS]) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
#pragma unroll
    for (int i = 1; i < WARPS; i++) x = __fadd_rn(x, shared[i]);
    __syncthreads();
    return x;
}

}  // namespace

KERNEL(THREADS) expand_masked(const __grid_constant__ MaskedParams p) {
    __shared__ float shared[WARPS];
    const uint32_t row = blockIdx.x;
    if (row >= pointer<const uint32_t>(p.counts)[1]) return;
    const uint32_t request = pointer<const uint32_t>(p.row_request)[row];
    if (request == ~0u) return;
    const RequestEntry entry = pointer<const RequestEntry>(p.requests)[request];
    if (row - entry.first_row >= pointer<const uint32_t>(p.now.live)[request]) return;

    const uint32_t* first_child = pointer<const uint32_t>(p.first_child) + pointer<const uint32_t>(p.now.node)[row];
    Children children;
    children.first = first_child[0], children.count = first_child[1] - children.first;
    children.codes = pointer<const uint16_t>(p.codes) + children.first;
    const uint32_t logits_row = p.level == 0 ? request : row;
    children.logits = pointer<const float>(p.logits) + static_cast<size_t>(logits_row) * p.logits_stride;
    children.banned = banned_among(p, request, children.first, children.count);

    float most = negative_infinity();
    for_each_legal(children, [&](uint32_t, float logit) { most = fmaxf(most, logit); });
    most = block_max(most, shared);
    float sum = 0;
    for_each_legal(children, [&](uint32_t, float logit) { sum = __fadd_rn(sum, exact_exp(__fsub_rn(logit, most))); });
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        pointer<float>(p.norms)[static_cast<size_t>(logits_row) * MASKED_NORMS] = __fadd_rn(most, exact_ln(sum));
    }
}
