/*
V1 - one thread per request
Idea      The loop of the Python baseline, moved to the GPU: one thread tests the drafts of one request, stops at the
          first rejection, and draws the last token by the inverse of the cumulative sum. No host round trip is left.
Reads     The rejected row pair (or the bonus row) twice: once for the total, once to find the token.
Slow      A row of 128256 floats is read by one thread, 4 bytes at a time, each waiting for an addition in double; the
          other 31 lanes of its warp read other rows, so nothing coalesces.
--- contract ---
grid  = "ceil_div(batch, BLOCK)"
block = "BLOCK"
draw  = "cdf"
ulps  = 1
bytes = "2 * (batch + rejected) * vocab * itemsize"
tune  = { BLOCK = 32 }
*/
#include "common.cuh"

struct Draw { double total; int token; int status; };

// Ids in order, up to the first whose cumulative weight exceeds `limit`; if none does, the last id with weight.
__device__ Draw scan_row(const Row& row, int vocab, double limit) {
    Draw out = {0.0, -1, 0};
    for (int id = 0; id < vocab && out.total <= limit; ++id) {
        const float p = to_float(row.target[id]), q = draft_at(row, id), weight = residual(p, q);
        if (!isfinite(p) || !isfinite(q)) out.status |= NONFINITE;
        if (weight == 0.0f) continue;
        out.total += weight;
        out.token = id;
    }
    return out;
}

extern "C" __global__ void v1_one_thread(
        const ROW* __restrict__ target_probs, const ROW* __restrict__ draft_probs,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        int batch, int vocab, int max_draft, long long target_stride, long long draft_stride,
        int* out_tokens, int* num_accepted, int* status) {
    const int request = blockIdx.x * BLOCK + threadIdx.x;
    if (request >= batch) return;
    const int start = draft_start[request], length = draft_start[request + 1] - start;
    const unsigned long long seed = seeds[request];
    const long long position = positions[request];
    int* out = out_tokens + (long long)request * (max_draft + 1);

    int accepted = 0, bits = 0;
    Row row;
    for (;; ++accepted) {
        const int i = start + accepted;
        row = {target_probs + (long long)(i + request) * target_stride, nullptr, -1};
        if (accepted == length) break;  // every draft accepted: the bonus row
        row.drafted = draft_tokens[i];
        if (draft_probs) row.draft = draft_probs + (long long)i * draft_stride;
        if (!test_draft(row, vocab, seed, position, accepted, bits)) break;
        out[accepted] = row.drafted;
    }

    Draw whole = scan_row(row, vocab, CUDART_INF);
    bits |= whole.status;
    if (whole.token < 0 && accepted < length) {
        bits |= ZERO_RESIDUAL;
        row = without_draft(row);
        whole = scan_row(row, vocab, CUDART_INF);
    }
    const Draw drawn = scan_row(row, vocab, recover_uniform(seed, position, accepted) * whole.total);
    if (drawn.token < 0) bits |= NO_MASS;

    out[accepted] = drawn.token;
    for (int i = accepted + 1; i <= max_draft; ++i) out[i] = -1;
    num_accepted[request] = accepted;
    status[request] = bits;
}
