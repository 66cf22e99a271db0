/*
V9 - lazy: what lies behind the first rejection is not read
Changes   One launch. A request goes through its drafts in rounds of `ahead` positions (one; all of them where the rows are few
          bytes). The blocks of a position read its row pair once, each its share, and keep the share in shared memory; the
          statistics of the shares travel as in V6, each as one word with the number of the call; every block then knows whether
          the draft is accepted. At the first rejection the row pair is still there: its weights are taken from shared memory.
          Many small blocks wait for each other, so they must be running: where they do not all fit, a block takes its place
          when it starts, and waits only for blocks that have started before or with it.
Reads     Row pairs up to the first rejection, once: (1 - a^K) / (1 - a) of K on average; and one tile of the rejected pair again.
Slow      A round costs a way through the L2 and back, which other requests must hide.
--- contract ---
grid    = ["batch", "ahead", "parts"]
block   = "32 * WARPS"
shared  = "owned * (28 + 4096 * kept)"
draw    = "cdf"
input   = "logits"
ulps    = 24
bytes   = "(batch + num_draft + rejected) * vocab * itemsize"
tune    = { WARPS = 8, RESIDENT = 3, SHARE = 16, MOST = 16, RUSH = 4000000 }
[values]
tiles   = "ceil_div(vocab * itemsize, 2048)"
each    = "ceil_div(tiles, 16)"
ahead   = "max(1, min(together, max_draft + 1, WARPS, RUSH // max(1, 2 * batch * vocab * itemsize)))"
room    = "min(MOST, together, max(1, sm_count * RESIDENT // max(1, batch * ahead)))"
share   = "min(SHARE, (shared_bytes - 8192) // 4124)"
need    = "min(together, ceil_div(16 * each, share))"
parts   = "max(1 + min(1, room // 2) + 2 * min(1, room // 4) + 4 * min(1, room // 8) + 8 * min(1, room // 16), 1 + min(1, need // 2) + 2 * min(1, need // 3) + 4 * min(1, need // 5) + 8 * min(1, need // 9))"
owned   = "16 // parts * each"
kept    = "min(1, share // owned)"
ordered = "min(1, batch * ahead * parts // (sm_count * RESIDENT + 1))"
[scratch]
row_words = "batch * (max_draft + 1) * 96"
sum_words = "batch * 32"
counters  = "3"
*/
#define FROM_LOGITS
#include "split.cuh"
#include "statistics.cuh"

constexpr int SEGMENTS = 16;  // a row is cut into so many runs of tiles, whatever the number of blocks: no sum depends on that
enum { FINISHED, CALLS, STARTED };  // blocks of this call that are done; calls before this one; blocks that have started
enum { TARGET_TOP, TARGET_SUM, DRAFT_TOP, DRAFT_SUM, TARGET_FIRST, DRAFT_FIRST, WORDS };  // of one segment of a row pair

// The statistics of a warp's lanes joined over groups of `width` lanes, in a fixed order: the same in all lanes of a group.
__device__ __forceinline__ Stats join_lanes(Stats own, float factor, bool greedy, int width) {
    float top = own.top;
    for (int distance = width / 2; distance; distance /= 2) top = fmaxf(top, __shfl_xor_sync(ALL, top, distance));
    float sum = rebased(own.sum, own.top, top, factor);
    for (int distance = width / 2; distance; distance /= 2) sum += __shfl_xor_sync(ALL, sum, distance);
    int first = own.top == top ? own.first : NO_ID;
    if (greedy)
        for (int distance = width / 2; distance; distance /= 2) first = min(first, __shfl_xor_sync(ALL, first, distance));
    return {top, sum, first};
}

// What the test of a draft needs beside the statistics of its rows.
struct Test { int token; float target, draft, u; };

__device__ __forceinline__ Test fetch_test(const Request& request, const Rows& rows, int i, int token, int vocab) {
    const bool inside = token >= 0 && token < vocab;
    return {inside ? token : -1, inside ? to_float(rows.target[i * rows.target_stride + token]) : 0.0f,
            inside && rows.draft ? to_float(rows.draft[i * rows.draft_stride + token]) : 0.0f, accept_uniform(request.seed, request.position, i)};
}

// What all blocks of a request must know of a position.
struct Verdict { Scale target, draft; int accepted, bits; };

