// A draw that weighs no row: the target proposes, the draft thins. An id proposed from the target row and kept with probability
// max(0, 1 - q / p) has the law of the residual max(p - q, 0): what the accept test took from the row is taken from the proposals
// in the same way (von Neumann's rejection, 1951). With q = 0, the bonus row, the first proposal is kept.
#pragma once
#include "statistics.cuh"

enum { STREAM_PROPOSE = 5 };    // behind the streams of common.cuh: two numbers for each proposal, of 52 bits
constexpr int PROPOSALS = 32;   // after so many the residual is weighed, id by id: the law stays exactly the same

// By one warp: a proposal; its id, or -1 if it is not kept. sums: of the target's tiles; words: its random numbers; stage: room for a
// tile of both rows; all in shared memory. The tile is searched twice, for the lane and for the id, each lane having its ids in a run.
// Short loops: this code is fetched once and run once.
__device__ __forceinline__ int propose(const Row& row, const float* sums, int tiles, const uint4& words, ROW* stage, int vocab, int lane) {
    constexpr int RUN = TILE / 32;  // ids of a lane
    const Cut cut = cut_sums(sums, tiles, lane);
    const double limit = uniform52(words.x, words.y) * __shfl_sync(ALL, cut.upto, 31);
    const int owner = owner_of(cut, limit);
    if (owner < 0) return -1;
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
    return __shfl_sync(ALL, uniform52(words.z, words.w) * own < residual(own, taken) ? id : -1, chosen);
}

// By the whole block, a proposal for each warp at a time: the first of PROPOSALS that is kept, or -1. words: their random numbers; stage:
// room for two tiles a warp; kept: a word a warp; all in shared memory.
__device__ __forceinline__ int first_kept(const Row& row, const float* sums, int tiles, const uint4* words, ROW* stage, int* kept, int vocab) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    int token = -1;
    for (int k = warp; k - warp < PROPOSALS && token < 0; k += warps) {
        const int own = k < PROPOSALS ? propose(row, sums, tiles, words[k], stage + 2 * TILE * warp, vocab, lane) : -1;
        if (lane == 0) kept[warp] = own;
        __syncthreads();
        for (int w = warps - 1; w >= 0; --w) token = kept[w] >= 0 ? kept[w] : token;
        __syncthreads();
    }
    return token;
}

// By the whole block: are all probabilities of a row finite? Of a row whose normaliser was given nobody has read more than was proposed.
__device__ __forceinline__ bool all_finite(const ROW* stored, const Scale& scale, int pieces, int vocab) {
    const Row row = {stored, nullptr, -1, scale};
    bool finite = true;
    for (int x = threadIdx.x / 32; x < pieces; x += blockDim.x / 32) {
        const int first = x * STEP + threadIdx.x % 32 * VEC;
        sum_piece(load_piece(stored, first, vocab), uint4{}, row, first, finite);
    }
    return !__syncthreads_or(!finite);
}

// By the whole block, if no proposal was kept: the residual weighed id by id, a piece of a warp at a time. Completes `status`.
// sums: shared memory for a number a piece.
__device__ __forceinline__ int weigh_all(const Request& request, Row row, float* sums, int pieces, int* drawn, int accepted, int vocab, int& status) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const bool recovered = accepted < request.length;
    for (int attempt = 0;; ++attempt) {
        const auto draft_of = [&](int first) { return row.draft ? load_piece(row.draft, first, vocab) : uint4{}; };
        bool finite = true;
        for (int x = warp; x < pieces; x += warps) {
            const int first = x * STEP + lane * VEC;
            const float sum = sum_warp(sum_piece(load_piece(row.target, first, vocab), draft_of(first), row, first, finite));
            if (lane == 0) sums[x] = sum;
        }
        if (__syncthreads_or(!finite)) status |= NONFINITE;
        if (warp == 0) {
            const Cut cut = cut_sums(sums, pieces, lane);
            const double limit = recover_uniform(request.seed, request.position, accepted) * __shfl_sync(ALL, cut.upto, 31);
            const int owner = owner_of(cut, limit);
            int token = -1;
            if (owner >= 0) {
                const Place place = find_tile(sums, cut, owner, 0, limit);
                const int first = place.tile * STEP + lane * VEC;
                token = find_among_lanes(load_piece(row.target, first, vocab), draft_of(first), row, first, place.rest, lane);
            }
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
