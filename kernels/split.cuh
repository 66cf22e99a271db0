// What the rungs with split rows share: a block's decision, the words in which tile sums travel, and the finish.
#pragma once
#include "tile.cuh"

constexpr int MOST_WARPS = 32;
constexpr int NOT_MINE = -2;  // the token is another warp's to write

struct Shared {
    unsigned long long ticket;  // high half: calls before this one; low half: blocks of the request that started before
    int accepted, bits;
    double warp_sums[MOST_WARPS];
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

// Sums a tile by one warp and publishes the sum, and whether it met something not finite.
__device__ __forceinline__ void publish_tile(unsigned long long* words, const Row& row, int tile, int vocab, unsigned call, int lane) {
    int bits = 0;
    const float sum = sum_tile(row, tile, vocab, lane, bits);
    const bool met = __any_sync(ALL, bits != 0);
    if (lane == 0) publish(words + tile, call, __float_as_uint(sum), met);
}

// A word, once it is one of this call.
__device__ __forceinline__ unsigned long long wait_for(const unsigned long long* word, unsigned call) {
    unsigned long long seen;
    while (seen = *(const volatile unsigned long long*)word, (unsigned)(seen >> 33) != (call & 0x7fffffffu)) __nanosleep(20);
    return seen;
}

// By the whole block, each thread with a run of tiles: wait for the words of this call, find the tile, draw. The warp that has
// the tile gets the token, or -1 if there is no mass (the first warp gets that); the others get NOT_MINE. Completes shared.bits.
__device__ __forceinline__ int finish(const Request& request, Row row, const unsigned long long* words, float* sums, int tiles, int vocab,
                                      unsigned call, Shared& shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const int each = (tiles + blockDim.x - 1) / blockDim.x, begin = min((int)threadIdx.x * each, tiles), end = min(begin + each, tiles);
    const double u = recover_uniform(request.seed, request.position, shared.accepted);
    #pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
        const unsigned long long word = wait_for(words + tile, call);
        sums[tile] = __uint_as_float((unsigned)word);
        if (word >> 32 & 1) atomicOr(&shared.bits, NONFINITE);
    }
    for (int attempt = 0;; ++attempt) {
        Cut cut = {begin, end, 0.0, 0.0};
        #pragma unroll 1
        for (int tile = begin; tile < end; ++tile) cut.own += sums[tile];
        cut.upto = scan_warp(cut.own, lane);
        if (lane == 31) shared.warp_sums[warp] = cut.upto;
        __syncthreads();
        double total = 0.0, before = 0.0;
        #pragma unroll 1
        for (int w = 0; w < warps; ++w) total += shared.warp_sums[w];
        double limit = u * total;
        int owner = -1;  // the first warp in which the sum passes the limit; if rounding leaves none, the last with mass
        total = 0.0;
        #pragma unroll 1
        for (int w = 0; w < warps; ++w) {
            const double sum = shared.warp_sums[w];
            if (sum > 0.0 && (owner < 0 || total <= limit)) owner = w, before = total;
            total += sum;
        }
        if (warp == owner) return find_in_run(row, sums, cut, owner_of(cut, limit - before), 0, limit - before, vocab, lane);
        if (owner >= 0) return NOT_MINE;
        if (shared.accepted == request.length || attempt) break;
        row = without_draft(row);  // no mass in the residual, which is rare: this block alone weighs the target row
        __syncthreads();           // nobody reads warp_sums any more
        #pragma unroll 1
        for (int tile = warp; tile < tiles; tile += warps) {
            int bits = 0;
            const float sum = sum_tile(row, tile, vocab, lane, bits);
            if (lane == 0) sums[tile] = sum;
        }
        if (threadIdx.x == 0) shared.bits |= ZERO_RESIDUAL;
        __syncthreads();
    }
    if (threadIdx.x == 0) shared.bits |= NO_MASS;
    return warp == 0 ? -1 : NOT_MINE;
}
