// One level of trie-constrained beam search: the best B of all legal children of a request's live beams, by (score
// descending, parent rank ascending, code ascending), exactly as sorting all of them would find.
//
//   score(child) = score(beam) + (logit(code) - lognorm), in f32, in this order
//
// Distinct samples are chosen the same way by the keys that expand_masked has written in place of scores, and independent
// sequences by what it has drawn. Each new row's log-probabilities are kept by step.
//
// Two launches, both for a bucket. Children of a beam are cut into groups of 32 that stand one after another, and eight
// groups make a run; a group's or run's key is its best score, with the place of its first child (see beam_key.cuh).
//
// expand_scan, grid (beam rows, or requests at level 0; ceil(widest node of the level above / 2,048)), a warp for every run of
//   the widest node but at most 256 threads. Looks at every child once: a warp writes its run's key, and of each group the
//   best score and which children are legal. Runs of a request lie in any order: slots are given out by an integer counter.
// expand_finish, grid (requests), 1,024 threads.
//   1. Finds a lower bound of the B-th largest run key. Only runs that reach it can hold one of the best B children: if B
//      other runs have larger keys, each of them has a child that comes before all of this one's (with equal best scores
//      the run of the lower rank or the smaller codes has the larger key, and its children come first).
//   2. Lists those runs' groups that reach it, at most 10 B; if they are more than 5/4 B, bounds and cuts them in turn.
//   3. Looks again into these groups and collects children whose score reaches the bound's: at most 40 B, usually little
//      more than B.
//   4. Cuts them to exactly B (radix over the 64-bit keys, which are distinct) and sorts those.
//   5. Writes the next beam state: node, score, token, ancestors, key. Rows beyond the live ones are cleared.
//
// Any beam width up to 65,536 works; up to 2,048 beams are sorted in shared memory, more of them in global memory, slower.
//
// Traffic, 512 beams over a level of 8,192 codes and 1,221 children a beam (625,000 candidates): codes 1.25 MB from HBM,
// logits 12 MB of sectors out of L2 (a group's sorted codes span about 860 bytes), groups 160 kB. Scan: 3 us at 4 TB/s of L2
// after 2 us of dependent loads. Finish, on one SM: 2,560 run keys, some 3,000 group keys, 520 groups looked into (450 kB out
// of L2, 4 us at 64 B a clock), the sort of 512; 107,000 warp instructions of PTX as the emulator counts them, so 15 us at an
// SM's full issue rate, which is the limit: half of them look into groups. Expected: 20 to 35 us together, of which no part
// waits for the host.
//
// budget: expand_scan registers <= 48, shared <= 16
// budget: expand_finish registers <= 64, shared <= 18000
#include "beam_key.cuh"
#include "beam_state.cuh"
#include "block_sort.cuh"
#include "legal.cuh"
#include "params.h"
#include "ptx.h"
#include "threshold.cuh"

