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
grid    = "batch * ahead * parts"
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
counter   = "1"
*/
#define FROM_LOGITS
#include "split.cuh"
#include "statistics.cuh"

constexpr int SEGMENTS = 16;  // a row is cut into so many runs of tiles, whatever the number of blocks: no sum depends on that
enum { TARGET_TOP, TARGET_SUM, DRAFT_TOP, DRAFT_SUM, TARGET_FIRST, DRAFT_FIRST, WORDS };  // of one segment of a row pair

// What the blocks of one position share out: `owned` tiles from `first` on, `each` to a segment.
struct Part { int rank, first, count, each, segments; };

// Statistics of a tile's segment-mates, by one warp, in a fixed order.
__device__ __forceinline__ Stats segment_statistics(const Stats* tiles, int count, float factor, int lane) {
    Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
    for (int t = lane; t < count; t += 32) own = joined(own, tiles[t], factor);
    for (int distance = 16; distance; distance /= 2)
        own = joined(own, {__shfl_xor_sync(ALL, own.top, distance), __shfl_xor_sync(ALL, own.sum, distance), __shfl_xor_sync(ALL, own.first, distance)}, factor);
    return own;
}

// What all blocks of a request must know of a position.
struct Verdict { Scale target, draft; int accepted, bits; };

// By one warp: wait for the words of position i, join them, test the draft. Lanes 0 to 15 have the target's segments, the others
// the draft's. The bonus row (i == length) is never "accepted".
__device__ __forceinline__ Verdict judge(const Request& request, const Rows& rows, int i, const unsigned long long* words, unsigned call,
                                         float heat, const float* draft_lse, int vocab, int lane) {
    const bool is_draft = lane >= 16, tested = i < request.length, greedy = !(heat > 0.0f);
    const float factor = factor_of(heat), u = tested ? accept_uniform(request.seed, request.position, i) : 0.0f;
    const int token = tested ? rows.tokens[i] : -1;
    const bool inside = token >= 0 && token < vocab;
    const ROW* row = is_draft ? rows.draft ? rows.draft + i * rows.draft_stride : nullptr : rows.target + i * rows.target_stride;
    const float logit = inside && row ? to_float(row[token]) : 0.0f;
    const bool read = !is_draft || (tested && rows.draft && (greedy || !draft_lse));
    Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
    if (read) {
        const unsigned long long* mine = words + (is_draft ? DRAFT_TOP : TARGET_TOP) * SEGMENTS + lane % 16;
        own.top = __uint_as_float((unsigned)wait_for(mine, call));
        own.sum = __uint_as_float((unsigned)wait_for(mine + SEGMENTS, call));
        if (greedy) own.first = (int)(unsigned)wait_for(words + (is_draft ? DRAFT_FIRST : TARGET_FIRST) * SEGMENTS + lane % 16, call);
    }
    __syncwarp();
    for (int distance = 8; distance; distance /= 2)
        own = joined(own, {__shfl_xor_sync(ALL, own.top, distance), __shfl_xor_sync(ALL, own.sum, distance), __shfl_xor_sync(ALL, own.first, distance)}, factor);
    const Scale scale = is_draft && !read && draft_lse && tested ? scale_of_lse(draft_lse[i], heat) : scale_of(own, heat);
    const float chance = chance_of(logit, token, scale);
    const float p = __shfl_sync(ALL, chance, 0), q = rows.draft ? __shfl_sync(ALL, chance, 16) : 1.0f;
    Verdict verdict = {scale, scale, tested && inside && accepts(u, p, q), 0};
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
        unsigned long long* row_words, unsigned long long* sum_words, unsigned long long* counter,
        int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ uint4 dynamic[];
    __shared__ Verdict verdicts[WARPS];
    __shared__ unsigned long long shared_ticket;
    __shared__ int shared_retry;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // The number of the call, and this block's place in it. Blocks count themselves out (or in, where they are ordered).
    if (threadIdx.x == 0)
        shared_ticket = ordered ? atomicAdd(counter, 1ull) : *(volatile unsigned long long*)counter / gridDim.x * gridDim.x + blockIdx.x;
    __syncthreads();
    const unsigned call = (unsigned)(shared_ticket / gridDim.x) + 1;
    const int place = (int)(shared_ticket % gridDim.x), b = place / (ahead * parts), group = place / parts % ahead, rank = place % parts;
    const Request request = find_request(b, batch, num_draft, max_draft, draft_start, seeds, positions);
    const Rows rows = {target_logits + (long long)(request.start + b) * target_stride,
                       draft_logits ? draft_logits + (long long)request.start * draft_stride : nullptr,
                       draft_tokens + request.start, target_stride, draft_stride};
    const float heat = temperature[b], factor = factor_of(heat);
    const float* lse = draft_lse ? draft_lse + request.start : nullptr;
    const bool greedy = !(heat > 0.0f), reads_draft = rows.draft && (greedy || !lse);

    const int segments = SEGMENTS / parts, first = min(rank * owned, tiles), count = min(owned, tiles - first);
    uint4* const held = dynamic;  // [2][owned][PIECES][32]: a lane finds its own pieces; the target's tiles, then the draft's
    Stats* const tile_stats = reinterpret_cast<Stats*>(dynamic + kept * 2 * owned * PIECES * 32);  // [2][owned]
    float* const tile_sums = reinterpret_cast<float*>(tile_stats + 2 * owned);
    unsigned long long* const words = row_words + (long long)b * (max_draft + 1) * WORDS * SEGMENTS;

    int accepted = 0, bits = 0;
    bool stopped = false;
    for (int base = 0; !stopped; base += ahead) {
        const int i = base + group, sides = i > request.length ? 0 : i < request.length && reads_draft ? 2 : 1;
        for (int item = warp; item < sides * count; item += WARPS) {
            const int side = item >= count, t = item - side * count;
            uint4 piece[PIECES];
            load_tile(side ? rows.draft + i * draft_stride : rows.target + i * target_stride, first + t, vocab, lane, piece);
            if (kept) {
                #pragma unroll
                for (int k = 0; k < PIECES; ++k) held[((side * owned + t) * PIECES + k) * 32 + lane] = piece[k];
            }
            const Stats own = tile_statistics(piece, first + t, factor, greedy, lane);
            if (lane == 0) tile_stats[side * owned + t] = own;
        }
        __syncthreads();
        for (int s = warp; s < sides * segments; s += WARPS) {  // a warp for each segment of each row
            const int side = s >= segments, at = s - side * segments;
            const Stats own = segment_statistics(tile_stats + side * owned + at * each, min(each, max(0, count - at * each)), factor, lane);
            unsigned long long* const mine = words + i * WORDS * SEGMENTS + rank * segments + at;
            if (lane == 0) {
                publish(mine + (side ? DRAFT_TOP : TARGET_TOP) * SEGMENTS, call, __float_as_uint(own.top), false);
                publish(mine + (side ? DRAFT_SUM : TARGET_SUM) * SEGMENTS, call, __float_as_uint(own.sum), false);
                if (greedy) publish(mine + (side ? DRAFT_FIRST : TARGET_FIRST) * SEGMENTS, call, (unsigned)own.first, false);
            }
        }
        if (warp < ahead && base + warp <= request.length) {
            const Verdict verdict = judge(request, rows, base + warp, words + (base + warp) * WORDS * SEGMENTS, call, heat, lse, vocab, lane);
            if (lane == 0) verdicts[warp] = verdict;
        }
        __syncthreads();
        for (int j = 0; j < ahead && !stopped; ++j) {
            accepted = base + j, bits |= verdicts[j].bits;
            stopped = !verdicts[j].accepted;  // of the bonus row too
        }
    }

    const bool recovered = accepted < request.length;
    Row row = {rows.target + accepted * target_stride, recovered && rows.draft ? rows.draft + accepted * draft_stride : nullptr,
               recovered ? rows.tokens[accepted] : -1, verdicts[accepted % ahead].target, verdicts[accepted % ahead].draft};
    int* const out = out_tokens + (long long)b * (max_draft + 1);
    if (greedy && group == accepted % ahead && rank == 0 && warp == 0) {
        const int token = greedy_token(row, recovered, bits);
        write_tokens(out, rows.tokens, accepted, token, max_draft, lane, 32);
        if (lane == 0) num_accepted[b] = accepted, status[b] = bits;
    }
    // This lane's piece of a tile of the target (side 0) or the draft.
    auto piece_of = [&](int side, int t, int k) {
        return kept && (!side || reads_draft) ? held[((side * owned + t) * PIECES + k) * 32 + lane]
                                              : load_piece(side ? row.draft : row.target, (first + t) * TILE + k * STEP + lane * VEC, vocab);
    };
    auto sum_of = [&](int t, float (&sum)[PIECES], bool& finite) {  // this lane's sums of the pieces of a tile
        #pragma unroll 1
        for (int k = 0; k < PIECES; ++k) {
            const uint4 target = piece_of(0, t, k);
            const float own = sum_piece(target, row.draft ? piece_of(1, t, k) : target, row, (first + t) * TILE + k * STEP + lane * VEC, finite);
            #pragma unroll
            for (int j = 0; j < PIECES; ++j) sum[j] = j == k ? own : sum[j];
        }
    };
    for (int attempt = 0; !greedy && group == accepted % ahead && attempt < 2; ++attempt) {  // the blocks that hold the row of the draw
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
                    const uint4 target = piece_of(0, found.tile, spot.piece), draft = row.draft ? piece_of(1, found.tile, spot.piece) : target;
                    token = find_in_piece(target, draft, row, (first + found.tile) * TILE + spot.piece * STEP + lane * VEC, spot.rest);
                    token = __shfl_sync(ALL, token, spot.lane);
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
    if (threadIdx.x == 0 && !ordered) atomicAdd(counter, 1ull);
}
