// One block's tile of x W^T in bf16 with f32 sums: tensor cores fed by a ring of stages that cp.async fills ahead.
//
// Every element is the sum, from zero, of one m16n8k16 product after another in the order of k, whatever the tile: so
// tiles may be chosen by the number of rows and a row's result stays the same bit for bit. k is never split.
//
// Shared memory: a stage holds SLABS slabs of 32 k, a slab the tile's rows of x and then those of W, 64 bytes each, as four
// chunks of 16 bytes. Chunk c of row r lies at place c ^ (r / 2 % 4): the eight rows of an 8 x 8 matrix then fall into eight
// different quarters of the banks, so ldmatrix meets no conflict. The weight is packed in that order; x is put into it.
//
// A warp computes (16 M_TILES) x 64: for k16, 16 x 64 bytes of A a row tile and 2 KiB of B for 8 M_TILES products. That is
// 320, 192 and 128 bytes of shared memory a product for M_TILES of 1, 2 and 4; an SM reads 128 bytes a cycle and finishes a
// product in 2 cycles (sm_80) or about 1.6 (sm_90, mma.sync).
#pragma once
#include "ptx.h"

#include "gemm_rows.cuh"
#include "params/gemm.h"

// Columns of a warp: eight 8-column tiles, two groups.
constexpr int WARP_COLUMNS = 64;
// Bytes of a row's slab of 32 k.
constexpr int SLAB_ROW_BYTES = 64;

template <int WARPS_M_, int WARPS_N_, int M_TILES_, int SLABS_, int STAGES_>
struct Tile {
    static constexpr int WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, M_TILES = M_TILES_, SLABS = SLABS_, STAGES = STAGES_;
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int ROWS = 16 * M_TILES * WARPS_M, COLUMNS = WARP_COLUMNS * WARPS_N;
    static constexpr int X_SLAB_BYTES = ROWS * SLAB_ROW_BYTES;
    static constexpr int SLAB_BYTES = X_SLAB_BYTES + COLUMNS * SLAB_ROW_BYTES;
    static constexpr int STAGE_BYTES = SLABS * SLAB_BYTES;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
    static_assert(64 % (32 * SLABS) == 0, "k is padded to 64");
    static_assert(THREADS % (4 * SLABS) == 0 && ROWS % (THREADS / (4 * SLABS)) == 0, "whole copies of x");
};

// Where a thread's sums lie in the product: element [m][n][2 h + e] is row(m, h), packed column warp_column + 8 n + 2 quad + e.
template <class T>
struct Place {
    uint32_t first_row, first_column; // of the block
    uint32_t warp_row, warp_column;   // in the block
    uint32_t row_in_tile, quad;       // of the lane

    DEVICE Place here() {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return {blockIdx.x * T::ROWS, blockIdx.y * T::COLUMNS, warp / T::WARPS_N * (16 * T::M_TILES),
                warp % T::WARPS_N * WARP_COLUMNS, lane / 4, lane % 4};
    }

    __device__ uint32_t row(int m, int half) const { return first_row + warp_row + 16 * m + 8 * half + row_in_tile; }
};

// How far the rows that a thread copies lie from the first byte that it begins with: every X_ROW_STEP-th from `first` on.
template <class Rows, int COUNT, int STEP>
struct RowOffsets {
    uint64_t step_bytes;

    __device__ RowOffsets(const Rows&, uint32_t, uint32_t, uint32_t row_bytes) : step_bytes(uint64_t(STEP) * row_bytes) {}
    __device__ uint64_t begin(uint32_t first, uint32_t row_bytes) const { return uint64_t(first) * row_bytes; }
    __device__ uint64_t of(int i) const { return i * step_bytes; }
};

template <int COUNT, int STEP>
struct RowOffsets<ListedRows, COUNT, STEP> {
    uint32_t sixteens[COUNT]; // of bytes

