// out[row] += table[position of the row], f32, from a table in f32, bf16 or f16 as it lies in the file. A token's position is
// that in its segment; a beam's is the length of its request's prefix and the step of its newest token.
//
// A warp a row, four rows a block; grid (ceil(bucket rows / 4)), 128 threads. Moves cols x (element + 8) bytes a row, by 16
// bytes where alignment allows: 2,048 rows of 1,024 with a bf16 table are 21 MB at most, 8 us at 2.5 TB/s; rows of one position
// share theirs in cache. Bound by memory.
//
// Models are planned so that no position leaves the table; a position beyond it reads the table's last row, so that a wrong one
// reads no other memory. Rows of no request are left alone.
//
// budget: add_positions_* registers <= 40, shared <= 0
#include "pages.cuh"
#include "params.h"
#include "table_row.cuh"

namespace {

constexpr int THREADS = 128;
constexpr uint32_t WARPS = THREADS / 32;

// False for a row of no request.
DEVICE bool find_position(const PositionsParams& p, uint32_t row, uint32_t& position) {
    if (p.row_request == 0) {
        position = pointer<const uint32_t>(p.row_position)[row];
        return true;
    }
    const uint32_t request = pointer<const uint32_t>(p.row_request)[row];
    if (request == NO_ROW) return false;
    const uint32_t slot = pointer<const RequestEntry>(p.requests)[request].slot;
    position = pointer<const uint32_t>(p.prefix_lengths)[static_cast<size_t>(slot) * p.slot_stride] + p.step;
    return true;
}

template <class T>
DEVICE void add_positions(const PositionsParams& p) {
    const uint32_t lane = threadIdx.x & 31, row = blockIdx.x * WARPS + (threadIdx.x >> 5);
    uint32_t position;
    if (row >= *pointer<const uint32_t>(p.live) || !find_position(p, row, position)) return;
    const T* from = pointer<const T>(p.table) + static_cast<size_t>(min(position, p.positions - 1)) * p.cols;
    float* out = pointer<float>(p.out) + static_cast<size_t>(row) * p.out_stride;
    // Strides of buffers are multiples of 64 elements, so what holds for the first row holds for all.
    if (p.cols % 4 == 0 && p.table % (4 * sizeof(T)) == 0 && p.out % 16 == 0) {
        for (uint32_t col = lane * 4; col < p.cols; col += 128) {
            const float4 x = load_four(from + col);
            float4* to = reinterpret_cast<float4*>(out + col);
            const float4 before = *to;
            *to = make_float4(before.x + x.x, before.y + x.y, before.z + x.z, before.w + x.w);
        }
    } else {
        for (uint32_t col = lane; col < p.cols; col += 32) out[col] += to_float(from[col]);
    }
}

}  // namespace

KERNEL(THREADS) add_positions_f32(const __grid_constant__ PositionsParams p) { add_positions<float>(p); }
KERNEL(THREADS) add_positions_bf16(const __grid_constant__ PositionsParams p) { add_positions<bf16>(p); }
KERNEL(THREADS) add_positions_f16(const __grid_constant__ PositionsParams p) { add_positions<f16>(p); }
