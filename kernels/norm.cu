// RMS norm: out = x * (1 / sqrt(mean(x^2) + eps)) * weight, f32 in, f32 or bf16 out.
//
// A block a row; grid (bucket rows), 128 threads. Thread t squares elements 4t .. 4t + 4 of every 512, in order; lanes fold by
// halves, then the four warps' sums are added in order: a row's result depends on its own elements alone. The second read of
// x comes from L1. Moves 4 + 4 or 4 + 2 bytes an element: 2,048 rows of 1,024 to bf16 are 12.6 MB, 5 us at 2.5 TB/s; 512 rows
// take the time of a launch. Bound by memory.
//
// budget: norm_* registers <= 40, shared <= 16
#include "params.h"
#include "ptx.h"

namespace {

constexpr int THREADS = 128;
constexpr uint32_t WARPS = THREADS / 32;

// Elements `col` .. `col + 4` of a row of `cols`; 0 beyond it.
DEVICE float4 load_four(const float* row, uint32_t col, uint32_t cols, bool aligned) {
    if (aligned && col + 4 <= cols) return *reinterpret_cast<const float4*>(row + col);
    return make_float4(row[col], col + 1 < cols ? row[col + 1] : 0.0f, col + 2 < cols ? row[col + 2] : 0.0f,
                       col + 3 < cols ? row[col + 3] : 0.0f);
}

DEVICE void store_four(float* row, uint32_t col, float4 y) { *reinterpret_cast<float4*>(row + col) = y; }

DEVICE void store_four(bf16* row, uint32_t col, float4 y) {
    *reinterpret_cast<uint2*>(row + col) = make_uint2(pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
}

template <class T>
DEVICE void store_up_to_four(T* row, uint32_t col, uint32_t cols, float4 y) {
    row[col] = from_float<T>(y.x);
    if (col + 1 < cols) row[col + 1] = from_float<T>(y.y);
    if (col + 2 < cols) row[col + 2] = from_float<T>(y.z);
    if (col + 3 < cols) row[col + 3] = from_float<T>(y.w);
}

// Sum over the block, to all threads.
DEVICE float block_sum(float x) {
    __shared__ float sums[WARPS];
    x = warp_sum(x);
    if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = x;
    __syncthreads();
    float sum = sums[0];
#pragma unroll
    for (uint32_t warp = 1; warp < WARPS; warp++) sum += sums[warp];
    return sum;
}

template <class T>
DEVICE void norm(const NormParams& p) {
    const uint32_t row = blockIdx.x;
    if (row >= *pointer<const uint32_t>(p.live)) return;
    const float* x = pointer<const float>(p.x) + static_cast<size_t>(row) * p.x_stride;
    const float* weight = pointer<const float>(p.weight);
    T* out = pointer<T>(p.out) + static_cast<size_t>(row) * p.out_stride;
    // Strides are multiples of 64 elements, so what holds for the first row holds for all.
    const bool x_aligned = p.x % 16 == 0, weight_aligned = p.weight % 16 == 0, out_aligned = p.out % (4 * sizeof(T)) == 0;

    float squares = 0;
    for (uint32_t col = threadIdx.x * 4; col < p.cols; col += THREADS * 4) {
        const float4 v = load_four(x, col, p.cols, x_aligned);
        squares = fmaf(v.x, v.x, squares), squares = fmaf(v.y, v.y, squares);
        squares = fmaf(v.z, v.z, squares), squares = fmaf(v.w, v.w, squares);
    }
    const float inverse = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(p.cols) + p.eps);

    for (uint32_t col = threadIdx.x * 4; col < p.cols; col += THREADS * 4) {
        const float4 v = load_four(x, col, p.cols, x_aligned), w = load_four(weight, col, p.cols, weight_aligned);
        const float4 y =
            make_float4(v.x * inverse * w.x, v.y * inverse * w.y, v.z * inverse * w.z, v.w * inverse * w.w);
        if (out_aligned && col + 4 <= p.cols) {
            store_four(out, col, y);
        } else {
            store_up_to_four(out, col, p.cols, y);
        }
    }
}

}  // namespace

KERNEL(THREADS) norm_f32(const __grid_constant__ NormParams p) { norm<float>(p); }
KERNEL(THREADS) norm_bf16(const __grid_constant__ NormParams p) { norm<bf16>(p); }
