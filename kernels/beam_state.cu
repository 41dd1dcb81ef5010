// Steps of the beam state that choose no children. A block a request, 256 threads; a few bytes a row, so that a launch costs
// as much as its dispatch (2 to 3 us).
//
// begin_cohort: one live beam at the root with score 0, and cleared rows behind it.
//
// force_token: every live beam takes the given token. When it is scored, score += logit - lognorm (in f32, in this order)
//   and the request's beams are sorted by (score descending, parent rank ascending); up to 2,048 beams in shared memory,
//   more of them in global memory. As in a selection, NaN becomes negative infinity and -0 becomes 0. Sampled beams keep
//   their order.
//
// budget: begin_cohort registers <= 40, shared <= 0
// budget: force_token registers <= 48, shared <= 16384
#include "beam_state.cuh"
#include "beam_key.cuh"
#include "block_sort.cuh"
#include "params.h"
#include "ptx.h"

namespace {

constexpr int THREADS = 256;
constexpr uint32_t SHARED_ORDER = 2048;  // beams that are sorted in shared memory

}  // namespace

KERNEL(THREADS) begin_cohort(const __grid_constant__ BeginParams p) {
    if (blockIdx.x >= pointer<const uint32_t>(p.counts)[0]) return;
    const RequestEntry request = pointer<const RequestEntry>(p.requests)[blockIdx.x];
    clear_dead<THREADS>(p.state, request, 0);  // the root beam is all zeros too
    if (threadIdx.x != 0) return;
    pointer<uint32_t>(p.state.live)[blockIdx.x] = 1;
    pointer<float>(p.state.log_prob)[request.first_row] = 0;
    pointer<float>(p.state.key)[request.first_row] = request.root_key;
}

namespace {

// The token's log-probability; 0 when it is not scored.
DEVICE float raw_log_prob(const ForceParams& p, uint32_t row) {
    if (p.logits == 0) return 0;
    const float logit = pointer<const float>(p.logits)[static_cast<size_t>(row) * p.logits_stride];
    return logit - pointer<const float>(p.lognorm)[static_cast<size_t>(row) * p.lognorm_stride];
}

// The beam's key after the token: its score, and its rank before it.
DEVICE uint64_t forced_key(const ForceParams& p, uint32_t row, uint32_t rank) {
    const float score = pointer<const float>(p.now.score)[row] + raw_log_prob(p, row);
    return beam_key(ordered_score(score), rank, 0);
}

// Puts the keys of all live beams into `order`, best first.
DEVICE void order_beams(const ForceParams& p, const RequestEntry& request, uint32_t live, uint64_t* order) {
    const uint32_t length = sorted_length(live);
    for (uint32_t rank = threadIdx.x; rank < length; rank += THREADS) {
        order[rank] = rank < live ? forced_key(p, request.first_row + rank, rank) : 0;
    }
    __syncthreads();
    sort_descending<THREADS>(order, length);
}

DEVICE void write_beam(const ForceParams& p, const RequestEntry& request, uint32_t rank, uint64_t key) {
    const uint32_t row = request.first_row + rank, parent = request.first_row + rank_of(key);
    pointer<uint32_t>(p.next.node)[row] = pointer<const uint32_t>(p.now.node)[parent];
    pointer<float>(p.next.score)[row] = score_of(key);
    pointer<uint32_t>(p.next.token)[row] = p.token;
    const float raw = raw_log_prob(p, parent), behaviour = request.sampling == SAMPLING_NONE ? raw : 0.0f;
    pointer<float2>(p.log_probs)[static_cast<size_t>(p.step) * p.rows + row] = make_float2(behaviour, raw);
    if (request.sampling == SAMPLING_DISTINCT) {
        pointer<float>(p.next.log_prob)[row] = pointer<const float>(p.now.log_prob)[parent];
        pointer<float>(p.next.key)[row] = pointer<const float>(p.now.key)[parent];
    }
    inherit_ancestors(p.now, p.next, AncestorCopy{row, parent, p.step, p.rows});
}

}  // namespace

KERNEL(THREADS) force_token(const __grid_constant__ ForceParams p) {
    __shared__ uint64_t shared_order[SHARED_ORDER];
    if (blockIdx.x >= pointer<const uint32_t>(p.counts)[0]) return;
    const RequestEntry request = pointer<const RequestEntry>(p.requests)[blockIdx.x];
    const uint32_t live = pointer<const uint32_t>(p.now.live)[blockIdx.x];
    const bool sorted = p.logits != 0 && request.sampling == SAMPLING_NONE;
    const uint64_t* order = shared_order;
    if (sorted && live <= SHARED_ORDER) {
        order_beams(p, request, live, shared_order);
    } else if (sorted) {
        uint64_t* memory = pointer<uint64_t>(p.order) + static_cast<size_t>(request.first_row) * EXPAND_ORDER;
        order_beams(p, request, live, memory);
        order = memory;
    }
    for (uint32_t rank = threadIdx.x; rank < live; rank += THREADS) {
        const uint64_t key = sorted ? order[rank] : forced_key(p, request.first_row + rank, rank);
        write_beam(p, request, rank, key);
    }
    clear_dead<THREADS>(p.next, request, live);
    if (threadIdx.x == 0) pointer<uint32_t>(p.next.live)[blockIdx.x] = live;
}
