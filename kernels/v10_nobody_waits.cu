/*
V10 - nobody waits: what a rejection has overtaken is not read
Changes   Blocks start position by position, all requests' first row pairs before any second, and each looks once, when it starts,
          whether its request has ended already: then it leaves. So laziness costs no round in which blocks wait for each other. A
          block that starts before the verdict reads for nothing; there are few of these where the rows of one position are more
          blocks than the GPU holds. The last block of a position to arrive joins the statistics of its tiles and tests the draft;
          the one that completes the decision draws the token. It draws without weighing the row: the target's tile sums are
          there, so ids are proposed from the target and kept as often as the residual would have them (propose.cuh).
Reads     Row pairs up to the first rejection, once, (1 - a^K) / (1 - a) of K on average, and those that were begun before it was
          known; a tile of both rows for each proposal, WARPS at a time, 1 / (1 - sum min(p, q)) needed on average.
Slow      From the last arrival to the token go four ways to the L2 and back; at batch 1 they and the launch are most of the time.
--- contract ---
grid    = "(max_draft + 1) * batch * parts"
block   = "32 * WARPS"
shared  = "16 * tiles"
draw    = "propose"
input   = "logits"
ulps    = 24
bytes   = "(batch + num_draft) * vocab * itemsize"
tune    = { WARPS = 4, RESIDENT = 6, FILL = 1, DEEP = 4 }
[values]
tiles   = "ceil_div(vocab * itemsize, 2048)"
full    = "sm_count * RESIDENT"
wanted  = "min(tiles, max(FILL * full // max(1, batch), tiles // (DEEP * WARPS)))"
parts   = "1 + min(1, wanted // 2) + 2 * min(1, wanted // 4) + 4 * min(1, wanted // 8) + 8 * min(1, wanted // 16) + 16 * min(1, wanted // 32)"
share   = "ceil_div(tiles, parts)"
groups  = "max_draft // 16 + 1"
waves   = "(max_draft + 1) * batch * parts // (full + 1)"
[scratch]
tile_stats = "batch * (max_draft + 1) * 6 * tiles"
arrived  = "batch * (max_draft + 1)"
verdicts = "batch * (max_draft // 16 + 1)"
drawing  = "batch"
*/
#define FROM_LOGITS
#include "propose.cuh"

struct Shared {
    unsigned call;          // calls before this one
    int skipped, last, stop, token, kept[WARPS];
    float target, draft, u; // the drafted token's logits, and the number it is tested with
    Scale scale[2];         // of the target row and the draft row
};

template <typename T>
__device__ __forceinline__ T fetch(const T* word) { return *(const volatile T*)word; }

// Verdicts of a request, 16 positions to a word: the number of the call, then a bit for each that ends it, then one for each that was
// accepted. A word of another call says nothing, so nobody has to clear it.
__device__ __forceinline__ unsigned bits_of(unsigned long long word, unsigned call) { return (unsigned)(word >> 32) == call ? (unsigned)word : 0; }

__device__ __forceinline__ bool overtaken(const unsigned long long* verdicts, unsigned call, int i) {
    for (int g = 0; g <= i / 16; ++g) {
        const unsigned ends = bits_of(fetch(verdicts + g), call) >> 16;
        if (g < i / 16 ? ends : ends & ((1u << i % 16) - 1)) return true;
    }
    return false;
}

// Where the positions of a word end the request, if all before it are known to be accepted: 0..15; 16: all are accepted; -1: not known.
__device__ __forceinline__ int end_of(unsigned bits) {
    const int end = __ffs((int)(bits >> 16)), open = __ffs((int)(~bits & 0xffff));  // from 1; 0: none
    return end && !(open && open < end) ? end - 1 : open ? -1 : 16;
}

// By one thread: adds the verdict on position i; the position at which the request ends if this completes the decision, else -1.
__device__ __forceinline__ int add_verdict(unsigned long long* verdicts, unsigned* drawing, unsigned call, int i, bool accepted, int groups) {
    unsigned long long* const word = verdicts + i / 16;
    unsigned long long seen = fetch(word), before;
    unsigned bits;
    do {
        before = seen, bits = bits_of(before, call) | 1u << (i % 16 + (accepted ? 0 : 16));
        seen = atomicCAS(word, before, (unsigned long long)call << 32 | bits);
    } while (seen != before);
    if (groups == 1) return end_of(bits_of(before, call)) < 0 ? end_of(bits) : -1;  // known already: another block draws
    __threadfence();
    for (int g = 0; g < groups; ++g) {
        const int end = end_of(bits_of(fetch(verdicts + g), call));
        if (end < 0) return -1;
        if (end < 16) return atomicExch(drawing, call + 1) == call + 1 ? -1 : 16 * g + end;
    }
    return -1;
}

