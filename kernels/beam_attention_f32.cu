// Beam attention over shared keys in f32, without tensor cores: for exactness. One split of a request's keys against 32 virtual
// rows (beams x query heads that share a KV head); what it finds is merged by beam_attention_merge_f32.
//
// A block of 128 threads is 8 x 16: thread (y, x) has rows y + 8 i. It computes their scores with keys x and x + 16 of 32 at a
// time (6 loads of 16 bytes for 32 multiply-adds), then their output columns x + 16 c. Keys and values take turns in one buffer
// of shared memory; other blocks of the multiprocessor compute meanwhile.
//
// Launch: grid (tiles of 32 virtual rows, KV heads x splits, requests) of the bucket, 128 threads, sizeof(Shared<DIM>) bytes of
// dynamic shared memory: 14,208 at DIM 32, 22,400 at 64, 38,784 at 128, 71,552 at 256. Blocks behind the live rows or the
// request's splits leave.
// Work: 4 DIM operations a score; bytes: keys and values once a tile, 8 DIM a key: 16 operations a byte, from L2. Limit: FFMA
// and shared memory in equal parts, some 40% of the card's f32 rate.
// Batch invariance: a row's scores, maxima and sums run over its split's keys in order, 32 at a time, by the same threads.
//
// budget: beam_attention_f32_* registers <= 168, shared <= 0
#include "beam_work.cuh"
#include "softmax.cuh"

constexpr int THREADS = 128;
constexpr int ROWS = 32;
constexpr int KEYS = 32;
constexpr int ROWS_Y = 8;               // threads of a column
constexpr int LANES = 16;               // threads of a row
constexpr int THREAD_ROWS = ROWS / ROWS_Y;
constexpr int THREAD_KEYS = KEYS / LANES;

template <int DIM>
struct Shared {
    // 4 more columns: 8 rows that are read at a time start in different banks.
    float query[ROWS][DIM + 4];
    float keys[KEYS][DIM + 4]; // then values
    float weights[ROWS][KEYS + 4];
    uint32_t rows[KEYS];
};

template <int DIM>
struct ThreadRows {
    float output[THREAD_ROWS][DIM / LANES];
    Softmax softmax[THREAD_ROWS];
};

using Scores = float[THREAD_ROWS][THREAD_KEYS];

DEVICE uint32_t thread_y() { return threadIdx.x / LANES; }
DEVICE uint32_t thread_x() { return threadIdx.x % LANES; }

template <int DIM>
DEVICE void copy_queries(const BeamAttentionParams& p, const BeamWork& work, Shared<DIM>& s) {
    for (uint32_t i = threadIdx.x; i < ROWS * DIM; i += THREADS) {
        const uint32_t row = i / DIM, column = i % DIM;
        float value = 0.0f;
        if (row < work.rows && column < p.head_dim) {
            const uint64_t at = static_cast<uint64_t>(buffer_row(work, row)) * p.query_stride;
            value = pointer<const float>(p.query)[at + query_head(work, row) * p.head_dim + column];
        }
        s.query[row][column] = value;
    }
}

// Keys or values to the buffer, zeros for those behind the split, and waits for them.
template <int DIM>
DEVICE void fetch(uint64_t pages, Shared<DIM>& s) {
    const float* from = pointer<const float>(pages);
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < KEYS * DIM / 4; i += THREADS) {
        const uint32_t row = i / (DIM / 4), column = i % (DIM / 4) * 4;
        const uint32_t page_row = s.rows[row];
        const bool valid = page_row != NO_ROW;
        copy_async_16(shared_address(&s.keys[row][column]),
                      from + (valid ? static_cast<uint64_t>(page_row) * DIM + column : 0), valid ? 16 : 0);
    }
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
}

template <int DIM>
DEVICE void multiply_keys(const Shared<DIM>& s, Scores& scores) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        for (int j = 0; j < THREAD_KEYS; j++) scores[i][j] = 0.0f;
    }
#pragma unroll 4
    for (int d = 0; d < DIM; d += 4) {
        float4 query[THREAD_ROWS], key[THREAD_KEYS];
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
            query[i] = *reinterpret_cast<const float4*>(&s.query[thread_y() + ROWS_Y * i][d]);
        }
#pragma unroll
        for (int j = 0; j < THREAD_KEYS; j++) {
            key[j] = *reinterpret_cast<const float4*>(&s.keys[thread_x() + LANES * j][d]);
        }
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
#pragma unroll
            for (int j = 0; j < THREAD_KEYS; j++) {
                float sum = scores[i][j];
                sum = __fmaf_rn(query[i].x, key[j].x, sum);
                sum = __fmaf_rn(query[i].y, key[j].y, sum);
                sum = __fmaf_rn(query[i].z, key[j].z, sum);
                scores[i][j] = __fmaf_rn(query[i].w, key[j].w, sum);
            }
        }
    }
}

