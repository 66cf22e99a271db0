// A draw that weighs no row: the target proposes, the draft thins. An id proposed from the target row and kept with probability
// max(0, 1 - q / p) has the law of the residual max(p - q, 0): what the accept test took from the row is taken from the proposals
// in the same way (von Neumann's rejection, 1951). With q = 0, the bonus row, the first proposal is kept.
#pragma once
#include "statistics.cuh"
#include "verdicts.cuh"

enum { STREAM_PROPOSE = 5 };    // behind the streams of common.cuh: two numbers for each proposal, of 52 bits
constexpr int PROPOSALS = 128;  // after so many the residual is weighed, id by id: the law stays exactly the same
constexpr int NOT_KEPT = -1, NOT_FINITE = -2;

// The lane in which the sum over this lane and those before it passes `rest`, and what is left of `rest` there; by one warp.
__device__ __forceinline__ int find_lane(float own, float& rest, int lane) {
    const float upto = scan_warp(own, lane);
    const int chosen = first_or_last(__ballot_sync(ALL, own > 0.0f && upto > rest), __ballot_sync(ALL, own > 0.0f));
    rest -= __shfl_sync(ALL, upto - own, chosen);
    return chosen;
}

__device__ __forceinline__ float sum_run(const float* sums, int begin, int end) {
    float sum = 0.0f;
    #pragma unroll 4
    for (int t = begin; t < end; ++t) sum += sums[t];
    return sum;
}

constexpr int RUN = TILE / 32;  // ids of a tile that lie together: as many for each lane

// A lane's run of a tile, from id `first` on; past the end of the row OUTSIDE.
__device__ __forceinline__ void load_run(const ROW* row, int first, int vocab, uint4 (&piece)[PIECES]) {
    if (is_aligned(row) && first + RUN <= vocab) {
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) piece[i] = reinterpret_cast<const uint4*>(row + first)[i];
    } else {
        #pragma unroll 1
        for (int i = 0; i < PIECES; ++i) {
            const uint4 one = load_elements(row, first + i * VEC, vocab);
            #pragma unroll
            for (int j = 0; j < PIECES; ++j) piece[j] = j == i ? one : piece[j];  // an index that is not a constant would cost local memory
        }
    }
}

// By one warp: a proposal; its id, or NOT_KEPT, or NOT_FINITE if the draft row is not finite there. sums: of the target's tiles, relative to
// its maximum; numbers: two, random; stage: room for a run of both rows; all in shared memory. Searched are runs of tiles, tiles, runs
// of ids and ids, each time one for each lane. While the tile is on its way, where it costs nothing, the last thread of the block looks up
// in `watched` where the request ends, and tells in `end`.
__device__ __forceinline__ int propose(const Row& row, const float* sums, int tiles, const double2& numbers, ROW* stage, int vocab, int lane,
                                       const unsigned long long* watched, int* end) {
    const int run = (tiles + 31) / 32;
    float own = sum_run(sums, lane * run, min(lane * run + run, tiles));
    const double upto = scan_warp((double)own, lane), limit = numbers.x * __shfl_sync(ALL, upto, 31);
    const unsigned mass = __ballot_sync(ALL, own > 0.0f), passed = __ballot_sync(ALL, own > 0.0f && upto > limit);
    if (!mass) return NOT_KEPT;
    const int owner = first_or_last(passed, mass);
    float rest = __shfl_sync(ALL, (float)(limit - (upto - own)), owner);
    int tile = owner * run;
    for (int count = min(run, tiles - tile); count > 1;) {  // once, but for rows of more than 1,024 tiles
        const int step = (count + 31) / 32, chosen = find_lane(sum_run(sums + tile, lane * step, min(lane * step + step, count)), rest, lane);
        tile += chosen * step, count = min(step, count - chosen * step);
    }
    Pieces target, draft;
    load_run(row.target, tile * TILE + lane * RUN, vocab, target.piece);
    if (row.draft) load_run(row.draft, tile * TILE + lane * RUN, vocab, draft.piece);
    const unsigned long long seen = fetch(watched);
    Scale scale = row.target_scale;
    scale.inverse = 1.0f;  // as the sums
    own = 0.0f;
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        #pragma unroll
        for (int k = 0; k < VEC; ++k) own += probability(logit_of(target.piece[i], k, ROW()), scale);
    }
    const int lane_of = find_lane(own, rest, lane);
    if (lane == lane_of) {
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            reinterpret_cast<uint4*>(stage)[i] = target.piece[i];
            if (row.draft) reinterpret_cast<uint4*>(stage)[PIECES + i] = draft.piece[i];
        }
    }
    __syncwarp();
    const int spot = lane % RUN, id = tile * TILE + lane_of * RUN + spot;
    own = lane < RUN ? probability(to_float(stage[spot]), scale) : 0.0f;
    const int chosen = find_lane(own, rest, lane);
    const float taken = row.draft ? probability(to_float(stage[RUN + spot]), row.draft_scale) : id == row.drafted ? 1.0f : 0.0f;
    own *= row.target_scale.inverse;
    if (threadIdx.x == blockDim.x - 1) *end = end_of(seen);  // not before: to write it down is to wait for it
    const int verdict = !isfinite(taken) ? NOT_FINITE : numbers.y * own < residual(own, taken) ? id : NOT_KEPT;
    return __shfl_sync(ALL, verdict, chosen);
}

// Two random numbers for a proposal.
__device__ __forceinline__ double2 proposal_numbers(const Request& request, int k) {
    const uint4 words = random_words(request.seed, request.position, STREAM_PROPOSE, k);
    return make_double2(uniform52(words.x, words.y), uniform52(words.z, words.w));
}

// By the whole block, a proposal for each warp at a time: the first of PROPOSALS that is kept, or -1. NONFINITE in `status`: of what
// those before it met, however many were made beside them. ready: the numbers of the first 32; stage: room for two runs a warp; kept: two
// words a warp, of which rounds take turns; all in shared memory. watched, end: as above.
__device__ __forceinline__ int first_kept(const Request& request, const Row& row, const float* sums, int tiles, const double2* ready, ROW* stage,
                                          int* kept, int vocab, const unsigned long long* watched, int* end, int& status) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int round = 0; round * warps < PROPOSALS; ++round) {
        const int k = round * warps + warp;
        int own = propose(row, sums, tiles, k < 32 ? ready[k] : proposal_numbers(request, k), stage + 2 * RUN * warp, vocab, lane, watched, end);
        int* const made = kept + round % 2 * warps;
        if (lane == 0) made[warp] = k < PROPOSALS ? own : NOT_KEPT;
        __syncthreads();
        own = lane < warps ? made[lane] : NOT_KEPT;
        const unsigned good = __ballot_sync(ALL, own >= 0), bad = __ballot_sync(ALL, own == NOT_FINITE);
        if (bad & (good & 0u - good) - 1) status |= NONFINITE;  // one before the first that is good
        if (good) return __shfl_sync(ALL, own, __ffs(good) - 1);
    }
    return -1;
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
