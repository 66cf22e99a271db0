// What the rungs with a warp or more per request share: the accept tests of a request by one warp, and its outputs.
#pragma once
#include "common.cuh"

constexpr unsigned ALL = 0xffffffffu;

// Lanes test 32 drafts at once; a ballot gives the first rejection. Returns the number accepted, the same in all lanes;
// each lane adds to its own `status` what it met in the tests up to that rejection: those behind it have not happened.
__device__ __forceinline__ int count_accepted(const Request& request, const ROW* target, const ROW* draft, const int* tokens,
                              long long target_stride, long long draft_stride, int vocab, int lane, int& status) {
    for (int first = 0; first < request.length; first += 32) {
        const int i = first + lane;
        int met = 0;
        bool rejected = false;
        if (i < request.length) {
            const Row row = {target + i * target_stride, draft ? draft + i * draft_stride : nullptr, tokens[i]};
            rejected = !test_draft(row, vocab, accept_uniform(request.seed, request.position, i), met);
        }
        const unsigned rejections = __ballot_sync(ALL, rejected);
        const int stop = rejections ? __ffs(rejections) - 1 : 31;
        if (lane <= stop) status |= met;
        if (rejections) return first + stop;
    }
    return request.length;
}

// The row that the last token is drawn from.
__device__ __forceinline__ Row row_of_draw(const Request& request, const ROW* target, const ROW* draft, const int* tokens,
                                           long long target_stride, long long draft_stride, int accepted) {
    const bool recovered = accepted < request.length;
    return {target + accepted * target_stride, recovered && draft ? draft + accepted * draft_stride : nullptr,
            recovered ? tokens[accepted] : -1};
}

// Accepted drafts, the token drawn, then -1; by `threads` threads, of which this is number `thread`.
__device__ __forceinline__ void write_tokens(int* out, const int* tokens, int accepted, int drawn, int max_draft, int thread, int threads) {
    for (int i = thread; i <= max_draft; i += threads) out[i] = i < accepted ? tokens[i] : i == accepted ? drawn : -1;
}

__device__ __forceinline__ int or_over_warp(int bits) {
    for (int distance = 16; distance; distance /= 2) bits |= __shfl_xor_sync(ALL, bits, distance);
    return bits;
}

__device__ __forceinline__ float sum_warp(float x) {
    for (int distance = 16; distance; distance /= 2) x += __shfl_xor_sync(ALL, x, distance);
    return x;
}

// Sum over this lane and those before it, in a fixed order; float or double.
template <typename T>
__device__ __forceinline__ T scan_warp(T x, int lane) {
    for (int distance = 1; distance < 32; distance *= 2) {
        const T left = __shfl_up_sync(ALL, x, distance);
        if (lane >= distance) x += left;
    }
    return x;
}

// The first lane that passed, or if none did the last one with mass.
__device__ __forceinline__ int first_or_last(unsigned passed, unsigned mass) {
    return passed ? __ffs(passed) - 1 : mass ? 31 - __clz(mass) : 0;
}
