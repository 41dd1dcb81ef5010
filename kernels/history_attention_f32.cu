// History attention in f32, without tensor cores: the formula, tiles and masks of history_attention.cu, for exactness.
//
// A block takes 64 query rows (32 at DIM 256) of a tile and one head; keys come in tiles of 32 (16). Its 128 threads stand 16 by 8:
// a thread computes 4 x 4 scores (2 x 2) of its rows, 8 lanes reducing a row's maximum, and then the same rows' outputs in 8th
// parts of the columns; weights pass through shared memory within a warp. Keys and values take turns as in bf16.
//
// Launch: grid (tiles of the bucket, heads, QUERY_TILE_ROWS / rows of a block), 128 threads, sizeof(Shared<DIM>) bytes of
// dynamic shared memory: 27,136 at DIM 32, 43,520 at 64, 76,288 at 128, 68,864 at 256.
// Work: 4 DIM operations a score, 2 16-byte reads of shared memory for 16 fused multiply-adds in S and O; about half of a card's f32
// rate (A100: 19.5, H100: 60 Tflop/s) is expected, bound by shared memory. From memory 8 DIM bytes a key and block.
//
// Batch invariance as in bf16: sums run over keys in order of position, and what a row does not see weighs exactly 0.
//
// budget: history_attention_f32_32 registers <= 168, shared <= 0
// budget: history_attention_f32_64 registers <= 168, shared <= 0
// budget: history_attention_f32_128 registers <= 168, shared <= 0
// budget: history_attention_f32_256 registers <= 168, shared <= 0
#include "attention_work.cuh"
#include "softmax.cuh"

constexpr int THREADS = 128;
constexpr int LANES = 8; // of a row
template <int DIM>
constexpr int ROWS = DIM == 256 ? 32 : 64;
template <int DIM>
constexpr int KEYS = DIM == 256 ? 16 : 32;
// A thread's rows, and its keys of a tile.
template <int DIM>
constexpr int MY_ROWS = ROWS<DIM> * LANES / THREADS;
template <int DIM>
constexpr int MY_KEYS = KEYS<DIM> / LANES;

template <int DIM>
struct Shared {
    float query[ROWS<DIM> * DIM];
    float keys[KEYS<DIM>][DIM + 4]; // padded: a column of 8 neighbouring keys covers all banks
    float values[KEYS<DIM>][DIM];
    float weights[ROWS<DIM>][KEYS<DIM> + 4];
    KeyTile<ROWS<DIM>, KEYS<DIM>> tile[2];
};

// What a thread holds of its rows: of the columns those from 4 lane + 32 i, 4 each.
template <int DIM>
struct ThreadRows {
    float output[MY_ROWS<DIM>][DIM / 32][4];
    Softmax softmax[MY_ROWS<DIM>];
    uint32_t first;        // row of the block
    uint32_t lane;         // 0 .. 8
    uint32_t most_visible; // to any row of the warp; 0 if there is none
};

DEVICE void load_4(float (&to)[4], const float* from) {
    const float4 x = *reinterpret_cast<const float4*>(from);
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}

// The block's queries to shared memory, zeros around them.
template <int DIM>
DEVICE void load_queries(const HistoryAttentionParams& p, const AttentionWork& work, float* to) {
    const float* head =
        pointer<const float>(p.query) + static_cast<uint64_t>(work.first_row) * p.query_stride + work.head * p.head_dim;
    for (uint32_t i = threadIdx.x; i < ROWS<DIM> * DIM; i += THREADS) {
        const uint32_t row = i / DIM, column = i % DIM;
        const bool valid = row < work.rows && column < p.head_dim;
        to[i] = valid ? head[static_cast<uint64_t>(row) * p.query_stride + column] : 0.0f;
    }
}

// The keys or values of a tile to shared memory, zeros for those that no row sees; a group of its own.
template <int DIM, int STRIDE>
DEVICE void copy_tile(float (*to)[STRIDE], uint64_t pages, const uint32_t* rows) {
    const float* from = pointer<const float>(pages);
    for (uint32_t i = threadIdx.x; i < KEYS<DIM> * DIM / 4; i += THREADS) {
        const uint32_t row = i / (DIM / 4), column = i % (DIM / 4) * 4;
        const uint32_t page_row = rows[row];
        const bool valid = page_row != NO_ROW;
        copy_async_16(shared_address(&to[row][column]), from + (valid ? static_cast<uint64_t>(page_row) * DIM + column : 0),
                      valid ? 16 : 0);
    }
    copy_async_commit();
}

