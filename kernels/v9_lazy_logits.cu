/*
V9 - lazy: what lies behind the first rejection is not read
Changes   One launch. A request goes through its drafts in rounds of `ahead` positions (one; all of them where the rows are few
          bytes). The blocks of a position read its row pair once, each its share, and keep the share in shared memory. The
          statistics of the shares travel as the sums of V7 do, each in one word with the number of the call; then every block
          knows whether the draft is accepted. At the first rejection the row pair is still there: it is weighed where it is.
          Blocks of a request wait for each other, so they must run together. Where not all fit, a block takes its place when
          it starts: then the blocks of the first unfinished request have all started, or there is room for the next one.
Reads     Row pairs up to the first rejection, once: (1 - a^K) / (1 - a) of K on average; and one tile of the rejected pair again.
Slow      A round costs a way through the L2 and back, which other requests must hide; and an exponential for each logit, which
          takes about as long as its two bytes.
--- contract ---
grid    = ["batch", "ahead", "parts"]
block   = "32 * WARPS"
shared  = "owned * (40 + 4096 * kept)"
draw    = "cdf"
input   = "logits"
ulps    = 24
bytes   = "(batch + num_draft + rejected) * vocab * itemsize"
tune    = { WARPS = 8, RESIDENT = 3, SHARE = 16, MOST = 32, RUSH = 4000000 }
[values]
tiles   = "ceil_div(vocab * itemsize, 2048)"
each    = "ceil_div(tiles, 32)"
ahead   = "max(1, min(together, max_draft + 1, WARPS, RUSH // max(1, 2 * batch * vocab * itemsize)))"
room    = "min(MOST, together, max(1, sm_count * RESIDENT // max(1, batch * ahead)))"
share   = "min(SHARE, (shared_bytes - 8192) // 4136)"
need    = "min(together, ceil_div(32 * each, share))"
wide    = "1 + min(1, room // 2) + 2 * min(1, room // 4) + 4 * min(1, room // 8) + 8 * min(1, room // 16) + 16 * min(1, room // 32)"
narrow  = "1 + min(1, need // 2) + 2 * min(1, need // 3) + 4 * min(1, need // 5) + 8 * min(1, need // 9) + 16 * min(1, need // 17)"
parts   = "max(wide, narrow)"
segments = "32 // parts"
owned   = "segments * each"
kept    = "min(1, share // owned)"
ordered = "min(1, batch * ahead * parts // (sm_count * RESIDENT + 1))"
[scratch]
row_words = "batch * (max_draft + 1) * 192"
sum_words = "batch * 64"
counters  = "3"
*/
#define FROM_LOGITS
#include "split.cuh"
#include "statistics.cuh"

constexpr int SEGMENTS = 32;  // a row is cut into so many runs of tiles, whatever the number of blocks: no sum depends on that
enum { FINISHED, CALLS, STARTED };  // blocks of this call that are done; calls before this one; blocks that have started
enum { TARGET_TOP, TARGET_SUM, DRAFT_TOP, DRAFT_SUM, TARGET_FIRST, DRAFT_FIRST, WORDS };  // of one segment of a row pair

// The statistics of a warp's lanes joined, in a fixed order: the same in all lanes.
__device__ __forceinline__ Stats join_lanes(Stats own, float factor, bool greedy) {
    const float top = max_warp(own.top);
    const float sum = sum_warp(rebased(own.sum, own.top, top, factor));
    return {top, sum, greedy ? min_warp(own.top == top ? own.first : NO_ID) : NO_ID};
}

// The same number, to the compiler another one: what is computed from it stays where it is written, behind the loads of a row,
// and does not wait for this number before them.
__device__ __forceinline__ float not_sooner(float x) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+f"(x));
#endif
    return x;
}

// What the test of a draft needs beside the statistics of its rows.
struct Test { int token; float target, draft, u; };

__device__ __forceinline__ Test fetch_test(const Request& request, const Rows& rows, int i, int vocab) {
    const int token = rows.tokens[i];
    const bool inside = token >= 0 && token < vocab;
    return {inside ? token : -1, inside ? to_float(rows.target[i * rows.target_stride + token]) : 0.0f,
            inside && rows.draft ? to_float(rows.draft[i * rows.draft_stride + token]) : 0.0f, accept_uniform(request.seed, request.position, i)};
}

// What all blocks of a request must know of a position.
struct Verdict { Scale target, draft; int accepted, bits; };

