// The output head: logits of the wanted columns, and the log-sum-exp of the counted ones.
//
//     partial[row][b] = (max, sum of exp(logit - max)) of columns 64 b .. 64 b + 64
//     lognorm[row]    = M + log(sum over b of sum_b exp(max_b - M)),  M = max over b of max_b
//
// Logits that are not wanted never leave registers. Partials are of 64 columns whatever the tile, and merged in an order that
// depends on their number only: a row's result is the same in any batch and with any tile. Launch as linear.cu, then
// `head_merge` with a block a row of the bucket.
//
// Floor, 512 rows x 176,000 tokens x 1,024 in bf16: 185 GFLOP, 313 us at 590 TFLOP/s (mma.sync on an H100; see linear.cu);
// 360 MB of weights are 108 us. 2,752 wide tiles, 20.8 waves. The epilogue takes one ex2 a logit: 2,048 cycles a tile at 16 a
// cycle and SM, beside 26,000 cycles of products: 8%, not hidden. Partials: 11 MB written and read again, 3 us.
// One row is bound by the weights: 108 us, 2,750 small tiles.
//
// budget: head_bf16_wide registers <= 255, shared <= 0
// budget: head_bf16_middle registers <= 216, shared <= 0
// budget: head_bf16_small registers <= 128, shared <= 0
// budget: head_f32 registers <= 96, shared <= 0
// budget: head_merge registers <= 40, shared <= 1024
#include "activation.cuh"
#include "gemm_bf16.cuh"
#include "gemm_f32.cuh"
#include "params/head.h"
#include "runs.cuh"

// Stores those of a row's neighbouring logits that are wanted.
template <int COUNT>
DEVICE void store_wanted(const HeadParams& p, uint32_t row, uint32_t column, const float (&v)[COUNT]) {
    float* to = pointer<float>(p.logits) + uint64_t(row) * p.logits_stride + (int64_t(column) - int64_t(p.first_wanted));
    const int begin = max(0, int(p.first_wanted) - int(column)), end = min(COUNT, int(p.end_wanted) - int(column));
    if (begin == 0 && end == COUNT && p.aligned != 0) {
        store_run(to, v);
    } else {
        for_each_value(v, begin, end, [&](int i, float x) { to[i] = x; });
    }
}

// (maximum, sum of exp(v - maximum)) of the values that LANES neighbouring lanes hold: each lane's in index order, then lanes
// in a butterfly. A maximum ignores NaN and a sum keeps it; of values that are all negative infinity the sum is 0. exp of the
// maximum's difference is exactly 1, so no log-probability comes out above 0.
template <int COUNT, int LANES>
DEVICE float2 exp_parts(const float (&v)[COUNT]) {
    float maximum = v[0];
#pragma unroll
    for (int i = 1; i < COUNT; ++i) maximum = fmaxf(maximum, v[i]);
#pragma unroll
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2)
        maximum = fmaxf(maximum, __shfl_xor_sync(FULL_WARP, maximum, lanes));
    maximum = fmaxf(maximum, negative_infinity());
    const float shift = maximum == negative_infinity() ? 0.0f : maximum;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sum += exp2_flushed((v[i] - shift) * LOG2_E);
#pragma unroll
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, lanes);
    return make_float2(maximum, sum);
}

DEVICE void store_partial(const HeadParams& p, uint32_t row, uint32_t column, float2 parts) {
    const uint64_t at = uint64_t(row) * p.partial_count + column / HEAD_PARTIAL_COLUMNS;
    pointer<float2>(p.partials)[at] = parts;
}

template <class T>
DEVICE void head_bf16(const HeadParams& p) {
    static_assert(WARP_COLUMNS == HEAD_PARTIAL_COLUMNS, "a warp makes one partial a row");
    const Place<T> place = Place<T>::here();
    const uint32_t live = *pointer<const uint32_t>(p.product.live);
    if (place.first_row >= live) return;
    float sums[T::M_TILES][8][4];
    products(p.product, live, place, sums);

    const uint32_t column = place.first_column + place.warp_column, groups = p.product.groups;
    if (column / GEMM_GROUP >= groups) return;
    // A quad's thread t holds columns 8 t ..+8 of each group in the group's four tiles.
    if (column < p.end_wanted && column + WARP_COLUMNS > p.first_wanted) {
#pragma unroll
        for (int m = 0; m < T::M_TILES; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint32_t row = place.row(m, half);
                if (row >= live) continue;
#pragma unroll
                for (int group = 0; group < 2; ++group) {
                    float v[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) v[i] = sums[m][4 * group + i / 2][2 * half + i % 2];
                    store_wanted(p, row, column + group * GEMM_GROUP + 8 * place.quad, v);
                }
            }
    }
    const uint32_t* counted = pointer<const uint32_t>(p.counted) + column / GEMM_GROUP;
    const uint32_t masks[2] = {counted[0], counted[1]};
    if ((masks[0] & masks[1]) != 0xffffffffu) {
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                if (masks[n / 4] >> (8 * place.quad + n % 4 * 2 + e) & 1) continue;
#pragma unroll
                for (int m = 0; m < T::M_TILES; ++m) sums[m][n][e] = sums[m][n][2 + e] = negative_infinity();
            }
    }
