// One idea: the end of a row of beam attention. What its splits found is merged with the beam's own tokens, divided, and stored. Own
// tokens are few and every beam has others, so there is no matrix product to be had: dim / 8 lanes of a warp share a row, 8
// columns each, with one dot product and one scaled addition a token.
//
// Both ways to finish a row, in the block that walked all its splits and after the splits of several blocks, come through here
// and round alike.
#pragma once
#include "beam_work.cuh"
#include "softmax.cuh"

// A row and this lane's 8 columns of it.
struct BeamRow {
    uint32_t row; // of the query and output buffers
    uint32_t head;
    uint32_t kv_head;
    uint32_t chunk;  // of 8 columns
    uint32_t lanes;  // that share the row: a power of two, neighbours
};

struct RowPart {
    Softmax softmax;
    float output[8];
};

DEVICE RowPart empty_part() { return {softmax_empty(), {}}; }

// Elements of a chunk of 8 that lie within the head.
DEVICE uint32_t filled(const BeamAttentionParams& p, uint32_t chunk) {
    return p.head_dim > 8 * chunk ? min(p.head_dim - 8 * chunk, 8u) : 0;
}

// Whether every head of every row of a buffer starts at a multiple of 16 bytes and is whole chunks long.
DEVICE bool in_chunks(const BeamAttentionParams& p, uint64_t address, uint32_t stride) {
    return p.head_dim % 8 == 0 && stride % 8 == 0 && address % 16 == 0;
}

DEVICE uint64_t query_offset(const BeamAttentionParams& p, uint32_t row, uint32_t head) {
    return static_cast<uint64_t>(row) * p.query_stride + head * p.head_dim;
}

DEVICE void unpack(float (&x)[8], uint4 packed) {
    x[0] = low_bf16(packed.x), x[1] = high_bf16(packed.x), x[2] = low_bf16(packed.y), x[3] = high_bf16(packed.y);
    x[4] = low_bf16(packed.z), x[5] = high_bf16(packed.z), x[6] = low_bf16(packed.w), x[7] = high_bf16(packed.w);
}

// 8 elements that this kernel only reads, at a multiple of 16 bytes.
DEVICE void load_8(float (&x)[8], const bf16* from) { unpack(x, __ldg(reinterpret_cast<const uint4*>(from))); }
DEVICE void load_8(float (&x)[8], const float* from) {
    const float4 low = __ldg(reinterpret_cast<const float4*>(from));
    const float4 high = __ldg(reinterpret_cast<const float4*>(from) + 1);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w, x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}

DEVICE void store_8(bf16* to, const float (&x)[8]) {
    const uint4 packed = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
    *reinterpret_cast<uint4*>(to) = packed;
}
DEVICE void store_8(float* to, const float (&x)[8]) {
    reinterpret_cast<float4*>(to)[0] = {x[0], x[1], x[2], x[3]};
    reinterpret_cast<float4*>(to)[1] = {x[4], x[5], x[6], x[7]};
}

// This lane's part of the query, zeros behind the head.
template <class T>
DEVICE void load_query(const BeamAttentionParams& p, const BeamRow& at, float (&query)[8]) {
    const T* from = pointer<const T>(p.query) + query_offset(p, at.row, at.head) + 8 * at.chunk;
    const uint32_t valid = filled(p, at.chunk);
    if (valid == 8 && in_chunks(p, p.query, p.query_stride)) {
        load_8(query, from);
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) query[i] = i < valid ? to_float(from[i]) : 0.0f;
}

// Offset of the key and value that the beam decoded, or inherited, at `step`.
DEVICE uint64_t own_offset(const BeamAttentionParams& p, const BeamRow& at, uint32_t step) {
    const uint32_t* ancestors = pointer<const uint32_t>(p.own.ancestors) + static_cast<uint64_t>(step) * p.own.rows;
    const uint32_t row = step == p.own.step ? at.row : __ldg(ancestors + at.row);
    return ((static_cast<uint64_t>(step) * p.own.rows + row) * p.kv_heads + at.kv_head) * p.dim + 8 * at.chunk;
}

// Sum over the lanes of a row, the same in each of them.
DEVICE float row_sum(float x, uint32_t lanes) {
    for (uint32_t distance = lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(FULL_WARP, x, distance);
    return x;
}

DEVICE void merge_part(RowPart& row, const RowPart& piece) {
    const MergeFactors factors = softmax_merge(row.softmax, piece.softmax);
#pragma unroll
    for (int i = 0; i < 8; i++) row.output[i] = merge_output(row.output[i], piece.output[i], factors);
}

// Merges the beam's own tokens, one after the other. All lanes of the warp call it.
template <class T>
DEVICE void merge_own(const BeamAttentionParams& p, const BeamRow& at, RowPart& row) {
    if (!has_own(p)) return;
    float query[8], key[8], value[8];
    load_query<T>(p, at, query);
    for (uint32_t step = 0; step <= p.own.step; step++) {
        const uint64_t offset = own_offset(p, at, step);
        load_8(key, pointer<const T>(p.own.keys) + offset);
        load_8(value, pointer<const T>(p.own.values) + offset);
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) score = __fmaf_rn(query[i], key[i], score);
        score = row_sum(score, at.lanes);
        if (p.bias != 0) score += distance_bias(p, at.head, static_cast<int>(step - p.own.step));
        const float factor = softmax_raise(row.softmax, score);
        const float weight = softmax_weight(score, softmax_base(row.softmax.max));
        row.softmax.denominator = __fadd_rn(row.softmax.denominator, weight);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            row.output[i] = __fmaf_rn(weight, value[i], __fmul_rn(row.output[i], factor));
        }
    }
}

// Divides and stores. A row that saw no key becomes zero, and -0 becomes +0.
template <class T>
DEVICE void store_row(const BeamAttentionParams& p, const BeamRow& at, const RowPart& row) {
    const float inverse = softmax_inverse(row.softmax.denominator);
    float result[8];
#pragma unroll
    for (int i = 0; i < 8; i++) result[i] = __fmaf_rn(row.output[i], inverse, 0.0f);
    T* to = pointer<T>(p.out) + static_cast<uint64_t>(at.row) * p.out_stride + at.head * p.head_dim + 8 * at.chunk;
    const uint32_t valid = filled(p, at.chunk);
    if (valid == 8 && in_chunks(p, p.out, p.out_stride)) {
        store_8(to, result);
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        if (i < valid) to[i] = from_float<T>(result[i]);
    }
}
