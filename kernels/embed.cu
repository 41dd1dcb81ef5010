// out[row] = table[tokens[row]], f32, from a table in f32, bf16 or f16 as it lies in the file.
//
// A warp a row, four rows a block; grid (ceil(bucket rows / 4)), 128 threads. Moves cols x (element + 4) bytes a row, by 16
// bytes where alignment allows: 2,048 rows of 1,024 bf16 are 12.6 MB, 5 us at 2.5 TB/s. Bound by memory.
//
// A token beyond the table reads the table's last row. The host refuses such tokens of a batch, and a head's token lists are
// checked when it is planned, so that this only keeps a wrong token from reading other memory.
//
// budget: embed_* registers <= 40, shared <= 0
#include "params.h"
#include "ptx.h"
#include "table_row.cuh"

namespace {

constexpr int THREADS = 128;
constexpr uint32_t WARPS = THREADS / 32;

template <class T>
DEVICE void embed(const EmbedParams& p) {
    const uint32_t lane = threadIdx.x & 31, row = blockIdx.x * WARPS + (threadIdx.x >> 5);
    if (row >= *pointer<const uint32_t>(p.live)) return;
    const uint32_t token = min(pointer<const uint32_t>(p.tokens)[row], p.vocabulary - 1);
    const T* from = pointer<const T>(p.table) + static_cast<size_t>(token) * p.cols;
    float* out = pointer<float>(p.out) + static_cast<size_t>(row) * p.out_stride;
    // Strides of buffers are multiples of 64 elements, so what holds for the first row holds for all.
    if (p.cols % 4 == 0 && p.table % (4 * sizeof(T)) == 0 && p.out % 16 == 0) {
        for (uint32_t col = lane * 4; col < p.cols; col += 128) {
            *reinterpret_cast<float4*>(out + col) = load_four(from + col);
        }
    } else {
        for (uint32_t col = lane; col < p.cols; col += 32) out[col] = to_float(from[col]);
    }
}

}  // namespace

KERNEL(THREADS) embed_f32(const __grid_constant__ EmbedParams p) { embed<float>(p); }
KERNEL(THREADS) embed_bf16(const __grid_constant__ EmbedParams p) { embed<bf16>(p); }
KERNEL(THREADS) embed_f16(const __grid_constant__ EmbedParams p) { embed<f16>(p); }
