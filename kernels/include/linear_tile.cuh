// What becomes of a tile's sums: bias, activation or gate, and the way to `out`. A row or a column beyond what there is stays
// unwritten.
#pragma once
#include "activation.cuh"
#include "gemm_bf16.cuh"
#include "gemm_f32.cuh"
#include "params/common.h"
#include "runs.cuh"

// Writes a row's neighbouring values where they belong.
template <int COUNT>
DEVICE void write_run(const LinearParams& p, uint32_t row, uint32_t column, float (&v)[COUNT]) {
    const uint64_t at = uint64_t(row) * p.out_stride + column;
    if (column + COUNT <= p.columns && p.aligned != 0) {
        if (p.out_dtype == DTYPE_BF16) {
            store_run(pointer<bf16>(p.out) + at, v);
        } else {
            if (p.combine == COMBINE_ADD) add_run(pointer<float>(p.out) + at, v);
            store_run(pointer<float>(p.out) + at, v);
        }
        return;
    }
    for_each_value(v, 0, min(COUNT, int(p.columns) - int(column)), [&](int i, float x) {
        if (p.out_dtype == DTYPE_BF16) {
            pointer<bf16>(p.out)[at + i] = round_bf16(x);
        } else {
            float* to = pointer<float>(p.out) + at + i;
            *to = p.combine == COMBINE_ADD ? *to + x : x;
        }
    });
}

// Adds the bias of a thread's columns to its finished sums. A tile may end beyond the weight's groups.
template <class T>
DEVICE void add_bias(const LinearParams& p, const Place<T>& place, float (&sums)[T::M_TILES][8][4]) {
    const uint32_t first = place.first_column + place.warp_column + 2 * place.quad;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        if (first + 8 * n >= p.product.groups * GEMM_GROUP) continue;
        const float2 bias = *reinterpret_cast<const float2*>(pointer<const float>(p.bias) + first + 8 * n);
#pragma unroll
        for (int m = 0; m < T::M_TILES; ++m) {
            sums[m][n][0] += bias.x, sums[m][n][1] += bias.y;
            sums[m][n][2] += bias.x, sums[m][n][3] += bias.y;
        }
    }
}

// In a group of 32 packed columns, a quad's thread t holds columns 8 t ..+8 of 32 in its four tiles, or, of a gated weight,
// columns 4 t ..+4 of 16: the gate in tiles 0 and 2, the up projection in tiles 1 and 3.
template <class T>
DEVICE void finish(const LinearParams& p, const Place<T>& place, uint32_t live, float (&sums)[T::M_TILES][8][4]) {
    if (p.bias != 0) add_bias(p, place, sums);

    const bool gated = p.combine == COMBINE_GATE;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        if (n % 2 == 1 && gated) continue;
#pragma unroll
        for (int m = 0; m < T::M_TILES; ++m) activate(p.activation, sums[m][n]);
    }
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
                    for (int i = 0; i < 4; ++i) {
                        const int gate = 4 * group + i / 2 * 2, element = 2 * half + i % 2;
                        v[i] = tiles[gate][element] * tiles[gate + 1][element];
                    }
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

// A thread's four packed columns are neighbours, or, of a gated weight, gate and up of two: g0 g1 u0 u1.
DEVICE void finish(const LinearParams& p, const F32Place& place, uint32_t live, float (&sums)[F32_ROWS][F32_COLUMNS]) {
    if (p.bias != 0 && place.first_column < p.product.groups * GEMM_GROUP) {
        const float4 bias = *reinterpret_cast<const float4*>(pointer<const float>(p.bias) + place.first_column);
#pragma unroll
        for (int i = 0; i < F32_ROWS; ++i) {
            sums[i][0] += bias.x, sums[i][1] += bias.y;
            sums[i][2] += bias.z, sums[i][3] += bias.w;
        }
    }

    const bool gated = p.combine == COMBINE_GATE;
#pragma unroll
    for (int i = 0; i < F32_ROWS; ++i) {
        const uint32_t row = place.first_row + i;
        if (row >= live) continue;
        if (gated) {
            float v[2] = {sums[i][0], sums[i][1]};
            activate(p.activation, v);
            v[0] *= sums[i][2], v[1] *= sums[i][3];
            write_run(p, row, place.first_column / 2, v);
        } else {
            activate(p.activation, sums[i]);
            write_run(p, row, place.first_column, sums[i]);
        }
    }
}
