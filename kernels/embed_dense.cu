// out[row] = input vector of the row, f32 in, f32 or bf16 out.
//
// A warp a row, four rows a block; grid (ceil(bucket rows / 4)), 128 threads. Moves 4 + 4 or 4 + 2 bytes an element, by 16 bytes
// where alignment allows: 2,048 rows of 1,024 to f32 are 16.8 MB, 7 us at 2.5 TB/s. Bound by memory (and the vectors came over the
// bus before, which takes longer).
//
// budget: embed_dense_* registers <= 40, shared <= 0
#include "params.h"
#include "ptx.h"

namespace {

constexpr int THREADS = 128;
constexpr uint32_t WARPS = THREADS / 32;

DEVICE void store_four(float* to, float4 v) { *reinterpret_cast<float4*>(to) = v; }

DEVICE void store_four(bf16* to, float4 v) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
}

template <class T>
DEVICE void embed_dense(const EmbedDenseParams& p) {
    const uint32_t lane = threadIdx.x & 31, row = blockIdx.x * WARPS + (threadIdx.x >> 5);
    if (row >= *pointer<const uint32_t>(p.live)) return;
    const float* from = pointer<const float>(p.values) + static_cast<size_t>(row) * p.cols;
    T* out = pointer<T>(p.out) + static_cast<size_t>(row) * p.out_stride;
    // Strides of buffers are multiples of 64 elements, so what holds for the first row holds for all.
    if (p.cols % 4 == 0 && p.out % (4 * sizeof(T)) == 0) {
        for (uint32_t col = lane * 4; col < p.cols; col += 128) {
            store_four(out + col, *reinterpret_cast<const float4*>(from + col));
        }
    } else {
        for (uint32_t col = lane; col < p.cols; col += 32) out[col] = from_float<T>(from[col]);
    }
}

}  // namespace

KERNEL(THREADS) embed_dense_f32(const __grid_constant__ EmbedDenseParams p) { embed_dense<float>(p); }
KERNEL(THREADS) embed_dense_bf16(const __grid_constant__ EmbedDenseParams p) { embed_dense<bf16>(p); }
