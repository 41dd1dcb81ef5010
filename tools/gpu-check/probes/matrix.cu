// Tensor-core fragments: one warp a case.
#include "probe.h"

// Puts 32 rows of 16 bytes into shared memory, each row where a swizzle would have it, and returns the address of row `lane`.
DEVICE uint32_t fill_rows(const ProbeParams& p, uint8_t* shared) {
    uint32_t lane = threadIdx.x, place = lane ^ 5;
    uint4* rows = reinterpret_cast<uint4*>(shared);
    rows[place] = input<uint4>(p, blockIdx.x * 32 + lane);
    __syncwarp();
    return shared_address(rows + place);
}

DEVICE void put_fragment(const ProbeParams& p, const uint32_t (&r)[4]) {
    for (int i = 0; i < 4; ++i) output<uint32_t>(p, (blockIdx.x * 32 + threadIdx.x) * 4 + i) = r[i];
}

// in: four 8 x 8 matrices of 16-bit elements a case, out u32[32 lanes][4]
PROBE(load_matrix_probe, 32) {
    DYNAMIC_SHARED(uint8_t, shared);
    uint32_t r[4];
    load_matrix_x4(r, fill_rows(p, shared));
    put_fragment(p, r);
}

PROBE(load_matrix_transposed_probe, 32) {
    DYNAMIC_SHARED(uint8_t, shared);
    uint32_t r[4];
    load_matrix_x4_transposed(r, fill_rows(p, shared));
    put_fragment(p, r);
}

// in, a lane: a u32[4], b u32[2], d f32[4]; out f32[32 lanes][4]
PROBE(mma_bf16_probe, 32) {
    uint32_t at = (blockIdx.x * 32 + threadIdx.x) * 10;
    uint32_t a[4];
    float d[4];
    for (int i = 0; i < 4; ++i) a[i] = input<uint32_t>(p, at + i);
    for (int i = 0; i < 4; ++i) d[i] = input<float>(p, at + 6 + i);
    mma_bf16(d, a, input<uint32_t>(p, at + 4), input<uint32_t>(p, at + 5));
    for (int i = 0; i < 4; ++i) output<float>(p, (blockIdx.x * 32 + threadIdx.x) * 4 + i) = d[i];
}
