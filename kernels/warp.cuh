// What the rungs with a warp or more per request share: the accept tests of a request by one warp, and its outputs.
#pragma once
#include "common.cuh"

constexpr unsigned ALL = 0xffffffffu;

// Where all requests have max_draft drafts, nothing waits for draft_start.
__device__ __forceinline__ Request find_request(int b, int batch, int num_draft, int max_draft, const int* draft_start,
                                                const unsigned long long* seeds, const long long* positions) {
    int start = b * max_draft, length = max_draft;
    if (num_draft != (long long)batch * max_draft) start = draft_start[b], length = draft_start[b + 1] - start;
    return {start, length, seeds[b], positions[b]};
}

// The rows of one request: target row i and draft row i belong to draft i; target row `length` is the bonus row.
struct Rows {
    const ROW* target; const ROW* draft; const int* tokens; long long target_stride, draft_stride;
    const Scale* target_scale; const Scale* draft_scale;  // of rows of logits
};

__device__ __forceinline__ Row row_at(const Rows& rows, int i) {
    Row row = {rows.target + i * rows.target_stride, rows.draft ? rows.draft + i * rows.draft_stride : nullptr, rows.tokens[i]};
#ifdef FROM_LOGITS
    row.target_scale = rows.target_scale[i];
    if (rows.draft) row.draft_scale = rows.draft_scale[i];
#endif
    return row;
}

// Lanes test 32 drafts at once; a ballot gives the first rejection. Returns the number accepted, the same in all lanes;
// each lane adds to its own `status` what it met in the tests up to that rejection: those behind it have not happened.
__device__ __forceinline__ int count_accepted(const Request& request, const Rows& rows, int vocab, int lane, int& status) {
    for (int first = 0; first < request.length; first += 32) {
        const int i = first + lane;
        int met = 0;
        bool rejected = false;
        if (i < request.length) rejected = !test_draft(row_at(rows, i), vocab, request.seed, request.position, i, met);
        const unsigned rejections = __ballot_sync(ALL, rejected);
        const int stop = rejections ? __ffs(rejections) - 1 : 31;
        if (lane <= stop) status |= met;
        if (rejections) return first + stop;
    }
    return request.length;
}

// The row that the last token is drawn from.
__device__ __forceinline__ Row row_of_draw(const Request& request, const Rows& rows, int accepted) {
    const bool recovered = accepted < request.length;
    if (recovered) return row_at(rows, accepted);
    Row row = {rows.target + accepted * rows.target_stride, nullptr, -1};
#ifdef FROM_LOGITS
    row.target_scale = rows.target_scale[accepted];
#endif
    return row;
}

// Accepted drafts, the token drawn, then -1; by `threads` threads, of which this is number `thread`.
__device__ __forceinline__ void write_tokens(int* out, const int* tokens, int accepted, int drawn, int max_draft, int thread, int threads) {
    for (int i = thread; i <= max_draft; i += threads) out[i] = i < accepted ? tokens[i] : i == accepted ? drawn : -1;
}

__device__ __forceinline__ int or_over_warp(int bits) {
    for (int distance = 16; distance; distance /= 2) bits |= __shfl_xor_sync(ALL, bits, distance);
    return bits;
}

__device__ __forceinline__ float sum_warp(float x) {
    for (int distance = 16; distance; distance /= 2) x += __shfl_xor_sync(ALL, x, distance);
    return x;
}

// Sum over this lane and those before it, in a fixed order; float or double.
template <typename T>
__device__ __forceinline__ T scan_warp(T x, int lane) {
    for (int distance = 1; distance < 32; distance *= 2) {
        const T left = __shfl_up_sync(ALL, x, distance);
        if (lane >= distance) x += left;
    }
    return x;
}

// The first lane that passed, or if none did the last one with mass.
__device__ __forceinline__ int first_or_last(unsigned passed, unsigned mass) {
    return passed ? __ffs(passed) - 1 : mass ? 31 - __clz(mass) : 0;
}