// By one warp, a lane for each segment: wait for the words of a position, join them, test the draft. The bonus row, which is not
// tested, is never "accepted".
__device__ __forceinline__ Verdict judge(const Test& test, bool tested, bool has_draft, bool reads_draft, const unsigned long long* words, unsigned call,
                                         float heat, const float* lse, int lane) {
    const bool greedy = !(heat > 0.0f), both = tested && reads_draft;
    const float factor = factor_of(heat);
    unsigned long long word[4] = {};
    bool here;
    do {  // all on their way at once
        here = true;
        #pragma unroll
        for (int what = TARGET_TOP; what <= DRAFT_SUM; ++what)
            if (what < DRAFT_TOP || both) {
                word[what] = *(const volatile unsigned long long*)(words + what * SEGMENTS + lane);
                here = here && (unsigned)(word[what] >> 33) == call;
            }
        if (!here) __nanosleep(20);
    } while (!here);
    int first[2] = {NO_ID, NO_ID};
    if (greedy) first[0] = (int)(unsigned)wait_for(words + TARGET_FIRST * SEGMENTS + lane, call);
    if (greedy && both) first[1] = (int)(unsigned)wait_for(words + DRAFT_FIRST * SEGMENTS + lane, call);
    __syncwarp();
    const auto number = [&](int what) { return __uint_as_float((unsigned)word[what]); };
    Verdict verdict = {};
    verdict.target = scale_of(join_lanes({number(TARGET_TOP), number(TARGET_SUM), first[0]}, factor, greedy), heat);
    if (both) verdict.draft = scale_of(join_lanes({number(DRAFT_TOP), number(DRAFT_SUM), first[1]}, factor, greedy), heat);
    if (tested && has_draft && !both) verdict.draft = scale_of_lse(*lse, heat);
    if (!tested) return verdict;
    if (test.token < 0) {
        verdict.bits = BAD_TOKEN;
        return verdict;
    }
    const float p = chance_of(test.target, test.token, verdict.target), q = has_draft ? chance_of(test.draft, test.token, verdict.draft) : 1.0f;
    verdict.accepted = accepts(test.u, p, q), verdict.bits = isfinite(p) && isfinite(q) ? 0 : NONFINITE;
    return verdict;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) v9_lazy_logits(
        const ROW* __restrict__ target_logits, const ROW* __restrict__ draft_logits,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        const float* __restrict__ temperature, const float* __restrict__ draft_lse,
        int batch, int vocab, int num_draft, int max_draft, int tiles, int each, int ahead, int parts, int segments, int owned, int kept, int ordered,
        long long target_stride, long long draft_stride,
        unsigned long long* row_words, unsigned long long* sum_words, unsigned* counters,
        int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ uint4 dynamic[];
    __shared__ Verdict verdicts[WARPS];
    __shared__ Test tests[32];
    __shared__ unsigned shared_call, shared_ticket;
    __shared__ int shared_retry;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int b = blockIdx.x, group = blockIdx.y, rank = blockIdx.z;
    const unsigned calls = threadIdx.x ? 0 : ((volatile unsigned*)counters)[CALLS];  // used when the first rows are on their way
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
    const float heat = temperature[b];
    const float* lse = draft_lse ? draft_lse + request.start : nullptr;
    const bool reads_draft = rows.draft && (!lse || !(heat > 0.0f));

    const int first = min(rank * owned, tiles), count = min(owned, tiles - first);
    uint4* const held = dynamic;  // [2][owned][PIECES][32]: a lane finds its own pieces; the target's tiles, then the draft's
    Stats* const tile_stats = reinterpret_cast<Stats*>(dynamic + kept * 2 * owned * PIECES * 32);  // [2][owned]
    float* const piece_sums = reinterpret_cast<float*>(tile_stats + 2 * owned);  // [owned][PIECES]
    unsigned long long* const words = row_words + (long long)b * (max_draft + 1) * WORDS * SEGMENTS;

    int accepted = 0, bits = 0;
    bool stopped = false;
    for (int base = 0; !stopped; base += ahead) {
        const int i = base + group, sides = i > request.length ? 0 : i < request.length && reads_draft ? 2 : 1;
        const int judged = base + warp;  // the position that this warp judges, if it is one of the round
        const bool judges = warp < ahead && judged <= request.length, tested = judges && judged < request.length;
        const int both = sides == 2, items = sides ? (count - warp + WARPS - 1) / WARPS << both : 0;  // target, draft, target, ...
        auto row_of = [&](int item) { return item & both ? rows.draft + i * draft_stride : rows.target + i * target_stride; };
        Pieces now, next;
        for (int item = -1; item < items; ++item) {  // one tile is on its way while another is weighed
            if (item + 1 < items) {
                const int t = warp + (item + 1 >> both) * WARPS;
                load_tile(row_of(item + 1), first + t, vocab, lane, next.piece);
            }
            if (item < 0 && base == 0 && warp == WARPS - 1 && lane < request.length) tests[lane] = fetch_test(request, rows, lane, vocab);
            if (item >= 0) {
                const int slot = (item & both) * owned + warp + (item >> both) * WARPS;
                if (kept) {
                    #pragma unroll
                    for (int k = 0; k < PIECES; ++k) held[(slot * PIECES + k) * 32 + lane] = now.piece[k];
                }
                const float late = not_sooner(heat);
                const Stats own = tile_statistics(now, first + warp + (item >> both) * WARPS, factor_of(late), !(late > 0.0f), lane);
                if (lane == 0) tile_stats[slot] = own;
            }
            now = next;
        }
        const float factor = factor_of(not_sooner(heat));
        const bool greedy = !(heat > 0.0f);
        if (threadIdx.x == 0) shared_call = calls + 1 & 0x7fffffffu;
        __syncthreads();
        const unsigned call = shared_call;
        if (warp < sides && lane < segments) {  // a warp for each row, a lane for each segment
            Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
            for (int t = lane * each; t < min((lane + 1) * each, count); ++t) own = joined(own, tile_stats[warp * owned + t], factor);
            unsigned long long* const mine = words + i * WORDS * SEGMENTS + rank * segments + lane;
            publish(mine + (warp ? DRAFT_TOP : TARGET_TOP) * SEGMENTS, call, __float_as_uint(own.top), false);
            publish(mine + (warp ? DRAFT_SUM : TARGET_SUM) * SEGMENTS, call, __float_as_uint(own.sum), false);
            if (greedy) publish(mine + (warp ? DRAFT_FIRST : TARGET_FIRST) * SEGMENTS, call, (unsigned)own.first, false);
        }
        __syncwarp();
        if (judges) {
            const Test test = !tested ? Test{-1, 0.0f, 0.0f, 0.0f} : judged < 32 ? tests[judged] : fetch_test(request, rows, judged, vocab);
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
    const bool recovered = accepted < request.length, greedy = !(heat > 0.0f);
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
        #pragma unroll
        for (int k = 0; k < PIECES; ++k) held[((owned + t) * PIECES + k) * 32 + lane] = draft.piece[k];
    }
    __syncthreads();
    // A lane's part of piece x % PIECES of tile x / PIECES: its first id, and its elements of the target or the draft.
    auto id_of = [&](int x) { return first * TILE + x * STEP + lane * VEC; };
    auto target_of = [&](int x) { return kept ? held[x * 32 + lane] : load_piece(row.target, id_of(x), vocab); };
    auto draft_of = [&](int x) { return kept ? held[(owned * PIECES + x) * 32 + lane] : row.draft ? load_piece(row.draft, id_of(x), vocab) : uint4{}; };
    for (int attempt = 0; !greedy && chosen && attempt < 2; ++attempt) {
        bool finite = true;
        for (int x = warp; x < count * PIECES; x += WARPS) {
            const float sum = sum_warp(sum_piece(target_of(x), draft_of(x), row, id_of(x), finite));
            if (lane == 0) piece_sums[x] = sum;
        }
        const bool met = __syncthreads_or(!finite);
        unsigned long long* const sums = sum_words + (b * 2 + attempt) * SEGMENTS;
        const int run = each * PIECES;  // pieces of a segment
        if (warp == 0) {
            if (lane < segments) {
                float sum = 0.0f;
                for (int x = lane * run; x < min((lane + 1) * run, count * PIECES); ++x) sum += piece_sums[x];
                publish(sums + rank * segments + lane, call, __float_as_uint(sum), met);
            }
            __syncwarp();
            const double u = recover_uniform(request.seed, request.position, accepted);
            const unsigned long long word = wait_for(sums + lane, call);
            __syncwarp();
            if (__any_sync(ALL, word >> 32 & 1)) bits |= NONFINITE;
            const double own = __uint_as_float((unsigned)word), upto = scan_warp(own, lane), limit = u * __shfl_sync(ALL, upto, 31);
            const unsigned mass = __ballot_sync(ALL, own > 0.0);
            const int segment = first_or_last(__ballot_sync(ALL, own > 0.0 && upto > limit), mass), at = segment - rank * segments;
            const bool retry = !mass && recovered && !attempt;
            if (lane == 0) shared_retry = retry;
            if (mass ? at >= 0 && at < segments : !retry && rank == 0) {  // the block that has the token; if there is none, the first
                int token = -1;
                if (mass) {
                    const Cut cut = cut_sums(piece_sums + at * run, min(run, count * PIECES - at * run), lane);
                    const double rest = limit - __shfl_sync(ALL, upto - own, segment);
                    const Place found = find_tile(piece_sums + at * run, cut, max(0, owner_of(cut, rest)), at * run, rest);
                    token = find_among_lanes(target_of(found.tile), draft_of(found.tile), row, id_of(found.tile), found.rest, lane);
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
