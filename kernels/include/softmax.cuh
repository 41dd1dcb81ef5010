// One idea: the running softmax of a row as (max, denominator, output). Scores arrive in pieces; after each, `output` is
// the sum of 2^(s log2 e - max) v and `denominator` the sum of the weights, `max` being the largest s log2 e so far. Pieces that
// were computed apart (splits of a history, own tokens) merge by the same rule.
//
// A row that has seen nothing has (-inf, 0, 0) and merges without a trace; a piece that is masked as a whole changes no bit:
// its factor is exactly 1 and its weights are exactly 0. The result of a row that saw no key is zero.
#pragma once
#include "ptx.h"

#define LOG2_E 1.4426950408889634f

struct Softmax {
    float max;
    float denominator;
};

DEVICE Softmax softmax_empty() { return {negative_infinity(), 0.0f}; }

// What weights are relative to: the maximum, or zero where nothing was seen (-inf - -inf would be NaN).
DEVICE float softmax_base(float max) { return max == negative_infinity() ? 0.0f : max; }

// Weight of a score, `base` being softmax_base of a maximum at least as large. A masked score is -inf, and weighs 0. Weights below
// 2^-126 of the largest are 0 too: to keep them, every exponential would take three more instructions.
DEVICE float softmax_weight(float score, float base) { return exp2_flushed(__fmaf_rn(score, LOG2_E, -base)); }

// Takes in the largest score of the next piece. Returns what the output so far is to be multiplied by, as the denominator was;
// the caller adds the piece's weights to both.
DEVICE float softmax_raise(Softmax& row, float piece_max) {
    const float max = fmaxf(row.max, piece_max * LOG2_E);
    const float factor = exp2_flushed(row.max - softmax_base(max));
    row.max = max;
    row.denominator *= factor;
    return factor;
}

// Takes in a piece that was computed apart. Outputs become `output * mine + piece output * theirs`.
struct MergeFactors {
    float mine;
    float theirs;
};

DEVICE MergeFactors softmax_merge(Softmax& row, Softmax piece) {
    const float max = fmaxf(row.max, piece.max);
    const float base = softmax_base(max);
    const MergeFactors factors = {exp2_flushed(row.max - base), exp2_flushed(piece.max - base)};
    row.max = max;
    row.denominator = __fmaf_rn(piece.denominator, factors.theirs, __fmul_rn(row.denominator, factors.mine));
    return factors;
}

// An element of the merged output. Rounded alike wherever pieces meet.
DEVICE float merge_output(float mine, float theirs, MergeFactors factors) {
    return __fmaf_rn(theirs, factors.theirs, __fmul_rn(mine, factors.mine));
}

// What the output is multiplied by in the end. Adding zero to the product turns -0 into +0: whether a vanishing sum got its
// sign from a masked key is not to be seen.
DEVICE float softmax_inverse(float denominator) { return denominator > 0.0f ? 1.0f / denominator : 0.0f; }
