// History attention in bf16: out = softmax(q K^T + bias) V for token rows over a slot's pages, causal or over all valid keys,
// query heads sharing KV heads (GQA). f32 is in history_attention_f32.cu.
//
// A block takes one query tile (64 rows of one span) and one head, or two heads of a KV head where a group is even and there is no
// bias: their 128 rows share the block's copies. A warp owns 32 rows (16 at DIM 256, and where the tile has no more than that);
// each fragment of keys or values that it reads from shared memory feeds the products of all of them. Keys come in tiles of 32 at
// absolute positions; S = Q K^T and O += P V are mma.m16n8k16, softmax is online and in f32 (softmax.cuh), P is rounded to bf16 for
// the second product while the denominator sums it unrounded. Keys and values have one buffer each and take turns:
//
//     wait K(t) | copy V(t) ..... S = Q K(t)      | wait V(t) | copy K(t + 1) ..... softmax, O += P V(t) | ...
//
// so that every copy has half an iteration to arrive, two barriers a tile suffice, and several blocks fit a multiprocessor.
//
// Launch: grid (tiles of the bucket, heads / heads of a block), 64 threads a head (128 at DIM 256), dynamic shared memory of
// 128 DIM + 1,024 bytes and 128 DIM a head; at most 99,328 (every card of sm_80 or later grants 101,376).
// Work: 4 DIM operations a score. A 512-byte fragment of keys or values feeds four products of 4,096 operations: at 128 bytes a clock
// and multiprocessor that allows 4,096 operations a clock, twice an A100's tensor rate and all of an H100's; the query's
// fragments, read anew for each tile, cost a quarter of it. Softmax (a tile's 32 exponentials a thread, beside DIM products a
// warp) overlaps only with the products of other warps. Expected at DIM 128 and long histories: 60% of the A100's 312 Tflop/s; 40% of the H100's 989,
// where mma.sync reaches no more than about 60. From memory a block reads its keys and values once, 4 DIM bytes a key: with two
// heads 128 operations a byte, mostly from L2, where the tiles of a slot meet (3 TB/s of it at 400 Tflop/s).
// A row of `Last` is alone in its tile: there the limit is the latency of a tile (about 1.5 us), for one layer of a model.
// Occupancy by registers: 4 blocks of two heads (DIM 32), 3 (64), 2 (128), 1 (256); shared memory allows as many.
//
// Batch invariance: rows meet nothing but keys, tile by tile in order of position. A key that a row does not see weighs exactly 0,
// and a tile without any leaves maximum and sums as they are (factor 1); so neither chunks nor neighbours are seen.
//
// budget: history_attention_bf16_32 registers <= 128, shared <= 0
// budget: history_attention_bf16_64 registers <= 168, shared <= 0
// budget: history_attention_bf16_128 registers <= 255, shared <= 0
// budget: history_attention_bf16_256 registers <= 255, shared <= 0
#include "attention_work.cuh"
#include "fragments.cuh"
#include "softmax.cuh"

constexpr int ROWS = QUERY_TILE_ROWS;
constexpr int KEYS = 32; // of a tile
// Fragments of 16 rows that a warp has; at 256 the output of one is 128 registers already.
template <int DIM>
constexpr int FRAGMENTS = DIM <= 128 ? 2 : 1;
template <int DIM>
constexpr int HEAD_WARPS = ROWS / (16 * FRAGMENTS<DIM>);

template <int DIM>
struct Shared {
    bf16 keys[KEYS * DIM];
    bf16 values[KEYS * DIM];
    alignas(128) KeyTile<ROWS, KEYS> tile[2];
    alignas(128) bf16 query[2 * ROWS * DIM]; // of one head or two; each warp's rows become its output in the end
};

// What a thread holds of its warp's M x 16 rows: of rows 16 m + lane / 4 and 16 m + lane / 4 + 8 the columns of its mma fragments.
template <int DIM, int M>
struct WarpRows {
    float output[M][DIM / 8][4];
    Softmax softmax[M][2];
    uint32_t visible[M][2];
    uint32_t head;          // of the block
    uint32_t first;         // row of the block
    uint32_t least_visible; // to the first row
    uint32_t most_visible;  // to the last one there is; 0 if there is none
};

// Elements of a chunk of 8 that lie within the head.
DEVICE uint32_t filled(const HistoryAttentionParams& p, uint32_t chunk) {
    return p.head_dim > 8 * chunk ? min(p.head_dim - 8 * chunk, 8u) : 0;
}

