// out = epilogue(x W^T + bias): store, add to the residual stream, activate, or act(x G^T + b) * (x U^T + c).
//
// Operations 2 m n k; bytes (m k + n k) of the compute type once from memory, and the output. Launch: a block a tile, x over
// row tiles of the bucket, y over tiles of packed columns, so that blocks that read one tile of W run side by side; tiles
// beyond the live rows leave at once. Dynamic shared memory as in gemm_bf16.cuh; f32: 48 KiB.
//
// Floor, 2048 x 6144 x 2048 in bf16: 51.5 GFLOP, 64 us at the 800 TFLOP/s that an H100 sustains with wgmma. These kernels
// issue mma.sync, which reaches some 60% of the dense peak on sm_90 (590 TFLOP/s: 87 us) and 85% on sm_80 (265: 194 us). 384
// wide tiles are 2.9 waves of 132 SMs. Two limits lie close to that on sm_90:
//   shared memory  128 bytes a product of 1.6 cycles: 62% of 128 bytes a cycle, and 6% more for filling it;
//   L2             a wide tile has 85 flop a byte: 590 TFLOP/s are 6.9 TB/s, about all that the L2 gives.
// Memory traffic is 34 MB in and 50 MB out (f32): 25 us, hidden. The epilogue is not hidden from its own block: about 4% here.
// Few rows (m <= 64) are bound by W: 2048 x 2048 is 8.4 MB, 2.5 us on an H100; 32 small tiles keep 48 KiB each under way,
// 1.5 MB in all, of the 2.3 MB that memory at 700 ns wants: expect 4 us.
//
// f32 is for exactness: at best 60% of FFMA's peak (12 vector reads of 32 lanes for 128 FFMA).
//
// Registers: wide 128 sums + 64 operands of two steps, 1 block an SM; middle 168: 3 blocks an SM (sm_90; on sm_100
// 212: 2 blocks, and spills when held to 168); small 2.
// budget: linear_bf16_wide registers <= 255, shared <= 0
// budget: linear_bf16_middle registers <= 216, shared <= 0
// budget: linear_bf16_small registers <= 128, shared <= 0
// budget: linear_f32 registers <= 96, shared <= 0
#include "linear_tile.cuh"

template <class T>
DEVICE void linear_bf16(const LinearParams& p) {
    const Place<T> place = Place<T>::here();
    const uint32_t live = *pointer<const uint32_t>(p.product.live);
    if (place.first_row >= live) return;
    float sums[T::M_TILES][8][4];
    products(p.product, live, place, sums);
    finish(p, place, live, sums);
}

KERNEL(WideTile::THREADS) linear_bf16_wide(const __grid_constant__ LinearParams p) { linear_bf16<WideTile>(p); }
KERNEL(MiddleTile::THREADS) linear_bf16_middle(const __grid_constant__ LinearParams p) { linear_bf16<MiddleTile>(p); }
KERNEL(SmallTile::THREADS) linear_bf16_small(const __grid_constant__ LinearParams p) { linear_bf16<SmallTile>(p); }

KERNEL(F32_THREADS) linear_f32(const __grid_constant__ LinearParams p) {
    const F32Place place = F32Place::here();
    const uint32_t live = *pointer<const uint32_t>(p.product.live);
    if (blockIdx.x * F32_TILE >= live) return;
    float sums[F32_ROWS][F32_COLUMNS];
    products_f32(p.product, live, sums);
    finish(p, place, live, sums);
}
