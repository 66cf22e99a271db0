/*
V7 - hidden latency: nothing waits that need not
Changes   (Against V5.) The blocks of all requests together fill the GPU just once, so that the head of a block is paid once.
          The head: one warp decides, another prepares the random numbers of the draw, a third takes the block's place in the
          queue; where all requests have the same number of drafts, their first row needs no draft_start.
          The tail: a block takes its place when it starts, so the one that started last is known early, and only that one
          waits. A tile's sum travels with the number of the call in one 8-byte word: whoever reads the number has the sum,
          so there is no fence and no counter at the end, and the other blocks leave. (Nobody waits for a block that has not
          started: the one that started last waits for those before it.) A request with a block to itself needs no words.
Reads     The rejected row pair (or the bonus row) once, and one tile of it again.
Slow      At small sizes, reads that need each other: token, probability, row, words, tile. At large ones it runs with the memory.
--- contract ---
grid    = ["batch", "parts"]
block   = "32 * warps"
shared  = "4 * tiles"
draw    = "cdf"
ulps    = 24
bytes   = "(batch + rejected) * (vocab * itemsize + 2048)"
tune    = { WARPS = 8, RESIDENT = 4 }
[values]
tiles   = "ceil_div(vocab * itemsize, 2048)"
most    = "WARPS * (1 + min(1, batch // sm_count))"
parts   = "min(ceil_div(tiles, most), max(1, sm_count * RESIDENT * WARPS // most // max(batch, 1)))"
share   = "ceil_div(tiles, parts)"
warps   = "max(3, ceil_div(share, ceil_div(share, most)))"
[scratch]
tile_words = "batch * tiles"
queue   = "batch"
*/
#include "split.cuh"

extern "C" __global__ void __launch_bounds__(64 * WARPS, RESIDENT / 2) v7_hidden_latency(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int batch, int vocab, int num_draft, int max_draft, int tiles, int warps, int parts, long long target_stride, long long draft_stride,
        unsigned long long* tile_words, unsigned long long* queue, int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ float sums[];
    __shared__ Shared shared;
    const int b = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Request request = find_request(b, batch, num_draft, max_draft, draft_start, seeds, positions);
    const Rows rows = {target_probs + (long long)(request.start + b) * target_stride,
                       draft_probs ? draft_probs + (long long)request.start * draft_stride : nullptr,
                       draft_tokens + request.start, target_stride, draft_stride};

    if (warp == 0) decide(request, rows, vocab, lane, shared);
    if (warp == 1) prepare_uniforms(request, lane, shared);
    if (threadIdx.x == 64) shared.ticket = atomicAdd(&queue[b], 1ull);
    __syncthreads();
    const int place = (int)(unsigned)shared.ticket, accepted = shared.accepted;
    const unsigned call = (unsigned)(shared.ticket >> 32) + 1;
    const Row row = row_of_draw(request, rows, accepted);

    unsigned long long* words = parts > 1 ? tile_words + (long long)b * tiles : nullptr;
    for (int tile = place * warps + warp; tile < tiles; tile += parts * warps) give_tile(words, sums, row, tile, vocab, call, lane, shared);
    if (place != parts - 1) return;

    if (threadIdx.x == 0) queue[b] = (unsigned long long)call << 32;  // empty again, and one call later
    const int token = finish(request, row, words, sums, tiles, vocab, call, shared);
    if (warp) return;
    write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, accepted, token, max_draft, lane, 32);
    if (lane == 0) {
        num_accepted[b] = accepted;
        status[b] = shared.bits;
    }
}
