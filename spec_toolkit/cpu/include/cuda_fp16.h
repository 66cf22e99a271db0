// __half and __half2 for the CPU executor: the conversions, float arithmetic rounded to half.
#pragma once
#include "spec_small_float.h"

SPEC_SMALL_FLOAT(__half, __half2, spec_half_to_float, spec_float_to_half)
typedef __half half;
typedef __half2 half2;
static inline float __half2float(__half v) { return v; }
static inline __half __float2half(float v) { return __half(v); }
static inline __half __float2half_rn(float v) { return __half(v); }
static inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
static inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 __half2half2(__half v) { return {v, v}; }
static inline __half2 make_half2(__half x, __half y) { return {x, y}; }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline unsigned short __half_as_ushort(__half v) { return v.bits; }
static inline __half __ushort_as_half(unsigned short b) { __half v; v.bits = b; return v; }
