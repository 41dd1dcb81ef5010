// From projections to attention's operands: x' = x / sqrt(mean(x^2) + eps) * weight per head, then rotation of its halves by
// position, [a, b] -> [a cos - b sin, b cos + a sin], then for queries the scale. Queries go to a buffer in the compute type, keys
// and values into the slot's pages (token rows) or the own slab (beam rows), their heads padded with zeros.
//
// `lanes` threads (8, 16 or 32, a warp holding 4, 2 or 1 such groups) take one head of one row: query, key or value. A thread has
// pairs (i, i + half) of its elements, two neighbouring pairs at a time where alignment allows (8-byte reads of f32, 4-byte writes
// of bf16, a group's being consecutive), so rotation needs no exchange, and the norm's sum one reduction over the group.
//
// Launch: grid (rows of the bucket, ceil((heads + 2 kv_heads) lanes / 128)), 128 threads, no dynamic shared memory.
// Memory: 4 head_dim bytes read and sizeof(T) dim written a head; tables and weights stay in cache. Nothing is read twice and there
// are about 2 operations a byte: copy bandwidth is the limit, 40 warps of 512 bytes under way on a multiprocessor are enough to
// reach it (2,048 rows of 16 + 8 + 8 heads of 128 in bf16 are 50 MB: 17 us at 3 TB/s).
//
// budget: write_kv_* registers <= 48, shared <= 0
#include "pages.cuh"
#include "params/write_kv.h"

constexpr uint32_t THREADS = 128;
constexpr uint32_t MAX_HALF = 128; // of the largest head, 256

// Threads of a group: two pairs each, at most a warp.
DEVICE uint32_t group_lanes(const WriteKvParams& p) { return min(p.kv.dim / 4, 32u); }

// One head of one row.
template <class T>
struct Head {
    const float* from;
    T* to;
    const float* norm;      // null for none
    const float* cosines;   // of the row's position; null for none
    const float* sines;
    float scale;
    uint32_t width; // elements to write, zeros from head_dim on
};

// Where a row's keys and values go, and its position for rotation. False for rows of no request.
struct Place {
    uint32_t position;
    uint32_t first_row; // of KV head 0; a head's `dim` elements are a row
    uint32_t head_rows; // from one KV head to the next
};

DEVICE bool find_place(const WriteKvParams& p, uint32_t row, Place& place) {
    if (p.row_request == 0) {
        place.position = pointer<const uint32_t>(p.row_position)[row];
        const uint32_t slot = pointer<const uint32_t>(p.row_slot)[row];
        place.first_row = page_row(p.kv, block_table(p.kv, slot), 0, place.position);
        place.head_rows = p.kv.page_tokens;
        return true;
    }
    const uint32_t request = pointer<const uint32_t>(p.row_request)[row];
    if (request == NO_ROW) return false;
    const uint32_t slot = pointer<const RequestEntry>(p.requests)[request].slot;
    const uint32_t prefix = pointer<const uint32_t>(p.prefix_lengths)[static_cast<uint64_t>(slot) * p.kv.table_stride];
    place.position = segment_length(p.kv, slot) + prefix + p.own_step;
    place.first_row = row * p.kv.kv_heads;
    place.head_rows = 1;
    return true;
}

// The head that a group works on: first the row's queries, then keys, then values. False beyond them.
template <class T>
DEVICE bool find_head(const WriteKvParams& p, uint32_t row, uint32_t index, Head<T>& head) {
    const uint32_t queries = p.query != 0 ? p.heads : 0;
    Place place;
    if (index >= queries + 2 * p.kv.kv_heads || !find_place(p, row, place)) return false;
    const bool value = index >= queries + p.kv.kv_heads;
    const uint64_t angle = static_cast<uint64_t>(place.position) * (p.head_dim / 2);
    const bool rotated = p.cosines != 0 && !value;
    head.cosines = rotated ? pointer<const float>(p.cosines) + angle : nullptr;
    head.sines = rotated ? pointer<const float>(p.sines) + angle : nullptr;
    if (index < queries) {
        head.from = pointer<const float>(p.query) + static_cast<uint64_t>(row) * p.query_stride + index * p.head_dim;
        head.to = pointer<T>(p.query_out) + static_cast<uint64_t>(row) * p.query_out_stride + index * p.head_dim;
        head.norm = pointer<const float>(p.query_norm);
        head.scale = p.query_scale;
        head.width = p.head_dim;
        return true;
    }
    const uint32_t kv_head = (index - queries) % p.kv.kv_heads;
    const uint64_t stride = value ? p.value_stride : p.key_stride;
    head.from = pointer<const float>(value ? p.value : p.key) + row * stride + kv_head * p.head_dim;
    head.to = pointer<T>(value ? p.kv.values : p.kv.keys) +
              static_cast<uint64_t>(place.first_row + kv_head * place.head_rows) * p.kv.dim;
    head.norm = value ? nullptr : pointer<const float>(p.key_norm);
    head.scale = 1.0f;
    head.width = p.kv.dim;
    return true;
}

