// What two or more rungs share: the type of a row, the random numbers of the contract, and the rule itself.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math_constants.h>

// ROW: float, __half or __nv_bfloat16, defined by the compiler's command line.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Bits of status.
enum { ZERO_RESIDUAL = 1, NONFINITE = 2, BAD_TOKEN = 4, NO_MASS = 8 };

// ---- the rule: another rule (block verification, a lossy one) replaces these three lines ---------------------------
// A weight counts if it is positive and finite. (Subnormal numbers are zero: CuPy compiles with -ftz=true.)
__device__ __forceinline__ bool usable(float x) { return x > 0.0f && x < CUDART_INF_F; }
// Strict, no division, and exact: the 23 bits of u times the 24 bits of draft fit a double. NaN never accepts.
__device__ __forceinline__ bool accepts(float u, float target, float draft) { return usable(target) && (double)u * draft < target; }
// The weight of one token in the recovered draw; with draft = 0, its weight in the bonus draw.
__device__ __forceinline__ float residual(float target, float draft) { return usable(target - draft) ? target - draft : 0.0f; }

// ---- random numbers: Philox4x32-10 (Salmon et al., SC 2011), a function of (seed, position, stream, index) alone ----
enum { STREAM_DRAFT, STREAM_ACCEPT, STREAM_RECOVER, STREAM_RACE, STREAM_SYNTHETIC };

__device__ __forceinline__ uint4 random_words(unsigned long long seed, long long position, unsigned stream, unsigned index) {
    uint4 c = make_uint4(index, stream, (unsigned)position, (unsigned)((unsigned long long)position >> 32));
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
    #pragma unroll 1  // unrolled, its code takes longer to fetch than the loop takes to run
    for (int turn = 0; turn < 10; ++turn) {
        const unsigned long long a = (unsigned long long)0xD2511F53u * c.x, b = (unsigned long long)0xCD9E8D57u * c.z;
        c = make_uint4((unsigned)(b >> 32) ^ c.y ^ k0, (unsigned)b, (unsigned)(a >> 32) ^ c.w ^ k1, (unsigned)a);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return c;
}

// (k + 0.5) * 2^-23 in (0, 1), exact in float32.
__device__ __forceinline__ float uniform23(unsigned word) { return ((word >> 9) + 0.5f) * 0x1p-23f; }

// (k + 0.5) * 2^-52 in (0, 1), exact in double. With 53 bits the half could round up to 1.
__device__ __forceinline__ double uniform52(unsigned high, unsigned low) {
    return ((double)(((unsigned long long)high << 32 | low) >> 12) + 0.5) * 0x1p-52;
}

// -log(1 - u) for the 52-bit u of these words, with full relative precision at both ends.
__device__ __forceinline__ float exponential(unsigned high, unsigned low) {
    const bool near_one = high >> 31;  // there 1 - u is computed from the complemented words, not by subtraction
    const unsigned long long bits = ((unsigned long long)high << 32 | low) ^ (near_one ? ~0ull : 0ull);
    const float u = ((float)(bits >> 12) + 0.5f) * 0x1p-52f;
    return near_one ? -logf(u) : -log1pf(-u);
}

__device__ __forceinline__ float accept_uniform(unsigned long long seed, long long position, int i) {
    return uniform23(random_words(seed, position, STREAM_ACCEPT, i).x);
}

__device__ __forceinline__ double recover_uniform(unsigned long long seed, long long position, int num_accepted) {
    const uint4 words = random_words(seed, position, STREAM_RECOVER, num_accepted);
    return uniform52(words.x, words.y);
}

// ---- what the stored numbers are: probabilities, or with FROM_LOGITS (defined before this is included) logits ------------
#ifdef FROM_LOGITS
#include "logits.cuh"
#else
struct Scale {};
#define OUTSIDE 0.0f  // stored where a row has ended
__device__ __forceinline__ float probability(float stored, const Scale&) { return stored; }
__device__ __forceinline__ float chance_of(float stored, int, const Scale&) { return stored; }
#endif

// ---- the row of a draw ------------------------------------------------------------------------------------------------
// What a token is drawn from. The draft probability of an id is read from `draft`; without a row it is one-hot at `drafted`;
// with draft = nullptr and drafted = -1 it is 0: the bonus row, or a row whose residual has no mass.
struct Row { const ROW* target; const ROW* draft; int drafted; Scale target_scale, draft_scale; };

__device__ __forceinline__ float target_at(const Row& row, int id) { return chance_of(to_float(row.target[id]), id, row.target_scale); }

__device__ __forceinline__ float draft_at(const Row& row, int id) {
    return row.draft ? chance_of(to_float(row.draft[id]), id, row.draft_scale) : (id == row.drafted ? 1.0f : 0.0f);
}

__device__ __forceinline__ Row without_draft(const Row& row) { return {row.target, nullptr, -1, row.target_scale}; }

// One request: its seed, its first row and its drafts.
struct Request { int start, length; unsigned long long seed; long long position; };

// The accept test of draft i of a request; adds to `status` what it met.
__device__ __forceinline__ bool test_draft(const Row& row, int vocab, unsigned long long seed, long long position, int i, int& status) {
    if (row.drafted < 0 || row.drafted >= vocab) { status |= BAD_TOKEN; return false; }
    const float p = target_at(row, row.drafted), q = draft_at(row, row.drafted), u = accept_uniform(seed, position, i);
    if (!isfinite(p) || !isfinite(q)) status |= NONFINITE;
    return accepts(u, p, q);
}