namespace {

constexpr int SCAN_THREADS = 256;
constexpr int FINISH_THREADS = 1024;
constexpr uint32_t SHARED_ORDER = 2048;  // beams that are sorted in shared memory
constexpr int SCAN_UNROLL = 4;           // groups that a warp reads at once
constexpr int FINISH_UNROLL = 4;
constexpr uint32_t RUN = EXPAND_GROUP * EXPAND_RUN_GROUPS;  // children of a run

// What a child's score takes of its beam. Of distinct samples score and lognorm are 0, and values are keys by place.
struct Parent {
    float score;
    float lognorm;
    uint32_t first;  // child
    uint32_t children;
};

DEVICE Parent unpack_parent(uint4 words) {
    return Parent{__uint_as_float(words.x), __uint_as_float(words.y), words.z, words.w};
}

// What a beam's children are compared by: logits by code, or keys by place.
struct Values {
    const float* row;
    bool by_place;
};

DEVICE Values values_of(const ExpandParams& p, uint32_t sampling, uint32_t logits_row, uint32_t row) {
    const bool by_place = sampling == SAMPLING_DISTINCT;
    return Values{by_place ? pointer<const float>(p.keys) + static_cast<size_t>(row) * p.key_stride
                           : pointer<const float>(p.logits) + static_cast<size_t>(logits_row) * p.logits_stride,
                  by_place};
}

// Score or key of the child at `place`, as bits that order as it does.
DEVICE uint32_t child_score(const ExpandParams& p, const Parent& parent, const Values& values, uint32_t place) {
    const uint32_t at = values.by_place ? place : __ldg(pointer<const uint16_t>(p.codes) + parent.first + place);
    return ordered_score(parent.score + (__ldg(values.row + at) - parent.lognorm));
}

// One beam as expand_scan looks at it.
struct Scanned {
    Parent parent;
    Legal legal;
    Values values;
    uint32_t request;
    uint32_t row;
    uint32_t rank;
};

// Looks at the children of a run. Returns its best score, and to lane i that of group i and which of its children are legal.
DEVICE uint32_t scan_run(const ExpandParams& p, const Scanned& beam, uint32_t run, uint2& group) {
    const uint32_t lane = threadIdx.x & 31, children = beam.parent.children;
    uint32_t best = 0;
    for (uint32_t round = 0; round < EXPAND_RUN_GROUPS && run * RUN + round * EXPAND_GROUP < children; round += SCAN_UNROLL) {
        const uint32_t start = run * RUN + round * EXPAND_GROUP + lane;
        uint32_t scores[SCAN_UNROLL];
#pragma unroll
        for (int i = 0; i < SCAN_UNROLL; i++) {
            // Lanes beyond the last child read it again, so that all reads of a round are under way at once.
            const uint32_t place = start + i * EXPAND_GROUP;
            const uint32_t score = child_score(p, beam.parent, beam.values, min(place, children - 1));
            scores[i] = place < children ? score : 0;
        }
        if (restricts(beam.legal)) {
#pragma unroll
            for (int i = 0; i < SCAN_UNROLL; i++) {
                const uint32_t place = min(start + i * EXPAND_GROUP, children - 1);
                if (!is_legal(beam.legal, beam.parent.first + place)) scores[i] = 0;
            }
        }
#pragma unroll
        for (int i = 0; i < SCAN_UNROLL; i++) {
            const uint2 found = make_uint2(warp_max_u32(scores[i]), __ballot_sync(FULL_WARP, scores[i] != 0));
            if (lane == round + i) group = found;
            best = max(best, found.x);
        }
    }
    return best;
}

}  // namespace

KERNEL(SCAN_THREADS) expand_scan(const __grid_constant__ ExpandParams p) {
    __shared__ uint32_t shared_slot;
    const uint32_t* counts = pointer<const uint32_t>(p.counts);
    // At level 0 only a request's first row is live, and blocks are requests.
    if (blockIdx.x >= counts[p.level == 0 ? 0 : 1]) return;
    Scanned beam;
    beam.request = p.level == 0 ? blockIdx.x : pointer<const uint32_t>(p.row_request)[blockIdx.x];
    if (beam.request == ~0u) return;
    const RequestEntry request = pointer<const RequestEntry>(p.requests)[beam.request];
    const uint32_t first_row = request.first_row, sampling = request.sampling;
    if (sampling == SAMPLING_INDEPENDENT) return;  // each beam has drawn its child
    beam.rank = p.level == 0 ? 0 : blockIdx.x - first_row;
    beam.row = first_row + beam.rank;
    if (beam.rank >= pointer<const uint32_t>(p.now.live)[beam.request]) return;

    const uint32_t* first_child = pointer<const uint32_t>(p.first_child) + pointer<const uint32_t>(p.now.node)[beam.row];
    const uint32_t first = first_child[0], children = first_child[1] - first, runs = (children + RUN - 1) / RUN;
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const uint32_t start = blockIdx.y * warps, run = start + warp;
    if (start >= runs) return;
    if (threadIdx.x == 0) {
        shared_slot = atomicAdd(pointer<uint32_t>(p.run_counts) + beam.request, min(runs - start, warps));
    }
    __syncthreads();
    if (run >= runs) return;

    const size_t logits_row = p.level == 0 ? beam.request : beam.row;
    beam.values = values_of(p, sampling, logits_row, beam.row);
    float score = 0, lognorm = 0;
    if (sampling == SAMPLING_NONE) {
        score = pointer<const float>(p.now.score)[beam.row];
        lognorm = pointer<const float>(p.lognorm)[logits_row * p.lognorm_stride];
    }
    beam.parent = Parent{score, lognorm, first, children};
    beam.legal = legal_among(p.legal, beam.request, request.mask, first, children);
    uint2 group;
    const uint32_t best = scan_run(p, beam, run, group);
    const uint32_t at = run * EXPAND_RUN_GROUPS + lane;
    if (lane < EXPAND_RUN_GROUPS && at * EXPAND_GROUP < children) {
        pointer<uint2>(p.groups)[static_cast<size_t>(beam.row) * p.group_stride + at] = group;
    }
    if (lane == 0) {
        const size_t slot = static_cast<size_t>(first_row) * p.run_stride + shared_slot + warp;
        pointer<uint64_t>(p.run_keys)[slot] = beam_key(best, beam.rank, run * RUN);
        if (run == 0) {
            pointer<uint4>(p.parents)[beam.row] =
                make_uint4(__float_as_uint(score), __float_as_uint(lognorm), first, children);
        }
    }
}

