// One level of trie-constrained beam search: the best B of all legal children of a request's live beams, by (score
// descending, parent rank ascending, code ascending), exactly as sorting all of them would find.
//
//   score(child) = score(beam) + (logit(code) - lognorm), in f32, in this order
//
// Two launches, both for a bucket:
//
// expand_scan, grid (beam rows, or requests at level 0; ceil(widest node of the level above / 2,048)), a warp for every group
//   of the widest node but at most 256 threads. Looks at every child once. Children of a beam are cut into groups of 32 that
//   stand one after another. A warp writes of each group the key of its best score (see beam_key.cuh; the place is the
//   group's first child) and which of its children are legal. Groups of a request lie in any order: slots are given out by an
//   integer counter.
// expand_finish, grid (requests), 1,024 threads.
//   1. Finds a lower bound of the B-th largest group key. Only groups that reach it can hold one of the best B children: if
//      B other groups have larger keys, each of them has a child that comes before all of this one's. (With equal best
//      scores the group of the lower rank or the smaller codes is the larger key, as are its children's.)
//   2. Looks again into those groups, at most 5/4 B of them, and collects children whose score reaches the bound's: at most
//      40 B, usually little more than B.
//   3. Cuts them to exactly B (radix over the 64-bit keys, which are distinct) and sorts those.
//   4. Writes the next beam state: node, score, token, ancestors. Rows beyond the live ones are cleared.
//
// Any beam width up to 65,536 works; up to 2,048 beams are sorted in shared memory, more of them in global memory, slower.
//
// Traffic, 512 beams over a level of 8,192 codes and 1,221 children a beam (625,000 candidates): codes 1.25 MB from HBM,
// logits 12 MB of sectors out of L2 (a group's sorted codes span about 860 bytes), group keys 240 kB. Scan: 3 us at 4 TB/s of
// L2 after 2 us of dependent loads. Finish, one SM: three reads of 156 kB of group keys (4 us at 64 B a clock), 640 groups
// looked into (440 kB, 4 us), sort of 512 (2 us). Expected: 15 to 20 us, of which no part waits for the host.
//
// budget: expand_scan registers <= 48, shared <= 16
// budget: expand_finish registers <= 64, shared <= 26000
#include "beam_key.cuh"
#include "beam_state.cuh"
#include "block_sort.cuh"
#include "params.h"
#include "ptx.h"
#include "threshold.cuh"

namespace {

constexpr int SCAN_THREADS = 256;
constexpr int FINISH_THREADS = 1024;
constexpr uint32_t SHARED_ORDER = 2048;  // beams that are sorted in shared memory
constexpr int SCAN_UNROLL = 4;           // groups that a warp reads at once
constexpr int FINISH_UNROLL = 4;

// A beam whose children are looked at.
struct Parent {
    const float* logits;    // of the level's codes
    const uint16_t* codes;  // of its children
    float score;
    float lognorm;
};

DEVICE Parent parent_at(const ExpandParams& p, uint32_t row, uint32_t request, uint32_t first) {
    const uint32_t logits_row = p.level == 0 ? request : row;
    Parent parent;
    parent.logits = pointer<const float>(p.logits) + static_cast<size_t>(logits_row) * p.logits_stride;
    parent.codes = pointer<const uint16_t>(p.codes) + first;
    parent.score = pointer<const float>(p.now.score)[row];
    parent.lognorm = pointer<const float>(p.lognorm)[static_cast<size_t>(logits_row) * p.lognorm_stride];
    return parent;
}

// Score of the child at `place`, as bits that order as it does.
DEVICE uint32_t child_score(const Parent& parent, uint32_t place) {
    const float logit = __ldg(parent.logits + __ldg(parent.codes + place));
    return ordered_score(parent.score + (logit - parent.lognorm));
}

// How many of `count` sorted numbers are less than `value`; the lanes of a warp ask 32 of them at a time.
DEVICE uint32_t warp_lower_bound(const uint32_t* sorted, uint32_t count, uint32_t value) {
    const uint32_t lane = threadIdx.x & 31;
    uint32_t start = 0;
    while (count > 0) {
        const uint32_t step = (count + 31) / 32, at = lane * step;
        const uint32_t less = __popc(__ballot_sync(FULL_WARP, at < count && __ldg(sorted + start + at) < value));
        if (less == 0) break;
        const uint32_t passed = (less - 1) * step + 1;
        start += passed;
        count = min(count - passed, step - 1);
    }
    return start;
}

// Banned nodes that lie among a beam's children.
struct Banned {
    const uint32_t* nodes;
    uint32_t count;
};

DEVICE bool is_banned(const Banned& banned, uint32_t node) {
    uint32_t low = 0, high = banned.count;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (__ldg(banned.nodes + middle) < node) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < banned.count && __ldg(banned.nodes + low) == node;
}

DEVICE Banned banned_among(const ExpandParams& p, uint32_t request, uint32_t first, uint32_t children) {
    const uint32_t* ends = pointer<const uint32_t>(p.ban_ends) + request * (MAX_LEVELS + 1) + p.level;
    const uint32_t* nodes = pointer<const uint32_t>(p.ban_nodes) + ends[0];
    const uint32_t count = ends[1] - ends[0];
    const uint32_t start = warp_lower_bound(nodes, count, first);
    return Banned{nodes + start, warp_lower_bound(nodes + start, count - start, first + children)};
}

}  // namespace