#pragma unroll
    for (int m = 0; m < T::M_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float v[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) v[i] = sums[m][i / 2][2 * half + i % 2];
            const float2 parts = exp_parts<16, 4>(v);
            const uint32_t row = place.row(m, half);
            if (place.quad == 0 && row < live) store_partial(p, row, column, parts);
        }
}

KERNEL(WideTile::THREADS) head_bf16_wide(const __grid_constant__ HeadParams p) { head_bf16<WideTile>(p); }
KERNEL(MiddleTile::THREADS) head_bf16_middle(const __grid_constant__ HeadParams p) { head_bf16<MiddleTile>(p); }
KERNEL(SmallTile::THREADS) head_bf16_small(const __grid_constant__ HeadParams p) { head_bf16<SmallTile>(p); }

KERNEL(F32_THREADS) head_f32(const __grid_constant__ HeadParams p) {
    static_assert(F32_TILE == HEAD_PARTIAL_COLUMNS, "a block makes one partial a row");
    const F32Place place = F32Place::here();
    const uint32_t live = *pointer<const uint32_t>(p.product.live);
    if (blockIdx.x * F32_TILE >= live) return;
    float sums[F32_ROWS][F32_COLUMNS];
    products_f32(p.product, live, sums);

    const uint32_t* counted = pointer<const uint32_t>(p.counted);
    const uint32_t mask = counted[place.first_column / GEMM_GROUP] >> place.first_column % GEMM_GROUP;
#pragma unroll
    for (int i = 0; i < F32_ROWS; ++i) {
        const uint32_t row = place.first_row + i;
        if (row < live) store_wanted(p, row, place.first_column, sums[i]);
#pragma unroll
        for (int j = 0; j < F32_COLUMNS; ++j)
            if (!(mask >> j & 1)) sums[i][j] = negative_infinity();
        const float2 parts = exp_parts<F32_COLUMNS, 16>(sums[i]);
        if (threadIdx.x % 16 == 0 && row < live) store_partial(p, row, place.first_column, parts);
    }
}

constexpr int MERGE_THREADS = 128, MERGE_WARPS = MERGE_THREADS / 32;

// One row's log-sum-exp: thread i takes partials i, i + 128, ...; then lanes in a butterfly, then warps in order.
KERNEL(MERGE_THREADS) head_merge(const __grid_constant__ HeadMergeParams p) {
    __shared__ float warp_maxima[MERGE_WARPS], warp_sums[MERGE_WARPS];
    const uint32_t row = blockIdx.x, warp = threadIdx.x / 32;
    if (row >= *pointer<const uint32_t>(p.live)) return;
    const float2* partials = pointer<const float2>(p.partials) + uint64_t(row) * p.partial_count;
    float maximum = negative_infinity();
    for (uint32_t i = threadIdx.x; i < p.partial_count; i += MERGE_THREADS) maximum = fmaxf(maximum, partials[i].x);
    maximum = warp_max(maximum);
    if (threadIdx.x % 32 == 0) warp_maxima[warp] = maximum;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < MERGE_WARPS; ++i) maximum = fmaxf(maximum, warp_maxima[i]);
    const float shift = maximum == negative_infinity() ? 0.0f : maximum;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.partial_count; i += MERGE_THREADS)
        sum += partials[i].y * exp2_flushed((partials[i].x - shift) * LOG2_E);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) warp_sums[warp] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = warp_sums[0];
#pragma unroll
    for (int i = 1; i < MERGE_WARPS; ++i) sum += warp_sums[i];
    pointer<float>(p.lognorm)[uint64_t(row) * p.lognorm_stride] = maximum + logf(sum);
}
