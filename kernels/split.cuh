// What the rungs with split rows share: a block's decision, the words in which tile sums travel, and the finish.
#pragma once
#include "tile.cuh"

struct Shared {
    unsigned long long ticket;  // high half: calls before this one; low half: blocks of the request that started before
    int accepted, bits, token;
};

// By one warp: the accept tests.
__device__ __forceinline__ void decide(const Request& request, const Rows& rows, int vocab, int lane, Shared& shared) {
    int bits = 0;
    const int accepted = count_accepted(request, rows, vocab, lane, bits);
    bits = or_over_warp(bits);
    if (lane == 0) shared.accepted = accepted, shared.bits = bits;
}

// Sums a tile by one warp and publishes the sum, whether it met something not finite, and the number of the call, as one word.
__device__ __forceinline__ void publish_tile(unsigned long long* words, const Row& row, int tile, int vocab, unsigned call, int lane) {
    int bits = 0;
    const float sum = sum_tile(row, tile, vocab, lane, bits);
    const unsigned high = call << 1 | (__any_sync(ALL, bits != 0) ? 1 : 0);
    if (lane == 0) *(volatile unsigned long long*)(words + tile) = (unsigned long long)high << 32 | __float_as_uint(sum);
}

// A tile's word, once it is one of this call.
__device__ __forceinline__ unsigned long long wait_for(const unsigned long long* word, unsigned call) {
    unsigned long long seen;
    while (seen = *(const volatile unsigned long long*)word, (unsigned)(seen >> 33) != (call & 0x7fffffffu)) __nanosleep(20);
    return seen;
}

// By the whole block: wait for the words of this call, draw; the token, or -1. Completes shared.bits. `others`: words that are
// not used but must have come before the next call may begin (a late one would be taken for one of that call).
__device__ __forceinline__ int finish(const Request& request, Row row, const unsigned long long* words, float* sums, int tiles, int vocab,
                                      unsigned call, Shared& shared, const unsigned long long* others = nullptr, int num_others = 0) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const double u = recover_uniform(request.seed, request.position, shared.accepted);
    #pragma unroll 1
    for (int tile = threadIdx.x; tile < tiles; tile += blockDim.x) {
        const unsigned long long word = wait_for(words + tile, call);
        sums[tile] = __uint_as_float((unsigned)word);
        if (word >> 32 & 1) atomicOr(&shared.bits, NONFINITE);
    }
    __syncthreads();
    for (int attempt = 0;; ++attempt) {
        if (warp == 0) {
            const int token = draw_token(row, sums, tiles, u, vocab, lane);
            if (lane == 0) shared.token = token;
        } else {
            for (int i = threadIdx.x - 32; i < num_others; i += blockDim.x - 32) wait_for(others + i, call);
        }
        __syncthreads();
        if (shared.token >= 0 || shared.accepted == request.length || attempt) break;
        row = without_draft(row);  // no mass in the residual, which is rare: this block alone weighs the target row
        #pragma unroll 1
        for (int tile = warp; tile < tiles; tile += blockDim.x / 32) {
            int bits = 0;
            const float sum = sum_tile(row, tile, vocab, lane, bits);
            if (lane == 0) sums[tile] = sum;
        }
        if (threadIdx.x == 0) shared.bits |= ZERO_RESIDUAL;
        __syncthreads();
    }
    if (threadIdx.x == 0 && shared.token < 0) shared.bits |= NO_MASS;
    return shared.token;
}
