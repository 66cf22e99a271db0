// What the rungs with split rows share: a block's decision, the words in which tile sums travel, and the finish.
#pragma once
#include "tile.cuh"

struct Shared {
    unsigned long long ticket;  // high half: calls before this one; low half: blocks of the request that started before
    int accepted, bits, token;
    double uniforms[32];        // of the draw, if so many drafts are accepted
};

// By one warp: the accept tests.
__device__ __forceinline__ void decide(const Request& request, const Rows& rows, int vocab, int lane, Shared& shared) {
    int bits = 0;
    const int accepted = count_accepted(request, rows, vocab, lane, bits);
    bits = or_over_warp(bits);
    if (lane == 0) shared.accepted = accepted, shared.bits = bits;
}

// One word for others to wait for: a number, a flag, and the number of the call.
__device__ __forceinline__ void publish(unsigned long long* word, unsigned call, unsigned number, bool flag) {
    *(volatile unsigned long long*)word = (unsigned long long)(call << 1 | flag) << 32 | number;
}

// Sums a tile by one warp; publishes the sum, and whether it met something not finite. Without words: keeps them for the block itself.
__device__ __forceinline__ void give_tile(unsigned long long* words, float* sums, const Row& row, int tile, int vocab, unsigned call, int lane, Shared& shared) {
    int bits = 0;
    const float sum = sum_tile(row, tile, vocab, lane, bits);
    const bool met = __any_sync(ALL, bits != 0);
    if (lane == 0 && words) publish(words + tile, call, __float_as_uint(sum), met);
    if (lane == 0 && !words) sums[tile] = sum;
    if (lane == 0 && !words && met) atomicOr(&shared.bits, NONFINITE);
}

// A word, once it is one of this call.
__device__ __forceinline__ unsigned long long wait_for(const unsigned long long* word, unsigned call) {
    unsigned long long seen;
    while (seen = *(const volatile unsigned long long*)word, (unsigned)(seen >> 33) != (call & 0x7fffffffu)) __nanosleep(20);
    return seen;
}

// Of the draw after `accepted` drafts; the first 32 by a warp that has nothing else to do while another one decides.
__device__ __forceinline__ void prepare_uniforms(const Request& request, int lane, Shared& shared) {
    shared.uniforms[lane] = recover_uniform(request.seed, request.position, lane);
}

__device__ __forceinline__ double draw_uniform(const Request& request, const Shared& shared) {
    return shared.accepted < 32 ? shared.uniforms[shared.accepted] : recover_uniform(request.seed, request.position, shared.accepted);
}

// By the whole block: the sums of all tiles (words of this call, unless the block itself has put them into `sums`), then the
// draw by the first warp; the token, or -1 if there is no mass. Completes shared.bits.
__device__ __forceinline__ int finish(const Request& request, Row row, const unsigned long long* words, float* sums, int tiles, int vocab,
                                      unsigned call, Shared& shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    #pragma unroll 1
    for (int tile = threadIdx.x; words && tile < tiles; tile += blockDim.x) {
        const unsigned long long word = wait_for(words + tile, call);
        sums[tile] = __uint_as_float((unsigned)word);
        if (word >> 32 & 1) atomicOr(&shared.bits, NONFINITE);
    }
    __syncthreads();
    for (int attempt = 0;; ++attempt) {
        if (warp == 0) {
            const int token = draw_token(row, sums, tiles, draw_uniform(request, shared), vocab, lane);
            if (lane == 0) shared.token = token;
        }
        __syncthreads();
        if (shared.token < 0 && threadIdx.x == 0) shared.bits |= shared.accepted < request.length && !attempt ? ZERO_RESIDUAL : NO_MASS;
        if (shared.token >= 0 || shared.accepted == request.length || attempt) return shared.token;
        row = without_draft(row);  // no mass in the residual, which is rare: this block alone weighs the target row
        #pragma unroll 1
        for (int tile = warp; tile < tiles; tile += warps) {
            int bits = 0;
            const float sum = sum_tile(row, tile, vocab, lane, bits);
            if (lane == 0) sums[tile] = sum;
        }
        __syncthreads();
    }
}
