// History attention in bf16: out = softmax(q K^T + bias) V for token rows over a slot's pages, causal or over all valid keys,
// query heads sharing KV heads (GQA). f32 is in history_attention_f32.cu.
//
// A block takes one query tile (64 rows of one span) and one head; each of its 4 warps owns 16 rows. Keys come in tiles of 64 (32 at
// DIM 256) at absolute positions; S = Q K^T and O += P V are mma.m16n8k16, softmax is online and in f32 (softmax.cuh), P is rounded
// to bf16 for the second product while the denominator sums it unrounded. Keys and values have one buffer each and take turns:
//
//     wait K(t) | copy V(t) ..... S = Q K(t)      | wait V(t) | copy K(t + 1) ..... softmax, O += P V(t) | ...
//
// so that every copy has half an iteration to arrive, two barriers a tile suffice, and several blocks fit a multiprocessor.
//
// Launch: grid (tiles of the bucket, heads), 128 threads, sizeof(Shared<DIM>) bytes of dynamic shared memory: 13,824 at DIM 32,
// 26,112 at 64, 50,688 at 128, 66,560 at 256 (every card of sm_80 or later grants 101,376).
// Work: 4 DIM operations a score. A 512-byte fragment of keys or values in shared memory feeds two products of 4,096 operations: at
// 128 bytes a clock and multiprocessor that allows 2,048 operations a clock, the whole of an A100's tensor rate and half of an
// H100's; reading the query's fragments anew for each tile costs an eighth of it. Softmax (32 exponentials a thread and tile,
// beside 2 DIM clocks of products) overlaps only with the products of other warps. Expected at DIM 128 and long histories: 50 to
// 60% of the A100's 312 Tflop/s, 35% of the H100's 989. From memory a block reads its keys and values once, 4 DIM bytes a key: 64
// operations a byte and more, mostly from L2, where the heads and tiles of a slot meet. A row of `Last` is alone in its tile: there
// the limit is the latency of a tile (about 2 us), for one layer of a model.
// Occupancy by registers: 4 blocks (DIM 32, 64), 3 (128), 2 (256); shared memory allows as many on cards of 164 KiB and more.
//
// Batch invariance: rows meet nothing but keys, tile by tile in order of position. A key that a row does not see weighs exactly 0,
// and a tile without any leaves maximum and sums as they are (factor 1); so it is not seen whether a warp skips it.
//
// budget: history_attention_bf16_32 registers <= 128, shared <= 0
// budget: history_attention_bf16_64 registers <= 128, shared <= 0
// budget: history_attention_bf16_128 registers <= 168, shared <= 0
// budget: history_attention_bf16_256 registers <= 255, shared <= 0
#include "attention_work.cuh"
#include "fragments.cuh"
#include "softmax.cuh"

constexpr int THREADS = 128;
constexpr int ROWS = QUERY_TILE_ROWS;
constexpr int WARP_ROWS = 16;
// Keys of a tile. At 256 the output alone is 128 registers; half a tile's scores leave room for the rest.
template <int DIM>
constexpr int KEYS = DIM == 256 ? 32 : 64;

template <int DIM>
struct Shared {
    bf16 query[ROWS * DIM]; // each warp's rows become its output in the end
    bf16 keys[KEYS<DIM> * DIM];
    bf16 values[KEYS<DIM> * DIM];
    KeyTile<ROWS, KEYS<DIM>> tile[2];
};

