// One idea: a warp's rows against a block of keys and values in shared memory: S = Q K^T, softmax, O += P V, for TILES tiles of
// 16 rows. A fragment of keys or values that is read from shared memory serves all tiles.
#pragma once
#include "beam_work.cuh"
#include "fragments.cuh"
#include "softmax.cuh"

// Keys of a block.
template <int DIM>
constexpr int KEYS = DIM == 256 ? 32 : 64;

// A block of keys of a split.
struct KeyBlock {
    uint32_t split;
    uint32_t first; // position
};

DEVICE uint32_t end_of_split(const BeamWork& work, uint32_t split) {
    return min((split + 1) * work.split_length, work.length);
}

// Keys from the block's first one to the end of its split.
DEVICE uint32_t keys_of(const BeamWork& work, KeyBlock block) { return end_of_split(work, block.split) - block.first; }

// What a thread holds of its warp's rows: of rows 16 t + lane / 4 and 8 more the columns of its mma fragments.
template <int DIM, int TILES>
struct WarpRows {
    float output[TILES][DIM / 8][4];
    Softmax softmax[TILES][2];
    uint32_t first; // row of the block
};

template <int DIM, int TILES>
using Scores = float[TILES][KEYS<DIM> / 8][4];

template <int DIM, int TILES>
DEVICE void begin_split(WarpRows<DIM, TILES>& rows) {
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        rows.softmax[t][0] = rows.softmax[t][1] = softmax_empty();
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            for (int i = 0; i < 4; i++) rows.output[t][n][i] = 0.0f;
        }
    }
}

// S = Q K^T. A fragment of the keys serves all tiles of the warp.
template <int DIM, int TILES>
DEVICE void multiply_keys(const bf16* queries, const bf16* keys, uint32_t first, Scores<DIM, TILES>& scores) {
    const uint32_t lane = opaque(threadIdx.x % 32);
    const uint32_t query = lane_of_a<DIM>(queries, lane) + first * DIM * sizeof(bf16);
    const uint32_t key = lane_of_b_rows<DIM>(keys, lane);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int n = 0; n < KEYS<DIM> / 8; n++) {
            for (int i = 0; i < 4; i++) scores[t][n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        uint32_t a[TILES][4];
#pragma unroll
        for (int t = 0; t < TILES; t++) load_matrix_x4(a[t], moved<DIM>(query, 16 * t, 2 * step));
#pragma unroll
        for (int n = 0; n < KEYS<DIM> / 8; n += 2) {
            uint32_t b[4];
            load_matrix_x4(b, moved<DIM>(key, 8 * n, 2 * step));
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                mma_bf16(scores[t][n], a[t], b[0], b[1]);
                mma_bf16(scores[t][n + 1], a[t], b[2], b[3]);
            }
        }
    }
}

// Adds biases. All beams of a request stand at the same position.
template <int DIM, int TILES>
DEVICE void add_bias(const BeamAttentionParams& p, const BeamWork& work, uint32_t first, KeyBlock block,
                     Scores<DIM, TILES>& scores) {
    const uint32_t lane = opaque(threadIdx.x % 32);
    const int distance = static_cast<int>(block.first + lane % 4 * 2 - work.length - p.own.step);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t head = query_head(work, first + 16 * t + lane / 4 + 8 * h);
#pragma unroll
            for (int n = 0; n < KEYS<DIM> / 8; n++) {
                for (int i = 0; i < 2; i++) scores[t][n][2 * h + i] += distance_bias(p, head, distance + 8 * n + i);
            }
        }
    }
}

// Hides all but the first `keys`: what lies behind the split.
template <int DIM, int TILES>
DEVICE void mask_scores(uint32_t keys, Scores<DIM, TILES>& scores) {
    const uint32_t column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < KEYS<DIM> / 8; n++) {
        for (int i = 0; i < 4; i++) {
            if (8 * n + column + i % 2 < keys) continue;
#pragma unroll
            for (int t = 0; t < TILES; t++) scores[t][n][i] = negative_infinity();
        }
    }
}

// Scores to weights; what was summed so far is rescaled to the new maxima, which mostly stay the same.
template <int DIM, int TILES>
DEVICE void weigh_scores(WarpRows<DIM, TILES>& rows, Scores<DIM, TILES>& scores) {
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            Softmax& softmax = rows.softmax[t][h];
            float most = negative_infinity();
#pragma unroll
            for (int n = 0; n < KEYS<DIM> / 8; n++) {
                most = fmaxf(most, fmaxf(scores[t][n][2 * h], scores[t][n][2 * h + 1]));
            }
            // The four lanes of a row.
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
            const float factor = softmax_raise(softmax, most);
            const float base = softmax_base(softmax.max);
#pragma unroll
            for (int n = 0; n < KEYS<DIM> / 8; n++) {
                for (int i = 2 * h; i < 2 * h + 2; i++) {
                    scores[t][n][i] = softmax_weight(scores[t][n][i], base);
                    softmax.denominator += scores[t][n][i]; // this lane's columns
                }
            }
            if (__any_sync(FULL_WARP, factor != 1.0f)) {
#pragma unroll
                for (int n = 0; n < DIM / 8; n++) {
                    for (int i = 2 * h; i < 2 * h + 2; i++) rows.output[t][n][i] *= factor;
                }
            }
        }
    }
}

// O += P V. The fragments of S are those of P as a left operand.
template <int DIM, int TILES>
DEVICE void multiply_values(const bf16* values, const Scores<DIM, TILES>& weights, WarpRows<DIM, TILES>& rows) {
    const uint32_t value = lane_of_b_columns<DIM>(values, opaque(threadIdx.x % 32));
#pragma unroll
    for (int step = 0; step < KEYS<DIM> / 16; step++) {
        uint32_t a[TILES][4];
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            for (int i = 0; i < 4; i++) {
                const float(&w)[4] = weights[t][2 * step + i / 2];
                a[t][i] = pack_bf16(w[i % 2 * 2], w[i % 2 * 2 + 1]);
            }
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n += 2) {
            uint32_t b[4];
            load_matrix_x4_transposed(b, moved<DIM>(value, 16 * step, n));
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                mma_bf16(rows.output[t][n], a[t], b[0], b[1]);
                mma_bf16(rows.output[t][n + 1], a[t], b[2], b[3]);
            }
        }
    }
}

// Denominators over the four lanes of a row.
template <int DIM, int TILES>
DEVICE void sum_denominators(WarpRows<DIM, TILES>& rows) {
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float& denominator = rows.softmax[t][h].denominator;
            denominator += __shfl_xor_sync(FULL_WARP, denominator, 1);
            denominator += __shfl_xor_sync(FULL_WARP, denominator, 2);
        }
    }
}
