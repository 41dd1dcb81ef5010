// Copies to shared memory: 128 threads, 16 bytes each.
#include "probe.h"

// in u8[4096], out u8[4096]. Two groups a thread: the first copies the first 2,048 bytes whole, the second copies of the rest
// only `thread % 17` bytes of each 16 and zeroes the others. The first group is waited for, and written out, while the second
// may be under way.
PROBE(copy_async_probe, 128) {
    DYNAMIC_SHARED(uint8_t, shared);
    const uint8_t* in = pointer<const uint8_t>(p.in);
    uint4* out = pointer<uint4>(p.out);
    const uint4* copied = reinterpret_cast<const uint4*>(shared);
    uint32_t t = threadIdx.x;
    copy_async_16(shared_address(shared + 16 * t), in + 16 * t, 16);
    copy_async_commit();
    copy_async_16(shared_address(shared + 2048 + 16 * t), in + 2048 + 16 * t, t % 17);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    // Another thread's bytes, so that the barrier matters.
    out[t] = copied[t ^ 64];
    copy_async_wait<0>();
    __syncthreads();
    out[128 + t] = copied[128 + (t ^ 64)];
}
