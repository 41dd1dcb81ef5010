// One block's tile of x W^T in f32: 64 x 64, 128 threads, plain FFMA on 8 rows x 4 columns a thread.
//
// Every element is one sum from zero in the order of k. For 4 k a thread reads 12 vectors of 16 bytes from shared memory and
// does 128 FFMA; within a quarter of a warp the reads of x are one address, those of W 128 bytes in a row: no conflicts.
// W is packed as [group][k][32 columns], so a stage of it is copied as it lies.
#pragma once
#include "ptx.h"

#include "gemm_rows.cuh"
#include "params/gemm.h"

constexpr int F32_THREADS = 128, F32_TILE = 64, F32_ROWS = 8, F32_COLUMNS = 4;
constexpr int F32_STAGE_K = 32, F32_STAGES = 3;
constexpr int F32_X_FLOATS = F32_TILE * F32_STAGE_K, F32_STAGE_FLOATS = 2 * F32_X_FLOATS;

// Where a thread's sums lie: rows first_row ..+8, packed columns first_column ..+4.
struct F32Place {
    uint32_t first_row, first_column;

    // Of the block whose rows begin at `block_row`.
    DEVICE F32Place at(uint32_t block_row) {
        return {block_row + threadIdx.x / 16 * F32_ROWS, blockIdx.y * F32_TILE + threadIdx.x % 16 * F32_COLUMNS};
    }

    DEVICE F32Place here() { return at(blockIdx.x * F32_TILE); }
};

// Rows of a block's tile: from `first` on, of `live` there are.
template <class Rows>
struct F32Tile {
    uint32_t first, live;
    Rows rows;
};

// Starts to copy stage `step` of k into `stage`.
template <class Rows>
DEVICE void copy_f32_stage(const Product& p, const F32Tile<Rows>& tile, uint32_t stage, uint32_t step) {
    const uint32_t first_k = step * F32_STAGE_K;
#pragma unroll
    for (int i = 0; i < F32_X_FLOATS / 4 / F32_THREADS; ++i) {
        const uint32_t index = i * F32_THREADS + threadIdx.x, row = tile.first + index / 8;
        const uint32_t k = first_k + index % 8 * 4;
        const uint32_t valid = row < tile.live && k < p.k ? min(p.k - k, 4u) * 4 : 0;
        copy_async_16(stage + index * 16, pointer<const float>(p.x) + uint64_t(tile.rows.of(row, tile.live)) * p.x_stride + k, valid);
    }
#pragma unroll
    for (int i = 0; i < F32_X_FLOATS / 4 / F32_THREADS; ++i) {
        const uint32_t index = i * F32_THREADS + threadIdx.x, at = index % (GEMM_GROUP * F32_STAGE_K / 4);
        const uint32_t group = blockIdx.y * (F32_TILE / GEMM_GROUP) + index / (GEMM_GROUP * F32_STAGE_K / 4);
        const float* from = pointer<const float>(p.weight) + (uint64_t(group) * p.k_padded + first_k) * GEMM_GROUP + at * 4;
        copy_async_16(stage + (F32_X_FLOATS + index * 4) * 4, from, group < p.groups ? 16 : 0);
    }
}

template <class Rows>
DEVICE void products_f32(const Product& p, const F32Tile<Rows>& tile, float (&sums)[F32_ROWS][F32_COLUMNS]) {
    DYNAMIC_SHARED(float, stages);
    const uint32_t shared = shared_address(stages), steps = p.k_padded / F32_STAGE_K;
#pragma unroll
    for (int stage = 0; stage < F32_STAGES - 1; ++stage) {
        if (stage < steps) copy_f32_stage(p, tile, shared + stage * F32_STAGE_FLOATS * 4, stage);
        copy_async_commit();
    }
#pragma unroll
    for (int i = 0; i < F32_ROWS; ++i)
#pragma unroll
        for (int j = 0; j < F32_COLUMNS; ++j) sums[i][j] = 0.0f;
    const uint32_t x_at = threadIdx.x / 16 * F32_ROWS * F32_STAGE_K;
    const uint32_t column = threadIdx.x % 16 * F32_COLUMNS;
    const uint32_t w_at = F32_X_FLOATS + column / GEMM_GROUP * (GEMM_GROUP * F32_STAGE_K) + column % GEMM_GROUP;
#pragma unroll 1
    for (uint32_t step = 0; step < steps; ++step) {
        copy_async_wait<F32_STAGES - 2>();
        __syncthreads();
        const uint32_t ahead = step + F32_STAGES - 1; // fills the stage that every warp has left behind
        if (ahead < steps) copy_f32_stage(p, tile, shared + ahead % F32_STAGES * F32_STAGE_FLOATS * 4, ahead);
        copy_async_commit();
        const float* stage = stages + step % F32_STAGES * F32_STAGE_FLOATS;
#pragma unroll 2
        for (int k = 0; k < F32_STAGE_K; k += 4) {
            float4 x[F32_ROWS];
#pragma unroll
            for (int i = 0; i < F32_ROWS; ++i)
                x[i] = *reinterpret_cast<const float4*>(stage + x_at + i * F32_STAGE_K + k);
#pragma unroll
            for (int d = 0; d < 4; ++d) {
                const float4 w = *reinterpret_cast<const float4*>(stage + w_at + (k + d) * GEMM_GROUP);
#pragma unroll
                for (int i = 0; i < F32_ROWS; ++i) {
                    const float v = d == 0 ? x[i].x : d == 1 ? x[i].y : d == 2 ? x[i].z : x[i].w;
                    sums[i][0] = fmaf(v, w.x, sums[i][0]);
                    sums[i][1] = fmaf(v, w.y, sums[i][1]);
                    sums[i][2] = fmaf(v, w.z, sums[i][2]);
                    sums[i][3] = fmaf(v, w.w, sums[i][3]);
                }
            }
        }
    }
    copy_async_wait<0>(); // empty groups: nothing is left under way
    __syncthreads(); // the stages may hold other things now
}

// The same for the tile of the block's place in the grid.
DEVICE void products_f32(const Product& p, uint32_t live, float (&sums)[F32_ROWS][F32_COLUMNS]) {
    products_f32(p, F32Tile<RowsInOrder>{blockIdx.x * F32_TILE, live, {}}, sums);
}
