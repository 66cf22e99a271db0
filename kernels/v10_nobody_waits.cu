/*
V10 - nobody waits: what a rejection has overtaken is not read
Changes   Blocks start position by position, all requests' first row pairs before any second, and each looks, when it starts and with
          every tile, whether its request has ended already: then it leaves. So laziness costs no round in which blocks wait for each
          other. What is read before the verdict is read for nothing; that is little where the rows of one position are more blocks
          than the GPU holds. The statistics of a tile travel in words with the number of the call, so that no fence stands between
          the rows and the verdict, and no block arrives: it takes its number when it starts, and the last of a position to start
          joins the statistics and tests the draft. Where the test rejects it draws at once, while the verdict is on its way. Of the
          blocks that draw, one is of the position where the request ends: it writes the outcome if that is decided by then, else
          the block that decides it. It draws without weighing the row: the target's tile sums are there, so ids are proposed from
          the target and kept as often as the residual would have them (propose.cuh).
          A row is cut into as many parts as let all blocks start at once, where the batch is small; else into so many that a
          position is about as many blocks as the GPU holds, of a tile pair or more for each warp.
Reads     Row pairs up to the first rejection, once, (1 - a^K) / (1 - a) of K on average, and those that were begun before it was
          known: all of them at most. A tile of both rows for each proposal, WARPS proposals at a time. With draft_lse no draft row
          but for that, and the status tells of a NaN in it where an id was proposed, up to the one that was kept.
Slow      From the last tile to the token go three ways to the L2 and back, by code that is run once and so fetched line by line: short
          loops are faster here than unrolled ones. Bytes on their way to many warps are what keeps the memory busy: so a logit has to
          be weighed with few registers. More tiles on their way to one warp, through shared memory, cost more than they gain. Where
          requests end early half of the blocks find theirs ended, and have come for nothing.
--- contract ---
grid    = ["batch * parts", "max_draft + 1"]
block   = "32 * WARPS"
shared  = "8 * tiles + 4096 * WARPS"
draw    = "propose"
input   = "logits"
ulps    = 24
bytes   = "(2 * num_draft + batch) * vocab * itemsize"
tune    = { WARPS = 4, RESIDENT = 6 }
[values]
tiles   = "ceil_div(vocab * itemsize, 2048)"
full    = "sm_count * RESIDENT"
window  = "ceil_div(full, max(1, batch))"
enough  = "1 + min(1, window // 2) + 2 * min(1, window // 3) + 4 * min(1, window // 5) + 8 * min(1, window // 9) + 16 * min(1, window // 17)"
at_once = "full // max(1, batch * (max_draft + 1))"
wanted  = "min(tiles, max(at_once, min(enough, ceil_div(tiles, WARPS)), ceil_div(tiles, 4 * WARPS)))"
parts   = "1 + min(1, wanted // 2) + 2 * min(1, wanted // 4) + 4 * min(1, wanted // 8) + 8 * min(1, wanted // 16) + 16 * min(1, wanted // 32)"
shift   = "min(1, parts // 2) + min(1, parts // 4) + min(1, parts // 8) + min(1, parts // 16) + min(1, parts // 32) + min(1, parts // 64)"
share   = "ceil_div(tiles, parts)"
groups  = "max_draft // 32 + 1"
even    = "2 * ceil_div(tiles, 2)"
[scratch]
tile_words = "batch * (max_draft + 1) * 6 * even"
started  = "batch * (max_draft + 1)"
verdicts = "batch * (max_draft // 32 + 1) * 2"
outcomes = "2 * batch * (max_draft + 1)"
written  = "batch"
*/
#define FROM_LOGITS
#include "verdicts.cuh"
#include "propose.cuh"

constexpr int HELD = 5;     // tiles of a lane whose statistics are on their way together: 160 tiles are 160,000 ids of two bytes

struct Shared {
    unsigned call;          // the number of this one, from 1
    int last, skipped, left[2], start, drafted, token, writes, kept[WARPS];
    float target, draft, u; // the drafted token's logits, and the number it is tested with
    Scale scale[2];         // of the target row and the draft row
    uint4 words[32];        // random numbers of the first proposals
};
static_assert(WARPS >= 4, "the last block of a position has four things to do at once");

// What a block has to do: part `rank` of the row pair of position i of request b.
struct Work { int rank, b, i; bool reads_draft; float heat; Request request; Rows rows; };

