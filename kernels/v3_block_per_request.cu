/*
V3 - a block per request, 16-byte loads
Changes   A whole block shares a request, and each thread loads 16 bytes at a time: 512 threads keep 32 KB of a row pair
          in flight where a warp kept a few hundred bytes. Back to the cumulative sum: one random number per request
          instead of one per token. The sum is taken first, then the row is read again, up to the token.
Reads     The rejected row pair (or the bonus row) once whole, and again up to the token: 1.5 times on average.
Slow      The second reading, with two barriers for every 32 KB; and one block can use only one multiprocessor.
--- contract ---
grid  = "batch"
block = "BLOCK"
draw  = "cdf"
ulps  = 24
bytes = "(batch + rejected) * vocab * itemsize * 3 // 2"
tune  = { BLOCK = 512 }
*/
#include "tile.cuh"

constexpr int WARPS = BLOCK / 32;

extern "C" __global__ void __launch_bounds__(BLOCK) v3_block_per_request(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int vocab, int max_draft, long long target_stride, long long draft_stride,
        int* out_tokens, int* num_accepted, int* status) {
    __shared__ int shared_accepted, shared_bits, shared_token;
    __shared__ float shared_sum[WARPS];
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
        if (lane == 0) shared_accepted = accepted, shared_bits = bits, shared_token = -1;
    }
    __syncthreads();
    const int accepted = shared_accepted;
    Row row = row_of_draw(request, rows, accepted);

    // First reading: the total. A warp's tiles come in a fixed order, and so do the warps.
    double total = 0.0;
    for (int attempt = 0; attempt < 2; ++attempt) {
        double own = 0.0;
        int bits = 0;
        for (int tile = warp; tile < tiles; tile += WARPS) own += sum_tile(row, tile, vocab, lane, bits);
        bits = or_over_warp(bits);
        __shared__ double part[WARPS];
        if (lane == 0) {
            part[warp] = own;
            if (bits) atomicOr(&shared_bits, bits);
        }
        __syncthreads();
        for (int w = 0; w < WARPS; ++w) total += part[w];
        __syncthreads();
        if (total > 0.0 || accepted == request.length) break;
        row = without_draft(row);
        if (threadIdx.x == 0) atomicOr(&shared_bits, ZERO_RESIDUAL);
    }

    // Second reading: WARPS tiles at a time, until the cumulative sum passes the threshold; the last tile with mass, if none does.
    double limit = recover_uniform(request.seed, request.position, accepted) * total;
    for (int base = 0; base < tiles && total > 0.0; base += WARPS) {
        int bits = 0;
        const float sum = base + warp < tiles ? sum_tile(row, base + warp, vocab, lane, bits) : 0.0f;
        if (lane == 0) shared_sum[warp] = sum;
        __syncthreads();
        int found = -1;
        double rest = 0.0;
        for (int w = 0; w < WARPS && (found < 0 || limit >= 0.0); ++w) {
            if (shared_sum[w] == 0.0f) continue;
            found = base + w, rest = limit;
            limit -= shared_sum[w];
        }
        if (found == base + warp) {
            const int token = find_in_tile(row, found, (float)rest, vocab, lane);
            if (lane == 0) shared_token = token;
        }
        __syncthreads();
        if (limit < 0.0) break;
    }

    write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, accepted, shared_token, max_draft, threadIdx.x, BLOCK);
    if (threadIdx.x == 0) {
        num_accepted[b] = accepted;
        status[b] = shared_bits | (shared_token < 0 ? NO_MASS : 0);
    }
}