KERNEL(SCAN_THREADS) expand_scan(const __grid_constant__ ExpandParams p) {
    __shared__ uint32_t shared_slot;
    const uint32_t* counts = pointer<const uint32_t>(p.counts);
    // At level 0 only a request's first row is live, and blocks are requests.
    if (blockIdx.x >= counts[p.level == 0 ? 0 : 1]) return;
    const uint32_t request = p.level == 0 ? blockIdx.x : pointer<const uint32_t>(p.row_request)[blockIdx.x];
    if (request == ~0u) return;
    const uint32_t first_row = pointer<const RequestEntry>(p.requests)[request].first_row;
    const uint32_t rank = p.level == 0 ? 0 : blockIdx.x - first_row, row = first_row + rank;
    if (rank >= pointer<const uint32_t>(p.now.live)[request]) return;

    const uint32_t* first_child = pointer<const uint32_t>(p.first_child) + pointer<const uint32_t>(p.now.node)[row];
    const uint32_t first = first_child[0], children = first_child[1] - first;
    const uint32_t groups = (children + EXPAND_GROUP - 1) / EXPAND_GROUP;
    const uint32_t start = blockIdx.y * EXPAND_SCAN_GROUPS;
    if (start >= groups) return;
    const uint32_t end = min(groups, start + EXPAND_SCAN_GROUPS);
    if (threadIdx.x == 0) shared_slot = atomicAdd(pointer<uint32_t>(p.group_counts) + request, end - start);
    __syncthreads();
    const size_t slots = static_cast<size_t>(first_row) * p.group_stride + shared_slot;

    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    if (start + warp >= end) return;
    const Parent parent = parent_at(p, row, request, first);
    const Banned banned = banned_among(p, request, first, children);
    for (uint32_t group = start + warp; group < end; group += SCAN_UNROLL * warps) {
        uint32_t scores[SCAN_UNROLL];
#pragma unroll
        for (int i = 0; i < SCAN_UNROLL; i++) {
            // Lanes beyond the last child read it again, so that all reads of a round are under way at once.
            const uint32_t place = (group + i * warps) * EXPAND_GROUP + lane;
            const uint32_t score = child_score(parent, min(place, children - 1));
            scores[i] = place < children ? score : 0;
        }
        if (banned.count > 0) {
#pragma unroll
            for (int i = 0; i < SCAN_UNROLL; i++) {
                if (is_banned(banned, first + (group + i * warps) * EXPAND_GROUP + lane)) scores[i] = 0;
            }
        }
#pragma unroll
        for (int i = 0; i < SCAN_UNROLL; i++) {
            const uint32_t at = group + i * warps;
            const uint32_t legal = __ballot_sync(FULL_WARP, scores[i] != 0);
            const uint32_t best = warp_max_u32(scores[i]);
            if (lane != 0 || at >= end) continue;
            pointer<uint64_t>(p.group_keys)[slots + at - start] = beam_key(best, rank, at * EXPAND_GROUP);
            pointer<uint32_t>(p.group_legal)[slots + at - start] = legal;
        }
    }
}

