// The 16-bit float types in bit code: integer arithmetic only, so that flushing of float32 subnormals cannot touch them.
#pragma once

static inline unsigned spec_float_bits(float v) { unsigned b; __builtin_memcpy(&b, &v, 4); return b; }
static inline float spec_bits_float(unsigned b) { float v; __builtin_memcpy(&v, &b, 4); return v; }

static inline float spec_half_to_float(unsigned short h) {
    const unsigned sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31;
    unsigned mantissa = h & 0x3ffu;
    if (exponent == 31) return spec_bits_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return spec_bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
    if (!mantissa) return spec_bits_float(sign);
    const int shift = __builtin_clz(mantissa) - 21;  // a subnormal half is a normal float
    mantissa = mantissa << shift & 0x3ffu;
    return spec_bits_float(sign | (unsigned)(113 - shift) << 23 | mantissa << 13);
}

// Rounds to nearest even; every NaN becomes 0x7fff, as cvt.rn.f16.f32 gives.
static inline unsigned short spec_float_to_half(float v) {
    const unsigned bits = spec_float_bits(v), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return (unsigned short)(sign | 0x7c00u);  // from 65520 on
    if (magnitude < 0x33000000u) return (unsigned short)sign;               // below half of 2^-24
    const int exponent = (int)(magnitude >> 23) - 112;
    const unsigned full = exponent > 0 ? magnitude & 0x7fffffu : (magnitude & 0x7fffffu) | 0x800000u;
    const int shift = exponent > 0 ? 13 : 14 - exponent;
    unsigned half = full >> shift;
    const unsigned rest = full & ((1u << shift) - 1), middle = 1u << (shift - 1);
    if (exponent > 0) half |= (unsigned)exponent << 10;
    half += rest > middle || (rest == middle && (half & 1));  // a carry runs into the exponent, as it should
    return (unsigned short)(sign | half);
}

static inline float spec_bfloat_to_float(unsigned short b) { return spec_bits_float((unsigned)b << 16); }
static inline unsigned short spec_float_to_bfloat(float v) {
    const unsigned bits = spec_float_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// A type T stored in 16 bits, with float arithmetic; `number` is the stem of CUDA's function names.
#define SPEC_SMALL_FLOAT(T, T2, to_float, from_float) \
    struct alignas(2) T { \
        unsigned short bits; \
        T() = default; \
        T(float v) : bits(from_float(v)) {} \
        T(double v) : bits(from_float((float)v)) {} \
        T(int v) : bits(from_float((float)v)) {} \
        operator float() const { return to_float(bits); } \
        T& operator+=(T o) { return *this = T((float)*this + (float)o); } \
        T& operator*=(T o) { return *this = T((float)*this * (float)o); } \
    }; \
    struct alignas(4) T2 { T x, y; }; \
    static inline T operator+(T a, T b) { return T((float)a + (float)b); } \
    static inline T operator-(T a, T b) { return T((float)a - (float)b); } \
    static inline T operator*(T a, T b) { return T((float)a * (float)b); } \
    static inline T operator/(T a, T b) { return T((float)a / (float)b); } \
    static inline T operator-(T a) { return T(-(float)a); } \
    static inline bool operator<(T a, T b) { return (float)a < (float)b; } \
    static inline bool operator>(T a, T b) { return (float)a > (float)b; } \
    static inline bool operator<=(T a, T b) { return (float)a <= (float)b; } \
    static inline bool operator>=(T a, T b) { return (float)a >= (float)b; } \
    static inline bool operator==(T a, T b) { return (float)a == (float)b; } \
    static inline bool operator!=(T a, T b) { return (float)a != (float)b; } \
    static inline T __hmax(T a, T b) { return (float)a != (float)a || b > a ? b : a; } \
    static inline T __hmin(T a, T b) { return (float)a != (float)a || b < a ? b : a; } \
    static inline T2 __hmax2(T2 a, T2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; } \
    static inline T2 __hmin2(T2 a, T2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; } \
    static inline bool __hisnan(T a) { return (float)a != (float)a; } \
    static inline float __low2float(T2 v) { return v.x; } \
    static inline float __high2float(T2 v) { return v.y; }
