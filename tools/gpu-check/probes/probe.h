// What every probe takes: where its inputs lie, where its outputs go, and how many items there are.
#pragma once
#include "ptx.h"

struct ProbeParams {
    uint64_t in;
    uint64_t out;
    uint32_t count;
    uint32_t reserved;
};

#define PROBE(name, threads) KERNEL(threads) name(const __grid_constant__ ProbeParams p)

// This thread's number over the whole grid.
DEVICE uint32_t item() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Element `index` of the inputs, or of the outputs.
template <class T>
DEVICE T& input(const ProbeParams& p, uint32_t index) {
    return pointer<T>(p.in)[index];
}
template <class T>
DEVICE T& output(const ProbeParams& p, uint32_t index) {
    return pointer<T>(p.out)[index];
}
