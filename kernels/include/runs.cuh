// Runs of neighbouring f32 values to and from memory, in 16-byte accesses where alignment and width allow.
#pragma once
#include "ptx.h"

// Stores the first `count` of COUNT values. `whole`: all of them, and `to` is aligned for vectors of COUNT elements or 16 bytes.
template <int COUNT>
DEVICE void store_run(float* to, const float (&v)[COUNT], bool whole, int count) {
    if (whole) {
        if constexpr (COUNT == 2) *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
#pragma unroll
        for (int i = 0; i + 3 < COUNT; i += 4)
            *reinterpret_cast<float4*>(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (i < count) to[i] = v[i];
}

// The same, rounded to bf16.
template <int COUNT>
DEVICE void store_run(bf16* to, const float (&v)[COUNT], bool whole, int count) {
    if (whole) {
        uint32_t packed[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) packed[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
        if constexpr (COUNT == 2) *reinterpret_cast<uint32_t*>(to) = packed[0];
        if constexpr (COUNT == 4) *reinterpret_cast<uint2*>(to) = make_uint2(packed[0], packed[1]);
        if constexpr (COUNT == 8) *reinterpret_cast<uint4*>(to) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (i < count) to[i] = round_bf16(v[i]);
}

// Adds what lies at `from` to the values, as many as `store_run` would store.
template <int COUNT>
DEVICE void add_run(const float* from, float (&v)[COUNT], bool whole, int count) {
    if (whole) {
        if constexpr (COUNT == 2) {
            const float2 old = *reinterpret_cast<const float2*>(from);
            v[0] += old.x, v[1] += old.y;
        }
#pragma unroll
        for (int i = 0; i + 3 < COUNT; i += 4) {
            const float4 old = *reinterpret_cast<const float4*>(from + i);
            v[i] += old.x, v[i + 1] += old.y, v[i + 2] += old.z, v[i + 3] += old.w;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (i < count) v[i] += from[i];
}
