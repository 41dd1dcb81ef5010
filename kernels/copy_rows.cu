// Copies rows between buffers of one type: the i-th copy reads the row that one list names and writes the row that the other
// names; a list that is not there names row i.
//
// A warp a row, four rows a block; grid (ceil(bucket copies / 4)), 128 threads. Moves twice the row's bytes, by 16 bytes where
// alignment allows; a few hundred rows, so that a launch costs as much as its dispatch (2 to 3 us).
//
// budget: copy_rows registers <= 40, shared <= 0
#include "params.h"
#include "ptx.h"

namespace {

constexpr int THREADS = 128;
constexpr uint32_t WARPS = THREADS / 32;

DEVICE uint32_t row_at(const RowList& list, uint32_t index) {
    return list.rows == 0 ? index : pointer<const uint32_t>(list.rows)[static_cast<size_t>(index) * list.stride];
}

template <class Unit>
DEVICE void copy_row(const CopyParams& p, size_t from, size_t to) {
    const Unit* source = pointer<const Unit>(p.from) + from * (p.from_stride_bytes / sizeof(Unit));
    Unit* target = pointer<Unit>(p.to) + to * (p.to_stride_bytes / sizeof(Unit));
    for (uint32_t i = threadIdx.x & 31; i < p.row_bytes / sizeof(Unit); i += 32) target[i] = source[i];
}

}  // namespace

KERNEL(THREADS) copy_rows(const __grid_constant__ CopyParams p) {
    const uint32_t index = blockIdx.x * WARPS + (threadIdx.x >> 5);
    if (index >= *pointer<const uint32_t>(p.live)) return;
    const size_t from = row_at(p.from_rows, index), to = row_at(p.to_rows, index);
    switch (p.unit_bytes) {
        case 16: return copy_row<uint4>(p, from, to);
        case 4: return copy_row<uint32_t>(p, from, to);
        default: return copy_row<uint16_t>(p, from, to);
    }
}