// The same number, to the compiler another one.
__device__ __forceinline__ int another(int x) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// By one warp: the statistics of a row's tiles joined, in an order that is always the same. words: a pair for each tile; tops, sums:
// those of the tiles, kept. Where position i is overtaken, blocks may have left before they wrote theirs: then `left` is set.
__device__ __forceinline__ Scale join_tiles(const unsigned long long* words, const unsigned long long* firsts, int tiles, unsigned call, float heat, int lane,
                                            float* tops, float* sums, const unsigned long long* verdicts, int i, bool& left) {
    const float factor = factor_of(heat);
    const bool greedy = !(heat > 0.0f);
    Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
    for (int begin = lane; begin < tiles; begin += 32 * HELD) {
        unsigned long long top[HELD], sum[HELD];  // all are asked for before the first is looked at: one way to the L2 and back, not one for each
        for (;;) {
            #pragma unroll
            for (int h = 0; h < HELD; ++h) {
                const int t = begin + 32 * h;
                top[h] = (unsigned long long)call << 32 | 0xff800000u, sum[h] = (unsigned long long)call << 32;  // past the end: nothing
                if (t < tiles) top[h] = fetch(words + 2 * t), sum[h] = fetch(words + 2 * t + 1);
            }
            left = overtaken(verdicts, i);
            unsigned others = 0;
            #pragma unroll
            for (int h = 0; h < HELD; ++h) others |= (unsigned)(top[h] >> 32) ^ call | (unsigned)(sum[h] >> 32) ^ call;
            if (!others || left) break;
            __nanosleep(20);
        }
        const auto number = [](unsigned long long word) { return __uint_as_float((unsigned)word); };
        Stats group = {-CUDART_INF_F, 0.0f, NO_ID};
        #pragma unroll
        for (int h = 0; h < HELD; ++h) group.top = fmaxf(group.top, number(top[h]));
        #pragma unroll
        for (int h = 0; h < HELD; ++h) {
            const int t = begin + 32 * h;
            group.sum += rebased(number(sum[h]), number(top[h]), group.top, factor);
            if (tops && t < tiles) tops[t] = number(top[h]), sums[t] = number(sum[h]);
        }
        if (greedy && !left)
            for (int t = begin; t < min(tiles, begin + 32 * HELD); t += 32)  // again: few requests are greedy
                if (__uint_as_float((unsigned)fetch(words + 2 * t)) == group.top) group.first = min(group.first, (int)receive(firsts + t, call));
        own = joined(own, group, factor);
    }
    left = __any_sync(ALL, left);
    const float top = max_warp(own.top), sum = sum_warp(rebased(own.sum, own.top, top, factor));
    return scale_of({top, sum, greedy ? min_warp(own.top == top ? own.first : NO_ID) : NO_ID}, heat);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) v10_nobody_waits(
        const ROW* __restrict__ target_logits, const ROW* __restrict__ draft_logits,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        const float* __restrict__ temperature, const float* __restrict__ draft_lse,
        int batch, int vocab, int num_draft, int max_draft, int tiles, int parts, int shift, int share, int groups, int full, int even,
        long long target_stride, long long draft_stride,
        unsigned long long* tile_words, unsigned long long* started, unsigned long long* verdicts, unsigned long long* outcomes, unsigned* written,
        int* out_tokens, int* num_accepted, int* status) {
    extern __shared__ uint4 stage[];  // two tiles of each warp
    __shared__ Shared shared;
    float* const tops = reinterpret_cast<float*>(stage + 256 * WARPS);
    float* const sums = tops + tiles;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, last_thread = 32 * WARPS - 1;
    const auto work_of = [&](int block) {
        Work work = {block & (parts - 1), block >> shift, (int)blockIdx.y};
        work.request = find_request(work.b, batch, num_draft, max_draft, draft_start, seeds, positions);
        const int start = work.request.start;
        work.rows = {target_logits + (long long)(start + work.b) * target_stride, draft_logits ? draft_logits + (long long)start * draft_stride : nullptr,
                     draft_tokens + start, target_stride, draft_stride};
        work.heat = temperature[work.b];
        work.reads_draft = work.rows.draft && (!draft_lse || !(work.heat > 0.0f));
        return work;
    };
    const auto place_of = [&](int b, int i) { return (long long)b * (max_draft + 1) + i; };
    const auto words_of = [&](int b, int i) { return tile_words + (unsigned)((b * (max_draft + 1) + i) * 6 * even); };  // [2][even][2], then [2][even]
    const auto verdicts_of = [&](int b, unsigned call) { return verdicts + ((long long)b * 2 + call % 2) * groups; };  // calls take turns

    {   // Every block: its share of the row pair.
        const Work work = work_of(blockIdx.x);
        const int b = work.b, i = work.i;
        const bool late = blockIdx.y * gridDim.x + blockIdx.x >= full;  // else among the first on the GPU: nothing can have ended yet
        unsigned long long before = 0, ends[2] = {};  // blocks of this position that have started, in all calls; verdicts of this call or the one before
        if (threadIdx.x == 0) {  // all on the way together
            before = atomicAdd(started + place_of(b, i), 1ull);
            if (late) ends[0] = fetch(verdicts_of(b, 0) + i / 32), ends[1] = fetch(verdicts_of(b, 1) + i / 32);
        }
        if (i > work.request.length) return;
        const auto enter = [&] {
            if (threadIdx.x == 0) shared.call = (unsigned)(before >> shift) + 1, shared.last = (before & parts - 1) == parts - 1;  // parts: a power of two
        };
        if (late) {
            enter();
            if (threadIdx.x == 0) shared.skipped = end_before(shared.call % 2 ? ends[1] : ends[0], i) || i >= 32 && overtaken(verdicts_of(b, shared.call), i);
            __syncthreads();
            if (shared.skipped) return;
        }
        const bool greedy = !(work.heat > 0.0f);
        const ROW* const target = work.rows.target + i * target_stride;
        const ROW* const draft = work.rows.draft ? work.rows.draft + i * draft_stride : nullptr;
        const int first = work.rank * share, both = i < work.request.length && work.reads_draft;
        const int items = max(0, min(share, tiles - first)) << both;  // target, draft, target, ...
        const auto row_of = [&](int item) { return item & both ? draft : target; };
        Pieces now, next;
        unsigned long long seen = 0;  // the verdicts on 32 positions, as they were known a tile ago
        for (int item = warp - WARPS; item < items; item += WARPS) {  // one tile is on its way while another is weighed
            if (__any_sync(ALL, end_before(seen, i))) break;
            if (item + WARPS < items) load_tile(row_of(item + WARPS), first + (item + WARPS >> both), vocab, lane, next.piece);
            if (item < 0) {
                if (!late) enter();
                __syncthreads();
                if (shared.last && warp >= 2) {  // what can be known of the test and the draw before the rows are weighed
                    const Work work = work_of(another(blockIdx.x));
                    const auto& [rank, b, i, reads_draft, heat, request, rows] = work;
                    if (warp == 2) shared.words[lane] = random_words(request.seed, request.position, STREAM_PROPOSE, lane);
                    if (threadIdx.x == last_thread) {
                        const bool tested = i < request.length;
                        const int token = tested ? rows.tokens[i] : -1;
                        const bool real = token >= 0 && token < vocab;
                        shared.start = request.start, shared.drafted = token;
                        shared.target = real ? to_float(rows.target[i * target_stride + token]) : 0.0f;
                        shared.draft = real && rows.draft ? to_float(rows.draft[i * draft_stride + token]) : 0.0f;
                        shared.u = accept_uniform(request.seed, request.position, i);
                        if (tested && rows.draft && !reads_draft) shared.scale[1] = scale_of_lse(draft_lse[request.start + i], heat);
                    }
                }
            } else {
                const unsigned call = shared.call;
                seen = fetch(verdicts_of(b, call) + i / 32);
                const int t = first + (item >> both), side = item & both;
                const Stats own = tile_statistics(now, row_of(item), t, vocab, factor_of(work.heat), greedy, lane);
                const int filled = t + 1 == tiles ? 2 * (even - t) : 2;  // the words of a row end with a sector of 32 bytes: none is read half written
                if (lane < filled) publish(words_of(b, i) + 2 * (side * even + t) + lane, call, __float_as_uint(lane & 1 ? own.sum : own.top));
                if (lane == 0 && greedy) publish(words_of(b, i) + (4 + side) * even + t, call, own.first);
            }
            now = next;
        }
    }
    if (!shared.last) return;

    // The last block of a position: its verdict, unless an earlier one has been rejected meanwhile (then others may have left).
    const Work work = work_of(another(blockIdx.x));  // found again: in registers all the while it would be in the way of the rows
    const auto& [rank, b, i, reads_draft, heat, request, rows] = work;
    const unsigned call = shared.call;
    unsigned long long* const known = verdicts_of(b, call);
    if (i == 0 && threadIdx.x < groups) verdicts_of(b, call + 1)[threadIdx.x] = 0;  // those of the call before make room for the one after
    const bool greedy = !(heat > 0.0f), tested = i < request.length, both = tested && reads_draft;
    if (warp < 1 + both) {
        bool left = false;
        const Scale scale = join_tiles(words_of(b, i) + 2 * warp * even, words_of(b, i) + (4 + warp) * even, tiles, call, heat, lane, warp ? nullptr : tops, sums,
                                       known, i, left);
        if (lane == 0) shared.scale[warp] = scale, shared.left[warp] = left;
    } else if (threadIdx.x == last_thread) {
        shared.skipped = overtaken(known, i);
    }
    __syncthreads();
    if (shared.skipped || shared.left[0] || both && shared.left[1]) return;
    const int token = shared.drafted;
    const bool real = token >= 0 && token < vocab;
    const Row row = {rows.target + i * target_stride, tested && rows.draft ? rows.draft + i * draft_stride : nullptr, token, shared.scale[0], shared.scale[1]};
    const float p = real ? chance_of(shared.target, token, row.target_scale) : 0.0f;
    const float q = real && row.draft ? chance_of(shared.draft, token, row.draft_scale) : 1.0f;
    int at = i, drawn = -1, bits = 0;
    if (real && accepts(shared.u, p, q)) {
        if (threadIdx.x == last_thread) shared.writes = tell_accepted(known, i, groups, written + b, call);
        __syncthreads();
        at = shared.writes;
        if (at < 0) return;
        const unsigned long long* const outcome = outcomes + 2 * place_of(b, at);
        drawn = (int)receive(outcome, call), bits = (int)receive(outcome + 1, call);
    } else {  // the request ends here, or earlier
        if (threadIdx.x == last_thread) atomicOr(known + i / 32, 1ull << (i % 32 + 32)), shared.writes = 0;
        if (tested && !real) bits |= BAD_TOKEN;
        if (real && !(isfinite(p) && isfinite(q))) bits |= NONFINITE;
        if (!greedy && isfinite(row.target_scale.inverse)) {
            const float top = row.target_scale.top, factor = row.target_scale.factor, inverse = row.target_scale.inverse;
            for (int t = threadIdx.x; t < tiles; t += 32 * WARPS) sums[t] = rebased(sums[t], tops[t], top, factor) * inverse;
            __syncthreads();
            unsigned long long seen = 0;
            drawn = first_kept(request, row, sums, tiles, shared.words, reinterpret_cast<ROW*>(stage), shared.kept, vocab, known + i / 32, seen, bits);
            if (threadIdx.x == last_thread) shared.writes = groups == 1 && end_of(seen) == i;  // decided while the token was drawn
        }
        if (greedy) drawn = greedy_token(row, tested, bits);
        else if (drawn < 0) drawn = weigh_all(request, row, sums, tiles, &shared.token, i, vocab, bits);
        if (threadIdx.x == last_thread) {
            const int b = another(blockIdx.x) >> shift;  // from here on found again, too
            const unsigned call = shared.call;
            unsigned long long* const known = verdicts_of(b, call);
            bool unused;
            bool writes = shared.writes || groups > 1 && end_of(known, groups, unused) == i;
            if (!writes) {  // not decided yet, as it seems: the block that decides it writes, or this one, if that has happened meanwhile
                publish(outcomes + 2 * place_of(b, i), call, drawn);
                publish(outcomes + 2 * place_of(b, i) + 1, call, bits);
                writes = tell_drawn(known, i, groups, written + b, call);
            }
            shared.writes = writes;
        }
        __syncthreads();
        if (!shared.writes) return;
    }
    const int writing = another(blockIdx.x) >> shift;
    write_tokens(out_tokens + (long long)writing * (max_draft + 1), draft_tokens + shared.start, at, drawn, max_draft, threadIdx.x, 32 * WARPS);
    if (threadIdx.x == 0) num_accepted[writing] = at, status[writing] = bits;
}
