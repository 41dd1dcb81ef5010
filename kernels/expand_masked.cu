// The softmax over each beam's legal children, before a level is selected, and what sampling draws from it.
//
//   m = max of the legal logits,  lognorm = m + ln(sum of exp(logit - m)),  L = ln(sum of exp((logit - m) * scale))
//   a(child) = (logit - m) * scale + Gumbel noise of (seed, level, node[, sequence])
//
//   independent:  the child of the largest a, the smallest code among equals
//   distinct:     z = sum of behaviour log-probabilities - L + max of a;
//                 key(child) = -ln(exp(-key(parent)) + exp(-(z - (max of a - a))) - exp(-z)): a(child) as a perturbed
//                 log-probability, conditioned on the largest of the siblings' being the parent's (Kool et al. 2019)
//
// A block of 256 threads a beam row of the bucket (at level 0 each request's first row, and each row of independent
// sequences: all of them draw at the root). Thread i takes children i, i + 256, ..., in order; lanes are added in a butterfly,
// then warps in order: what engine/device/cpu/masked.rs and draw.rs do, to the same bits.
//
// Traffic, 512 beams of 1,221 children: codes 1.25 MB, and 12 MB of sectors of logits out of L2, two or three times: 8 to 12
// us at 4 TB/s of L2. Noise takes about 110 instructions a child (ten rounds of Philox, two logarithms), 70 million thread
// instructions: 5 us of a whole H100. A root of 8,192 children keeps one block: 32 rounds of dependent loads a pass, 25 us a
// request, hidden behind other rows.
//
// budget: expand_masked registers <= 64, shared <= 128
#include "beam_key.cuh"
#include "exact.cuh"
#include "legal.cuh"
#include "noise.cuh"
#include "params/expand_masked.h"
#include "params/expand_select.h"
#include "ptx.h"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// A beam's children.
struct Children {
    const uint16_t* codes;
    const float* logits;
    Legal legal;
    uint32_t first;
    uint32_t count;
};

// Calls f(place, logit) for this thread's legal children, in order.
template <class F>
DEVICE void for_each_legal(const Children& children, F f) {
    for (uint32_t place = threadIdx.x; place < children.count; place += THREADS) {
        if (!is_legal(children.legal, children.first + place)) continue;
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

// Largest of the threads' keys, for thread 0.
DEVICE uint64_t block_max_key(uint64_t key, uint64_t (&shared)[WARPS]) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) {
        const uint64_t other = __shfl_xor_sync(FULL_WARP, key, distance);
        key = other > key ? other : key;
    }
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = key;
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 1; i < WARPS; i++) key = shared[i] > key ? shared[i] : key;
    }
    return key;
}

struct MaskedShared {
    float floats[WARPS];
    uint64_t keys[WARPS];
};

// The child that an independent sequence takes.
DEVICE void draw(const MaskedParams& p, const Children& children, const RequestEntry& entry, uint32_t row, float most,
                 MaskedShared& shared) {
    const Noise noise = {entry.seed_low, entry.seed_high, p.level, row - entry.first_row, 0};
    uint64_t best = 0;
    for_each_legal(children, [&](uint32_t place, float logit) {
        const float scaled = __fmul_rn(__fsub_rn(logit, most), entry.scale);
        const uint64_t key =
            beam_key(ordered_score(__fadd_rn(scaled, node_noise(noise, children.first + place))), 0, place);
        best = key > best ? key : best;
    });
    best = block_max_key(best, shared.keys);
    if (threadIdx.x == 0) pointer<uint32_t>(p.draws)[row] = best == 0 ? EXPAND_NONE : place_of(best);
}

// Perturbed log-probabilities of a beam's children.
DEVICE void perturb(const MaskedParams& p, const Children& children, const RequestEntry& entry, uint32_t row,
                    float2 norm, MaskedShared& shared) {
    const Noise noise = {entry.seed_low, entry.seed_high, p.level, 0, 1};
    float* keys = pointer<float>(p.keys) + static_cast<size_t>(row) * p.key_stride;
    float best = negative_infinity();
    for_each_legal(children, [&](uint32_t place, float logit) {
        const float scaled = __fmul_rn(__fsub_rn(logit, norm.x), entry.scale);
        const float sum = __fadd_rn(scaled, node_noise(noise, children.first + place));
        keys[place] = sum;  // read again by this thread alone
        best = fmaxf(best, sum);
    });
    best = block_max(best, shared.floats);
    const float key = pointer<const float>(p.now.key)[row];
    const float log_prob = pointer<const float>(p.now.log_prob)[row];
    const float rise = __fsub_rn(key, __fadd_rn(__fsub_rn(log_prob, norm.y), best));
    for_each_legal(children, [&](uint32_t place, float) {
        keys[place] = conditioned(key, rise, __fsub_rn(best, keys[place]));
    });
}

}  // namespace

KERNEL(THREADS, 4) expand_masked(const __grid_constant__ MaskedParams p) {
    __shared__ MaskedShared shared;
    const uint32_t row = blockIdx.x;
    if (row >= pointer<const uint32_t>(p.counts)[1]) return;
    const uint32_t request = pointer<const uint32_t>(p.row_request)[row];
    if (request == ~0u) return;
    const RequestEntry entry = pointer<const RequestEntry>(p.requests)[request];
    if (entry.sampling == SAMPLING_NONE && p.normalizes == 0) return;
    const bool draws_at_root = p.level == 0 && entry.sampling == SAMPLING_INDEPENDENT;
    if (!draws_at_root && row - entry.first_row >= pointer<const uint32_t>(p.now.live)[request]) return;
    const uint32_t beam = draws_at_root ? entry.first_row : row;

    const uint32_t* first_child = pointer<const uint32_t>(p.first_child) + pointer<const uint32_t>(p.now.node)[beam];
    Children children;
    children.first = first_child[0], children.count = first_child[1] - children.first;
    children.codes = pointer<const uint16_t>(p.codes) + children.first;
    const uint32_t logits_row = p.level == 0 ? request : row;
    children.logits = pointer<const float>(p.logits) + static_cast<size_t>(logits_row) * p.logits_stride;
    children.legal = legal_among(p.legal, request, entry.mask, children.first, children.count);

    float most = negative_infinity();
    for_each_legal(children, [&](uint32_t, float logit) { most = fmaxf(most, logit); });
    most = block_max(most, shared.floats);
    float* norms = pointer<float>(p.norms) + static_cast<size_t>(logits_row) * MASKED_NORMS;
    const bool writes = threadIdx.x == 0 && row == beam;
    if (p.normalizes != 0) {
        float sum = 0;
        for_each_legal(children, [&](uint32_t, float logit) { sum = __fadd_rn(sum, exact_exp(__fsub_rn(logit, most))); });
        sum = block_sum(sum, shared.floats);
        if (writes) norms[0] = __fadd_rn(most, exact_ln(sum));
    }
    if (entry.sampling == SAMPLING_NONE) return;
    float sum = 0;
    for_each_legal(children, [&](uint32_t, float logit) {
        sum = __fadd_rn(sum, exact_exp(__fmul_rn(__fsub_rn(logit, most), entry.scale)));
    });
    const float log_sum = exact_ln(block_sum(sum, shared.floats));
    if (writes) norms[1] = most, norms[2] = log_sum;
    if (entry.sampling == SAMPLING_INDEPENDENT) {
        draw(p, children, entry, row, most, shared);
    } else {
        perturb(p, children, entry, row, make_float2(most, log_sum), shared);
    }
}
