/*
V7 - speculation on rows: sum them before knowing which
Changes   Where all rows are few bytes (RUSH), blocks do not wait for the decision: each sums its tiles of one of the K + 1
          rows while a spare warp tests the drafts. When the decision falls, the sums of the chosen row are there already.
          More bytes, less time: at batch 1 the memory has nothing else to do. Above RUSH, as V6.
Reads     All rows of both models below RUSH; above it, the rejected row pair (or the bonus row) once.
Slow      The launch itself, and the latency of memory: once for the rows, once for the words, once for the tile.
--- contract ---
grid    = "batch * rows * parts"
block   = "32 * WARPS + 32"
shared  = "4 * tiles"
draw    = "cdf"
ulps    = 24
bytes   = "(batch + rejected) * (vocab * itemsize + 2048)"
tune    = { WARPS = 7, RESIDENT = 4, RUSH = 6000000 }
values  = { tiles = "ceil_div(vocab * itemsize, 2048)", rows = "max_draft * max(0, min(1, RUSH // max(1, (2 * num_draft + batch) * vocab * itemsize))) + 1", parts = "min(ceil_div(tiles, WARPS), max(1, sm_count * RESIDENT // max(batch, 1)))" }
scratch = { tile_words = "batch * rows * tiles", queue = "batch" }
*/
#include "split.cuh"

extern "C" __global__ void __launch_bounds__(32 * WARPS + 32, RESIDENT) v7_speculative_rows(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int batch, int vocab, int num_draft, int max_draft, int rows, int tiles, int parts, long long target_stride, long long draft_stride,
        unsigned long long* tile_words, unsigned long long* queue, int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ float sums[];
    __shared__ Shared shared;
    const int b = blockIdx.x / (rows * parts), block = blockIdx.x % (rows * parts), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool rush = rows > 1;
    const Request request = find_request(b, batch, num_draft, max_draft, draft_start, seeds, positions);
    const ROW* target = target_probs + (long long)(request.start + b) * target_stride;
    const ROW* draft = draft_probs ? draft_probs + (long long)request.start * draft_stride : nullptr;
    const int* tokens = draft_tokens + request.start;
    unsigned long long* words = tile_words + (long long)b * rows * tiles;

    if (warp == WARPS) {
        if (lane == 0) shared.ticket = atomicAdd(&queue[b], 1ull);
        decide(request, target, draft, tokens, target_stride, draft_stride, vocab, lane, shared);
    }
    if (!rush) __syncthreads();
    const int i = rush ? block / parts : shared.accepted, place = rush ? block % parts : (int)(unsigned)shared.ticket;
    if (warp < WARPS && i <= request.length) {
        const unsigned call = (unsigned)((rush ? *(volatile unsigned long long*)(queue + b) : shared.ticket) >> 32) + 1;
        const Row row = row_of_draw(request, target, draft, tokens, target_stride, draft_stride, i);
        for (int tile = place * WARPS + warp; tile < tiles; tile += parts * WARPS)
            publish_tile(words + (rush ? i * tiles : 0), row, tile, vocab, call, lane);
    }
    if (rush) __syncthreads();
    if ((unsigned)shared.ticket != rows * parts - 1) return;

    const int accepted = shared.accepted;
    const unsigned call = (unsigned)(shared.ticket >> 32) + 1;
    const Row row = row_of_draw(request, target, draft, tokens, target_stride, draft_stride, accepted);
    const int token = finish(request, row, words + (rush ? accepted * tiles : 0), sums, tiles, vocab, call, shared,
                             words, rush ? (request.length + 1) * tiles : 0);
    if (threadIdx.x == 0) queue[b] = (unsigned long long)call << 32;
    write_tokens(out_tokens + (long long)b * (max_draft + 1), tokens, accepted, token, max_draft, threadIdx.x, blockDim.x);
    if (threadIdx.x == 0) {
        num_accepted[b] = accepted;
        status[b] = shared.bits;
    }
}