// What a thread holds of its warp's 16 rows: of rows lane / 4 and lane / 4 + 8 the columns of its mma fragments.
template <int DIM>
struct WarpRows {
    float output[DIM / 8][4];
    Softmax softmax[2];
    uint32_t visible[2];
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
DEVICE void copy_queries(const HistoryAttentionParams& p, const AttentionWork& work, bf16* to) {
    const bool chunks = in_chunks(p, p.query, p.query_stride);
    const bf16* head =
        pointer<const bf16>(p.query) + static_cast<uint64_t>(work.first_row) * p.query_stride + work.head * p.head_dim;
    for (uint32_t i = threadIdx.x; i < ROWS * DIM / 8; i += THREADS) {
        const uint32_t row = i / (DIM / 8), chunk = i % (DIM / 8);
        const uint32_t valid = row < work.rows ? filled(p, chunk) : 0;
        const bf16* from = head + (valid > 0 ? static_cast<uint64_t>(row) * p.query_stride + 8 * chunk : 0);
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
    for (uint32_t i = 0; i < KEYS<DIM> * DIM / 8 / THREADS; i++) {
        const uint32_t row = (i * THREADS + threadIdx.x) / (DIM / 8), chunk = threadIdx.x % (DIM / 8);
        const uint32_t page_row = rows[row];
        const bool valid = page_row != NO_ROW;
        copy_async_16(shared_address(to + swizzled<DIM>(row, chunk)),
                      from + (valid ? static_cast<uint64_t>(page_row) * DIM + 8 * chunk : 0), valid ? 16 : 0);
    }
    copy_async_commit();
}

template <int DIM>
DEVICE void begin_rows(const HistoryAttentionParams& p, const AttentionWork& work, WarpRows<DIM>& rows) {
    const uint32_t lane = threadIdx.x % 32;
    rows.first = threadIdx.x / 32 * WARP_ROWS;
    for (int h = 0; h < 2; h++) {
        rows.softmax[h] = softmax_empty();
        rows.visible[h] = visible_keys(p, work, rows.first + lane / 4 + 8 * h);
    }
    rows.least_visible = visible_keys(p, work, rows.first);
    const uint32_t last = min(rows.first + WARP_ROWS, work.rows) - 1;
    rows.most_visible = rows.first < work.rows ? visible_keys(p, work, last) : 0;
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
        for (int i = 0; i < 4; i++) rows.output[n][i] = 0.0f;
    }
}

// S = Q K^T: 16 rows by 64 keys.
template <int DIM>
DEVICE void multiply_keys(const Shared<DIM>& s, const WarpRows<DIM>& rows, float (&scores)[KEYS<DIM> / 8][4]) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS<DIM> / 8; n++) {
        for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        // Read anew for every tile: an eighth more shared memory traffic, but registers for one block more.
        uint32_t query[4];
        load_a<DIM>(query, s.query, rows.first, step, lane);
#pragma unroll
        for (int n = 0; n < KEYS<DIM> / 8; n += 2) {
            uint32_t keys[4];
            load_b_rows<DIM>(keys, s.keys, 8 * n, step, lane);
            mma_bf16(scores[n], query, keys[0], keys[1]);
            mma_bf16(scores[n + 1], query, keys[2], keys[3]);
        }
    }
}

// Adds biases and hides what the rows do not see.
template <int DIM>
DEVICE void mask_scores(const float* bias, const WarpRows<DIM>& rows, uint32_t first_key, float (&scores)[KEYS<DIM> / 8][4]) {
    const uint32_t lane = threadIdx.x % 32, column = lane % 4 * 2;
    if (bias != nullptr) {
        const float* of_row = bias + (ROWS - 1) + column - (rows.first + lane / 4);
#pragma unroll
        for (int n = 0; n < KEYS<DIM> / 8; n++) {
            for (int i = 0; i < 4; i++) scores[n][i] += of_row[8 * n + i % 2 - i / 2 * 8];
        }
    }
    if (rows.least_visible < first_key + KEYS<DIM>) {
#pragma unroll
        for (int n = 0; n < KEYS<DIM> / 8; n++) {
            for (int i = 0; i < 4; i++) {
                if (first_key + 8 * n + column + i % 2 >= rows.visible[i / 2]) scores[n][i] = negative_infinity();
            }
        }
    }
}

// Scores to weights; what was summed so far is rescaled to the new maxima.
template <int DIM>
DEVICE void weigh_scores(WarpRows<DIM>& rows, float (&scores)[KEYS<DIM> / 8][4]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = negative_infinity();
#pragma unroll
        for (int n = 0; n < KEYS<DIM> / 8; n++) most = fmaxf(most, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
        // The four lanes of a row.
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
        const float factor = softmax_raise(rows.softmax[h], most);
        const float base = softmax_base(rows.softmax[h].max);
#pragma unroll
        for (int n = 0; n < KEYS<DIM> / 8; n++) {
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                scores[n][i] = softmax_weight(scores[n][i], base);
                rows.softmax[h].denominator += scores[n][i]; // this lane's columns
            }
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            for (int i = 2 * h; i < 2 * h + 2; i++) rows.output[n][i] *= factor;
        }
    }
}

// O += P V. The fragments of S are those of P as a left operand.
template <int DIM>
DEVICE void multiply_values(const Shared<DIM>& s, WarpRows<DIM>& rows, const float (&weights)[KEYS<DIM> / 8][4]) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < KEYS<DIM> / 16; step++) {
        const float(&left)[4] = weights[2 * step];
        const float(&right)[4] = weights[2 * step + 1];
        const uint32_t p[4] = {pack_bf16(left[0], left[1]), pack_bf16(left[2], left[3]), pack_bf16(right[0], right[1]),
                               pack_bf16(right[2], right[3])};
#pragma unroll
        for (int n = 0; n < DIM / 8; n += 2) {
            uint32_t values[4];
            load_b_columns<DIM>(values, s.values, 16 * step, n, lane);
            mma_bf16(rows.output[n], p, values[0], values[1]);
            mma_bf16(rows.output[n + 1], p, values[2], values[3]);
        }
    }
}

