// Exponential and logarithm made of additions, products and quotients that are rounded one by one: engine/device/exact.rs is
// the same, operation by operation, so that what is selected by such numbers has the same bits on the CPU.
#pragma once
#include "ptx.h"

// exp(r) - 1 for |r| <= ln 2 / 2.
DEVICE float exact_exp_m1(float r) {
    float p = 1.9875692e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.3981999e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.6666665e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 0.5f);
    return __fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r);
}

DEVICE float exact_exp(float x) {
    const float round = 12582912.0f;
    const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504088896341f), round);
    const float n = __fsub_rn(shifted, round);
    const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, -2.12194440e-4f));
    const float mantissa = __fadd_rn(exact_exp_m1(r), 1.0f);
    const uint32_t exponent = (__float_as_uint(shifted) - __float_as_uint(round) + 127) << 23;
    const float value = __fmul_rn(mantissa, __uint_as_float(exponent));
    return x < -87.3f ? 0.0f : value;
}

// 1 - exp(-x) for x >= 0.
DEVICE float exact_one_minus_exp(float x) {
    return x < 0.34f ? -exact_exp_m1(-x) : __fsub_rn(1.0f, exact_exp(-x));
}

DEVICE float exact_ln_1p(float f) {
    const float s = __fdiv_rn(f, __fadd_rn(2.0f, f)), z = __fmul_rn(s, s);
    float p = 2.0f / 13.0f;
    p = __fadd_rn(__fmul_rn(p, z), 2.0f / 11.0f);
    p = __fadd_rn(__fmul_rn(p, z), 2.0f / 9.0f);
    p = __fadd_rn(__fmul_rn(p, z), 2.0f / 7.0f);
    p = __fadd_rn(__fmul_rn(p, z), 2.0f / 5.0f);
    p = __fadd_rn(__fmul_rn(p, z), 2.0f / 3.0f);
    return __fsub_rn(f, __fmul_rn(s, __fsub_rn(f, __fmul_rn(z, p))));
}

DEVICE float exact_ln(float x) {
    if (x == 0.0f) return negative_infinity();
    if (!(x < -negative_infinity())) return x;  // infinity, NaN
    const int32_t bits = static_cast<int32_t>(__float_as_uint(x));
    const int32_t power = (bits - 0x3f3504f3) >> 23;
    const float m = __uint_as_float(static_cast<uint32_t>(bits - power * (1 << 23)));
    const float k = static_cast<float>(power);
    return __fadd_rn(__fadd_rn(exact_ln_1p(__fsub_rn(m, 1.0f)), __fmul_rn(k, -2.12194440e-4f)), __fmul_rn(k, 0.693359375f));
}
