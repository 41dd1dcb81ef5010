// What compilers make of ordinary device code: calls, local arrays, jump tables, constant tables, slow paths of functions.
// Every kernel takes (in, out, n): one thread an element of in; features.rs has the same functions for the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define KERNEL extern "C" __global__ void
#define ELEMENT const int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return

struct Pair { float low, high; };

__device__ __noinline__ Pair order(float a, float b) { return a < b ? Pair{a, b} : Pair{b, a}; }
__device__ __noinline__ float spread(const float* values, int count) {
  Pair range = {values[0], values[0]};
  for (int k = 1; k < count; k++) {
    range.low = order(range.low, values[k]).low;
    range.high = order(range.high, values[k]).high;
  }
  return range.high - range.low;
}
KERNEL calls(const float* in, float* out, int n) {
  ELEMENT;
  float window[5];
  for (int k = 0; k < 5; k++) window[(k * 3) % 5] = in[(i + k) % n];
  out[i] = spread(window, 5);
}

__constant__ int primes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
__device__ const float weights[4] = {0.5f, 0.25f, -1.f, 8.f};
__device__ float scale = 3.f;
KERNEL tables(const float* in, float* out, int n) {
  ELEMENT;
  out[i] = in[i] * weights[i & 3] * primes[i & 7] * scale;
}

KERNEL jumps(const float* in, float* out, int n) {
  ELEMENT;
  float x = in[i];
  switch (i % 9) {
    case 0: x = x + 1.f; break;
    case 1: x = x * x; break;
    case 2: x = -x; break;
    case 3: x = fabsf(x) - 2.f; break;
    case 4: x = x * 0.5f; break;
    case 5: x = fminf(x, 0.25f); break;
    case 6: x = fmaxf(x, 0.75f); break;
    case 7: x = floorf(x); break;
    default: x = 42.f;
  }
  out[i] = x;
}

KERNEL functions(const float* in, float* out, int n) {
  ELEMENT;
  const float x = in[i];
  out[i] = sinf(x * 1e5f) + cosf(x) + expf(x) + logf(fabsf(x) + 0.5f) + tanhf(x) + x / (1.f + x * x) + sqrtf(fabsf(x)) + rsqrtf(1.f + x * x) + powf(fabsf(x), 1.5f) + erff(x);
}

KERNEL integers(const float* in, float* out, int n) {
  ELEMENT;
  const long long wide = static_cast<long long>(in[i] * 1e9f) * 1000003ll;
  const int small = static_cast<int>(in[i] * 1000.f);
  const unsigned hash = static_cast<unsigned>(wide ^ (wide >> 29)) * 2654435761u;
  out[i] = static_cast<float>(wide / 12345ll % 1000ll + small / 7 + small % 5 + static_cast<int>(hash % 97u) + __popc(hash) + __clz(hash) + __ffs(small));
}

KERNEL halves(const float* in, float* out, int n) {
  ELEMENT;
  const __nv_bfloat16 b = __float2bfloat16(in[i]);
  const __nv_bfloat162 two = __halves2bfloat162(b, __float2bfloat16(1.5f));
  const __nv_bfloat162 sum = __hfma2(two, two, two);
  const __half h = __float2half(in[i]);
  const __half2 pair = __hadd2(__halves2half2(h, h), __floats2half2_rn(1.f, -1.f));
  out[i] = __bfloat162float(__low2bfloat16(sum)) + __bfloat162float(__high2bfloat16(sum)) + __half2float(__low2half(pair)) * __half2float(__hmul(h, __high2half(pair)));
}

// A device-wide reduction: warps by shuffles, the block through shared memory and a counting barrier, the grid by an atomic.
KERNEL reduce(const float* in, float* out, int n) {
  __shared__ float parts[32];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  float x = i < n ? in[i] : 0.f;
  for (int step = 16; step > 0; step >>= 1) x += __shfl_down_sync(0xffffffffu, x, step);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = x;
  const int inside = __syncthreads_count(i < n);
  if (threadIdx.x < 32) {
    float y = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0.f;
    for (int step = 16; step > 0; step >>= 1) y += __shfl_xor_sync(0xffffffffu, y, step);
    if (threadIdx.x == 0) { atomicAdd(&out[0], y); atomicAdd(&out[1], static_cast<float>(inside)); atomicMax(reinterpret_cast<int*>(&out[2]), inside); }
  }
}