    __device__ RowOffsets(const ListedRows& rows, uint32_t first, uint32_t live, uint32_t row_bytes) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) sixteens[i] = rows.of(first + i * STEP, live) * (row_bytes / 16);
    }
    __device__ uint64_t begin(uint32_t, uint32_t) const { return 0; }
    __device__ uint64_t of(int i) const { return uint64_t(sixteens[i]) * 16; }
};

// What a thread copies: of x, chunk `tid % (4 SLABS)` of every (THREADS / (4 SLABS))-th row; of W, every THREADS-th chunk.
template <class T, class Rows>
struct Copies {
    static constexpr int X_ROW_STEP = T::THREADS / (4 * T::SLABS), X_COUNT = T::ROWS / X_ROW_STEP;
    static constexpr int W_COUNT = T::COLUMNS * 4 * T::SLABS / T::THREADS;
    // Chunks of a group's slabs of one stage: they lie one after another in the packed weight.
    static constexpr int GROUP_CHUNKS = GEMM_GROUP * 4 * T::SLABS;

    const char* x;
    const char* w;
    RowOffsets<Rows, X_COUNT, X_ROW_STEP> x_rows;
    uint64_t w_group_bytes;
    int32_t x_bytes_left; // of a row, from this thread's chunk on
    uint32_t rows_left;   // live rows from this thread's first on
    uint32_t groups_left; // groups from the block's first on
    uint32_t x_to, w_to;

    __device__ Copies(const Product& p, uint32_t live, uint32_t first_row, uint32_t first_column, const Rows& rows)
        : x_rows(rows, first_row + threadIdx.x / (4 * T::SLABS), live, p.x_stride * 2) {
        const uint32_t tid = threadIdx.x, chunk = tid % (4 * T::SLABS), row = tid / (4 * T::SLABS);
        x = pointer<const char>(p.x) + x_rows.begin(first_row + row, p.x_stride * 2) + chunk * 16;
        x_bytes_left = int32_t(p.k * 2) - int32_t(chunk * 16);
        rows_left = live - min(live, first_row + row);
        x_to = chunk / 4 * T::SLAB_BYTES + row * SLAB_ROW_BYTES + ((chunk % 4) ^ (row / 2 % 4)) * 16;
        w_group_bytes = uint64_t(p.k_padded) * GEMM_GROUP * 2;
        groups_left = p.groups - first_column / GEMM_GROUP;
        w = pointer<const char>(p.weight) + first_column / GEMM_GROUP * w_group_bytes;
        w_to = T::X_SLAB_BYTES;
    }

    // Starts to copy the next stage of k into `stage`.
    __device__ void next(uint32_t stage) {
#pragma unroll
        for (int i = 0; i < X_COUNT; ++i) {
            const int32_t left = uint32_t(i * X_ROW_STEP) < rows_left ? min(max(x_bytes_left, 0), 16) : 0;
            copy_async_16(stage + x_to + i * X_ROW_STEP * SLAB_ROW_BYTES, x + x_rows.of(i), uint32_t(left));
        }
#pragma unroll
        for (int i = 0; i < W_COUNT; ++i) {
            const uint32_t index = i * T::THREADS + threadIdx.x, group = index / GROUP_CHUNKS, at = index % GROUP_CHUNKS;
            const uint32_t slab = at / (GEMM_GROUP * 4), in_slab = at % (GEMM_GROUP * 4);
            const uint32_t to = w_to + slab * T::SLAB_BYTES + (group * GEMM_GROUP * 4 + in_slab) * 16;
            copy_async_16(stage + to, w + group * w_group_bytes + at * 16, group < groups_left ? 16 : 0);
        }
        x += T::SLABS * SLAB_ROW_BYTES;
        x_bytes_left -= T::SLABS * SLAB_ROW_BYTES;
        w += GROUP_CHUNKS * 16;
    }
};

// A warp's operands of one k16.
template <class T>
struct Fragments {
    uint32_t a[T::M_TILES][4];
    uint32_t b[WARP_COLUMNS / 16][4]; // two 8-column tiles each

