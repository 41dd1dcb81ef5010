// Mixture of experts, all but its products (experts_linear.cu): the choice of each row's experts, the order in which the
// products take them, and the weighted sum that ends it.
//
// experts_route: logits = x R^T in f32; the top_k largest are chosen, of equal ones the lower expert first; weights are
// softmax over all experts or over the chosen, divided by their sum if that is asked for, then scaled. NaN counts as negative
// infinity in the order and stays NaN in the weights.
//   Four rows a block, 128 threads; grid (ceil(bucket rows / 4)). A warp has four experts at a time and sums their products with
//   all four rows: 32 lanes every 128 columns, then by halves. So R is read from L2 once for four rows: 512 rows of 1,024 and 64
//   experts are 33 MB, some 8 us; 8 experts 1 us, about a launch. Bound by L2.
//
// experts_group: one block counts the rows of every expert and gives each (row, choice) pair its position. Thread t has the
// t-th share of the pairs in order; sums over threads and experts run in order, so that rows of an expert stand in row order,
// always the same. No atomics. Then every expert's positions are cut into tiles of 64.
//   256 threads; 4 bytes a pair twice, and 8 written: for 1,024 pairs the time of a launch; 16,384 pairs are 64 a thread, 10 us.
//   Dynamic shared memory 1 KiB an expert.
//
// experts_sum: out[row] += sum of weight times output over the row's experts, in the order of its choice.
//   A block a row, 128 threads; grid (bucket rows). Moves 4 (top_k + 2) bytes an element: 512 rows of 1,024 and two experts are
//   8.4 MB, 3.4 us at 2.5 TB/s; what the products wrote is mostly still in L2. Bound by memory.
//
// budget: experts_route_* registers <= 96, shared <= 2048
// budget: experts_group registers <= 48, shared <= 1024
// budget: experts_sum registers <= 40, shared <= 0
#include "beam_key.cuh"
#include "exact.cuh"
#include "params.h"
#include "ptx.h"
#include "table_row.cuh"

