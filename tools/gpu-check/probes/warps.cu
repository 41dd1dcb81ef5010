// What the lanes of a warp tell each other: one warp a block, one item a lane.
#include "probe.h"

// in f32[count], out f32[count]: the additions are in a fixed order, so every bit is defined
PROBE(warp_sum_probe, 32) { output<float>(p, item()) = warp_sum(input<float>(p, item())); }

PROBE(warp_max_probe, 32) { output<float>(p, item()) = warp_max(input<float>(p, item())); }

// in u32[count], out u32[count]
PROBE(warp_max_u32_probe, 32) { output<uint32_t>(p, item()) = warp_max_u32(input<uint32_t>(p, item())); }

PROBE(warp_min_u32_probe, 32) { output<uint32_t>(p, item()) = warp_min_u32(input<uint32_t>(p, item())); }

// in u32[count], out u32[count][8]: the compiler's own shuffles and votes, as kernels use them
PROBE(shuffles_probe, 32) {
    uint32_t x = input<uint32_t>(p, item());
    uint32_t* out = &output<uint32_t>(p, 8 * item());
    bool odd = x & 1;
    out[0] = __shfl_xor_sync(FULL_WARP, x, 1);
    out[1] = __shfl_xor_sync(FULL_WARP, x, 16);
    out[2] = __shfl_sync(FULL_WARP, x, x & 31);
    out[3] = __shfl_up_sync(FULL_WARP, x, 3);
    out[4] = __shfl_down_sync(FULL_WARP, x, 5);
    out[5] = __ballot_sync(FULL_WARP, odd);
    out[6] = __any_sync(FULL_WARP, odd) + 2 * __all_sync(FULL_WARP, odd);
    out[7] = __popc(x) + 64 * __clz(static_cast<int>(x)) + 4096 * __ffs(static_cast<int>(x));
}
