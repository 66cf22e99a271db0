// CUDA's built-in types, functions and keywords, as the kernels of this toolkit use them. Part of executor.h.
#pragma once

// ---- vector types
#define SPEC_VECTOR(T, name, bytes2, bytes4) \
    struct alignas(bytes2) name##2 { T x, y; }; \
    struct name##3 { T x, y, z; }; \
    struct alignas(bytes4) name##4 { T x, y, z, w; }; \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SPEC_VECTOR(float, float, 8, 16)
SPEC_VECTOR(int, int, 8, 16)
SPEC_VECTOR(short, short, 4, 8)
SPEC_VECTOR(unsigned short, ushort, 4, 8)
SPEC_VECTOR(signed char, char, 2, 4)
SPEC_VECTOR(unsigned char, uchar, 2, 4)
SPEC_VECTOR(double, double, 16, 16)
SPEC_VECTOR(long long, longlong, 16, 16)
SPEC_VECTOR(unsigned long long, ulonglong, 16, 16)
struct alignas(8) uint2 { unsigned x, y; };  // uint3 is in executor.h
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- bits
template <class To, class From>
static inline To spec_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To to;
    memcpy(&to, &value, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float v) { return spec_bits<unsigned>(v); }
static inline int __float_as_int(float v) { return spec_bits<int>(v); }
static inline float __uint_as_float(unsigned v) { return spec_bits<float>(v); }
static inline float __int_as_float(int v) { return spec_bits<float>(v); }
static inline long long __double_as_longlong(double v) { return spec_bits<long long>(v); }
static inline double __longlong_as_double(long long v) { return spec_bits<double>(v); }
static inline double __hiloint2double(int hi, int lo) {
    return spec_bits<double>((unsigned long long)(unsigned)hi << 32 | (unsigned)lo);
}
static inline int __double2hiint(double v) { return (int)(spec_bits<unsigned long long>(v) >> 32); }
static inline int __double2loint(double v) { return (int)spec_bits<unsigned long long>(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) r |= (v >> i & 1) << (31 - i);
    return r;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)((((unsigned long long)hi << 32 | lo) << (n & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)(((unsigned long long)hi << 32 | lo) >> (n & 31));
}

// ---- arithmetic. __expf and its kin are less exact on a GPU; macros, because glibc declares functions of these names.
#define __expf expf
#define __exp10f exp10f
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __powf powf
#define __sinf sinf
#define __cosf cosf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float v) { return v > 0.f ? (v < 1.f ? v : 1.f) : 0.f; }
static inline float rsqrtf(float v) { return 1.f / sqrtf(v); }
static inline double rsqrt(double v) { return 1. / sqrt(v); }
static inline float __frcp_rn(float v) { return 1.f / v; }
static inline float __frsqrt_rn(float v) { return (float)(1. / sqrt((double)v)); }
static inline float __fsqrt_rn(float v) { return sqrtf(v); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __double2float_rn(double v) { return (float)v; }
static inline float __int2float_rn(int v) { return (float)v; }
static inline float __uint2float_rn(unsigned v) { return (float)v; }
static inline float __ull2float_rn(unsigned long long v) { return (float)v; }
static inline double __uint2double_rn(unsigned v) { return v; }
static inline double __ll2double_rn(long long v) { return (double)v; }
static inline double __ull2double_rn(unsigned long long v) { return (double)v; }
static inline int __float2int_rn(float v) { return (int)rintf(v); }
static inline int __float2int_rz(float v) { return (int)v; }
static inline unsigned __float2uint_rz(float v) { return (unsigned)v; }

// min and max take mixed types, as CUDA's do; of floats they return the one that is not NaN
template <class A, class B>
static inline typename std::common_type<A, B>::type min(A a, B b) {
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return (T)a != (T)a || (T)b < (T)a ? (T)b : (T)a;
    else return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B>
static inline typename std::common_type<A, B>::type max(A a, B b) {
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return (T)a != (T)a || (T)b > (T)a ? (T)b : (T)a;
    else return (T)b > (T)a ? (T)b : (T)a;
}

// ---- loads and stores with cache hints: plain
#define SPEC_LOAD(name) template <class T> static inline T name(const T* p) { return *p; }
#define SPEC_STORE(name) \
    template <class T> static inline void name(T* p, typename std::common_type<T>::type v) { *p = v; }
SPEC_LOAD(__ldg) SPEC_LOAD(__ldcs) SPEC_LOAD(__ldcg) SPEC_LOAD(__ldca) SPEC_LOAD(__ldlu) SPEC_LOAD(__ldcv)
SPEC_STORE(__stcg) SPEC_STORE(__stcs) SPEC_STORE(__stwb) SPEC_STORE(__stwt)

// ---- atomics: plain, since fibres (and blocks) switch only where they wait; where blocks take turns, behind every other atomic too
static inline void spec_turn(int line, const char* file) {
    if (spec_launch_now->turns && spec_draw(2)) spec_wait(SPEC_YIELDED, SPEC_SLEEP, 0, 0, 0, line, file);
}

#define SPEC_ATOMIC(name, expression) \
    template <class T> static inline T name(T* p, typename std::common_type<T>::type v, SPEC_SITE) { \
        const T old = *p; \
        *p = (expression); \
        spec_turn(line, file); \
        return old; \
    } \
    template <class T> static inline T name##_block(T* p, typename std::common_type<T>::type v) { return name(p, v); } \
    template <class T> static inline T name##_system(T* p, typename std::common_type<T>::type v) { return name(p, v); }
SPEC_ATOMIC(atomicAdd, old + v)
SPEC_ATOMIC(atomicSub, old - v)
SPEC_ATOMIC(atomicMax, old < v ? v : old)
SPEC_ATOMIC(atomicMin, v < old ? v : old)
SPEC_ATOMIC(atomicExch, v)
SPEC_ATOMIC(atomicAnd, old & v)
SPEC_ATOMIC(atomicOr, old | v)
SPEC_ATOMIC(atomicXor, old ^ v)
SPEC_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
SPEC_ATOMIC(atomicDec, old == 0 || old > v ? v : old - 1)
template <class T>
static inline T atomicCAS(T* p, typename std::common_type<T>::type compare, typename std::common_type<T>::type v, SPEC_SITE) {
    const T old = *p;
    if (old == compare) *p = v;
    spec_turn(line, file);
    return old;
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}

// ---- barriers and warp collectives; the default arguments record the caller's line
static inline void __syncthreads(SPEC_SITE) { spec_wait(SPEC_AT_BARRIER, SPEC_SYNC, 0, 0, 0, line, file); }
#define SPEC_BARRIER(name, kind) \
    static inline int name(int p, SPEC_SITE) { return (int)spec_wait(SPEC_AT_BARRIER, kind, 0, 0, p != 0, line, file); }
SPEC_BARRIER(__syncthreads_count, SPEC_SYNC_COUNT)
SPEC_BARRIER(__syncthreads_and, SPEC_SYNC_AND)
SPEC_BARRIER(__syncthreads_or, SPEC_SYNC_OR)
static inline void __nanosleep(unsigned, SPEC_SITE) { spec_wait(SPEC_YIELDED, SPEC_SLEEP, 0, 0, 0, line, file); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, SPEC_SITE) {
    spec_wait(SPEC_IN_WARP, SPEC_SYNCWARP, mask, 0, 0, line, file);
}
static inline int spec_lane() { return (int)(spec_current - spec_fibres) & 31; }

template <class T>
static inline T spec_shuffle(SpecKind kind, unsigned mask, T value, int source, int line, const char* file) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = spec_wait(SPEC_IN_WARP, kind, mask, source, bits, line, file);
    memcpy(&value, &bits, sizeof value);
    return value;
}
// The lane read: inside the segment of `width` lanes; own value where the offset leaves it.
#define SPEC_SHUFFLE(name, kind, argument, expression) \
    template <class T> static inline T name(unsigned mask, T value, argument, int width = 32, SPEC_SITE) { \
        const int lane = spec_lane(), start = lane & ~(width - 1), end = start + width; \
        (void)end; \
        const int source = (expression); \
        return spec_shuffle(kind, mask, value, source & 31, line, file); \
    }
SPEC_SHUFFLE(__shfl_sync, SPEC_SHFL, int from, start | (from & (width - 1)))
SPEC_SHUFFLE(__shfl_up_sync, SPEC_SHFL_UP, unsigned by, (long long)lane - by >= start ? lane - (int)by : lane)
SPEC_SHUFFLE(__shfl_down_sync, SPEC_SHFL_DOWN, unsigned by, (long long)lane + by < end ? lane + (int)by : lane)
SPEC_SHUFFLE(__shfl_xor_sync, SPEC_SHFL_XOR, int bits, (lane ^ bits) < end ? lane ^ bits : lane)

#define SPEC_VOTE(name, kind, R) \
    static inline R name(unsigned mask, int p, SPEC_SITE) { \
        return (R)spec_wait(SPEC_IN_WARP, kind, mask, 0, p != 0, line, file); \
    }
SPEC_VOTE(__ballot_sync, SPEC_BALLOT, unsigned)
SPEC_VOTE(__any_sync, SPEC_ANY, int)
SPEC_VOTE(__all_sync, SPEC_ALL, int)
template <class T>
static inline unsigned __match_any_sync(unsigned mask, T value, SPEC_SITE) {
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    return (unsigned)spec_wait(SPEC_IN_WARP, SPEC_MATCH_ANY, mask, 0, bits, line, file);
}
#define SPEC_REDUCE(name, T, kind) \
    static inline T name(unsigned mask, T v, SPEC_SITE) { \
        return (T)spec_wait(SPEC_IN_WARP, kind, mask, 0, (unsigned)v, line, file); \
    }
SPEC_REDUCE(__reduce_add_sync, int, SPEC_ADD) SPEC_REDUCE(__reduce_add_sync, unsigned, SPEC_ADD)
SPEC_REDUCE(__reduce_min_sync, int, SPEC_MIN) SPEC_REDUCE(__reduce_min_sync, unsigned, SPEC_UMIN)
SPEC_REDUCE(__reduce_max_sync, int, SPEC_MAX) SPEC_REDUCE(__reduce_max_sync, unsigned, SPEC_UMAX)
SPEC_REDUCE(__reduce_and_sync, unsigned, SPEC_RAND)
SPEC_REDUCE(__reduce_or_sync, unsigned, SPEC_ROR)
SPEC_REDUCE(__reduce_xor_sync, unsigned, SPEC_RXOR)

// ---- failing on purpose, and what is refused at compile time
static inline void __trap(SPEC_SITE) { SPEC_FAIL(file, line, "__trap() was called"); }
static inline void spec_assert(bool holds, const char* text, SPEC_SITE) {
    if (!holds) SPEC_FAIL(file, line, "assertion failed: %s", text);
}
#define SPEC_REFUSED(what) __attribute__((error("the CPU executor does not run " what)))
unsigned __activemask() SPEC_REFUSED("__activemask: it depends on the schedule; pass the mask that is meant");

#include "cuda_fp16.h"
#include "cuda_bf16.h"
#include "assert.h"

// ---- keywords
#define __global__ __attribute__((used))
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
// `used` keeps the compiler from reasoning that nobody else writes a static array (the fill at each block's start does)
#define __shared__ static __attribute__((used, section("spec_shared")))
#ifndef __clang__
#define __builtin_assume(condition) ((void)0)
#endif
__shared__ char spec_shared_anchor[16];  // so that the section exists in every library
// Last, as this header and libc's use it themselves.
#define asm static_assert(false, "the CPU executor cannot run inline PTX: put asm under #ifdef __CUDA_ARCH__, \
with portable code in the #else branch"); asm
#define __asm__ asm