namespace {

struct FinishShared {
    ThresholdShared<FINISH_THREADS> threshold;
    uint64_t order[SHARED_ORDER];
    uint32_t chosen;      // groups to look into
    uint32_t candidates;  // children that reach the bound
    uint32_t kept;        // those of them that stay
};

// Where a request's scratch lies.
struct Scratch {
    const uint64_t* group_keys;
    const uint32_t* group_legal;
    uint64_t* candidates;
    uint64_t* order;
};

DEVICE Scratch scratch_of(const ExpandParams& p, uint32_t first_row) {
    const size_t row = first_row;
    return Scratch{pointer<const uint64_t>(p.group_keys) + row * p.group_stride,
                   pointer<const uint32_t>(p.group_legal) + row * p.group_stride,
                   pointer<uint64_t>(p.candidates) + row * EXPAND_CANDIDATES,
                   pointer<uint64_t>(p.order) + row * EXPAND_ORDER};
}

// A place in a list for each lane that `wants` one. All lanes of the warp call it.
DEVICE uint32_t append(uint32_t* length, bool wants) {
    const uint32_t lane = threadIdx.x & 31, wanting = __ballot_sync(FULL_WARP, wants);
    uint32_t start = 0;
    if (lane == 0 && wanting != 0) start = atomicAdd(length, static_cast<uint32_t>(__popc(wanting)));
    return __shfl_sync(FULL_WARP, start, 0) + __popc(wanting & ((1u << lane) - 1));
}

// Lists the slots of groups whose key reaches `bound`, in `list`.
DEVICE void choose_groups(const Scratch& scratch, uint32_t groups, uint64_t bound, uint32_t* list, FinishShared& shared) {
    for (uint32_t base = 0; base < groups; base += FINISH_THREADS) {
        const uint32_t slot = base + threadIdx.x;
        const bool reaches = slot < groups && scratch.group_keys[slot] >= bound;
        const uint32_t at = append(&shared.chosen, reaches);
        if (reaches) list[at] = slot;
    }
    __syncthreads();
}

// Collects the children in the listed groups whose score reaches `least`.
DEVICE void collect(const ExpandParams& p, const Scratch& scratch, uint32_t request, uint32_t least, const uint32_t* list,
                    FinishShared& shared) {
    constexpr uint32_t WARPS = FINISH_THREADS / 32;
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint32_t first_row = pointer<const RequestEntry>(p.requests)[request].first_row;
    const uint32_t chosen = shared.chosen;
    for (uint32_t item = warp; item < chosen; item += FINISH_UNROLL * WARPS) {
        uint32_t scores[FINISH_UNROLL];
        uint64_t keys[FINISH_UNROLL];
#pragma unroll
        for (int i = 0; i < FINISH_UNROLL; i++) {
            // As in the scan: items beyond the last and children that are not legal read something that is there.
            const uint32_t slot = list[min(item + i * WARPS, chosen - 1)];
            keys[i] = scratch.group_keys[slot];
            const uint32_t row = first_row + rank_of(keys[i]);
            const uint32_t node = pointer<const uint32_t>(p.now.node)[row];
            const Parent parent = parent_at(p, row, request, __ldg(pointer<const uint32_t>(p.first_child) + node));
            const bool legal = scratch.group_legal[slot] >> lane & 1;
            const uint32_t score = child_score(parent, place_of(keys[i]) + (legal ? lane : 0));
            scores[i] = legal && item + i * WARPS < chosen ? score : 0;
        }
#pragma unroll
        for (int i = 0; i < FINISH_UNROLL; i++) {
            const bool reaches = scores[i] != 0 && scores[i] >= least;
            const uint32_t at = append(&shared.candidates, reaches);
            if (reaches) scratch.candidates[at] = beam_key(scores[i], rank_of(keys[i]), place_of(keys[i]) + lane);
        }
    }
    __syncthreads();
}

// Sorts the candidates that reach `bound`, of which there are `kept`, into `order`.
DEVICE void put_in_order(const uint64_t* candidates, uint64_t bound, uint32_t kept, uint64_t* order, FinishShared& shared) {
    const uint32_t length = sorted_length(kept);
    for (uint32_t i = kept + threadIdx.x; i < length; i += FINISH_THREADS) order[i] = 0;
    const uint32_t count = shared.candidates;
    for (uint32_t base = 0; base < count; base += FINISH_THREADS) {
        const uint32_t i = base + threadIdx.x;
        const uint64_t key = i < count ? candidates[i] : 0;
        const bool stays = i < count && key >= bound;
        const uint32_t at = append(&shared.kept, stays);
        if (stays) order[at] = key;
    }
    __syncthreads();
    sort_descending<FINISH_THREADS>(order, length);
}

// Writes one row of the next beams: the child that `key` names.
DEVICE void write_child(const ExpandParams& p, uint32_t first_row, uint32_t rank, uint64_t key) {
    const uint32_t row = first_row + rank, parent = first_row + rank_of(key);
    const uint32_t above = pointer<const uint32_t>(p.now.node)[parent];
    const uint32_t node = __ldg(pointer<const uint32_t>(p.first_child) + above) + place_of(key);
    pointer<uint32_t>(p.next.node)[row] = node;
    pointer<float>(p.next.score)[row] = score_of(key);
    pointer<uint32_t>(p.next.token)[row] =
        __ldg(pointer<const uint32_t>(p.tokens) + __ldg(pointer<const uint16_t>(p.codes) + node));
    inherit_ancestors(p.now, p.next, AncestorCopy{row, parent, p.level, p.rows});
}

}  // namespace