// By one warp: the statistics of a row's tiles joined, in an order that is always the same. tops, sums: those of the tiles, kept.
__device__ __forceinline__ Scale join_tiles(const float* stats, int tiles, float heat, int lane, float* tops, float* sums) {
    const float factor = factor_of(heat);
    const bool greedy = !(heat > 0.0f);
    Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
    for (int t = lane; t < tiles; t += 32) {
        const Stats one = {fetch(stats + t), fetch(stats + tiles + t), greedy ? __float_as_int(fetch(stats + 2 * tiles + t)) : NO_ID};
        own = joined(own, one, factor);
        if (tops) tops[t] = one.top, sums[t] = one.sum;
    }
    const float top = max_warp(own.top), sum = sum_warp(rebased(own.sum, own.top, top, factor));
    return scale_of({top, sum, greedy ? min_warp(own.top == top ? own.first : NO_ID) : NO_ID}, heat);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) v10_nobody_waits(
        const ROW* __restrict__ target_logits, const ROW* __restrict__ draft_logits,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        const float* __restrict__ temperature, const float* __restrict__ draft_lse,
        int batch, int vocab, int num_draft, int max_draft, int tiles, int parts, int share, int groups, int waves,
        long long target_stride, long long draft_stride,
        float* tile_stats, unsigned long long* arrived, unsigned long long* verdicts, unsigned* drawing,
        int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ float tops[];
    __shared__ Shared shared;
    float* const sums = tops + tiles;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int rank = blockIdx.x % parts, b = blockIdx.x / parts % batch, i = blockIdx.x / parts / batch;
    unsigned long long* const here = arrived + (long long)b * (max_draft + 1) + i;  // blocks that came through this position, in all calls
    const int shift = __ffs(parts) - 1;  // parts is a power of two
    unsigned long long* const known = verdicts + (long long)b * groups;
    const Request request = find_request(b, batch, num_draft, max_draft, draft_start, seeds, positions);
    if (threadIdx.x == 0) {
        shared.call = (unsigned)(fetch(here) >> shift);
        shared.skipped = i > request.length || (waves && overtaken(known, shared.call, i));
    }
    if (waves || i > request.length) {  // if all blocks start at once, there is nothing to look for
        __syncthreads();
        if (shared.skipped) {
            if (threadIdx.x == 0) atomicAdd(here, 1ull);
            return;
        }
    }
    const Rows rows = {target_logits + (long long)(request.start + b) * target_stride,
                       draft_logits ? draft_logits + (long long)request.start * draft_stride : nullptr,
                       draft_tokens + request.start, target_stride, draft_stride};
    const float heat = temperature[b];
    const bool greedy = !(heat > 0.0f), reads_draft = rows.draft && (!draft_lse || greedy), tested = i < request.length;
    const auto stats_of = [&](int position) { return tile_stats + ((long long)b * (max_draft + 1) + position) * 6 * tiles; };
    const int token = tested ? rows.tokens[i] : -1;
    const bool real = token >= 0 && token < vocab, fetches = threadIdx.x == 32 * WARPS - 1 && real;
    const float target_logit = fetches ? to_float(rows.target[i * target_stride + token]) : 0.0f;  // used when the rows have been read
    const float draft_logit = fetches && rows.draft ? to_float(rows.draft[i * draft_stride + token]) : 0.0f;

    const int first = rank * share, both = tested && reads_draft, items = max(0, min(share, tiles - first)) << both;  // target, draft, target, ...
    const auto row_of = [&](int item) { return item & both ? rows.draft + i * draft_stride : rows.target + i * target_stride; };
    Pieces now, next;
    for (int item = warp - WARPS; item < items; item += WARPS) {  // one tile is on its way while another is weighed
        if (item + WARPS < items) load_tile(row_of(item + WARPS), first + (item + WARPS >> both), vocab, lane, next.piece);
        if (item >= 0) {
            const int t = first + (item >> both);
            const Stats own = tile_statistics(now, row_of(item), t, vocab, factor_of(heat), greedy, lane);
            float* const to = stats_of(i) + (item & both) * 3 * tiles + t;
            if (lane == 0) to[0] = own.top, to[tiles] = own.sum;
            if (lane == 0 && greedy) to[2 * tiles] = __int_as_float(own.first);
        }
        now = next;
    }
    if (fetches) shared.target = target_logit, shared.draft = draft_logit, shared.u = accept_uniform(request.seed, request.position, i);
    __syncthreads();
    const unsigned call = shared.call;
    if (threadIdx.x == 0) {
        __threadfence();
        shared.last = (atomicAdd(here, 1ull) & parts - 1) == parts - 1;
        __threadfence();
    }
    __syncthreads();
    if (!shared.last) return;
    // The last block of a position: its verdict, unless an earlier one has been rejected meanwhile (then others may have left).
    if (threadIdx.x == 0) shared.skipped = overtaken(known, call, i);
    if (warp < 1 + both) {
        const Scale scale = join_tiles(stats_of(i) + warp * 3 * tiles, tiles, heat, lane, warp ? nullptr : tops, sums);
        if (lane == 0) shared.scale[warp] = scale;
    }
    if (threadIdx.x == 32 * WARPS - 1 && tested && rows.draft && !both) shared.scale[1] = scale_of_lse(draft_lse[request.start + i], heat);
    __syncthreads();
    if (threadIdx.x == 0) {
        const float p = real ? chance_of(shared.target, token, shared.scale[0]) : 0.0f;
        const float q = real && rows.draft ? chance_of(shared.draft, token, shared.scale[1]) : 1.0f;
        shared.stop = shared.skipped ? -1 : add_verdict(known, drawing + b, call, i, real && accepts(shared.u, p, q), groups);
    }
    __syncthreads();
    const int accepted = shared.stop;
    if (accepted < 0) return;

    // This block draws the token, after `accepted` drafts.
    const bool recovered = accepted < request.length;
    Row row = {rows.target + accepted * target_stride, recovered && rows.draft ? rows.draft + accepted * draft_stride : nullptr,
               recovered ? rows.tokens[accepted] : -1};
    const bool inside = row.drafted >= 0 && row.drafted < vocab;
    const float target = inside ? to_float(row.target[row.drafted]) : 0.0f, draft = inside && row.draft ? to_float(row.draft[row.drafted]) : 0.0f;
    if (accepted != i) {
        if (warp < 1 + (recovered && reads_draft)) {
            const Scale scale = join_tiles(stats_of(accepted) + warp * 3 * tiles, tiles, heat, lane, warp ? nullptr : tops, sums);
            if (lane == 0) shared.scale[warp] = scale;
        }
        if (threadIdx.x == 32 * WARPS - 1 && recovered && rows.draft && !reads_draft) shared.scale[1] = scale_of_lse(draft_lse[request.start + accepted], heat);
        __syncthreads();
    }
    row.target_scale = shared.scale[0];
    if (row.draft) row.draft_scale = shared.scale[1];
    int bits = 0, drawn = -1;
    if (recovered) {  // what its test met
        if (!inside) bits |= BAD_TOKEN;
        else if (!isfinite(chance_of(target, row.drafted, row.target_scale)) || (row.draft && !isfinite(chance_of(draft, row.drafted, row.draft_scale)))) bits |= NONFINITE;
    }
    if (greedy) {
        drawn = greedy_token(row, recovered, bits);
    } else {
        const float top = row.target_scale.top, factor = row.target_scale.factor, inverse = row.target_scale.inverse;
        for (int t = threadIdx.x; t < tiles; t += 32 * WARPS) sums[t] = rebased(sums[t], tops[t], top, factor) * inverse;
        __syncthreads();
        if (isfinite(inverse)) drawn = first_kept(request, row, sums, tiles, shared.kept, vocab);
        if (drawn < 0) drawn = weigh_all(request, row, tops, tiles * PIECES, &shared.token, accepted, vocab, bits);
    }
    write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, accepted, drawn, max_draft, threadIdx.x, 32 * WARPS);
    if (threadIdx.x == 0) num_accepted[b] = accepted, status[b] = bits;
}
