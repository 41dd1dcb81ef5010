// Runs of neighbouring values between registers and memory, in accesses of up to 16 bytes. Both sides are aligned for them.
#pragma once
#include "ptx.h"

template <int COUNT>
DEVICE void store_run(float* to, const float (&v)[COUNT]) {
    if constexpr (COUNT == 2) *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
#pragma unroll
    for (int i = 0; i + 3 < COUNT; i += 4)
        *reinterpret_cast<float4*>(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}

// Rounds to bf16.
template <int COUNT>
DEVICE void store_run(bf16* to, const float (&v)[COUNT]) {
    uint32_t packed[COUNT / 2];
#pragma unroll
    for (int i = 0; i < COUNT / 2; ++i) packed[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
    if constexpr (COUNT == 2) *reinterpret_cast<uint32_t*>(to) = packed[0];
    if constexpr (COUNT == 4) *reinterpret_cast<uint2*>(to) = make_uint2(packed[0], packed[1]);
    if constexpr (COUNT == 8) *reinterpret_cast<uint4*>(to) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
}

template <int COUNT>
DEVICE void add_run(const float* from, float (&v)[COUNT]) {
    if constexpr (COUNT == 2) {
        const float2 old = *reinterpret_cast<const float2*>(from);
        v[0] += old.x, v[1] += old.y;
    }
#pragma unroll
    for (int i = 0; i + 3 < COUNT; i += 4) {
        const float4 old = *reinterpret_cast<const float4*>(from + i);
        v[i] += old.x, v[i + 1] += old.y, v[i + 2] += old.z, v[i + 3] += old.w;
    }
}

// Calls f(i, v[i]) for i of begin .. end, in a loop of one body: for the edges, where unrolled code would only be long. The
// values go through this thread's own words of the dynamic shared memory, which no other thread uses any more.
template <int COUNT, class F>
DEVICE void for_each_value(const float (&v)[COUNT], int begin, int end, F f) {
    DYNAMIC_SHARED(float, space);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) space[i * blockDim.x + threadIdx.x] = v[i];
#pragma unroll 1
    for (int i = begin; i < end; ++i) f(i, space[i * blockDim.x + threadIdx.x]);
}