    // `a_lane` and `b_lane` are the lane's addresses in a slab for its first 16 k; the second 16 k lie two chunks on, which
    // in the swizzled order is bit 5.
    __device__ void load(uint32_t stage, int step, uint32_t a_lane, uint32_t b_lane) {
        const uint32_t slab = stage + step / 2 * T::SLAB_BYTES, half = step % 2 * 32;
#pragma unroll
        for (int m = 0; m < T::M_TILES; ++m) load_matrix_x4(a[m], slab + m * 16 * SLAB_ROW_BYTES + (a_lane ^ half));
#pragma unroll
        for (int n = 0; n < WARP_COLUMNS / 16; ++n) load_matrix_x4(b[n], slab + n * 16 * SLAB_ROW_BYTES + (b_lane ^ half));
    }

    __device__ void multiply(float (&sums)[T::M_TILES][8][4]) const {
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int m = 0; m < T::M_TILES; ++m) mma_bf16(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
};

// The block's products. `live` rows there are; the block's first row is one of them.
template <class T, class Rows = RowsInOrder>
DEVICE void products(const Product& p, uint32_t live, const Place<T>& place, float (&sums)[T::M_TILES][8][4],
                     const Rows& rows = Rows()) {
    DYNAMIC_SHARED(unsigned char, stages);
    constexpr int SUB_STEPS = 2 * T::SLABS;
    const uint32_t shared = shared_address(stages), end = shared + T::SHARED_BYTES;
    const uint32_t steps = p.k_padded / (32 * T::SLABS);
    Copies<T, Rows> copies(p, live, place.first_row, place.first_column, rows);
#pragma unroll
    for (int stage = 0; stage < T::STAGES; ++stage) {
        if (stage < steps) copies.next(shared + stage * T::STAGE_BYTES);
        copy_async_commit();
    }
    const uint32_t lane = threadIdx.x % 32, swizzle = lane / 2 % 4;
    const uint32_t a_row = place.warp_row + lane % 16, b_row = place.warp_column + lane % 8 + lane / 16 * 8;
    const uint32_t a_lane = a_row * SLAB_ROW_BYTES + ((lane / 16) ^ swizzle) * 16;
    const uint32_t b_lane = T::X_SLAB_BYTES + b_row * SLAB_ROW_BYTES + ((lane / 8 % 2) ^ swizzle) * 16;
#pragma unroll
    for (int m = 0; m < T::M_TILES; ++m)
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;

    copy_async_wait<T::STAGES - 1>();
    __syncthreads();
    Fragments<T> fragments[2];
    uint32_t stage = shared;
    fragments[0].load(stage, 0, a_lane, b_lane);
#pragma unroll 1
    for (uint32_t step = 0; step < steps; ++step) {
#pragma unroll
        for (int sub = 0; sub < SUB_STEPS; ++sub) {
            Fragments<T>& ahead = fragments[(sub + 1) % 2];
            if (sub + 1 < SUB_STEPS) {
                ahead.load(stage, sub + 1, a_lane, b_lane);
            } else {
                // The next stage is there, and every warp has read this one: it may be filled again.
                copy_async_wait<T::STAGES - 2>();
                __syncthreads();
                if (step + T::STAGES < steps) copies.next(stage);
                copy_async_commit();
                stage = stage + T::STAGE_BYTES == end ? shared : stage + T::STAGE_BYTES;
                if (step + 1 < steps) ahead.load(stage, 0, a_lane, b_lane);
            }
            fragments[sub % 2].multiply(sums);
        }
    }
    copy_async_wait<0>(); // empty groups: nothing is left under way
}

// The tiles. 96 KiB of shared memory at most, which every card from sm_80 on has (sm_86, 89 and 120: 99 KiB a block).
using WideTile = Tile<2, 4, 4, 1, 4>;  // 128 x 256, 256 threads, 96 KiB: 1 block an SM
using MiddleTile = Tile<2, 2, 2, 2, 3>; // 64 x 128, 128 threads, 72 KiB: 2 blocks (sm_80), 3 (sm_90)
using SmallTile = Tile<4, 1, 1, 2, 6>;  // 64 x 64, 128 threads, 96 KiB, of which 48 KiB of weights are under way
