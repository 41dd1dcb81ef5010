// How a step writes the beam state: what a row takes over from its parent, and what rows without a beam hold.
#pragma once
#include "params/common.h"
#include "ptx.h"

struct AncestorCopy {
    uint32_t row;     // of the new beam
    uint32_t parent;  // row of the beam before the step
    uint32_t step;    // being written
    uint32_t rows;    // capacity of the table
};

// The row at which each earlier token was decoded comes from the parent; the token of this step will be decoded at the
// beam's own row.
DEVICE void inherit_ancestors(const BeamState& now, const BeamState& next, const AncestorCopy& copy) {
    const uint32_t* from = pointer<const uint32_t>(now.ancestors);
    uint32_t* to = pointer<uint32_t>(next.ancestors);
    for (uint32_t step = 0; step < copy.step; step++) {
        const size_t row = static_cast<size_t>(step) * copy.rows;
        to[row + copy.row] = from[row + copy.parent];
    }
    to[static_cast<size_t>(copy.step) * copy.rows + copy.row] = copy.row;
}

// Rows of a request from its `live`-th on mean nothing; what they hold stays in range.
template <int THREADS>
DEVICE void clear_dead(const BeamState& state, const RequestEntry& request, uint32_t live) {
    for (uint32_t rank = live + threadIdx.x; rank < request.beams; rank += THREADS) {
        const uint32_t row = request.first_row + rank;
        pointer<uint32_t>(state.node)[row] = 0;
        pointer<float>(state.score)[row] = 0;
        pointer<uint32_t>(state.token)[row] = 0;
    }
}