// Whether every head of every row of a buffer starts at a multiple of 16 bytes and is whole chunks long.
DEVICE bool in_chunks(const HistoryAttentionParams& p, uint64_t address, uint32_t stride) {
    return p.head_dim % 8 == 0 && stride % 8 == 0 && address % 16 == 0;
}

// The block's queries to shared memory, zeros around them.
template <int DIM>
DEVICE void copy_queries(const HistoryAttentionParams& p, const AttentionWork& work, uint32_t heads, bf16* to) {
    const bool chunks = in_chunks(p, p.query, p.query_stride);
    const bf16* first =
        pointer<const bf16>(p.query) + static_cast<uint64_t>(work.first_row) * p.query_stride + work.head * p.head_dim;
    for (uint32_t i = threadIdx.x; i < heads * ROWS * DIM / 8; i += blockDim.x) {
        const uint32_t row = i / (DIM / 8), chunk = i % (DIM / 8), head = row / ROWS;
        const uint32_t valid = row % ROWS < work.rows ? filled(p, chunk) : 0;
        const uint64_t offset = static_cast<uint64_t>(row % ROWS) * p.query_stride + head * p.head_dim + 8 * chunk;
        const bf16* from = first + (valid > 0 ? offset : 0);
        bf16* place = to + swizzled<DIM>(row, chunk);
        if (chunks) {
            copy_async_16(shared_address(place), from, 2 * valid);
        } else {
            for (uint32_t e = 0; e < 8; e++) place[e] = e < valid ? from[e] : bf16{0};
        }
    }
}

// The keys or values of a tile to shared memory, zeros for those that no row sees; a group of its own.
template <int DIM>
DEVICE void copy_tile(bf16* to, uint64_t pages, const uint32_t* rows) {
    const bf16* from = pointer<const bf16>(pages);
#pragma unroll 2
    for (uint32_t i = threadIdx.x; i < KEYS * DIM / 8; i += blockDim.x) {
        const uint32_t row = i / (DIM / 8), chunk = i % (DIM / 8);
        const uint32_t page_row = rows[row];
        const bool valid = page_row != NO_ROW;
        copy_async_16(shared_address(to + swizzled<DIM>(row, chunk)),
                      from + (valid ? static_cast<uint64_t>(page_row) * DIM + 8 * chunk : 0), valid ? 16 : 0);
    }
    copy_async_commit();
}

template <int DIM, int M>
DEVICE void begin_rows(const HistoryAttentionParams& p, const AttentionWork& work, WarpRows<DIM, M>& rows) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    rows.head = warp / HEAD_WARPS<DIM>;
    rows.first = warp % HEAD_WARPS<DIM> * 16 * M;
    rows.least_visible = visible_keys(p, work, rows.first);
    const uint32_t last = min(rows.first + 16 * M, work.rows) - 1;
    rows.most_visible = rows.first < work.rows ? visible_keys(p, work, last) : 0;
#pragma unroll
    for (int m = 0; m < M; m++) {
        for (int h = 0; h < 2; h++) {
            rows.softmax[m][h] = softmax_empty();
            rows.visible[m][h] = visible_keys(p, work, rows.first + 16 * m + lane / 4 + 8 * h);
        }
        for (int n = 0; n < DIM / 8; n++) {
            for (int i = 0; i < 4; i++) rows.output[m][n][i] = 0.0f;
        }
    }
}

// S = Q K^T: the warp's rows by the tile's keys; zeros where all of them will be masked.
template <int DIM, int M>
DEVICE void multiply_keys(const Shared<DIM>& s, const WarpRows<DIM, M>& rows, bool seen, float (&scores)[M][KEYS / 8][4]) {
    const uint32_t lane = threadIdx.x % 32;
    const bf16* warp_query = s.query + (rows.head * ROWS + rows.first) * DIM;
    const uint32_t query_place = opaque(lane_of_a<DIM>(warp_query, lane));
    const uint32_t key_place = opaque(lane_of_b_rows<DIM>(s.keys, lane));
#pragma unroll
    for (int m = 0; m < M; m++) {
        for (int n = 0; n < KEYS / 8; n++) {
            for (int i = 0; i < 4; i++) scores[m][n][i] = 0.0f;
        }
    }
    if (!seen) return;
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        // Read anew for every tile: registers are scarcer than reads.
        uint32_t query[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) load_matrix_x4(query[m], moved<DIM>(query_place, 16 * m, 2 * step));
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            uint32_t keys[4];
            load_matrix_x4(keys, moved<DIM>(key_place, 8 * n, 2 * step));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(scores[m][n], query[m], keys[0], keys[1]);
                mma_bf16(scores[m][n + 1], query[m], keys[2], keys[3]);
            }
        }
    }
}