// By one warp: wait for the words of position i, join them, test the draft. Lanes 0 to 15 have the target's segments, the others
// the draft's. The bonus row (i == length) is never "accepted".
__device__ __forceinline__ Verdict judge(const Test& test, bool tested, bool has_draft, bool reads_draft, const unsigned long long* words, unsigned call,
                                         float heat, const float* lse, int lane) {
    const bool is_draft = lane >= 16, greedy = !(heat > 0.0f);
    const float factor = factor_of(heat);
    Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
    if (!is_draft || (tested && reads_draft)) {
        const unsigned long long* mine = words + (is_draft ? DRAFT_TOP : TARGET_TOP) * SEGMENTS + lane % 16;
        unsigned long long top, sum;
        do {  // both on their way at once
            top = *(const volatile unsigned long long*)mine, sum = *(const volatile unsigned long long*)(mine + SEGMENTS);
        } while (((unsigned)(top >> 33) != call || (unsigned)(sum >> 33) != call) && (__nanosleep(20), true));
        own = {__uint_as_float((unsigned)top), __uint_as_float((unsigned)sum), NO_ID};
        if (greedy) own.first = (int)(unsigned)wait_for(words + (is_draft ? DRAFT_FIRST : TARGET_FIRST) * SEGMENTS + lane % 16, call);
    }
    __syncwarp();
    own = join_lanes(own, factor, greedy, 16);
    const Scale scale = is_draft && tested && has_draft && !reads_draft ? scale_of_lse(*lse, heat) : scale_of(own, heat);
    const float chance = chance_of(is_draft ? test.draft : test.target, test.token, scale);
    const float p = __shfl_sync(ALL, chance, 0), q = has_draft ? __shfl_sync(ALL, chance, 16) : 1.0f;
    const bool inside = test.token >= 0;
    Verdict verdict = {scale, scale, tested && inside && accepts(test.u, p, q), 0};
    verdict.draft = {__shfl_sync(ALL, scale.top, 16), __shfl_sync(ALL, scale.low, 16), scale.factor, __shfl_sync(ALL, scale.inverse, 16), __shfl_sync(ALL, scale.first, 16)};
    if (tested) verdict.bits = !inside ? BAD_TOKEN : isfinite(p) && isfinite(q) ? 0 : NONFINITE;
    return verdict;  // lane 0 has it
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) v9_lazy_logits(
        const ROW* __restrict__ target_logits, const ROW* __restrict__ draft_logits,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        const float* __restrict__ temperature, const float* __restrict__ draft_lse,
        int batch, int vocab, int num_draft, int max_draft, int tiles, int each, int ahead, int parts, int owned, int kept, int ordered,
        long long target_stride, long long draft_stride,
        unsigned long long* row_words, unsigned long long* sum_words, unsigned* counters,
        int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ uint4 dynamic[];
    __shared__ Verdict verdicts[WARPS];
    __shared__ unsigned shared_call, shared_ticket;
    __shared__ int shared_retry;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int b = blockIdx.x, group = blockIdx.y, rank = blockIdx.z;
    if (threadIdx.x == 0) shared_call = ((volatile unsigned*)counters)[CALLS] + 1 & 0x7fffffffu;
    if (ordered) {  // a block takes its place when it starts
        if (threadIdx.x == 0) shared_ticket = atomicAdd(counters + STARTED, 1u);
        __syncthreads();
        const unsigned place = shared_ticket;
        b = place / (ahead * parts), group = place / parts % ahead, rank = place % parts;
    }
    const Request request = find_request(b, batch, num_draft, max_draft, draft_start, seeds, positions);
    const Rows rows = {target_logits + (long long)(request.start + b) * target_stride,
                       draft_logits ? draft_logits + (long long)request.start * draft_stride : nullptr,
                       draft_tokens + request.start, target_stride, draft_stride};
    const float heat = temperature[b], factor = factor_of(heat);
    const float* lse = draft_lse ? draft_lse + request.start : nullptr;
    const bool greedy = !(heat > 0.0f), reads_draft = rows.draft && (!lse || greedy);

    const int segments = SEGMENTS / parts, first = min(rank * owned, tiles), count = min(owned, tiles - first);
    uint4* const held = dynamic;  // [2][owned][PIECES][32]: a lane finds its own pieces; the target's tiles, then the draft's
    Stats* const tile_stats = reinterpret_cast<Stats*>(dynamic + kept * 2 * owned * PIECES * 32);  // [2][owned]
    float* const tile_sums = reinterpret_cast<float*>(tile_stats + 2 * owned);
    unsigned long long* const words = row_words + (long long)b * (max_draft + 1) * WORDS * SEGMENTS;

    auto keep = [&](const Pieces& now, int slot) {
        #pragma unroll
        for (int k = 0; kept && k < PIECES; ++k) held[(slot * PIECES + k) * 32 + lane] = now.piece[k];
    };
    int accepted = 0, bits = 0;
    bool stopped = false;
    for (int base = 0; !stopped; base += ahead) {
        const int i = base + group, sides = i > request.length ? 0 : i < request.length && reads_draft ? 2 : 1;
        const int judged = base + warp;  // the position that this warp judges, if it is one of the round
        const bool judges = warp < ahead && judged <= request.length, tested = judges && judged < request.length;
        const int token = tested ? rows.tokens[judged] : -1;
        for (int t = warp; sides && t < count; t += WARPS) {
            Pieces target, draft;
            load_tile(rows.target + i * target_stride, first + t, vocab, lane, target.piece);
            if (sides == 2) load_tile(rows.draft + i * draft_stride, first + t, vocab, lane, draft.piece);
            keep(target, t);
            const Stats of_target = tile_statistics(target, first + t, factor, greedy, lane);
            if (lane == 0) tile_stats[t] = of_target;
            if (sides == 2) {
                keep(draft, owned + t);
                const Stats of_draft = tile_statistics(draft, first + t, factor, greedy, lane);
                if (lane == 0) tile_stats[owned + t] = of_draft;
            }
        }
        const Test test = tested ? fetch_test(request, rows, judged, token, vocab) : Test{-1, 0.0f, 0.0f, 0.0f};  // on its way while others finish
        __syncthreads();
        const unsigned call = shared_call;
        for (int s = warp; s < sides * segments; s += WARPS) {  // a warp for each segment of each row
            const int side = s >= segments, at = s - side * segments;
            Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
            for (int t = at * each + lane; t < min((at + 1) * each, count); t += 32) own = joined(own, tile_stats[side * owned + t], factor);
            own = join_lanes(own, factor, greedy, 32);
            unsigned long long* const mine = words + i * WORDS * SEGMENTS + rank * segments + at;
            if (lane == 0) {
                publish(mine + (side ? DRAFT_TOP : TARGET_TOP) * SEGMENTS, call, __float_as_uint(own.top), false);
                publish(mine + (side ? DRAFT_SUM : TARGET_SUM) * SEGMENTS, call, __float_as_uint(own.sum), false);
                if (greedy) publish(mine + (side ? DRAFT_FIRST : TARGET_FIRST) * SEGMENTS, call, (unsigned)own.first, false);
            }
        }
        if (judges) {
            const Verdict verdict = judge(test, tested, rows.draft, reads_draft, words + judged * WORDS * SEGMENTS, call, heat, lse + judged, lane);
            if (lane == 0) verdicts[warp] = verdict;
        }
        __syncthreads();
        for (int j = 0; j < ahead && !stopped; ++j) {
            accepted = base + j, bits |= verdicts[j].bits;
            stopped = !verdicts[j].accepted;  // of the bonus row too
        }
    }

    const unsigned call = shared_call;
    const bool recovered = accepted < request.length;
    Row row = {rows.target + accepted * target_stride, recovered && rows.draft ? rows.draft + accepted * draft_stride : nullptr,
               recovered ? rows.tokens[accepted] : -1, verdicts[accepted % ahead].target, verdicts[accepted % ahead].draft};
    int* const out = out_tokens + (long long)b * (max_draft + 1);
    const bool chosen = group == accepted % ahead;  // are these the blocks that hold the row of the draw?
    if (greedy && chosen && rank == 0 && warp == 0) {
        const int token = greedy_token(row, recovered, bits);
        write_tokens(out, rows.tokens, accepted, token, max_draft, lane, 32);
        if (lane == 0) num_accepted[b] = accepted, status[b] = bits;
    }
    for (int t = warp; chosen && kept && row.draft && !reads_draft && t < count; t += WARPS) {  // the drafter's number spared it so far
        Pieces draft;
        load_tile(row.draft, first + t, vocab, lane, draft.piece);
        keep(draft, owned + t);
    }
    auto target_piece = [&](int t, int k) { return held[(t * PIECES + k) * 32 + lane]; };
    auto draft_piece = [&](int t, int k) { return held[((owned + t) * PIECES + k) * 32 + lane]; };
    auto sum_of = [&](int t, float (&sum)[PIECES], bool& finite) {  // this lane's sums of the pieces of a tile
        if (!kept) return sum_pieces(row, first + t, vocab, lane, sum, finite);
        #pragma unroll 1
        for (int k = 0; k < PIECES; ++k) {
            const float own = sum_piece(target_piece(t, k), draft_piece(t, k), row, (first + t) * TILE + k * STEP + lane * VEC, finite);
            #pragma unroll
            for (int j = 0; j < PIECES; ++j) sum[j] = j == k ? own : sum[j];
        }
    };
    for (int attempt = 0; !greedy && chosen && attempt < 2; ++attempt) {
        bool finite = true;
        for (int t = warp; t < count; t += WARPS) {
            float sum[PIECES] = {};
            sum_of(t, sum, finite);
            const float own = sum_warp(sum[0] + sum[1] + (sum[2] + sum[3]));
            if (lane == 0) tile_sums[t] = own;
        }
        const bool met = __syncthreads_or(!finite);
        unsigned long long* const sums = sum_words + (b * 2 + attempt) * SEGMENTS;
        for (int s = warp; s < segments; s += WARPS) {
            float sum = 0.0f;
            for (int t = s * each + lane; t < min((s + 1) * each, count); t += 32) sum += tile_sums[t];
            sum = sum_warp(sum);
            if (lane == 0) publish(sums + rank * segments + s, call, __float_as_uint(sum), met);
        }
        if (warp == 0) {
            const unsigned long long word = lane < SEGMENTS ? wait_for(sums + lane, call) : 0;
            __syncwarp();
            if (__any_sync(ALL, word >> 32 & 1)) bits |= NONFINITE;
            const double own = __uint_as_float((unsigned)word), upto = scan_warp(own, lane);
            const double limit = recover_uniform(request.seed, request.position, accepted) * __shfl_sync(ALL, upto, 31);
            const unsigned mass = __ballot_sync(ALL, own > 0.0);
            const int segment = first_or_last(__ballot_sync(ALL, own > 0.0 && upto > limit), mass), at = segment - rank * segments;
            const bool retry = !mass && recovered && !attempt;
            if (lane == 0) shared_retry = retry;
            if (mass ? at >= 0 && at < segments : !retry && rank == 0) {  // the block that has the token; if there is none, the first
                int token = -1;
                if (mass) {
                    const Cut cut = cut_sums(tile_sums + at * each, min(each, count - at * each), lane);
                    const double rest = limit - __shfl_sync(ALL, upto - own, segment);
                    const Place found = find_tile(tile_sums + at * each, cut, max(0, owner_of(cut, rest)), at * each, rest);
                    float sum[PIECES] = {};
                    sum_of(found.tile, sum, finite);
                    const Spot spot = find_piece(sum, found.rest, lane);
                    const int at_id = (first + found.tile) * TILE + spot.piece * STEP + lane * VEC;
                    const uint4 target = kept ? target_piece(found.tile, spot.piece) : load_piece(row.target, at_id, vocab);
                    const uint4 draft = !row.draft ? target : kept ? draft_piece(found.tile, spot.piece) : load_piece(row.draft, at_id, vocab);
                    token = __shfl_sync(ALL, find_in_piece(target, draft, row, at_id, spot.rest), spot.lane);
                }
                write_tokens(out, rows.tokens, accepted, token, max_draft, lane, 32);
                if (lane == 0) num_accepted[b] = accepted, status[b] = bits | (mass ? 0 : NO_MASS);
            }
        }
        __syncthreads();
        if (!shared_retry) break;
        row = without_draft(row);  // no mass in the residual, which is rare: once more with the target row
        bits |= ZERO_RESIDUAL;
        __syncthreads();
    }
    // The last block to get here makes ready for the next call.
    if (threadIdx.x == 0 && atomicAdd(counters + FINISHED, 1u) == gridDim.x * gridDim.y * gridDim.z - 1)
        counters[FINISHED] = 0, counters[STARTED] = 0, counters[CALLS] += 1;
}
