// Noise of sampling, a function of seed, level, node and sequence: engine/device/noise.rs is the same, to the same bits.
#pragma once
#include "exact.cuh"
#include "params/common.h"
#include "ptx.h"

// Noise of a level's nodes for one sequence.
struct Noise {
    uint32_t seed_low;
    uint32_t seed_high;
    uint32_t level;
    uint32_t sequence;
    uint32_t kind;
};

// A standard Gumbel variable of 32 random bits.
DEVICE float gumbel(uint32_t bits) {
    const bool high = bits >> 31 != 0;
    const float rounded = __uint2float_rn(high ? ~bits : bits);
    const float uniform = __fmul_rn(__fadd_rn(rounded, 0.5f), 1.0f / 4294967296.0f);
    return -exact_ln(high ? -exact_ln_1p(-uniform) : -exact_ln(uniform));
}

// Philox 4x32-10 of [node / 4, level, sequence, kind]; word node % 4 of it as a Gumbel variable.
DEVICE float node_noise(const Noise& noise, uint32_t node) {
    uint32_t c0 = node / 4, c1 = noise.level, c2 = noise.sequence, c3 = noise.kind;
    uint32_t k0 = noise.seed_low, k1 = noise.seed_high;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t high_0 = __umulhi(0xd2511f53u, c0), low_0 = 0xd2511f53u * c0;
        const uint32_t high_1 = __umulhi(0xcd9e8d57u, c2), low_1 = 0xcd9e8d57u * c2;
        c0 = high_1 ^ c1 ^ k0, c1 = low_1, c2 = high_0 ^ c3 ^ k1, c3 = low_0;
        k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    const uint32_t low = node & 1 ? c1 : c0, high = node & 1 ? c3 : c2;
    return gumbel(node & 2 ? high : low);
}

// ln(1 + exp(x)).
DEVICE float softplus(float x) {
    return __fadd_rn(x > 0.0f ? x : 0.0f, exact_ln(__fadd_rn(1.0f, exact_exp(-fabsf(x)))));
}

// A child's perturbed log-probability under the condition that the largest of its siblings' is their parent's `key`; `rise` =
// key - the largest unconditioned one, `below` = the largest - the child's.
DEVICE float conditioned(float key, float rise, float below) {
    const float apart = exact_ln(exact_one_minus_exp(below));
    return __fsub_rn(key, softplus(__fadd_rn(__fadd_rn(rise, below), apart)));
}