// N neighbouring elements.
DEVICE void load(float (&x)[1], const float* from) { x[0] = *from; }
DEVICE void load(float (&x)[2], const float* from) {
    const float2 pair = *reinterpret_cast<const float2*>(from);
    x[0] = pair.x, x[1] = pair.y;
}
DEVICE void store(float* to, const float (&x)[1]) { *to = x[0]; }
DEVICE void store(float* to, const float (&x)[2]) { *reinterpret_cast<float2*>(to) = make_float2(x[0], x[1]); }
DEVICE void store(bf16* to, const float (&x)[1]) { *to = round_bf16(x[0]); }
DEVICE void store(bf16* to, const float (&x)[2]) { *reinterpret_cast<uint32_t*>(to) = pack_bf16(x[0], x[1]); }

// One head by one group, N neighbouring pairs at a time. The threads of a warp call it together, those without work with a
// width of 0.
template <class T, int N>
DEVICE void write_head(const Head<T>& head, const WriteKvParams& p) {
    constexpr int STEPS = MAX_HALF / (32 * N);
    const uint32_t lanes = group_lanes(p), lane = threadIdx.x % lanes;
    const uint32_t n = head.width > 0 ? p.head_dim : 0, half = (n + 1) / 2;
    float a[STEPS][N], b[STEPS][N], squares = 0.0f;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const uint32_t i = (step * lanes + lane) * N;
        for (int e = 0; e < N; e++) a[step][e] = b[step][e] = 0.0f;
        if (i < half) load(a[step], head.from + i);
        if (half + i < n) load(b[step], head.from + half + i);
        for (int e = 0; e < N; e++) squares += a[step][e] * a[step][e] + b[step][e] * b[step][e];
    }
    float factor = 1.0f;
    if (p.query_norm != 0) {
        for (uint32_t distance = lanes / 2; distance > 0; distance /= 2) {
            squares += __shfl_xor_sync(FULL_WARP, squares, distance);
        }
        factor = 1.0f / sqrtf(squares / static_cast<float>(p.head_dim) + p.eps);
    }
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const uint32_t i = (step * lanes + lane) * N;
        if (i >= half) break;
        const bool paired = half + i < n;
        if (head.norm != nullptr) {
            float weight[N];
            load(weight, head.norm + i);
            for (int e = 0; e < N; e++) a[step][e] = a[step][e] * factor * weight[e];
            if (paired) load(weight, head.norm + half + i);
            for (int e = 0; e < N; e++) b[step][e] = b[step][e] * factor * weight[e];
        }
        if (head.cosines != nullptr) {
            float cosine[N], sine[N];
            load(cosine, head.cosines + i);
            load(sine, head.sines + i);
            for (int e = 0; e < N; e++) {
                const float x = a[step][e], y = b[step][e];
                // Rounded by name: else ptxas chooses which of the products it fuses.
                a[step][e] = __fmaf_rn(x, cosine[e], -__fmul_rn(y, sine[e]));
                b[step][e] = __fmaf_rn(y, cosine[e], __fmul_rn(x, sine[e]));
            }
        }
        for (int e = 0; e < N; e++) a[step][e] *= head.scale, b[step][e] *= head.scale;
        store(head.to + i, a[step]);
        if (paired) store(head.to + half + i, b[step]);
    }
    for (uint32_t i = n + lane; i < head.width; i += lanes) head.to[i] = from_float<T>(0.0f);
}

// Whether pairs of elements are aligned, in every operand that is there (strides are multiples of 64 elements).
template <class T>
DEVICE bool in_pairs(const WriteKvParams& p) {
    const uint64_t read = p.query | p.key | p.value | p.query_norm | p.key_norm | p.cosines | p.sines;
    return p.head_dim % 4 == 0 && read % 8 == 0 && p.query_out % (2 * sizeof(T)) == 0;
}

template <class T>
DEVICE void write_row(const WriteKvParams& p) {
    const uint32_t row = blockIdx.x;
    if (row >= *pointer<const uint32_t>(p.live)) return;
    Head<T> head;
    head.width = 0;
    head.norm = nullptr;
    find_head(p, row, (blockIdx.y * THREADS + threadIdx.x) / group_lanes(p), head);
    if (in_pairs<T>(p)) {
        write_head<T, 2>(head, p);
    } else {
        write_head<T, 1>(head, p);
    }
}

KERNEL(THREADS) write_kv_f32(const __grid_constant__ WriteKvParams p) { write_row<float>(p); }
KERNEL(THREADS) write_kv_bf16(const __grid_constant__ WriteKvParams p) { write_row<bf16>(p); }