namespace {

struct FinishShared {
    ThresholdShared<FINISH_THREADS> threshold;
    uint64_t order[SHARED_ORDER];
    uint32_t runs;        // to look into
    uint32_t listed;      // groups of them that reach the bound
    uint32_t chosen;      // groups to look into
    uint32_t candidates;  // children that reach the bound
    uint32_t kept;        // those of them that stay
    uint32_t drawn[FINISH_THREADS / 32];  // by a warp's sequences
};

// One request as expand_finish looks at it: where its rows and its scratch begin.
struct Request {
    uint32_t index;
    uint32_t first_row;
    uint32_t beams;
    uint32_t sampling;
    const uint4* parents;
    const uint2* groups;
    const uint64_t* run_keys;
    uint64_t* listed;
    uint64_t* candidates;
    uint64_t* order;
};

DEVICE Request request_at(const ExpandParams& p, uint32_t index) {
    const RequestEntry entry = pointer<const RequestEntry>(p.requests)[index];
    const size_t row = entry.first_row;
    return Request{index,
                   entry.first_row,
                   entry.beams,
                   entry.sampling,
                   pointer<const uint4>(p.parents) + row,
                   pointer<const uint2>(p.groups) + row * p.group_stride,
                   pointer<const uint64_t>(p.run_keys) + row * p.run_stride,
                   pointer<uint64_t>(p.listed) + row * EXPAND_LISTED,
                   pointer<uint64_t>(p.candidates) + row * EXPAND_CANDIDATES,
                   pointer<uint64_t>(p.order) + row * EXPAND_ORDER};
}

// A place in a list for each lane that `wants` one. All lanes of the warp call it.
DEVICE uint32_t append(uint32_t* length, bool wants) {
    const uint32_t lane = threadIdx.x & 31, wanting = __ballot_sync(FULL_WARP, wants);
    if (wanting == 0) return 0;
    uint32_t start = 0;
    if (lane == 0) start = atomicAdd(length, static_cast<uint32_t>(__popc(wanting)));
    return __shfl_sync(FULL_WARP, start, 0) + __popc(wanting & ((1u << lane) - 1));
}

// Copies the keys that reach `bound`.
DEVICE void filter(const uint64_t* from, uint32_t count, uint64_t bound, uint64_t* to, uint32_t* length) {
    for (uint32_t base = 0; base < count; base += FINISH_THREADS) {
        const uint32_t i = base + threadIdx.x;
        const uint64_t key = i < count ? from[i] : 0;
        const bool stays = i < count && key >= bound;
        const uint32_t at = append(length, stays);
        if (stays) to[at] = key;
    }
    __syncthreads();
}

// Lists the keys of groups that can hold one of the best children: groups of the runs in `runs` that reach `bound` as if they
// began where their run does.
DEVICE void list_groups(const ExpandParams& p, const Request& request, const uint64_t* runs, uint64_t bound,
                        FinishShared& shared) {
    const uint32_t count = shared.runs * EXPAND_RUN_GROUPS;
    for (uint32_t base = 0; base < count; base += FINISH_THREADS) {
        const uint32_t i = base + threadIdx.x;
        const uint64_t run = runs[min(i, count - 1) / EXPAND_RUN_GROUPS];
        const uint32_t rank = rank_of(run), place = place_of(run) + i % EXPAND_RUN_GROUPS * EXPAND_GROUP;
        uint32_t best = 0;
        if (i < count && place < request.parents[rank].w) {
            best = request.groups[static_cast<size_t>(rank) * p.group_stride + place / EXPAND_GROUP].x;
        }
        const bool reaches = best != 0 && beam_key(best, rank, place_of(run)) >= bound;
        const uint32_t at = append(&shared.listed, reaches);
        if (reaches) request.listed[at] = beam_key(best, rank, place);
    }
    __syncthreads();
}

// Collects the children in the groups of `list` whose score reaches `least`.
DEVICE void collect(const ExpandParams& p, const Request& request, const uint64_t* list, uint32_t count, uint32_t least,
                    FinishShared& shared) {
    constexpr uint32_t WARPS = FINISH_THREADS / 32;
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (uint32_t item = warp; item < count; item += FINISH_UNROLL * WARPS) {
        uint32_t scores[FINISH_UNROLL];
        uint64_t keys[FINISH_UNROLL];
#pragma unroll
        for (int i = 0; i < FINISH_UNROLL; i++) {
            // As in the scan: items beyond the last and children that are not legal read something that is there.
            keys[i] = list[min(item + i * WARPS, count - 1)];
            const uint32_t rank = rank_of(keys[i]), place = place_of(keys[i]);
            const Parent parent = unpack_parent(request.parents[rank]);
            const size_t group = static_cast<size_t>(rank) * p.group_stride + place / EXPAND_GROUP;
            const bool legal = request.groups[group].y >> lane & 1;
            const uint32_t logits_row = p.level == 0 ? request.index : request.first_row + rank;
            const Values values = values_of(p, request.sampling, logits_row, request.first_row + rank);
            const uint32_t score = child_score(p, parent, values, place + (legal ? lane : 0));
            scores[i] = legal && item + i * WARPS < count ? score : 0;
        }
#pragma unroll
        for (int i = 0; i < FINISH_UNROLL; i++) {
            const bool reaches = scores[i] != 0 && scores[i] >= least;
            const uint32_t at = append(&shared.candidates, reaches);
            if (reaches) request.candidates[at] = beam_key(scores[i], rank_of(keys[i]), place_of(keys[i]) + lane);
        }
    }
    __syncthreads();
}

// Finds the candidates of a request: all its best children, and some more.
DEVICE void find_candidates(const ExpandParams& p, const Request& request, uint32_t runs, FinishShared& shared) {
    const uint32_t beams = request.beams, limit = beams + beams / 4;
    const uint64_t* list = request.run_keys;
    uint64_t bound = 0;
    if (runs > limit) {
        bound = threshold(request.run_keys, runs, beams, limit, shared.threshold);
        filter(request.run_keys, runs, bound, request.order, &shared.runs);
        list = request.order;
    } else {
        if (threadIdx.x == 0) shared.runs = runs;
        __syncthreads();
    }
    list_groups(p, request, list, bound, shared);
    uint32_t count = shared.listed;
    list = request.listed;
    if (count > limit) {
        bound = threshold(request.listed, count, beams, limit, shared.threshold);
        filter(request.listed, count, bound, request.order, &shared.chosen);
        list = request.order;
        count = shared.chosen;
    }
    collect(p, request, list, count, static_cast<uint32_t>(bound >> 32), shared);
}

// Sorts the best `kept` candidates into `order`.
DEVICE void put_in_order(const Request& request, uint32_t kept, uint64_t* order, FinishShared& shared) {
    const uint32_t count = shared.candidates, length = sorted_length(kept);
    uint64_t bound = 0;
    if (count > kept) bound = threshold(request.candidates, count, kept, kept, shared.threshold);
    for (uint32_t i = kept + threadIdx.x; i < length; i += FINISH_THREADS) order[i] = 0;
    filter(request.candidates, count, bound, order, &shared.kept);
    sort_descending<FINISH_THREADS>(order, length);
}

// A child that is a beam from now on.
struct Chosen {
    uint32_t rank;
    uint32_t parent;  // rank
    uint32_t place;
    uint32_t first;  // child of the parent
    float key;       // its score, or its perturbed log-probability
};

// Writes one row of the next beams.
DEVICE void write_child(const ExpandParams& p, const Request& request, const Chosen& chosen) {
    const uint32_t row = request.first_row + chosen.rank, parent = request.first_row + chosen.parent;
    const uint32_t node = chosen.first + chosen.place, code = __ldg(pointer<const uint16_t>(p.codes) + node);
    const size_t logits_row = p.level == 0 ? request.index : parent;
    pointer<uint32_t>(p.next.node)[row] = node;
    pointer<uint32_t>(p.next.token)[row] = __ldg(pointer<const uint32_t>(p.tokens) + code);
    inherit_ancestors(p.now, p.next, AncestorCopy{row, parent, p.level, p.rows});

    const float logit = __ldg(pointer<const float>(p.logits) + logits_row * p.logits_stride + code);
    const float raw = __fsub_rn(logit, pointer<const float>(p.lognorm)[logits_row * p.lognorm_stride]);
    float behaviour = raw, score = chosen.key;
    if (request.sampling != SAMPLING_NONE) {
        const float4 norms = pointer<const float4>(p.norms)[logits_row];
        const float scale = pointer<const RequestEntry>(p.requests)[request.index].scale;
        behaviour = __fsub_rn(__fmul_rn(__fsub_rn(logit, norms.y), scale), norms.z);
        score = settled_score(__fadd_rn(pointer<const float>(p.now.score)[parent], raw));
    }
    if (request.sampling == SAMPLING_DISTINCT) {
        pointer<float>(p.next.log_prob)[row] = __fadd_rn(pointer<const float>(p.now.log_prob)[parent], behaviour);
        pointer<float>(p.next.key)[row] = chosen.key;
    }
    pointer<float>(p.next.score)[row] = score;
    pointer<float2>(p.log_probs)[static_cast<size_t>(p.level) * p.rows + row] = make_float2(behaviour, raw);
}

// Writes what independent sequences have drawn, in their order, and returns how many go on.
DEVICE uint32_t write_draws(const ExpandParams& p, const Request& request, FinishShared& shared) {
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint32_t sequences = p.level == 0 ? request.beams : pointer<const uint32_t>(p.now.live)[request.index];
    const uint32_t* first_child = pointer<const uint32_t>(p.first_child);
    uint32_t kept = 0;
    for (uint32_t base = 0; base < sequences; base += FINISH_THREADS) {
        const uint32_t sequence = base + threadIdx.x;
        uint32_t place = EXPAND_NONE;
        if (sequence < sequences) place = pointer<const uint32_t>(p.draws)[request.first_row + sequence];
        const uint32_t drawn = __ballot_sync(FULL_WARP, place != EXPAND_NONE);
        if (lane == 0) shared.drawn[warp] = __popc(drawn);
        __syncthreads();
        uint32_t rank = kept + __popc(drawn & ((1u << lane) - 1));
        for (uint32_t i = 0; i < FINISH_THREADS / 32; i++) {
            if (i < warp) rank += shared.drawn[i];
            kept += shared.drawn[i];
        }
        if (place != EXPAND_NONE) {
            const uint32_t parent = p.level == 0 ? 0 : sequence;
            const uint32_t first = first_child[pointer<const uint32_t>(p.now.node)[request.first_row + parent]];
            write_child(p, request, Chosen{rank, parent, place, first, 0.0f});
        }
        __syncthreads();  // before the counts are overwritten
    }
    return kept;
}

// Finds the best children and writes them; returns how many there are.
DEVICE uint32_t write_best(const ExpandParams& p, const Request& request, uint32_t runs, FinishShared& shared) {
    find_candidates(p, request, runs, shared);
    const uint32_t kept = min(shared.candidates, request.beams);
    const uint64_t* order = request.order;
    if (kept <= SHARED_ORDER) {
        put_in_order(request, kept, shared.order, shared);
        order = shared.order;
    } else {
        put_in_order(request, kept, request.order, shared);
    }
    for (uint32_t rank = threadIdx.x; rank < kept; rank += FINISH_THREADS) {
        const uint64_t key = order[rank];
        const uint32_t parent = rank_of(key);
        write_child(p, request, Chosen{rank, parent, place_of(key), request.parents[parent].z, score_of(key)});
    }
    return kept;
}

}  // namespace

KERNEL(FINISH_THREADS, 1) expand_finish(const __grid_constant__ ExpandParams p) {
    __shared__ FinishShared shared;
    if (blockIdx.x >= pointer<const uint32_t>(p.counts)[0]) return;
    const Request request = request_at(p, blockIdx.x);
    uint32_t* run_count = pointer<uint32_t>(p.run_counts) + request.index;
    const uint32_t runs = *run_count;
    if (threadIdx.x == 0) shared.runs = shared.listed = shared.chosen = shared.candidates = shared.kept = 0;
    __syncthreads();
    if (threadIdx.x == 0) *run_count = 0;  // for the next level; every thread has read it

    const bool draws = request.sampling == SAMPLING_INDEPENDENT;
    const uint32_t kept = draws ? write_draws(p, request, shared) : write_best(p, request, runs, shared);
    clear_dead<FINISH_THREADS>(p.next, pointer<const RequestEntry>(p.requests)[request.index], kept);
    if (threadIdx.x == 0) pointer<uint32_t>(p.next.live)[request.index] = kept;
}
