/*
V8 - fused from logits: statistics of every row, then the split row
Changes   Takes logits. Engines hold logits; a softmax in front of V7 reads them, writes float32 probabilities, and these are read
          again. Here a first launch reads each row once and leaves five numbers (its maximum, the sum of its powers, ...); the
          second is V7, with a probability computed from a logit where V7 reads one. Nothing as large as a row is written.
          Temperature 0 is a row with all its mass on the first maximum. With draft_lse no draft row is read for its statistics.
Reads     Every target and draft row once, then the rejected pair (or the bonus row), and one tile of it again.
Slow      The rows behind the first rejection are read for nothing, and the rejected pair twice; a row has one block to itself,
          so at batch 1 there are 2 K + 1 busy multiprocessors.
--- contract ---
draw    = "cdf"
input   = "logits"
ulps    = 24
bytes   = "(2 * num_draft + batch + batch + rejected) * vocab * itemsize"
tune    = { WARPS = 8, RESIDENT = 3, BLOCK = 256 }
values  = { tiles = "ceil_div(vocab * itemsize, 2048)", parts = "min(ceil_div(tiles, WARPS), max(1, sm_count * RESIDENT // max(batch, 1)))" }
scratch = { scales = "5 * (2 * num_draft + batch)", tile_words = "batch * tiles", queue = "batch" }
[[launch]]
kernel  = "v8_row_statistics"
grid    = "batch * (2 * max_draft + 1)"
block   = "BLOCK"
[[launch]]
kernel  = "v8_split_row"
grid    = "batch * parts"
block   = "32 * WARPS"
shared  = "4 * tiles"
*/
#define FROM_LOGITS
#include "split.cuh"
#include "statistics.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK, 3) v8_row_statistics(
        const ROW* __restrict__ target_logits, const ROW* __restrict__ draft_logits, const int* __restrict__ draft_start,
        const float* __restrict__ temperature, const float* __restrict__ draft_lse,
        int batch, int vocab, int num_draft, int max_draft, int tiles, long long target_stride, long long draft_stride, float* scales) {
    __shared__ Stats part[BLOCK / 32];
    const int b = blockIdx.x / (2 * max_draft + 1), j = blockIdx.x % (2 * max_draft + 1), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int start = draft_start[b], length = draft_start[b + 1] - start, i = j <= max_draft ? j : j - max_draft - 1;
    const bool is_draft = j > max_draft;
    if (i > length || (is_draft && (i == length || !draft_logits))) return;
    const float heat = temperature[b], factor = factor_of(heat);
    Scale* scale = reinterpret_cast<Scale*>(scales) + (is_draft ? num_draft + batch + start : start + b) + i;
    if (is_draft && draft_lse && heat > 0.0f) {
        if (threadIdx.x == 0) *scale = scale_of_lse(draft_lse[start + i], heat);
        return;
    }
    const ROW* row = is_draft ? draft_logits + (long long)(start + i) * draft_stride : target_logits + (long long)(start + b + i) * target_stride;
    Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
    for (int tile = warp; tile < tiles; tile += BLOCK / 32) {
        Pieces now;
        load_tile(row, tile, vocab, lane, now.piece);
        own = joined(own, tile_statistics(now, tile, factor, !(heat > 0.0f), lane), factor);
    }
    if (lane == 0) part[warp] = own;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < BLOCK / 32; ++w) own = joined(own, part[w], factor);
    *scale = scale_of(own, heat);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) v8_split_row(
        const ROW* __restrict__ target_logits, const ROW* __restrict__ draft_logits,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int batch, int vocab, int num_draft, int max_draft, int tiles, int parts, long long target_stride, long long draft_stride,
        const float* scales, unsigned long long* tile_words, unsigned long long* queue, int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ float sums[];
    __shared__ Shared shared;
    const int b = blockIdx.x / parts, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Request request = find_request(b, batch, num_draft, max_draft, draft_start, seeds, positions);
    const Scale* scale = reinterpret_cast<const Scale*>(scales);
    const Rows rows = {target_logits + (long long)(request.start + b) * target_stride,
                       draft_logits ? draft_logits + (long long)request.start * draft_stride : nullptr,
                       draft_tokens + request.start, target_stride, draft_stride,
                       scale + request.start + b, scale + num_draft + batch + request.start};

    if (warp == 0) decide(request, rows, vocab, lane, shared);
    if (warp == 1) prepare_uniforms(request, lane, shared);
    if (threadIdx.x == 64) shared.ticket = atomicAdd(&queue[b], 1ull);
    __syncthreads();
    const int place = (int)(unsigned)shared.ticket, accepted = shared.accepted;
    const unsigned call = (unsigned)(shared.ticket >> 32) + 1;
    const Row row = row_of_draw(request, rows, accepted);
    if (row.target_scale.first >= 0) {  // greedy: the statistics know the token
        if (place != parts - 1 || warp) return;
        int bits = shared.bits;
        const int token = greedy_token(row, accepted < request.length, bits);
        write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, accepted, token, max_draft, lane, 32);
        if (lane == 0) {
            queue[b] = (unsigned long long)call << 32;
            num_accepted[b] = accepted;
            status[b] = bits;
        }
        return;
    }

    unsigned long long* words = tile_words + (long long)b * tiles;
    for (int tile = place * WARPS + warp; tile < tiles; tile += parts * WARPS) give_tile(words, sums, row, tile, vocab, call, lane, shared);
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