namespace {

constexpr int THREADS = 128;
constexpr uint32_t WARPS = THREADS / 32;
// Experts that a warp of experts_route has at a time.
constexpr uint32_t TOGETHER = 4;

// Elements `col` .. `col + 4` of a row, zero from `cols` on. What lies there is another view's: a row's end is a multiple of 64.
template <class T>
DEVICE float4 load_within(const T* row, uint32_t col, uint32_t cols) {
    float4 v = load_four(row + col);
    if (col + 1 >= cols) v.y = 0.0f;
    if (col + 2 >= cols) v.z = 0.0f;
    if (col + 3 >= cols) v.w = 0.0f;
    return v;
}

// The warp's logits: those of its experts for all rows of the block.
template <class T>
DEVICE void find_logits(const ExpertsRouteParams& p, uint32_t live, float (&logits)[ROUTE_ROWS][MAX_EXPERTS]) {
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first_row = blockIdx.x * ROUTE_ROWS;
#pragma unroll 1
    for (uint32_t first = warp * TOGETHER; first < p.experts; first += WARPS * TOGETHER) {
        float sums[ROUTE_ROWS][TOGETHER];
#pragma unroll
        for (int i = 0; i < ROUTE_ROWS * TOGETHER; ++i) sums[i / TOGETHER][i % TOGETHER] = 0.0f;
#pragma unroll 1
        for (uint32_t col = lane * 4; col < p.cols; col += 128) {
            float4 x[ROUTE_ROWS];
#pragma unroll
            for (int r = 0; r < ROUTE_ROWS; ++r) {
                const uint64_t row = min(first_row + r, live - 1);
                x[r] = load_within(pointer<const T>(p.x) + row * p.x_stride, col, p.cols);
            }
#pragma unroll
            for (int e = 0; e < TOGETHER; ++e) {
                const uint64_t expert = min(first + e, p.experts - 1);
                const float4 w = load_four(pointer<const float>(p.router) + expert * p.router_stride + col);
#pragma unroll
                for (int r = 0; r < ROUTE_ROWS; ++r) {
                    float& sum = sums[r][e];
                    sum = fmaf(x[r].x, w.x, sum), sum = fmaf(x[r].y, w.y, sum);
                    sum = fmaf(x[r].z, w.z, sum), sum = fmaf(x[r].w, w.w, sum);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < ROUTE_ROWS * TOGETHER; ++i) {
            const uint32_t r = i / TOGETHER, expert = first + i % TOGETHER;
            const float logit = warp_sum(sums[i / TOGETHER][i % TOGETHER]);
            if (lane == 0 && expert < p.experts) logits[r][expert] = logit;
        }
    }
}

// The row's experts, best first. A lane has two of the logits.
DEVICE void choose(const ExpertsRouteParams& p, const float (&logits)[MAX_EXPERTS], uint32_t (&chosen)[MAX_EXPERTS]) {
    const uint32_t lane = threadIdx.x & 31;
    // No logit's key is 0.
    uint32_t low = lane < p.experts ? ordered_score(logits[lane]) : 0;
    uint32_t high = lane + 32 < p.experts ? ordered_score(logits[lane + 32]) : 0;
#pragma unroll 1
    for (uint32_t j = 0; j < p.top_k; ++j) {
        const uint32_t best = warp_max_u32(max(low, high));
        const uint32_t winner = warp_min_u32(low == best ? lane : high == best ? lane + 32 : MAX_EXPERTS);
        if (winner == lane) low = 0;
        if (winner == lane + 32) high = 0;
        if (lane == 0) chosen[j] = winner;
    }
    __syncwarp();
}

// Weights of the chosen: all lanes find the same sums, in an order that is always the same.
DEVICE void weigh(const ExpertsRouteParams& p, uint32_t row, const float (&logits)[MAX_EXPERTS],
                  const uint32_t (&chosen)[MAX_EXPERTS]) {
    const float largest = logits[chosen[0]];
    const auto exponential = [&](uint32_t expert) { return exact_exp(logits[expert] - largest); };
    float total = 0.0f, kept = 0.0f;
    if (p.order == ROUTER_SOFTMAX_TOP_K) {
        const uint32_t lane = threadIdx.x & 31;
        const float low = lane < p.experts ? exponential(lane) : 0.0f;
        total = warp_sum(low + (lane + 32 < p.experts ? exponential(lane + 32) : 0.0f));
    } else {
#pragma unroll 1
        for (uint32_t j = 0; j < p.top_k; ++j) total += exponential(chosen[j]);
    }
    if (p.renormalise != 0) {
#pragma unroll 1
        for (uint32_t j = 0; j < p.top_k; ++j) kept += exponential(chosen[j]) / total;
    }
    for (uint32_t j = threadIdx.x & 31; j < p.top_k; j += 32) {
        float weight = exponential(chosen[j]) / total;
        if (p.renormalise != 0) weight /= kept;
        pointer<uint32_t>(p.choices)[uint64_t(row) * p.top_k + j] = chosen[j];
        pointer<float>(p.weights)[uint64_t(row) * p.top_k + j] = weight * p.scale;
    }
}

template <class T>
DEVICE void route(const ExpertsRouteParams& p) {
    __shared__ float logits[ROUTE_ROWS][MAX_EXPERTS];
    __shared__ uint32_t chosen[ROUTE_ROWS][MAX_EXPERTS];
    const uint32_t live = *pointer<const uint32_t>(p.live), warp = threadIdx.x >> 5;
    if (blockIdx.x * ROUTE_ROWS >= live) return;
    find_logits<T>(p, live, logits);
    __syncthreads();
    const uint32_t row = blockIdx.x * ROUTE_ROWS + warp;
    if (row >= live) return;
    choose(p, logits[warp], chosen[warp]);
    weigh(p, row, logits[warp], chosen[warp]);
}

// Sum of the values of this lane and those below it.
DEVICE uint32_t sum_up_to_lane(uint32_t x) {
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1) {
        const uint32_t below = __shfl_up_sync(FULL_WARP, x, distance);
        if ((threadIdx.x & 31) >= distance) x += below;
    }
    return x;
}

constexpr uint32_t GROUP_WARPS = EXPERT_GROUP_THREADS / 32;
// Counts that a lane adds up: those of an expert by all threads of the block.
constexpr int LANE_COUNTS = EXPERT_GROUP_THREADS / 32;

// Puts, for every thread, the pairs of the expert that threads before it have; returns all of them.
DEVICE uint32_t scan_counts(uint32_t* counts) {
    uint32_t* mine = counts + (threadIdx.x & 31) * LANE_COUNTS;
    uint32_t before[LANE_COUNTS], sum = 0;
#pragma unroll
    for (int i = 0; i < LANE_COUNTS; ++i) before[i] = sum, sum += mine[i];
    const uint32_t up_to = sum_up_to_lane(sum);
#pragma unroll
    for (int i = 0; i < LANE_COUNTS; ++i) mine[i] = before[i] + up_to - sum;
    return __shfl_sync(FULL_WARP, up_to, 31);
}

// The numbers before each of MAX_EXPERTS numbers, by one warp; returns all of them.
DEVICE uint32_t scan_experts(const uint32_t (&numbers)[2], uint32_t (&before)[MAX_EXPERTS]) {
    const uint32_t lane = threadIdx.x & 31, up_to = sum_up_to_lane(numbers[0] + numbers[1]);
    before[2 * lane] = up_to - numbers[0] - numbers[1];
    before[2 * lane + 1] = up_to - numbers[1];
    return __shfl_sync(FULL_WARP, up_to, 31);
}

DEVICE uint32_t tiles_of(uint32_t positions) { return (positions + EXPERT_TILE_ROWS - 1) / EXPERT_TILE_ROWS; }

}  // namespace

KERNEL(THREADS) experts_route_f32(const __grid_constant__ ExpertsRouteParams p) { route<float>(p); }
KERNEL(THREADS) experts_route_bf16(const __grid_constant__ ExpertsRouteParams p) { route<bf16>(p); }

KERNEL(EXPERT_GROUP_THREADS) experts_group(const __grid_constant__ ExpertsGroupParams p) {
    DYNAMIC_SHARED(uint32_t, counts); // [experts][EXPERT_GROUP_THREADS]
    __shared__ uint32_t totals[MAX_EXPERTS], first_position[MAX_EXPERTS], first_tile[MAX_EXPERTS];
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint32_t* choices = pointer<const uint32_t>(p.choices);
    const uint32_t pairs = *pointer<const uint32_t>(p.live) * p.top_k;
    const uint32_t share = (pairs + EXPERT_GROUP_THREADS - 1) / EXPERT_GROUP_THREADS;
    const uint32_t begin = min(threadIdx.x * share, pairs), end = min(begin + share, pairs);

    uint32_t* mine = counts + threadIdx.x;
    for (uint32_t expert = 0; expert < p.experts; ++expert) mine[expert * EXPERT_GROUP_THREADS] = 0;
    for (uint32_t pair = begin; pair < end; ++pair) ++mine[choices[pair] * EXPERT_GROUP_THREADS];
    __syncthreads();
    for (uint32_t expert = warp; expert < p.experts; expert += GROUP_WARPS) {
        const uint32_t total = scan_counts(counts + expert * EXPERT_GROUP_THREADS);
        if (lane == 0) totals[expert] = total;
    }
    __syncthreads();
    if (warp == 0) {
        uint32_t positions[2], tiles[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            positions[i] = 2 * lane + i < p.experts ? totals[2 * lane + i] : 0;
            tiles[i] = tiles_of(positions[i]);
        }
        scan_experts(positions, first_position);
        const uint32_t tile_count = scan_experts(tiles, first_tile);
        if (lane == 0) *pointer<uint32_t>(p.tile_count) = tile_count;
    }
    __syncthreads();
    for (uint32_t pair = begin; pair < end; ++pair) {
        const uint32_t expert = choices[pair];
        const uint32_t position = first_position[expert] + mine[expert * EXPERT_GROUP_THREADS]++;
        pointer<uint32_t>(p.rows)[position] = pair / p.top_k;
        pointer<uint32_t>(p.positions)[pair] = position;
    }
    for (uint32_t expert = warp; expert < p.experts; expert += GROUP_WARPS) {
        const uint32_t first = first_position[expert], total = totals[expert];
        for (uint32_t tile = lane; tile < tiles_of(total); tile += 32) {
            const uint32_t at = tile * EXPERT_TILE_ROWS;
            pointer<ExpertTile>(p.tiles)[first_tile[expert] + tile] = {expert, first + at, first + min(at + EXPERT_TILE_ROWS, total), 0};
        }
    }
}

KERNEL(THREADS) experts_sum(const __grid_constant__ ExpertsSumParams p) {
    const uint32_t row = blockIdx.x;
    if (row >= *pointer<const uint32_t>(p.live)) return;
    const uint32_t* positions = pointer<const uint32_t>(p.positions) + uint64_t(row) * p.top_k;
    const float* weights = pointer<const float>(p.weights) + uint64_t(row) * p.top_k;
    float* out = pointer<float>(p.out) + uint64_t(row) * p.out_stride;
    // Strides are multiples of 64 elements, so what holds for the first row holds for all.
    const bool aligned = p.out % 16 == 0;
    for (uint32_t col = threadIdx.x * 4; col < p.cols; col += THREADS * 4) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
        for (uint32_t j = 0; j < p.top_k; ++j) {
            const float* from = pointer<const float>(p.outputs) + uint64_t(positions[j]) * p.outputs_stride + col;
            const float4 v = *reinterpret_cast<const float4*>(from);
            const float weight = weights[j];
            sum.x = fmaf(weight, v.x, sum.x), sum.y = fmaf(weight, v.y, sum.y);
            sum.z = fmaf(weight, v.z, sum.z), sum.w = fmaf(weight, v.w, sum.w);
        }
        if (aligned && col + 4 <= p.cols) {
            float4* to = reinterpret_cast<float4*>(out + col);
            const float4 before = *to;
            *to = make_float4(before.x + sum.x, before.y + sum.y, before.z + sum.z, before.w + sum.w);
        } else {
            out[col] += sum.x;
            if (col + 1 < p.cols) out[col + 1] += sum.y;
            if (col + 2 < p.cols) out[col + 2] += sum.z;
            if (col + 3 < p.cols) out[col + 3] += sum.w;
        }
    }
}
