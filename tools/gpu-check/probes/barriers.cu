// Barriers among some warps of a block, and hints that must change nothing.
#include "probe.h"

// in u32[64], out u32[64]. Two warps write and go on without waiting; two wait for them, then exchange among themselves.
PROBE(barriers_probe, 128) {
    DYNAMIC_SHARED(uint32_t, shared);
    uint32_t t = threadIdx.x;
    if (t < 64) {
        prefetch_l2(&input<uint32_t>(p, t));
        shared[t] = opaque(input<uint32_t>(p, t));
        barrier_arrive(1, 128);
    } else {
        barrier_sync(1, 128);
        shared[t] = shared[127 - t];
        barrier_sync(2, 64);
        output<uint32_t>(p, t - 64) = shared[t ^ 32];
    }
}
