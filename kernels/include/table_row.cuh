// Rows of a table in f32, bf16 or f16, as it lies in the file, read as f32.
#pragma once
#include "ptx.h"

// Four elements from 16 or 8 aligned bytes.
DEVICE float4 load_four(const float* from) { return __ldg(reinterpret_cast<const float4*>(from)); }

template <class T>
DEVICE float4 load_four(const T* from) {
    const uint2 raw = __ldg(reinterpret_cast<const uint2*>(from));
    T halves[4];
    halves[0].bits = static_cast<uint16_t>(raw.x), halves[1].bits = static_cast<uint16_t>(raw.x >> 16);
    halves[2].bits = static_cast<uint16_t>(raw.y), halves[3].bits = static_cast<uint16_t>(raw.y >> 16);
    return make_float4(to_float(halves[0]), to_float(halves[1]), to_float(halves[2]), to_float(halves[3]));
}