// Adds biases and hides what lies behind the split. All beams of a request stand at the same position.
DEVICE void adjust_scores(const BeamAttentionParams& p, const BeamWork& work, uint32_t first_key, uint32_t end_key,
                          Scores& scores) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const uint32_t head = query_head(work, thread_y() + ROWS_Y * i);
#pragma unroll
        for (int j = 0; j < THREAD_KEYS; j++) {
            const uint32_t key = first_key + thread_x() + LANES * j;
            if (p.bias != 0) scores[i][j] += distance_bias(p, head, static_cast<int>(key - work.length - p.own.step));
            if (key >= end_key) scores[i][j] = negative_infinity();
        }
    }
}

// Scores to weights, in shared memory; what was summed so far is rescaled to the new maxima.
template <int DIM>
DEVICE void weigh_scores(Shared<DIM>& s, ThreadRows<DIM>& rows, const Scores& scores) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        float most = fmaxf(scores[i][0], scores[i][1]);
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, distance));
        }
        const float factor = softmax_raise(rows.softmax[i], most);
        const float base = softmax_base(rows.softmax[i].max);
#pragma unroll
        for (int j = 0; j < THREAD_KEYS; j++) {
            const float weight = softmax_weight(scores[i][j], base);
            rows.softmax[i].denominator += weight; // this thread's keys
            s.weights[thread_y() + ROWS_Y * i][thread_x() + LANES * j] = weight;
        }
#pragma unroll
        for (int c = 0; c < DIM / LANES; c++) rows.output[i][c] *= factor;
    }
}

template <int DIM>
DEVICE void multiply_values(const Shared<DIM>& s, ThreadRows<DIM>& rows) {
#pragma unroll 2
    for (int key = 0; key < KEYS; key++) {
        float weight[THREAD_ROWS];
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) weight[i] = s.weights[thread_y() + ROWS_Y * i][key];
#pragma unroll
        for (int c = 0; c < DIM / LANES; c++) {
            const float value = s.keys[key][thread_x() + LANES * c];
#pragma unroll
            for (int i = 0; i < THREAD_ROWS; i++) rows.output[i][c] = __fmaf_rn(weight[i], value, rows.output[i][c]);
        }
    }
}

template <int DIM>
DEVICE void store_partial(const BeamAttentionParams& p, const BeamWork& work, const ThreadRows<DIM>& rows) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        float denominator = rows.softmax[i].denominator;
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
            denominator += __shfl_xor_sync(FULL_WARP, denominator, distance);
        }
        const uint32_t row = thread_y() + ROWS_Y * i;
        if (row >= work.rows) continue;
        const uint64_t place = partial_row(p, work.first_split, buffer_row(work, row), query_head(work, row));
        if (thread_x() == 0) pointer<Softmax>(p.partial_softmax)[place] = {rows.softmax[i].max, denominator};
        float* to = pointer<float>(p.partial_output) + place * DIM + thread_x();
#pragma unroll
        for (int c = 0; c < DIM / LANES; c++) to[LANES * c] = rows.output[i][c];
    }
}

template <int DIM>
DEVICE void attend(const BeamAttentionParams& p) {
    DYNAMIC_SHARED(unsigned char, memory);
    Shared<DIM>& s = *reinterpret_cast<Shared<DIM>*>(memory);
    BeamWork work;
    if (!find_work<ROWS, 1>(p, work)) return;
    ThreadRows<DIM> rows = {};
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) rows.softmax[i] = softmax_empty();
    copy_queries(p, work, s);

    const uint32_t first = work.first_split * work.split_length;
    const uint32_t end = min(first + work.split_length, work.length);
    for (uint32_t key = first; key < end; key += KEYS) {
        const uint32_t mine = key + threadIdx.x;
        if (threadIdx.x < KEYS) s.rows[threadIdx.x] = mine < end ? page_row(p.shared, work.table, work.kv_head, mine) : NO_ROW;
        __syncthreads();
        fetch<DIM>(p.shared.keys, s);
        Scores scores;
        multiply_keys(s, scores);
        adjust_scores(p, work, key, end, scores);
        weigh_scores(s, rows, scores);
        __syncthreads();
        fetch<DIM>(p.shared.values, s);
        multiply_values(s, rows);
        __syncthreads();
    }
    store_partial(p, work, rows);
}

KERNEL(THREADS, 2) beam_attention_f32_32(const __grid_constant__ BeamAttentionParams p) { attend<32>(p); }
KERNEL(THREADS, 2) beam_attention_f32_64(const __grid_constant__ BeamAttentionParams p) { attend<64>(p); }
KERNEL(THREADS, 2) beam_attention_f32_128(const __grid_constant__ BeamAttentionParams p) { attend<128>(p); }
KERNEL(THREADS, 2) beam_attention_f32_256(const __grid_constant__ BeamAttentionParams p) { attend<256>(p); }
