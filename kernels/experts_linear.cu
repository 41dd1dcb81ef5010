// The two products of a mixture of experts, each over the rows that chose an expert: inner = act(x W_in^T), or
// act(x G^T) * (x U^T), of gathered rows of x; outputs = inner W_out^T, in f32. Rows stand at the positions that experts_group gave them.
//
// Operations 2 m n k of every expert's m; bytes: every expert's weight that some row chose, once, and the rows. Launch: a block a
// tile of 64 positions of one expert, x over the tiles that the bucket can have at most (all positions in whole tiles, and a
// partial one for every expert), y over tiles of packed columns; blocks beyond the tiles that there are leave at once. Dynamic
// shared memory and sums as in gemm_bf16.cuh and gemm_f32.cuh, epilogues as in linear.cu: the same bits as that one's for the same row and
// weight, whatever the tile.
//
// Floor on an H100, bf16, 512 beams with 2 of 8 experts of 1,024 x 4,096 (gated): 8 x 25 MB of weights are 80 us at 2.5 TB/s; 26 GFLOP
// are 44 us at the 590 TFLOP/s of mma.sync. Few beams are bound by the weights, as linear.cu is.
//
// Registers as linear.cu, which has the same tiles, and some more for where gathered rows lie.
// budget: experts_input_bf16_middle registers <= 224, shared <= 0
// budget: experts_input_bf16_small registers <= 136, shared <= 0
// budget: experts_input_f32 registers <= 96, shared <= 0
// budget: experts_output_bf16_middle registers <= 216, shared <= 0
// budget: experts_output_bf16_small registers <= 128, shared <= 0
// budget: experts_output_f32 registers <= 96, shared <= 0
#include "linear_tile.cuh"
#include "params/experts.h"

namespace {

// The block's tile; false beyond those that there are.
DEVICE bool find_tile(const ExpertsLinearParams& p, ExpertTile& tile, Product& product) {
    if (blockIdx.x >= *pointer<const uint32_t>(p.tile_count)) return false;
    tile = pointer<const ExpertTile>(p.tiles)[blockIdx.x];
    product = p.linear.product;
    product.weight = pointer<const uint64_t>(p.weights)[tile.expert];
    return true;
}

template <class T, class Rows>
DEVICE void multiply_bf16(const ExpertsLinearParams& p, const Rows& rows) {
    static_assert(T::ROWS == EXPERT_TILE_ROWS, "a block has one expert");
    ExpertTile tile;
    Product product;
    if (!find_tile(p, tile, product)) return;
    Place<T> place = Place<T>::here();
    place.first_row = tile.first;
    float sums[T::M_TILES][8][4];
    products(product, tile.end, place, sums, rows);
    finish(p.linear, place, tile.end, sums);
}

template <class Rows>
DEVICE void multiply_f32(const ExpertsLinearParams& p, const Rows& rows) {
    static_assert(F32_TILE == EXPERT_TILE_ROWS, "a block has one expert");
    ExpertTile tile;
    Product product;
    if (!find_tile(p, tile, product)) return;
    float sums[F32_ROWS][F32_COLUMNS];
    products_f32(product, F32Tile<Rows>{tile.first, tile.end, rows}, sums);
    finish(p.linear, F32Place::at(tile.first), tile.end, sums);
}

}  // namespace

KERNEL(MiddleTile::THREADS) experts_input_bf16_middle(const __grid_constant__ ExpertsLinearParams p) {
    multiply_bf16<MiddleTile>(p, ListedRows{p.rows});
}
KERNEL(SmallTile::THREADS) experts_input_bf16_small(const __grid_constant__ ExpertsLinearParams p) {
    multiply_bf16<SmallTile>(p, ListedRows{p.rows});
}
KERNEL(F32_THREADS) experts_input_f32(const __grid_constant__ ExpertsLinearParams p) {
    multiply_f32(p, ListedRows{p.rows});
}

KERNEL(MiddleTile::THREADS) experts_output_bf16_middle(const __grid_constant__ ExpertsLinearParams p) {
    multiply_bf16<MiddleTile>(p, RowsInOrder{});
}
KERNEL(SmallTile::THREADS) experts_output_bf16_small(const __grid_constant__ ExpertsLinearParams p) {
    multiply_bf16<SmallTile>(p, RowsInOrder{});
}
KERNEL(F32_THREADS) experts_output_f32(const __grid_constant__ ExpertsLinearParams p) { multiply_f32(p, RowsInOrder{}); }
