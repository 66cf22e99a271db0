/*
V2 - a warp per request, argmax by warp shuffles
Changes   32 lanes share a request. They test 32 drafts at once: a ballot gives the first rejection. The draw is an
          exponential race (argmax of weight / E, E exponential; the Gumbel trick without a logarithm of the weight):
          each lane keeps the best of its own tokens, and five shuffles find the winner. No cumulative sum is needed.
Reads     The rejected row pair (or the bonus row) once, 128 bytes at a time.
Slow      A random number for every token of the vocabulary: ten Philox rounds for two tokens, and a logarithm for each.
          One warp keeps too few bytes in flight to fill even a small part of the memory bus.
--- contract ---
grid  = "ceil_div(batch, BLOCK // 32)"
block = "BLOCK"
draw  = "race"
ulps  = 8
bytes = "(batch + rejected) * vocab * itemsize"
tune  = { BLOCK = 32 }
*/
#include "warp.cuh"

struct Best { float score; int token; };

// Higher score wins, the lower id on a tie; a Best without a token (-1) has score 0 and never beats one.
__device__ __forceinline__ Best better(Best a, Best b) {
    return b.score > a.score || (b.score == a.score && (unsigned)b.token < (unsigned)a.token) ? b : a;
}

// Each lane races every 32nd pair of tokens (2i, 2i + 1): they share one Philox call.
__device__ Best race_row(const Row& row, int vocab, unsigned long long seed, long long position, int lane, int& status) {
    Best best = {0.0f, -1};
    for (int pair = lane; 2 * pair < vocab; pair += 32) {
        float weight[2] = {0.0f, 0.0f};
        for (int half = 0; half < 2; ++half) {
            const int id = 2 * pair + half;
            if (id >= vocab) break;
            const float p = to_float(row.target[id]), q = draft_at(row, id);
            if (!isfinite(p) || !isfinite(q)) status |= NONFINITE;
            weight[half] = residual(p, q);
        }
        if (weight[0] == 0.0f && weight[1] == 0.0f) continue;
        const uint4 words = random_words(seed, position, STREAM_RACE, pair);
        // 2^-8 keeps the score of the smallest weight over the largest E a normal number.
        const float first = weight[0] / (exponential(words.x, words.y) * 0x1p-8f);
        const float second = weight[1] / (exponential(words.z, words.w) * 0x1p-8f);
        if (first > best.score) best = {first, 2 * pair};
        if (second > best.score) best = {second, 2 * pair + 1};
    }
    for (int distance = 16; distance; distance /= 2)
        best = better(best, {__shfl_xor_sync(ALL, best.score, distance), __shfl_xor_sync(ALL, best.token, distance)});
    return best;
}

extern "C" __global__ void v2_warp_argmax(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int batch, int vocab, int max_draft, long long target_stride, long long draft_stride,
        int* out_tokens, int* num_accepted, int* status) {
    const int b = (blockIdx.x * BLOCK + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (b >= batch) return;
    const int start = draft_start[b];
    const Request request = {start, draft_start[b + 1] - start, seeds[b], positions[b]};
    const Rows rows = {target_probs + (long long)(start + b) * target_stride,
                       draft_probs ? draft_probs + (long long)start * draft_stride : nullptr,
                       draft_tokens + start, target_stride, draft_stride};

    int bits = 0;
    const int accepted = count_accepted(request, rows, vocab, lane, bits);
    Row row = row_of_draw(request, rows, accepted);
    Best best = race_row(row, vocab, request.seed, request.position, lane, bits);
    if (best.token < 0 && accepted < request.length) {
        bits |= ZERO_RESIDUAL;
        best = race_row(without_draft(row), vocab, request.seed, request.position, lane, bits);
    }
    if (best.token < 0) bits |= NO_MASS;
    bits = or_over_warp(bits);

    write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, accepted, best.token, max_draft, lane, 32);
    if (lane == 0) {
        num_accepted[b] = accepted;
        status[b] = bits;
    }
}
