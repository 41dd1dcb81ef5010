// What kernels need and CUDA C++ does not give without a toolkit's headers: fixed-width types, bf16 conversions, and one
// wrapper for each PTX instruction that is used by name. The only file with inline PTX; it compiles alike under nvcc and
// NVRTC (which has no <stdint.h>), and includes no header of CUDA's.
#pragma once

#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

#define DEVICE static __device__ __forceinline__
// KERNEL(threads) or KERNEL(threads, blocks that an SM should hold)
#define KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
#define FULL_WARP 0xffffffffu

// Dynamic shared memory as a T*; aligned for 16-byte accesses and for swizzles over 1,024 bytes.
#define DYNAMIC_SHARED(T, name)                                          \
    extern __shared__ __align__(1024) unsigned char dynamic_shared_[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared_)

// A bf16 as it lies in memory.
struct bf16 {
    uint16_t bits;
};

DEVICE float negative_infinity() { return __int_as_float(0xff800000); }

template <class T>
DEVICE T* pointer(uint64_t address) {
    return reinterpret_cast<T*>(address);
}

// -- bf16 ----------------------------------------------------------------------------------------------------------------

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

// Two floats to bf16, to nearest even; the first in the low half.
DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

DEVICE bf16 round_bf16(float x) {
    bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
}

DEVICE float low_bf16(uint32_t packed) { return __uint_as_float(packed << 16); }
DEVICE float high_bf16(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

template <class T>
DEVICE T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return round_bf16(x);
}

// -- Copies to shared memory ---------------------------------------------------------------------------------------------

DEVICE uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

// 16 bytes, of which the first `valid_bytes` are read and the rest are zero. Both addresses are multiples of 16.
DEVICE void copy_async_16(uint32_t to, const void* from, uint32_t valid_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid_bytes) : "memory");
}

DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `N` of this thread's newest groups are under way. Other threads see the data after a barrier.
template <int N>
DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// -- Tensor cores --------------------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
DEVICE void load_matrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// d += a b: a is 16 x 16 (row), b 16 x 8 (column), bf16; d 16 x 8, f32. Fragments as in the PTX ISA, mma.m16n8k16.
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// -- Arithmetic ----------------------------------------------------------------------------------------------------------

// 2^x to about 2 ulp, one instruction: 2^-inf is 0, and so is what would be subnormal.
DEVICE float exp2_flushed(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x to about 1 ulp, one instruction: what would be subnormal is 0.
DEVICE float reciprocal_flushed(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// -- Warps ---------------------------------------------------------------------------------------------------------------

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x += __shfl_xor_sync(FULL_WARP, x, distance);
    return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, distance));
    return x;
}

// Largest of the lanes' values.
DEVICE uint32_t warp_max_u32(uint32_t x) {
    uint32_t largest;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(largest) : "r"(x));
    return largest;
}

// The least of them.
DEVICE uint32_t warp_min_u32(uint32_t x) {
    uint32_t least;
    asm volatile("redux.sync.min.u32 %0, %1, 0xffffffff;" : "=r"(least) : "r"(x));
    return least;
}

// -- f16 -----------------------------------------------------------------------------------------------------------------

// An f16 as it lies in memory.
struct f16 {
    uint16_t bits;
};

DEVICE float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

// -- Barriers among some warps of a block --------------------------------------------------------------------------------

// Barrier `id` (1 to 15) of `threads` threads, whole warps: waits for them all, and sees what they wrote before.
DEVICE void barrier_sync(uint32_t id, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Counts as one that has come to the barrier, without waiting for the others.
DEVICE void barrier_arrive(uint32_t id, uint32_t threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// -- Hints ---------------------------------------------------------------------------------------------------------------

// Asks for the cache line of an address in global memory; no more than a hint.
DEVICE void prefetch_l2(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

// The same value, of which the compiler knows nothing: what is computed from it within a loop is not kept in registers
// throughout the loop.
DEVICE uint32_t opaque(uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}