// Adds biases and hides what the rows do not see.
template <int DIM, int M>
DEVICE void mask_scores(const float* bias, const WarpRows<DIM, M>& rows, uint32_t first_key,
                        float (&scores)[M][KEYS / 8][4]) {
    const uint32_t lane = threadIdx.x % 32, column = lane % 4 * 2;
    if (bias != nullptr) {
        const float* of_row = bias + (ROWS - 1) + column - (rows.first + lane / 4);
#pragma unroll
        for (int m = 0; m < M; m++) {
            for (int n = 0; n < KEYS / 8; n++) {
                for (int i = 0; i < 4; i++) scores[m][n][i] += of_row[8 * n + i % 2 - i / 2 * 8 - 16 * m];
            }
        }
    }
    if (rows.least_visible < first_key + KEYS) {
#pragma unroll
        for (int m = 0; m < M; m++) {
            for (int n = 0; n < KEYS / 8; n++) {
                for (int i = 0; i < 4; i++) {
                    const bool hidden = first_key + 8 * n + column + i % 2 >= rows.visible[m][i / 2];
                    if (hidden) scores[m][n][i] = negative_infinity();
                }
            }
        }
    }
}

// Scores of 16 rows to weights; what was summed so far is rescaled to the new maxima.
template <int DIM>
DEVICE void weigh_scores(Softmax (&softmax)[2], float (&output)[DIM / 8][4], float (&scores)[KEYS / 8][4]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = negative_infinity();
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
        // The four lanes of a row.
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
        const float factor = softmax_raise(softmax[h], most);
        const float base = softmax_base(softmax[h].max);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                scores[n][i] = softmax_weight(scores[n][i], base);
                softmax[h].denominator += scores[n][i]; // this lane's columns
            }
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            for (int i = 2 * h; i < 2 * h + 2; i++) output[n][i] *= factor;
        }
    }
}

// O += P V. The fragments of S are those of P as a left operand.
template <int DIM, int M>
DEVICE void multiply_values(const Shared<DIM>& s, WarpRows<DIM, M>& rows, const float (&weights)[M][KEYS / 8][4]) {
    const uint32_t value_place = opaque(lane_of_b_columns<DIM>(s.values, threadIdx.x % 32));
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
        uint32_t p[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            const float(&left)[4] = weights[m][2 * step];
            const float(&right)[4] = weights[m][2 * step + 1];
            p[m][0] = pack_bf16(left[0], left[1]);
            p[m][1] = pack_bf16(left[2], left[3]);
            p[m][2] = pack_bf16(right[0], right[1]);
            p[m][3] = pack_bf16(right[2], right[3]);
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n += 2) {
            uint32_t values[4];
            load_matrix_x4_transposed(values, moved<DIM>(value_place, 16 * step, n));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(rows.output[m][n], p[m], values[0], values[1]);
                mma_bf16(rows.output[m][n + 1], p[m], values[2], values[3]);
            }
        }
    }
}

// Divides by the denominators, to the warp's part of the query buffer.
template <int DIM, int M>
DEVICE void stage_rows(const WarpRows<DIM, M>& rows, bf16* staged) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++) {
        for (int h = 0; h < 2; h++) {
            float denominator = rows.softmax[m][h].denominator;
            denominator += __shfl_xor_sync(FULL_WARP, denominator, 1);
            denominator += __shfl_xor_sync(FULL_WARP, denominator, 2);
            const float inverse = softmax_inverse(denominator);
            const uint32_t row = 16 * m + lane / 4 + 8 * h;
            for (int n = 0; n < DIM / 8; n++) {
                const float(&o)[4] = rows.output[m][n];
                uint32_t* place = reinterpret_cast<uint32_t*>(staged + swizzled<DIM>(row, n)) + lane % 4;
                *place = pack_bf16(__fmaf_rn(o[2 * h], inverse, 0.0f), __fmaf_rn(o[2 * h + 1], inverse, 0.0f));
            }
        }
    }
}

