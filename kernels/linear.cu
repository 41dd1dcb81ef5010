// out = epilogue(x W^T): store, add to the residual stream, activate, or act(x G^T) * (x U^T).
#include "activation.cuh"
#include "gemm_bf16.cuh"
#include "gemm_f32.cuh"
#include "params/common.h"
#include "runs.cuh"

// Writes a row's neighbouring values where they belong.
template <int COUNT>
DEVICE void write_run(const LinearParams& p, uint32_t row, uint32_t column, float (&v)[COUNT]) {
    if (column >= p.columns) return;
    const int count = int(p.columns - column);
    const bool whole = count >= COUNT && p.aligned != 0;
    const uint64_t at = uint64_t(row) * p.out_stride + column;
    if (p.out_dtype == DTYPE_BF16) {
        store_run(pointer<bf16>(p.out) + at, v, whole, count);
    } else {
        float* to = pointer<float>(p.out) + at;
        if (p.combine == COMBINE_ADD) add_run(to, v, whole, count);
        store_run(to, v, whole, count);
    }
}

// In a group of 32 packed columns, a quad's thread t holds columns 8 t ..+8 of 32 in its four tiles, or, of a gated weight,
// columns 4 t ..+4 of 16: the gate in tiles 0 and 2, the up projection in tiles 1 and 3.
template <class T>
DEVICE void linear_bf16(const LinearParams& p) {
    const Place<T> place = Place<T>::here();
    const uint32_t live = *pointer<const uint32_t>(p.product.live);
    if (place.first_row >= live) return;
    float sums[T::M_TILES][8][4];
    products(p.product, live, place, sums);

    const bool gated = p.combine == COMBINE_GATE;
    activate(p.activation, [&](auto f) {
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            if (n % 2 == 1 && gated) continue;
#pragma unroll
            for (int m = 0; m < T::M_TILES; ++m)
#pragma unroll
                for (int i = 0; i < 4; ++i) f(sums[m][n][i]);
        }
    });
    const uint32_t column = place.first_column + place.warp_column;
#pragma unroll
    for (int m = 0; m < T::M_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint32_t row = place.row(m, half);
            if (row >= live) continue;
#pragma unroll
            for (int group = 0; group < 2; ++group) {
                float(&tiles)[8][4] = sums[m];
                const uint32_t first = column + group * GEMM_GROUP;
                if (gated) {
                    float v[4];
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        v[i] = tiles[4 * group + i / 2 * 2][2 * half + i % 2] * tiles[4 * group + i / 2 * 2 + 1][2 * half + i % 2];
                    write_run(p, row, first / 2 + 4 * place.quad, v);
                } else {
                    float v[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) v[i] = tiles[4 * group + i / 2][2 * half + i % 2];
                    write_run(p, row, first + 8 * place.quad, v);
                }
            }
        }
}

KERNEL(WideTile::THREADS) linear_bf16_wide(const __grid_constant__ LinearParams p) { linear_bf16<WideTile>(p); }
KERNEL(MiddleTile::THREADS) linear_bf16_middle(const __grid_constant__ LinearParams p) { linear_bf16<MiddleTile>(p); }
KERNEL(SmallTile::THREADS) linear_bf16_small(const __grid_constant__ LinearParams p) { linear_bf16<SmallTile>(p); }

// A thread's four packed columns are neighbours, or, of a gated weight, gate and up of two: g0 g1 u0 u1.
KERNEL(F32_THREADS) linear_f32(const __grid_constant__ LinearParams p) {
    const F32Place place = F32Place::here();
    const uint32_t live = *pointer<const uint32_t>(p.product.live);
    if (blockIdx.x * F32_TILE >= live) return;
    float sums[F32_ROWS][F32_COLUMNS];
    products_f32(p.product, live, sums);

    const bool gated = p.combine == COMBINE_GATE;
    activate(p.activation, [&](auto f) {
#pragma unroll
        for (int j = 0; j < F32_COLUMNS; ++j) {
            if (j >= 2 && gated) continue;
#pragma unroll
            for (int i = 0; i < F32_ROWS; ++i) f(sums[i][j]);
        }
    });
#pragma unroll
    for (int i = 0; i < F32_ROWS; ++i) {
        const uint32_t row = place.first_row + i;
        if (row >= live) continue;
        if (gated) {
            float v[2] = {sums[i][0] * sums[i][2], sums[i][1] * sums[i][3]};
            write_run(p, row, place.first_column / 2, v);
        } else {
            write_run(p, row, place.first_column, sums[i]);
        }
    }
}