template <int DIM>
DEVICE void begin_rows(const HistoryAttentionParams& p, const AttentionWork& work, ThreadRows<DIM>& rows) {
    constexpr uint32_t WARP_ROWS = MY_ROWS<DIM> * 32 / LANES;
    const uint32_t warp_first = threadIdx.x / 32 * WARP_ROWS;
    rows.first = threadIdx.x / LANES * MY_ROWS<DIM>;
    rows.lane = threadIdx.x % LANES;
    const uint32_t last = min(warp_first + WARP_ROWS, work.rows) - 1;
    rows.most_visible = warp_first < work.rows ? visible_keys(p, work, last) : 0;
#pragma unroll
    for (int r = 0; r < MY_ROWS<DIM>; r++) {
        rows.softmax[r] = softmax_empty();
        for (int n = 0; n < DIM / 32; n++) {
            for (int i = 0; i < 4; i++) rows.output[r][n][i] = 0.0f;
        }
    }
}

// S = Q K^T of this thread's rows with keys lane, lane + 8, ...
template <int DIM>
DEVICE void multiply_keys(const Shared<DIM>& s, const ThreadRows<DIM>& rows, float (&scores)[MY_ROWS<DIM>][MY_KEYS<DIM>]) {
#pragma unroll
    for (int r = 0; r < MY_ROWS<DIM>; r++) {
        for (int k = 0; k < MY_KEYS<DIM>; k++) scores[r][k] = 0.0f;
    }
#pragma unroll 1
    for (int column = 0; column < DIM; column += 4) {
        float key[MY_KEYS<DIM>][4];
#pragma unroll
        for (int k = 0; k < MY_KEYS<DIM>; k++) load_4(key[k], &s.keys[rows.lane + LANES * k][column]);
#pragma unroll
        for (int r = 0; r < MY_ROWS<DIM>; r++) {
            float query[4];
            load_4(query, s.query + (rows.first + r) * DIM + column);
            for (int k = 0; k < MY_KEYS<DIM>; k++) {
                for (int i = 0; i < 4; i++) scores[r][k] = __fmaf_rn(query[i], key[k][i], scores[r][k]);
            }
        }
    }
}

// Adds biases and hides what the rows do not see.
template <int DIM>
DEVICE void mask_scores(const HistoryAttentionParams& p, const AttentionWork& work, const float* bias,
                        const ThreadRows<DIM>& rows, uint32_t first_key,
                        float (&scores)[MY_ROWS<DIM>][MY_KEYS<DIM>]) {
#pragma unroll
    for (int r = 0; r < MY_ROWS<DIM>; r++) {
        const uint32_t row = rows.first + r, visible = visible_keys(p, work, row);
        for (int k = 0; k < MY_KEYS<DIM>; k++) {
            const uint32_t key = rows.lane + LANES * k;
            if (p.bias != 0) scores[r][k] += bias[key + (ROWS<DIM> - 1) - row];
            if (first_key + key >= visible) scores[r][k] = negative_infinity();
        }
    }
}

// Scores to weights, which go to shared memory; what was summed so far is rescaled to the new maxima.
template <int DIM>
DEVICE void weigh_scores(Shared<DIM>& s, ThreadRows<DIM>& rows, const float (&scores)[MY_ROWS<DIM>][MY_KEYS<DIM>]) {
    __syncwarp(); // the tile before has been read
#pragma unroll
    for (int r = 0; r < MY_ROWS<DIM>; r++) {
        float most = negative_infinity();
        for (int k = 0; k < MY_KEYS<DIM>; k++) most = fmaxf(most, scores[r][k]);
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, distance));
        }
        const float factor = softmax_raise(rows.softmax[r], most);
        const float base = softmax_base(rows.softmax[r].max);
        for (int k = 0; k < MY_KEYS<DIM>; k++) {
            const float weight = softmax_weight(scores[r][k], base);
            rows.softmax[r].denominator += weight; // this lane's keys
            s.weights[rows.first + r][rows.lane + LANES * k] = weight;
        }
        for (int n = 0; n < DIM / 32; n++) {
            for (int i = 0; i < 4; i++) rows.output[r][n][i] *= factor;
        }
    }
    __syncwarp();
}

