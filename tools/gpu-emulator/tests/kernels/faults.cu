// Small kernels, one mistake each, and their correct twins. All take (in, out, n) and run with 128 threads a block.
// faults.rs names the fault that each must end in.
#define KERNEL extern "C" __global__ void __launch_bounds__(128)
#define WARP (threadIdx.x >> 5)
#define LANE (threadIdx.x & 31)
#define TID threadIdx.x

__device__ __forceinline__ unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
__device__ __forceinline__ void copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
__device__ __forceinline__ void sync_named(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void arrive_named(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// ---- asynchronous copies: each thread fetches four floats and reads those of a partner
template <bool WAIT, bool BARRIER, int PARTNER> __device__ void fetch(const float* in, float* out) {
  __shared__ float4 tile[128];
  copy16(&tile[TID], in + TID * 4);
  commit();
  if (WAIT) wait<0>();
  if (BARRIER) __syncthreads();
  out[TID] = tile[TID ^ PARTNER].x;
  if (!WAIT) wait<0>();
}
KERNEL copy_good(const float* in, float* out, int) { fetch<true, true, 64>(in, out); }
KERNEL copy_own_good(const float* in, float* out, int) { fetch<true, false, 0>(in, out); }
KERNEL copy_without_wait(const float* in, float* out, int) { fetch<false, true, 64>(in, out); }
KERNEL copy_without_barrier_lanes(const float* in, float* out, int) { fetch<true, false, 1>(in, out); }
KERNEL copy_without_barrier_warps(const float* in, float* out, int) { fetch<true, false, 64>(in, out); }
KERNEL copy_never_awaited(const float* in, float* out, int) {
  __shared__ float4 tile[128];
  copy16(&tile[TID], in + TID * 4);
  commit();
  out[TID] = in[TID];
}

// Two stages in flight; waiting for all but the newest is right for the older stage only.
template <int PENDING> __device__ void stages(const float* in, float* out) {
  __shared__ float4 tile[2][128];
  copy16(&tile[0][TID], in + TID * 4);
  commit();
  copy16(&tile[1][TID], in + TID * 4);
  commit();
  wait<PENDING>();
  float sum = tile[0][TID].x;
  wait<PENDING == 0 ? 0 : PENDING - 1>();
  out[TID] = sum + tile[1][TID].y;
  wait<0>();
}
KERNEL stages_good(const float* in, float* out, int) { stages<1>(in, out); }
KERNEL stages_one_too_few(const float* in, float* out, int) { stages<2>(in, out); }

// ---- pages: in[0..8) is a table of page numbers, in[8..136) the pages
template <int EXTRA> __device__ void pages(const float* in, float* out, int n) {
  const int page = static_cast<int>(in[136 - 8 + TID / 16 + EXTRA]);
  out[TID] = in[page * 16 + TID % 16];
}
KERNEL pages_good(const float* in, float* out, int n) { pages<0>(in, out, n); }
KERNEL pages_off_by_one(const float* in, float* out, int n) { pages<1>(in, out, n); }

// ---- shared memory between warps
template <bool FIRST, bool TRAILING> __device__ void rotate(const float* in, float* out) {
  __shared__ float tile[128];
  tile[TID] = 0.f;
  __syncthreads();
  float sum = 0.f;
  for (int step = 0; step < 4; step++) {
    tile[TID] = in[TID] + step;
    if (FIRST) __syncthreads();
    sum += tile[TID ^ 96];
    if (TRAILING) __syncthreads();
  }
  out[TID] = sum;
}
KERNEL rotate_good(const float* in, float* out, int) { rotate<true, true>(in, out); }
KERNEL rotate_without_first_barrier(const float* in, float* out, int) { rotate<false, true>(in, out); }
KERNEL rotate_without_trailing_barrier(const float* in, float* out, int) { rotate<true, false>(in, out); }

KERNEL double_buffer_good(const float* in, float* out, int) {
  __shared__ float tile[2][128];
  float sum = 0.f;
  for (int step = 0; step < 6; step++) {
    tile[step & 1][TID] = in[TID] + step;
    __syncthreads();
    sum += tile[step & 1][TID ^ 96];
  }
  out[TID] = sum;
}

template <bool ATOMIC> __device__ void count(const float* in, float* out) {
  __shared__ int counter;
  if (TID == 0) counter = 0;
  __syncthreads();
  if (in[TID] >= -100.f) {
    if (ATOMIC) atomicAdd(&counter, 1);
    else counter = counter + 1;
  }
  __syncthreads();
  out[TID] = static_cast<float>(counter);
}
KERNEL counter_good(const float* in, float* out, int) { count<true>(in, out); }
KERNEL counter_not_atomic(const float* in, float* out, int) { count<false>(in, out); }
KERNEL counter_read_too_early(const float* in, float* out, int) {
  __shared__ int counter;
  if (TID == 0) counter = 0;
  __syncthreads();
  atomicAdd(&counter, 1);
  out[TID] = static_cast<float>(counter);
}

// ---- shared memory inside a warp
template <unsigned MASK, bool SYNC> __device__ void exchange(const float* in, float* out) {
  __shared__ float tile[128];
  tile[TID] = in[TID];
  if (SYNC) __syncwarp(MASK);
  out[TID] = tile[TID ^ 1];
}
KERNEL warp_exchange_good(const float* in, float* out, int) { exchange<0xffffffffu, true>(in, out); }
KERNEL warp_exchange_without_syncwarp(const float* in, float* out, int) { exchange<0xffffffffu, false>(in, out); }
KERNEL quarter_exchange_good(const float* in, float* out, int) {
  __shared__ float tile[128];
  tile[TID] = in[TID];
  __syncwarp(0xffu << (LANE & 24));
  out[TID] = tile[TID ^ 7];
}
KERNEL quarter_exchange_too_far(const float* in, float* out, int) {
  __shared__ float tile[128];
  tile[TID] = in[TID];
  __syncwarp(0xffu << (LANE & 24));
  out[TID] = tile[TID ^ 8];
}
KERNEL halves_of_a_word_good(const float* in, float* out, int) {
  __shared__ unsigned short tile[128];
  tile[TID] = static_cast<unsigned short>(TID);
  tile[TID] = tile[TID] + 1;
  __syncthreads();
  out[TID] = in[TID] + tile[TID ^ 1];
}
KERNEL shuffle_without_a_lane(const float* in, float* out, int) {
  float x = in[TID];
  if (LANE < 24) x += __shfl_xor_sync(0xffffffffu, x, 1);
  out[TID] = x;
}
KERNEL shuffle_part_good(const float* in, float* out, int) {
  float x = in[TID];
  if (LANE < 24) x += __shfl_xor_sync(0x00ffffffu, x, 1);
  out[TID] = x;
}

// ---- barriers
KERNEL barrier_of_three_warps(const float* in, float* out, int) {
  out[TID] = in[TID];
  if (WARP != 3) __syncthreads();
  if (WARP == 0) out[TID] = 1.f;
}
KERNEL barrier_of_half_a_warp(const float* in, float* out, int) {
  out[TID] = in[TID];
  if (LANE < 16) __syncthreads();
  if (TID == 0) out[TID] = 1.f;
}
KERNEL barrier_after_exit(const float* in, float* out, int n) {
  if (TID >= n - 28) return;
  out[TID] = in[TID];
  __syncthreads();
}
KERNEL two_different_barriers(const float* in, float* out, int) {
  if (WARP < 2) {
    out[TID] = in[TID];
    __syncthreads();
  } else {
    out[TID] = in[TID] + 1.f;
    __syncthreads();
    out[TID] += 2.f;
  }
}
// Warps 0 and 1 produce, 2 and 3 consume; "full" is barrier 1, "empty" barrier 2.
template <bool FULL, bool EMPTY> __device__ void pipeline(const float* in, float* out) {
  __shared__ float tile[64];
  float sum = 0.f;
  if (WARP < 2) {
    for (int step = 0; step < 4; step++) {
      if (EMPTY && step > 0) sync_named(2, 128);
      tile[TID] = in[TID] + step;
      if (FULL) arrive_named(1, 128);
    }
  } else {
    for (int step = 0; step < 4; step++) {
      if (FULL) sync_named(1, 128);
      sum += tile[TID ^ 96];
      if (EMPTY && step < 3) arrive_named(2, 128);
    }
  }
  out[TID] = sum;
}
KERNEL pipeline_good(const float* in, float* out, int) { pipeline<true, true>(in, out); }
KERNEL pipeline_without_empty(const float* in, float* out, int) { pipeline<true, false>(in, out); }
KERNEL pipeline_without_full(const float* in, float* out, int) { pipeline<false, true>(in, out); }
KERNEL barrier_nobody_else_reaches(const float* in, float* out, int) {
  out[TID] = in[TID];
  if (WARP == 0) sync_named(3, 64);
}

// ---- bounds, alignment, initialisation
extern __shared__ __align__(16) unsigned char dynamic[];
template <int ROWS> __device__ void matrix(float* out) {
  unsigned* words = reinterpret_cast<unsigned*>(dynamic);
  for (int i = TID; i < 32 * 4; i += 128) words[i] = i;
  __syncthreads();
  unsigned a, b, c, d;
  const unsigned at = shared_address(dynamic) + (LANE + ROWS - 32) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(at) : "memory");
  out[TID] = static_cast<float>(a + b + c + d);
}
KERNEL matrix_good(const float*, float* out, int) { matrix<32>(out); }
KERNEL matrix_past_the_end(const float*, float* out, int) { matrix<33>(out); }
KERNEL write_past_the_end(const float* in, float* out, int n) { if (TID <= n - 128) out[n + TID] = in[TID]; }
KERNEL read_before_the_start(const float* in, float* out, int) { out[TID] = in[static_cast<int>(TID) - 1]; }
KERNEL misaligned_vector(const float* in, float* out, int) {
  const float4 x = *reinterpret_cast<const float4*>(in + TID);
  out[TID] = x.x + x.w;
}
KERNEL shared_never_written(const float* in, float* out, int) {
  __shared__ float tile[128];
  if (TID < 127) tile[TID] = in[TID];
  __syncthreads();
  out[TID] = tile[TID];
}
KERNEL global_never_written(const float* in, float* out, int) { out[TID] = in[TID] + out[TID ^ 1]; }
KERNEL local_never_written(const float* in, float* out, int n) {
  float mine[16];
  for (int i = 0; i < n - 120; i++) mine[(i * 5 + TID) & 15] = in[i];
  out[TID] = mine[(n + TID + 1) & 15];
}
KERNEL trap_reached(const float* in, float* out, int) {
  if (in[TID] > -100.f && TID == 77) __trap();
  out[TID] = in[TID];
}

// ---- blocks
KERNEL blocks_good(const float* in, float* out, int) { out[blockIdx.x * 128 + TID] = in[TID]; }
KERNEL blocks_write_the_same_row(const float* in, float* out, int) { out[TID] = in[TID] + blockIdx.x; }
KERNEL blocks_read_each_other(const float* in, float* out, int) {
  out[blockIdx.x * 128 + TID] = in[TID];
  if (blockIdx.x > 0) out[blockIdx.x * 128 + TID] += out[(blockIdx.x - 1) * 128 + TID];
}
KERNEL blocks_count_good(const float* in, float* out, int) {
  if (TID == 0) atomicAdd(reinterpret_cast<unsigned*>(out), 1u);
  if (TID > 0) out[blockIdx.x * 128 + TID] = in[TID];
}
KERNEL blocks_halves_of_a_word_good(const float* in, float* out, int) {
  unsigned short* halves = reinterpret_cast<unsigned short*>(out);
  halves[2 * TID + blockIdx.x] = static_cast<unsigned short>(in[TID]);
}
// The block that counts last adds up what all have written.
template <bool FENCE> __device__ void last_block(const float* in, float* out) {
  __shared__ bool last;
  out[128 + blockIdx.x * 128 + TID] = in[TID];
  if (FENCE) __threadfence();
  __syncthreads();
  if (TID == 0) last = atomicAdd(reinterpret_cast<unsigned*>(out), 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  float sum = 0.f;
  for (unsigned b = 0; b < gridDim.x; b++) sum += out[128 + b * 128 + TID];
  if (TID > 0) out[TID] = sum;
}
KERNEL last_block_good(const float* in, float* out, int) { last_block<true>(in, out); }
KERNEL last_block_without_fence(const float* in, float* out, int) { last_block<false>(in, out); }
