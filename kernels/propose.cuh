// A draw that weighs no row: the target proposes, the draft thins. An id proposed from the target row and kept with probability
// max(0, 1 - q / p) has the law of the residual max(p - q, 0): what the accept test took from the row is taken from the proposals
// in the same way (von Neumann's rejection, 1951). With q = 0, the bonus row, the first proposal is kept.
#pragma once
#include "statistics.cuh"
#include "verdicts.cuh"

enum { STREAM_PROPOSE = 5 };    // behind the streams of common.cuh: two numbers for each proposal, of 52 bits
constexpr int PROPOSALS = 128;  // after so many the residual is weighed, id by id: the law stays exactly the same
constexpr int NOT_KEPT = -1, NOT_FINITE = -2;

// By one warp: a proposal; its id, or NOT_KEPT, or NOT_FINITE if the draft row is not finite there. sums: of the target's tiles;
// words: its random numbers; stage: room for a tile of both rows; all in shared memory. `watched` is looked at on the way, which costs
// nothing there. The tile is searched twice, for the lane and for the id, each lane having its ids in a run. Short loops: this code is
// fetched once and run once.
__device__ __forceinline__ int propose(const Row& row, const float* sums, int tiles, const uint4& words, ROW* stage, int vocab, int lane,
                                       const unsigned long long* watched, unsigned long long& seen) {
    constexpr int RUN = TILE / 32;  // ids of a lane
    const Cut cut = cut_sums(sums, tiles, lane);
    const double limit = uniform52(words.x, words.y) * __shfl_sync(ALL, cut.upto, 31);
    const int owner = owner_of(cut, limit);
    if (owner < 0) return NOT_KEPT;
    const Place place = find_tile(sums, cut, owner, 0, limit);
    Pieces held[2];
    load_tile(row.target, place.tile, vocab, lane, held[0].piece);
    if (row.draft) load_tile(row.draft, place.tile, vocab, lane, held[1].piece);
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        *reinterpret_cast<uint4*>(stage + i * STEP + lane * VEC) = held[0].piece[i];
        if (row.draft) *reinterpret_cast<uint4*>(stage + TILE + i * STEP + lane * VEC) = held[1].piece[i];
    }
    __syncwarp();
    seen = fetch(watched);
    float own = 0.0f;
    #pragma unroll 1
    for (int i = 0; i < PIECES; ++i) {
        ROW x[VEC];
        memcpy(x, stage + lane * RUN + i * VEC, 16);
        #pragma unroll
        for (int k = 0; k < VEC; ++k) own += probability(to_float(x[k]), row.target_scale);
    }
    float upto = scan_warp(own, lane), rest = place.rest;
    const int lane_of = first_or_last(__ballot_sync(ALL, own > 0.0f && upto > rest), __ballot_sync(ALL, own > 0.0f));
    rest -= __shfl_sync(ALL, upto - own, lane_of);
    const int spot = lane_of * RUN + lane % RUN, id = place.tile * TILE + spot;  // of that lane's ids, one for each
    own = lane < RUN ? probability(to_float(stage[spot]), row.target_scale) : 0.0f;
    upto = scan_warp(own, lane);
    const int chosen = first_or_last(__ballot_sync(ALL, own > 0.0f && upto > rest), __ballot_sync(ALL, own > 0.0f));
    const float taken = row.draft ? probability(to_float(stage[TILE + spot]), row.draft_scale) : id == row.drafted ? 1.0f : 0.0f;
    const int verdict = !isfinite(taken) ? NOT_FINITE : uniform52(words.z, words.w) * own < residual(own, taken) ? id : NOT_KEPT;
    return __shfl_sync(ALL, verdict, chosen);
}

// By the whole block, a proposal for each warp at a time: the first of PROPOSALS that is kept, or -1. NONFINITE in `status`: of what
// those before it met, however many were made beside them. ready: the random numbers of the first 32; stage: room for two tiles a
// warp; kept: a word a warp; all in shared memory.
__device__ __forceinline__ int first_kept(const Request& request, const Row& row, const float* sums, int tiles, const uint4* ready, ROW* stage,
                                          int* kept, int vocab, const unsigned long long* watched, unsigned long long& seen, int& status) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    int token = -1;
    for (int k = warp; k - warp < PROPOSALS && token < 0; k += warps) {
        const uint4 words = k < 32 ? ready[k] : random_words(request.seed, request.position, STREAM_PROPOSE, k);
        const int own = k < PROPOSALS ? propose(row, sums, tiles, words, stage + 2 * TILE * warp, vocab, lane, watched, seen) : NOT_KEPT;
        if (lane == 0) kept[warp] = own;
        __syncthreads();
        for (int w = 0; w < warps && token < 0; ++w) {
            if (kept[w] == NOT_FINITE) status |= NONFINITE;
            if (kept[w] >= 0) token = kept[w];
        }
        __syncthreads();
    }
    return token;
}

// By the whole block, if no proposal was kept: the residual weighed, a tile of a warp at a time. Completes `status`.
// sums: shared memory for a number a tile.
__device__ __forceinline__ int weigh_all(const Request& request, Row row, float* sums, int tiles, int* drawn, int accepted, int vocab, int& status) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const bool recovered = accepted < request.length;
    for (int attempt = 0;; ++attempt) {
        int bits = 0;
        #pragma unroll 1
        for (int tile = warp; tile < tiles; tile += warps) {
            const float sum = sum_tile(row, tile, vocab, lane, bits);
            if (lane == 0) sums[tile] = sum;
        }
        if (__syncthreads_or(bits)) status |= NONFINITE;
        if (warp == 0) {
            const int token = draw_token(row, sums, tiles, recover_uniform(request.seed, request.position, accepted), vocab, lane);
            if (lane == 0) *drawn = token;
        }
        __syncthreads();
        const int token = *drawn;
        if (token < 0) status |= recovered && !attempt ? ZERO_RESIDUAL : NO_MASS;
        if (token >= 0 || !recovered || attempt) return token;
        row = without_draft(row);  // no mass in the residual: once more with the target row
        __syncthreads();
    }
}
