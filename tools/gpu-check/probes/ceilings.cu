// What the card can do at most: loops on registers alone. Nothing is read; `out` is written only if a result is impossible.
#include "probe.h"

// 16 independent products a warp and round: 16 x 16 x 8 multiply-adds each, so 65,536 operations. `count` rounds.
PROBE(mma_bf16_ceiling, 256) {
    float d[16][4] = {};
    uint32_t a[4], b0 = 0x3f803f80u + threadIdx.x, b1 = 0x3f003f80u + threadIdx.x;
    for (int i = 0; i < 4; ++i) a[i] = 0x3f813f7fu + i + threadIdx.x;
    for (uint32_t round = 0; round < p.count; ++round) {
#pragma unroll
        for (int i = 0; i < 16; ++i) mma_bf16(d[i], a, b0, b1);
    }
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
    if (sum == -1.0f) output<float>(p, 0) = sum;
}

// 32 independent multiply-adds a thread and round, 64 operations. `count` rounds.
PROBE(fma_f32_ceiling, 256) {
    float x[32];
    for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(threadIdx.x + i);
    float scale = 0.99f + 1e-6f * threadIdx.x;
    for (uint32_t round = 0; round < p.count; ++round) {
#pragma unroll
        for (int i = 0; i < 32; ++i) x[i] = fmaf(x[i], scale, 1.0f);
    }
    float sum = 0;
    for (int i = 0; i < 32; ++i) sum += x[i];
    if (sum == -1.0f) output<float>(p, 0) = sum;
}