KERNEL(FINISH_THREADS, 1) expand_finish(const __grid_constant__ ExpandParams p) {
    __shared__ FinishShared shared;
    const uint32_t request = blockIdx.x;
    if (request >= pointer<const uint32_t>(p.counts)[0]) return;
    const RequestEntry entry = pointer<const RequestEntry>(p.requests)[request];
    const Scratch scratch = scratch_of(p, entry.first_row);
    const uint32_t groups = pointer<const uint32_t>(p.group_counts)[request];
    if (threadIdx.x == 0) shared.chosen = shared.candidates = shared.kept = 0;
    __syncthreads();
    if (threadIdx.x == 0) pointer<uint32_t>(p.group_counts)[request] = 0;

    uint64_t bound = 0;
    const uint32_t limit = entry.beams + entry.beams / 4;
    if (groups > limit) bound = threshold(scratch.group_keys, groups, entry.beams, limit, shared.threshold);
    // The list is done with before the order is written.
    uint32_t* list = reinterpret_cast<uint32_t*>(scratch.order);
    choose_groups(scratch, groups, bound, list, shared);
    collect(p, scratch, request, static_cast<uint32_t>(bound >> 32), list, shared);

    const uint32_t kept = min(shared.candidates, entry.beams);
    bound = 0;
    if (shared.candidates > kept) bound = threshold(scratch.candidates, shared.candidates, kept, kept, shared.threshold);
    const uint64_t* order = scratch.order;
    if (kept <= SHARED_ORDER) {
        order = shared.order;
        put_in_order(scratch.candidates, bound, kept, shared.order, shared);
    } else {
        put_in_order(scratch.candidates, bound, kept, scratch.order, shared);
    }
    for (uint32_t rank = threadIdx.x; rank < kept; rank += FINISH_THREADS) write_child(p, entry.first_row, rank, order[rank]);
    clear_dead<FINISH_THREADS>(p.next, entry, kept);
    if (threadIdx.x == 0) pointer<uint32_t>(p.next.live)[request] = kept;
}
