// What the rungs from logits share: how a logit becomes a probability, and the statistics of a row that this needs.
// Included by common.cuh where FROM_LOGITS is defined.
#pragma once

// probability = 2^((logit - top) * factor + low) * inverse. top: the row's maximum; factor: log2(e) / temperature; inverse: 1 / the
// sum of the powers, NaN for a row of NaN (one with a NaN or +inf in it, or with nothing above -inf).
// A drafter's log-normaliser instead: top = temperature * lse, low what rounding took from it, inverse = 1.
// Greedy (temperature 0): first >= 0 is the id of the first maximum, and has probability `inverse`, which is 1 or NaN.
struct Scale { float top, low, factor, inverse; int first; };

#define OUTSIDE (-CUDART_INF_F)  // stored where a row has ended
constexpr float LOG2_E = 1.4426950408889634f;

// 2^x. exp2f is two units more exact below 2^-126, where nothing counts, and costs three instructions for it.
__device__ __forceinline__ float power(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// Not of a greedy row.
__device__ __forceinline__ float probability(float logit, const Scale& scale) {
    return power(fmaf(logit - scale.top, scale.factor, scale.low)) * scale.inverse;
}

__device__ __forceinline__ float chance_of(float logit, int id, const Scale& scale) {
    return scale.first < 0 ? probability(logit, scale) : (id == scale.first ? 1.0f : 0.0f) * scale.inverse;
}

// Of some ids of a row: the largest logit (NaN aside), the sum of 2^((logit - top) * factor), and where the temperature is 0
// the first id that has the largest. A NaN or +inf makes the sum NaN.
struct Stats { float top, sum; int first; };
constexpr int NO_ID = 0x7fffffff;

__device__ __forceinline__ float factor_of(float temperature) { return temperature > 0.0f ? LOG2_E / temperature : 1.0f; }

// A sum relative to one maximum, relative to another; nothing at all has sum 0 and stays so.
__device__ __forceinline__ float rebased(float sum, float from, float to, float factor) {
    return from == -CUDART_INF_F ? sum : sum * power((from - to) * factor);
}

__device__ __forceinline__ Stats joined(const Stats& a, const Stats& b, float factor) {
    const float top = fmaxf(a.top, b.top);
    const int first = min(a.top == top ? a.first : NO_ID, b.top == top ? b.first : NO_ID);
    return {top, rebased(a.sum, a.top, top, factor) + rebased(b.sum, b.top, top, factor), first};
}

__device__ __forceinline__ Scale scale_of(const Stats& row, float temperature) {
    const bool usable_row = row.sum > 0.0f && row.sum < CUDART_INF_F && fabsf(row.top) < CUDART_INF_F;
    const bool greedy = !(temperature > 0.0f);
    const float inverse = !usable_row ? CUDART_NAN_F : greedy ? 1.0f : 1.0f / row.sum;
    return {row.top, 0.0f, factor_of(temperature), inverse, greedy ? (usable_row ? row.first : 0) : -1};
}

// From the drafter's logsumexp(row / temperature); temperature > 0.
__device__ __forceinline__ Scale scale_of_lse(float lse, float temperature) {
    const float top = temperature * lse;
    const float factor = factor_of(temperature);
    return {top, -fmaf(temperature, lse, -top) * factor, factor, isfinite(lse) ? 1.0f : CUDART_NAN_F, -1};
}
