// A draw that weighs no row: the target proposes, the draft thins. An id proposed from the target row and kept with probability
// max(0, 1 - q / p) has the law of the residual max(p - q, 0): what the accept test took from the row is taken from the proposals
// in the same way (von Neumann's rejection, 1951). With q = 0, the bonus row, the first proposal is kept.
#pragma once
#include "statistics.cuh"

enum { STREAM_PROPOSE = 5 };    // behind the streams of common.cuh: two numbers for each proposal, of 52 bits
constexpr int PROPOSALS = 32;   // after so many the residual is weighed, id by id: the law stays exactly the same

// By one warp: proposal k of the request; its id, or -1 if it is not kept. sums: of the target's tiles, in shared memory.
__device__ __forceinline__ int propose(const Request& request, const Row& row, const float* sums, int tiles, int k, int vocab, int lane) {
    const uint4 words = random_words(request.seed, request.position, STREAM_PROPOSE, k);
    const double keep = uniform52(words.z, words.w);
    const Cut cut = cut_sums(sums, tiles, lane);
    const double limit = uniform52(words.x, words.y) * __shfl_sync(ALL, cut.upto, 31);
    const int owner = owner_of(cut, limit);
    if (owner < 0) return -1;
    const Place place = find_tile(sums, cut, owner, 0, limit);
    Pieces target;
    load_tile(row.target, place.tile, vocab, lane, target.piece);
    const Row alone = without_draft(row);
    const int first = place.tile * TILE + lane * VEC;
    float sum[PIECES];
    bool finite = true;
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) sum[i] = sum_piece(target.piece[i], target.piece[i], alone, first + i * STEP, finite);
    const Spot spot = find_piece(sum, place.rest, lane);
    const int begin = first + spot.piece * STEP;
    const uint4 q = row.draft ? load_piece(row.draft, begin, vocab) : uint4{};
    uint4 p = target.piece[0];
    #pragma unroll
    for (int i = 1; i < PIECES; ++i) p = i == spot.piece ? target.piece[i] : p;
    const int id = find_in_piece(p, p, alone, begin, spot.rest);
    ROW target_ids[VEC], draft_ids[VEC];
    memcpy(target_ids, &p, 16);
    memcpy(draft_ids, &q, 16);
    float target_logit = -CUDART_INF_F, draft_logit = 0.0f;
    #pragma unroll
    for (int j = 0; j < VEC; ++j)
        if (begin + j == id) target_logit = to_float(target_ids[j]), draft_logit = to_float(draft_ids[j]);
    const float weight = probability(target_logit, row.target_scale);
    const float taken = row.draft ? probability(draft_logit, row.draft_scale) : (id == row.drafted ? 1.0f : 0.0f);
    return __shfl_sync(ALL, keep * weight < residual(weight, taken) ? id : -1, spot.lane);
}

// By the whole block, a proposal for each warp at a time: the first of PROPOSALS that is kept, or -1. kept: shared memory, a word a warp.
__device__ __forceinline__ int first_kept(const Request& request, const Row& row, const float* sums, int tiles, int* kept, int vocab) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    int token = -1;
    for (int k = warp; k - warp < PROPOSALS && token < 0; k += warps) {
        const int own = k < PROPOSALS ? propose(request, row, sums, tiles, k, vocab, lane) : -1;
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
