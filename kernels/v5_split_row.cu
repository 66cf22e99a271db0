/*
V5 - the row split over many blocks, in one launch
Changes   PARTS blocks share a request. Each repeats the accept tests (a few dozen bytes), sums its own tiles and publishes
          the sums in global memory; then it counts itself in with an atomic. The block that arrives last sees all the sums:
          it finds the tile and the token, and leaves the counter at zero for the next launch.
Reads     The rejected row pair (or the bonus row) once, and one tile of it again.
Slow      Latency, no longer bandwidth: three reads that wait for each other before a row is touched (draft_start, token,
          probability), and at the end a fence, an atomic, the sums and the tile, again one after the other.
--- contract ---
grid    = "batch * parts"
block   = "32 * WARPS"
shared  = "4 * tiles"
draw    = "cdf"
ulps    = 24
bytes   = "(batch + rejected) * (vocab * itemsize + 2048)"
tune    = { WARPS = 8, WAVES = 32 }
values  = { tiles = "ceil_div(vocab * itemsize, 2048)", parts = "min(ceil_div(tiles, WARPS), max(1, ceil_div(sm_count * WAVES, max(batch, 1))))" }
scratch = { tile_sums = "batch * tiles", arrived = "batch", met = "batch" }
*/
#include "tile.cuh"

extern "C" __global__ void __launch_bounds__(32 * WARPS, 32 / WARPS) v5_split_row(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int vocab, int max_draft, int tiles, int parts, long long target_stride, long long draft_stride,
        float* tile_sums, int* arrived, int* met, int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ float sums[];
    __shared__ int shared_accepted, shared_bits, shared_token, shared_last;
    const int b = blockIdx.x / parts, part = blockIdx.x % parts, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int start = draft_start[b];
    const Request request = {start, draft_start[b + 1] - start, seeds[b], positions[b]};
    const Rows rows = {target_probs + (long long)(start + b) * target_stride,
                       draft_probs ? draft_probs + (long long)start * draft_stride : nullptr,
                       draft_tokens + start, target_stride, draft_stride};

    if (warp == 0) {
        int bits = 0;
        const int accepted = count_accepted(request, rows, vocab, lane, bits);
        bits = or_over_warp(bits);
        if (lane == 0) shared_accepted = accepted, shared_bits = bits;
    }
    __syncthreads();
    const int accepted = shared_accepted;
    Row row = row_of_draw(request, rows, accepted);

    float* own_sums = tile_sums + (long long)b * tiles;
    int bits = 0;
    for (int tile = part * WARPS + warp; tile < tiles; tile += parts * WARPS) {
        const float sum = sum_tile(row, tile, vocab, lane, bits);
        if (lane == 0) own_sums[tile] = sum;
    }
    bits = or_over_warp(bits);
    if (lane == 0 && bits) atomicOr(&met[b], bits);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) shared_last = atomicAdd(&arrived[b], 1) == parts - 1;
    __syncthreads();
    if (!shared_last) return;

    __threadfence();
    for (int tile = threadIdx.x; tile < tiles; tile += 32 * WARPS) sums[tile] = __ldcg(own_sums + tile);
    if (threadIdx.x == 0) {
        shared_bits |= __ldcg(met + b);
        arrived[b] = 0, met[b] = 0;
    }
    __syncthreads();
    const double u = recover_uniform(request.seed, request.position, accepted);
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (warp == 0) {
            const int token = draw_token(row, sums, tiles, u, vocab, lane);
            if (lane == 0) shared_token = token;
        }
        __syncthreads();
        if (shared_token >= 0 || accepted == request.length || attempt) break;
        row = without_draft(row);  // no mass in the residual, which is rare: this block alone weighs the target row
        for (int tile = warp; tile < tiles; tile += WARPS) {
            const float sum = sum_tile(row, tile, vocab, lane, bits);
            if (lane == 0) sums[tile] = sum;
        }
        if (threadIdx.x == 0) shared_bits |= ZERO_RESIDUAL;
        __syncthreads();
    }

    write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, accepted, shared_token, max_draft, threadIdx.x, 32 * WARPS);
    if (threadIdx.x == 0) {
        num_accepted[b] = accepted;
        status[b] = shared_bits | (shared_token < 0 ? NO_MASS : 0);
    }
}