// Divides by the denominators and stores, through the warp's part of the query buffer so that rows leave in chunks.
template <int DIM>
DEVICE void store_rows(const HistoryAttentionParams& p, const AttentionWork& work, WarpRows<DIM>& rows, bf16* staged) {
    const uint32_t lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float denominator = rows.softmax[h].denominator;
        denominator += __shfl_xor_sync(FULL_WARP, denominator, 1);
        denominator += __shfl_xor_sync(FULL_WARP, denominator, 2);
        const float inverse = softmax_inverse(denominator);
        const uint32_t row = rows.first + lane / 4 + 8 * h;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            const float(&o)[4] = rows.output[n];
            uint32_t* place = reinterpret_cast<uint32_t*>(staged + swizzled<DIM>(row, n)) + lane % 4;
            *place = pack_bf16(__fmaf_rn(o[2 * h], inverse, 0.0f), __fmaf_rn(o[2 * h + 1], inverse, 0.0f));
        }
    }
    __syncwarp();
    const bool chunks = in_chunks(p, p.out, p.out_stride);
    bf16* head = pointer<bf16>(p.out) + static_cast<uint64_t>(work.first_row) * p.out_stride + work.head * p.head_dim;
    for (uint32_t i = lane; i < WARP_ROWS * DIM / 8; i += 32) {
        const uint32_t row = rows.first + i / (DIM / 8), chunk = i % (DIM / 8);
        const uint32_t valid = row < work.rows ? filled(p, chunk) : 0;
        const bf16* from = staged + swizzled<DIM>(row, chunk);
        bf16* to = head + static_cast<uint64_t>(row) * p.out_stride + 8 * chunk;
        if (!chunks) {
            for (uint32_t e = 0; e < valid; e++) to[e] = from[e];
        } else if (valid > 0) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        }
    }
}

template <int DIM>
DEVICE void attend(const HistoryAttentionParams& p) {
    DYNAMIC_SHARED(Shared<DIM>, s);
    AttentionWork work;
    if (!find_work<ROWS>(p, work)) return;
    WarpRows<DIM> rows;
    begin_rows(p, work, rows);

    publish(s->tile[0], look_up<ROWS, KEYS<DIM>>(p, work, 0));
    copy_queries<DIM>(p, work, s->query);
    __syncthreads();
    copy_tile<DIM>(s->keys, p.kv.keys, s->tile[0].rows);
    for (uint32_t first_key = 0, now = 0; first_key < work.keys; first_key += KEYS<DIM>, now ^= 1) {
        const uint32_t next_key = first_key + KEYS<DIM>;
        const bool seen = first_key < rows.most_visible;
        float scores[KEYS<DIM> / 8][4];

        // Keys are there, and nobody reads the values before any more.
        copy_async_wait<0>();
        __syncthreads();
        copy_tile<DIM>(s->values, p.kv.values, s->tile[now].rows);
        const KeyTileEntry next = look_up<ROWS, KEYS<DIM>>(p, work, next_key);
        if (seen) multiply_keys(*s, rows, scores);
        publish(s->tile[now ^ 1], next);

        // Values are there, and nobody reads the keys any more.
        copy_async_wait<0>();
        __syncthreads();
        if (next_key < work.keys) copy_tile<DIM>(s->keys, p.kv.keys, s->tile[now ^ 1].rows);
        if (seen) {
            mask_scores(p.bias != 0 ? s->tile[now].bias : nullptr, rows, first_key, scores);
            weigh_scores(rows, scores);
            multiply_values(*s, rows, scores);
        }
    }
    // Without keys no tile waited for the queries, whose place the results take.
    copy_async_wait<0>();
    __syncthreads();
    store_rows(p, work, rows, s->query);
}

KERNEL(THREADS, 4) history_attention_bf16_32(const __grid_constant__ HistoryAttentionParams p) { attend<32>(p); }
KERNEL(THREADS, 4) history_attention_bf16_64(const __grid_constant__ HistoryAttentionParams p) { attend<64>(p); }
KERNEL(THREADS, 3) history_attention_bf16_128(const __grid_constant__ HistoryAttentionParams p) { attend<128>(p); }
KERNEL(THREADS, 2) history_attention_bf16_256(const __grid_constant__ HistoryAttentionParams p) { attend<256>(p); }