// O += P V, key by key.
template <int DIM>
DEVICE void multiply_values(const Shared<DIM>& s, ThreadRows<DIM>& rows) {
#pragma unroll 1
    for (int first = 0; first < KEYS<DIM>; first += 4) {
        float weights[MY_ROWS<DIM>][4];
#pragma unroll
        for (int r = 0; r < MY_ROWS<DIM>; r++) load_4(weights[r], &s.weights[rows.first + r][first]);
#pragma unroll
        for (int key = 0; key < 4; key++) {
            for (int n = 0; n < DIM / 32; n++) {
                float value[4];
                load_4(value, &s.values[first + key][32 * n + 4 * rows.lane]);
                for (int r = 0; r < MY_ROWS<DIM>; r++) {
                    for (int i = 0; i < 4; i++) {
                        rows.output[r][n][i] = __fmaf_rn(weights[r][key], value[i], rows.output[r][n][i]);
                    }
                }
            }
        }
    }
}

// Divides by the denominators and stores.
template <int DIM>
DEVICE void store_rows(const HistoryAttentionParams& p, const AttentionWork& work, const ThreadRows<DIM>& rows) {
    float* head = pointer<float>(p.out) + static_cast<uint64_t>(work.first_row) * p.out_stride + work.head * p.head_dim;
#pragma unroll
    for (int r = 0; r < MY_ROWS<DIM>; r++) {
        float denominator = rows.softmax[r].denominator;
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
            denominator += __shfl_xor_sync(FULL_WARP, denominator, distance);
        }
        const float inverse = softmax_inverse(denominator);
        const uint32_t row = rows.first + r;
        for (int n = 0; n < DIM / 32; n++) {
            for (int i = 0; i < 4; i++) {
                const uint32_t column = 32 * n + 4 * rows.lane + i;
                if (row >= work.rows || column >= p.head_dim) continue;
                head[static_cast<uint64_t>(row) * p.out_stride + column] = __fmaf_rn(rows.output[r][n][i], inverse, 0.0f);
            }
        }
    }
}

template <int DIM>
DEVICE void attend(const HistoryAttentionParams& p) {
    DYNAMIC_SHARED(Shared<DIM>, s);
    AttentionWork work;
    if (!find_work<ROWS<DIM>>(p, 1, work)) return;
    ThreadRows<DIM> rows;
    begin_rows(p, work, rows);

    publish(s->tile[0], look_up<ROWS<DIM>, KEYS<DIM>>(p, work, 0));
    load_queries<DIM>(p, work, s->query);
    __syncthreads();
    copy_tile<DIM>(s->keys, p.kv.keys, s->tile[0].rows);
    for (uint32_t first_key = 0, now = 0; first_key < work.keys; first_key += KEYS<DIM>, now ^= 1) {
        const uint32_t next_key = first_key + KEYS<DIM>;
        const bool seen = first_key < rows.most_visible;
        float scores[MY_ROWS<DIM>][MY_KEYS<DIM>];

        // Keys are there, and nobody reads the values before any more.
        copy_async_wait<0>();
        __syncthreads();
        copy_tile<DIM>(s->values, p.kv.values, s->tile[now].rows);
        const KeyTileEntry next = look_up<ROWS<DIM>, KEYS<DIM>>(p, work, next_key);
        if (seen) multiply_keys(*s, rows, scores);
        publish(s->tile[now ^ 1], next);

        // Values are there, and nobody reads the keys any more.
        copy_async_wait<0>();
        __syncthreads();
        if (next_key < work.keys) copy_tile<DIM>(s->keys, p.kv.keys, s->tile[now ^ 1].rows);
        if (seen) {
            mask_scores(p, work, s->tile[now].bias, rows, first_key, scores);
            weigh_scores(*s, rows, scores);
            multiply_values(*s, rows);
        }
    }
    copy_async_wait<0>();
    store_rows(p, work, rows);
}

KERNEL(THREADS, 3) history_attention_f32_32(const __grid_constant__ HistoryAttentionParams p) { attend<32>(p); }
KERNEL(THREADS, 3) history_attention_f32_64(const __grid_constant__ HistoryAttentionParams p) { attend<64>(p); }
KERNEL(THREADS, 3) history_attention_f32_128(const __grid_constant__ HistoryAttentionParams p) { attend<128>(p); }
KERNEL(THREADS, 3) history_attention_f32_256(const __grid_constant__ HistoryAttentionParams p) { attend<256>(p); }
