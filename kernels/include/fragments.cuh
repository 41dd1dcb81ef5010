// One idea: bf16 tiles in shared memory, rows of DIM elements, from which ldmatrix reads mma.m16n8k16 fragments without bank
// conflicts. A row is cut into chunks of 16 bytes; chunk c of row r stands at c ^ f(r), f chosen so that the same chunk of 8
// neighbouring rows covers all 32 banks.
#pragma once
#include "ptx.h"

// Index of the first element of a chunk.
template <int DIM>
DEVICE uint32_t swizzled(uint32_t row, uint32_t chunk) {
    // Rows of 64 bytes lie in pairs within a line of 128.
    const uint32_t mixed = DIM == 32 ? chunk ^ ((row >> 1) & 3) : chunk ^ (row & 7);
    return row * DIM + mixed * 8;
}

// A lane's addresses for ldmatrix are computed once. Tiles start at multiples of 128 bytes, so that what a chunk's place differs by from
// that of chunk 0 is an exclusive or with a constant, and 8 rows further is the same place plus a constant: a loop over a tile then
// needs no more than four addresses.

// A: rows 0 .. 16 and columns 0 .. 16 of the tile.
template <int DIM>
DEVICE uint32_t lane_of_a(const bf16* tile, uint32_t lane) {
    return shared_address(tile + swizzled<DIM>(lane & 15, lane >> 4));
}

// B of two products Q K^T: their columns are the tile's rows 0 .. 8 (b[0], b[1]) and 8 .. 16 (b[2], b[3]), their depth its columns
// 0 .. 16.
template <int DIM>
DEVICE uint32_t lane_of_b_rows(const bf16* tile, uint32_t lane) {
    return shared_address(tile + swizzled<DIM>((lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1));
}

// B of two products P V, for load_matrix_x4_transposed: their columns are the tile's columns 0 .. 8 (b[0], b[1]) and 8 .. 16
// (b[2], b[3]), their depth its rows 0 .. 16.
template <int DIM>
DEVICE uint32_t lane_of_b_columns(const bf16* tile, uint32_t lane) {
    return shared_address(tile + swizzled<DIM>(lane & 15, lane >> 4));
}

// Moved by `rows`, a multiple of 8, and `chunks`, an even number.
template <int DIM>
DEVICE uint32_t moved(uint32_t address, uint32_t rows, uint32_t chunks) {
    const uint32_t mixed = DIM == 32 ? chunks : chunks & 7;
    return (address ^ (mixed * 16)) + (chunks - mixed) * 16 + rows * DIM * 2;
}
