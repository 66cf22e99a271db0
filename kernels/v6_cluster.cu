/*
V6 - clusters: blocks that share a row share memory
Changes   (Tried.) The blocks of a request are one cluster: they run together, and write their sums into each other's shared memory. One
          barrier of the cluster replaces words in global memory and the wait for them; each block then knows all sums, and the
          one in whose part the token lies finds it, in lines that it read itself. No scratch is left, and no last block.
          Where all rows together are few bytes (RUSH), each row pair gets a cluster of its own that sums it while the drafts are
          tested: the cluster whose row is chosen goes on, the others leave. More bytes, less waiting.
Reads     The rejected row pair (or the bonus row) once, and one tile of it again; below RUSH all rows.
Slow      The idea loses: a cluster starts when there is room for all its blocks at once, so large blocks fit badly, and few
          blocks share a row. It is kept for what it shows; V7 goes on from V5. Without clusters (before Hopper) it is one
          block per request, as V4.
--- contract ---
grid    = "batch * clusters * parts"
block   = "32 * WARPS + 32"
shared  = "4 * ceil_div(16, parts) * ceil_div(tiles, 16)"
cluster = "parts"
draw    = "cdf"
ulps    = 24
bytes   = "(batch + rejected) * (vocab * itemsize + 2048)"
tune    = { WARPS = 15, RESIDENT = 1, MOST = 16, RUSH = 6000000 }
[values]
tiles   = "ceil_div(vocab * itemsize, 2048)"
clusters = "1 + max_draft * min(1, RUSH // max(1, (2 * num_draft + batch) * vocab * itemsize)) * (min(max_cluster, 2) - 1)"
room    = "min(MOST, max_cluster, max(1, sm_count * RESIDENT // max(1, batch * clusters)))"
parts   = "1 + min(1, room // 2) + 2 * min(1, room // 4) + 4 * min(1, room // 8) + 8 * min(1, room // 16)"
*/
#include "cluster.cuh"

struct Shared {
    int accepted, bits;
    double sums[2][SEGMENTS];  // of the row's segments, written by their owners; one row for each attempt
    int met[2][SEGMENTS];      // NONFINITE, by block of the cluster
};

extern "C" __global__ void __launch_bounds__(32 * WARPS + 32, RESIDENT) v6_cluster(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int batch, int vocab, int num_draft, int max_draft, int clusters, int tiles, int parts, long long target_stride, long long draft_stride,
        int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ float tile_sums[];
    __shared__ Shared shared;
    const int rank = blockIdx.x % parts, b = blockIdx.x / parts / clusters, guess = blockIdx.x / parts % clusters;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Request request = find_request(b, batch, num_draft, max_draft, draft_start, seeds, positions);
    const Rows rows = {target_probs + (long long)(request.start + b) * target_stride,
                       draft_probs ? draft_probs + (long long)request.start * draft_stride : nullptr,
                       draft_tokens + request.start, target_stride, draft_stride};
    const int each = (tiles + SEGMENTS - 1) / SEGMENTS, owned = SEGMENTS / parts;
    const int first = min(rank * owned * each, tiles), count = min(owned * each, tiles - first);

    cluster_barrier();  // all blocks of the cluster have started: before that, none may write into another's memory
    if (warp == WARPS) {
        int bits = 0;
        const int accepted = count_accepted(request, rows, vocab, lane, bits);
        bits = or_over_warp(bits);
        if (lane == 0) shared.accepted = accepted, shared.bits = bits;
    }
    if (clusters == 1) __syncthreads();
    const int i = clusters == 1 ? shared.accepted : guess;
    Row row = row_of_draw(request, rows, i);

    for (int attempt = 0;; ++attempt) {
        int bits = 0;
        if (warp < WARPS && i <= request.length)
            for (int t = warp; t < count; t += WARPS) {
                const float sum = sum_tile(row, first + t, vocab, lane, bits);
                if (lane == 0) tile_sums[t] = sum;
            }
        const int met = __syncthreads_or(bits) ? NONFINITE : 0;
        if (i != shared.accepted) return;  // so do all blocks of this cluster: another one has the row
        if (warp == 0) {
            double sum = 0.0;
            #pragma unroll 1
            for (int t = lane * each; lane < owned && t < min((lane + 1) * each, count); ++t) sum += tile_sums[t];
            #pragma unroll 1
            for (int to = 0; to < parts; ++to) {
                if (lane < owned) store_to(to, &shared.sums[attempt][rank * owned + lane], sum);
                if (lane == 0) store_to(to, &shared.met[attempt][rank], met);
            }
        }
        cluster_barrier();
        const double own = lane < SEGMENTS ? shared.sums[attempt][lane] : 0.0;
        const unsigned mass = __ballot_sync(ALL, own > 0.0);
        if (warp == 0) {
            const double upto = scan_warp(own, lane), limit = recover_uniform(request.seed, request.position, i) * __shfl_sync(ALL, upto, 31);
            const int segment = first_or_last(__ballot_sync(ALL, own > 0.0 && upto > limit), mass), at = segment - rank * owned;
            const bool give_up = !mass && (i == request.length || attempt);
            if (mass ? at >= 0 && at < owned : give_up && rank == 0) {  // the block that has the token; if there is none, the first
                const double rest = limit - __shfl_sync(ALL, upto - own, segment);
                const int length = min(each, count - at * each);
                const Cut cut = cut_sums(tile_sums + at * each, length, lane);
                const int owner = max(0, owner_of(cut, rest));
                const int token = mass ? find_in_run(row, tile_sums + at * each, cut, owner, first + at * each, rest, vocab, lane) : -1;
                write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, i, token, max_draft, lane, 32);
                int seen = lane < parts ? shared.met[0][lane] | (attempt ? shared.met[1][lane] | ZERO_RESIDUAL : 0) : 0;
                seen = or_over_warp(seen);
                if (lane == 0) {
                    num_accepted[b] = i;
                    status[b] = shared.bits | seen | (mass ? 0 : NO_MASS);
                }
            }
        }
        if (mass || i == request.length || attempt) return;
        row = without_draft(row);  // no mass in the residual, which is rare: once more with the target row
    }
}
