// out = epilogue(sums): what linear.cu does to its sums, for the products that cuBLASLt has left in f32 scratch: activate, or
// act(gate) * up, or store and add where cuBLASLt cannot write `out` itself (its address is no multiple of 16, its type bf16).
//
// A thread four neighbouring columns of a row; grid (rows of the part, columns / 512), 128 threads. A row's values are its own
// sums' alone; rows beyond the live ones are not touched. Moves 4 bytes a sum (a gate has two a column) and the output: 2,048 rows
// of a gated 6,144 to bf16 are 101 + 25 MB, 50 us at 2.5 TB/s where all of it comes from memory; the L2 of an H100 holds half.
// linear.cu has none of that traffic: it is the price of cuBLASLt's product. Bound by memory.
//
// budget: linear_epilogue registers <= 32, shared <= 0
#include "activation.cuh"
#include "params/common.h"
#include "params/linear_epilogue.h"
#include "runs.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int RUN = 4;

// `count` values of a row from `from` on; zero beyond them.
DEVICE void load_values(const float* from, uint32_t count, bool aligned, float (&v)[RUN]) {
    if (aligned && count >= RUN) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < RUN; ++i) v[i] = i < int(count) ? from[i] : 0.0f;
}

template <class T>
DEVICE void store_values(T* to, uint32_t count, bool aligned, const float (&v)[RUN]) {
    if (aligned && count >= RUN) {
        store_run(to, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < RUN; ++i)
        if (i < int(count)) to[i] = from_float<T>(v[i]);
}

}  // namespace

KERNEL(THREADS) linear_epilogue(const __grid_constant__ LinearEpilogueParams p) {
    const uint32_t row = blockIdx.x;
    const uint32_t column = (blockIdx.y * THREADS + threadIdx.x) * RUN;
    if (p.first_row + row >= *pointer<const uint32_t>(p.live) || column >= p.columns) return;
    const uint32_t count = p.columns - column;
    const bool aligned = p.aligned != 0;
    const float* sums = pointer<const float>(p.sums) + uint64_t(row) * p.sums_stride + column;
    float v[RUN];
    load_values(sums, count, true, v);
    activate(p.activation, v);
    if (p.combine == COMBINE_GATE) {
        float up[RUN];
        load_values(sums + p.columns, count, p.columns % RUN == 0, up);
#pragma unroll
        for (int i = 0; i < RUN; ++i) v[i] *= up[i];
    }
    const uint64_t at = uint64_t(row) * p.out_stride + column;
    if (p.out_dtype == DTYPE_BF16) {
        store_values(pointer<bf16>(p.out) + at, count, aligned, v);
        return;
    }
    float* out = pointer<float>(p.out) + at;
    if (p.combine == COMBINE_ADD) {
        float before[RUN];
        load_values(out, count, aligned, before);
#pragma unroll
        for (int i = 0; i < RUN; ++i) v[i] = before[i] + v[i];
    }
    store_values(out, count, aligned, v);
}