// Stores what the warp staged, in chunks where buffers allow.
template <int DIM, int M>
DEVICE void store_rows(const HistoryAttentionParams& p, const AttentionWork& work, const WarpRows<DIM, M>& rows,
                       const bf16* staged) {
    const bool chunks = in_chunks(p, p.out, p.out_stride);
    bf16* first = pointer<bf16>(p.out) + static_cast<uint64_t>(work.first_row + rows.first) * p.out_stride +
                  (work.head + rows.head) * p.head_dim;
    for (uint32_t i = threadIdx.x % 32; i < 16 * M * DIM / 8; i += 32) {
        const uint32_t row = i / (DIM / 8), chunk = i % (DIM / 8);
        const uint32_t valid = rows.first + row < work.rows ? filled(p, chunk) : 0;
        const bf16* from = staged + swizzled<DIM>(row, chunk);
        bf16* to = first + static_cast<uint64_t>(row) * p.out_stride + 8 * chunk;
        if (!chunks) {
            for (uint32_t e = 0; e < valid; e++) to[e] = from[e];
        } else if (valid > 0) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        }
    }
}

template <int DIM, int M>
DEVICE void attend_rows(const HistoryAttentionParams& p, const AttentionWork& work, Shared<DIM>& s) {
    WarpRows<DIM, M> rows;
    begin_rows(p, work, rows);
    publish(s.tile[0], look_up<ROWS, KEYS>(p, work, 0));
    copy_queries<DIM>(p, work, blockDim.x / (32 * HEAD_WARPS<DIM>), s.query);
    __syncthreads();
    copy_tile<DIM>(s.keys, p.kv.keys, s.tile[0].rows);
    for (uint32_t first_key = 0, now = 0; first_key < work.keys; first_key += KEYS, now ^= 1) {
        const uint32_t next_key = first_key + KEYS;
        float scores[M][KEYS / 8][4];

        // Keys are there, and nobody reads the values before any more.
        copy_async_wait<0>();
        __syncthreads();
        copy_tile<DIM>(s.values, p.kv.values, s.tile[now].rows);
        const KeyTileEntry next = look_up<ROWS, KEYS>(p, work, next_key);
        multiply_keys(s, rows, first_key < rows.most_visible, scores);
        publish(s.tile[now ^ 1], next);

        // Values are there, and nobody reads the keys any more.
        copy_async_wait<0>();
        __syncthreads();
        if (next_key < work.keys) copy_tile<DIM>(s.keys, p.kv.keys, s.tile[now ^ 1].rows);
        mask_scores(p.bias != 0 ? s.tile[now].bias : nullptr, rows, first_key, scores);
#pragma unroll
        for (int m = 0; m < M; m++) weigh_scores<DIM>(rows.softmax[m], rows.output[m], scores[m]);
        multiply_values(s, rows, scores);
    }
    // Without keys no tile waited for the queries, whose place the results take.
    copy_async_wait<0>();
    __syncthreads();
    bf16* staged = s.query + (rows.head * ROWS + rows.first) * DIM;
    stage_rows(rows, staged);
    __syncwarp();
    store_rows(p, work, rows, staged);
}

template <int DIM>
DEVICE void attend(const HistoryAttentionParams& p) {
    DYNAMIC_SHARED(Shared<DIM>, s);
    AttentionWork work;
    if (!find_work<ROWS>(p, blockDim.x / (32 * HEAD_WARPS<DIM>), work)) return;
    if (FRAGMENTS<DIM> == 1 || work.rows > 16) {
        attend_rows<DIM, FRAGMENTS<DIM>>(p, work, *s);
    } else {
        attend_rows<DIM, 1>(p, work, *s); // rows of `Last`, and ends of spans: half the work in a warp's way
    }
}

KERNEL(128, 4) history_attention_bf16_32(const __grid_constant__ HistoryAttentionParams p) { attend<32>(p); }
KERNEL(128, 3) history_attention_bf16_64(const __grid_constant__ HistoryAttentionParams p) { attend<64>(p); }
KERNEL(128, 2) history_attention_bf16_128(const __grid_constant__ HistoryAttentionParams p) { attend<128>(p); }
KERNEL(256, 1) history_attention_bf16_256(const __grid_constant__ HistoryAttentionParams p) { attend<256>(p); }
