/*
V4 - tile sums: the row is read once
Changes   Each warp leaves the sums of its tiles (512 floats, 2 KB) in shared memory. The threshold then needs no second
          pass: a scan over 251 sums (of 128256 floats) names the tile, and only that tile is read again, from the L2.
Reads     The rejected row pair (or the bonus row) once, and one tile of it again.
Slow      One block, one multiprocessor: at batch 1, 131 of the 132 multiprocessors of an H200 have nothing to do.
--- contract ---
grid   = "batch"
block  = "BLOCK"
shared = "4 * ceil_div(vocab * itemsize, 2048)"
draw   = "cdf"
ulps   = 24
bytes  = "(batch + rejected) * (vocab * itemsize + 2048)"
tune   = { BLOCK = 512 }
*/
#include "tile.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK, 2) v4_tile_sums(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int vocab, int max_draft, long long target_stride, long long draft_stride,
        int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ float sums[];
    __shared__ int shared_accepted, shared_bits, shared_token;
    const int b = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, tiles = (vocab + TILE - 1) / TILE;
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

    int retried = 0;
    for (int attempt = 0; attempt < 2; ++attempt) {
        int bits = 0;
        for (int tile = warp; tile < tiles; tile += BLOCK / 32) {
            const float sum = sum_tile(row, tile, vocab, lane, bits);
            if (lane == 0) sums[tile] = sum;
        }
        bits = or_over_warp(bits);
        if (lane == 0 && bits) atomicOr(&shared_bits, bits);
        __syncthreads();
        if (warp == 0) {
            const double u = recover_uniform(request.seed, request.position, accepted);
            const int token = draw_token(row, sums, tiles, u, vocab, lane);
            if (lane == 0) shared_token = token;
        }
        __syncthreads();
        if (shared_token >= 0 || accepted == request.length || attempt) break;
        row = without_draft(row);  // no mass in the residual: once more with the target row
        retried = ZERO_RESIDUAL;
    }

    write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, accepted, shared_token, max_draft, threadIdx.x, BLOCK);
    if (threadIdx.x == 0) {
        num_accepted[b] = accepted;
        status[b] = shared_bits | retried | (shared_token < 0 ? NO_MASS : 0);
    }
}
