/*
V6 - hidden latency
Changes   Nothing waits that need not.
          The head: where all requests have the same number of drafts, the first row needs no draft_start; the tokens, the
          seed and the place in the queue are fetched together; and where all rows are few bytes (RUSH), every block asks
          the L2 for its part of every row before it knows which one will be drawn from.
          The tail: a block takes its place in the queue when it starts, so the one that started last is known at once, and
          only that one waits. A tile's sum travels with the number of the call in one 8-byte word: whoever reads the
          number has the sum, so no fence and no counter at the end, and all other blocks leave when they have read.
          (No block waits for one that has not started: the last one to start waits for those before it.)
Reads     The rejected row pair (or the bonus row) once, and one tile of it again.
Slow      What is left is the launch, two reads that need each other (token, probability), and the sums.
--- contract ---
grid    = "batch * parts"
block   = "32 * WARPS"
shared  = "4 * tiles"
draw    = "cdf"
ulps    = 12
bytes   = "(batch + rejected) * (vocab * itemsize + 2048)"
tune    = { WARPS = 8, WAVES = 32, RESIDENT = 4, RUSH = 6000000 }
values  = { tiles = "ceil_div(vocab * itemsize, 2048)", parts = "min(ceil_div(tiles, WARPS), max(1, ceil_div(sm_count * WAVES, max(batch, 1))))" }
scratch = { tile_words = "batch * tiles", queue = "batch" }
*/
#include "tile.cuh"

// Asks for a line of memory without waiting for it.
__device__ __forceinline__ void prefetch(const void* p) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// A tile's sum, whether it met something not finite, and the number of the call.
__device__ __forceinline__ unsigned long long pack(float sum, int bits, unsigned call) {
    return (unsigned long long)(call << 1 | (bits != 0)) << 32 | __float_as_uint(sum);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) v6_hidden_latency(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int batch, int vocab, int num_draft, int max_draft, int tiles, int parts, long long target_stride, long long draft_stride,
        unsigned long long* tile_words, unsigned long long* queue, int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ float sums[];
    __shared__ int shared_accepted, shared_bits, shared_token;
    __shared__ unsigned long long shared_ticket;
    const int b = blockIdx.x / parts, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 32 * (WARPS - 1)) shared_ticket = atomicAdd(&queue[b], 1ull);

    const bool rectangular = num_draft == (long long)batch * max_draft;  // then every request has max_draft drafts
    const int start = rectangular ? b * max_draft : draft_start[b];
    const Request request = {start, rectangular ? max_draft : draft_start[b + 1] - start, seeds[b], positions[b]};
    const ROW* target = target_probs + (long long)(start + b) * target_stride;
    const ROW* draft = draft_probs ? draft_probs + (long long)start * draft_stride : nullptr;
    const int* tokens = draft_tokens + start;

    if (warp == 0) {
        int bits = 0;
        const int accepted = count_accepted(request, target, draft, tokens, target_stride, draft_stride, vocab, lane, bits);
        bits = or_over_warp(bits);
        if (lane == 0) shared_accepted = accepted, shared_bits = bits;
    } else if ((long long)(2 * num_draft + batch) * vocab * (int)sizeof(ROW) <= RUSH) {
        const int lines = (vocab * (int)sizeof(ROW) + 127) / 128;  // of a row; this block's share of each
        for (int line = (blockIdx.x % parts) * 32 * (WARPS - 1) + threadIdx.x - 32; line < lines; line += parts * 32 * (WARPS - 1)) {
            const int id = line * (128 / (int)sizeof(ROW));
            for (int i = 0; i <= request.length; ++i) prefetch(target + i * target_stride + id);
            for (int i = 0; draft && i < request.length; ++i) prefetch(draft + i * draft_stride + id);
        }
    }
    __syncthreads();
    const int accepted = shared_accepted, place = (int)(unsigned)shared_ticket;
    const unsigned call = (unsigned)(shared_ticket >> 32) + 1;
    Row row = row_of_draw(request, target, draft, tokens, target_stride, draft_stride, accepted);

    unsigned long long* words = tile_words + (long long)b * tiles;
    for (int tile = place * WARPS + warp; tile < tiles; tile += parts * WARPS) {
        int bits = 0;
        const float sum = sum_tile(row, tile, vocab, lane, bits);
        bits = __any_sync(ALL, bits != 0);
        if (lane == 0) *(volatile unsigned long long*)(words + tile) = pack(sum, bits, call);
    }
    if (place != parts - 1) return;

    // The block that started last: it waits for the words of this call, and clears the queue for the next.
    for (int tile = threadIdx.x; tile < tiles; tile += 32 * WARPS) {
        unsigned long long word;
        while (word = *(volatile unsigned long long*)(words + tile), (unsigned)(word >> 33) != (call & 0x7fffffffu)) __nanosleep(20);
        sums[tile] = __uint_as_float((unsigned)word);
        if (word >> 32 & 1) atomicOr(&shared_bits, NONFINITE);
    }
    if (threadIdx.x == 0) queue[b] = (unsigned long long)call << 32;
    __syncthreads();
    const double u = recover_uniform(request.seed, request.position, accepted);
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (warp == 0) {
            const Found found = find_tile(sums, tiles, u, lane);
            const int token = found.tile < 0 ? -1 : find_token(row, found, vocab, lane);
            if (lane == 0) shared_token = token;
        }
        __syncthreads();
        if (shared_token >= 0 || accepted == request.length || attempt) break;
        row = without_draft(row);  // no mass in the residual, which is rare: this block alone weighs the target row
        int bits = 0;
        for (int tile = warp; tile < tiles; tile += WARPS) {
            const float sum = sum_tile(row, tile, vocab, lane, bits);
            if (lane == 0) sums[tile] = sum;
        }
        if (threadIdx.x == 0) shared_bits |= ZERO_RESIDUAL;
        __syncthreads();
    }

    write_tokens(out_tokens + (long long)b * (max_draft + 1), tokens, accepted, shared_token, max_draft, threadIdx.x, 32 * WARPS);
    if (threadIdx.x == 0) {
        num_accepted[b] = accepted;
        status[b] = shared_bits | (shared_token < 0 ? NO_MASS : 0);
    }
}
