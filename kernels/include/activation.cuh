// Activations, in place over many sums: few instructions each, because a kernel has them once for every sum it holds.
//
// SiLU and the tanh form of GELU are both x sigmoid(z): 0.5 (1 + tanh u) = sigmoid(2 u). The error function is that of
// Abramowitz and Stegun 7.1.26, to 1.5e-7; exponentials and reciprocals to about 2 ulp. So results are within some 1e-6 of
// the definition, relative to |x|.
#pragma once
#include "ptx.h"

#include "params/linear.h"

constexpr float LOG2_E = 1.44269504f;

// x sigmoid(x (a + b x^2)).
DEVICE float times_sigmoid(float x, float a, float b) {
    const float z = x * fmaf(b, x * x, a);
    return x * reciprocal_flushed(1.0f + exp2_flushed(-LOG2_E * z));
}

DEVICE float gelu_erf(float x) {
    const float v = fabsf(x) * 0.70710678f, t = reciprocal_flushed(fmaf(0.3275911f, v, 1.0f));
    float series = fmaf(1.061405429f, t, -1.453152027f);
    series = fmaf(series, t, 1.421413741f);
    series = fmaf(series, t, -0.284496736f);
    series = fmaf(series, t, 0.254829592f);
    const float half_erfc = 0.5f * series * t * exp2_flushed(-LOG2_E * v * v); // of v
    // One rounding, by name: of a product and a difference ptxas may or may not make one, and tiles would differ.
    return x < 0.0f ? x * half_erfc : fmaf(-x, half_erfc, x);
}

// Applies the chosen activation to every value.
template <int COUNT>
DEVICE void activate(uint32_t activation, float (&values)[COUNT]) {
    if (activation == ACTIVATION_NONE) return;
    if (activation == ACTIVATION_RELU) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) values[i] = values[i] < 0.0f ? 0.0f : values[i];
    } else if (activation == ACTIVATION_GELU_ERF) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) values[i] = gelu_erf(values[i]);
    } else {
        const bool silu = activation == ACTIVATION_SILU;
        const float a = silu ? 1.0f : 1.59576912f, b = silu ? 0.0f : 1.59576912f * 0.044715f; // 2 sqrt(2 / pi)
#pragma unroll
        for (int i = 0; i < COUNT; ++i) values[i] = times_sigmoid(values[i], a, b);
    }
}
