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
          A row is cut into as many parts as let all blocks start at once, where the batch is small, up to 64; else into so many that a
          position is about as many blocks as the GPU holds, of a tile pair or more for each warp.
Reads     Row pairs up to the first rejection, once, (1 - a^K) / (1 - a) of K on average, and those that were begun before it was
          known: all of them at most. A tile of both rows for each proposal, WARPS proposals at a time. With draft_lse no draft row
          but for that, and the status tells of a NaN in it where an id was proposed, up to the one that was kept.
Slow      From the last tile to the token go three ways to the L2 and back, and some hundred instructions of one warp that each wait for the
          one before. Bytes on their way to many warps are what keeps the memory busy: so a logit has to be weighed with few registers;
          more tiles on their way to one warp cost more than they gain. And a warp has to fetch what it runs: so what weighs a tile of
          most rows is a loop of its own, without the ways that are rarely taken. Where requests end early half of the blocks find
          theirs ended, and have come for nothing.
--- contract ---
grid    = ["batch * parts", "max_draft + 1"]
block   = "32 * WARPS"
shared  = "16 * tiles + 128 * WARPS"
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
parts   = "1 + min(1, wanted // 2) + 2 * min(1, wanted // 4) + 4 * min(1, wanted // 8) + 8 * min(1, wanted // 16) + 16 * min(1, wanted // 32) + 32 * min(1, wanted // 64)"
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
#include "join.cuh"
#include "propose.cuh"

struct Shared {
    unsigned call;          // the number of this one, from 1
    unsigned long long ends[2];  // verdicts by calls of even and of odd number
    int last, start, token, end, writes, kept[2 * WARPS];
    int drafted[2];         // the drafted token, as the warp of each row knows it
    float chance[2], u;     // its probabilities, and the number it is tested with
    Scale scale[2];         // of the target row and the draft row
    double2 numbers[32];    // random numbers of the first proposals
};
static_assert(WARPS >= 4 && WARPS % 2 == 0, "the last block of a position has four things to do at once");

// What a block has to judge: position i of request b.
struct Work { int b, i; bool reads_draft; float heat; Request request; Rows rows; };

// The same number, to the compiler another one.
__device__ __forceinline__ int another(int x) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(x));
#endif
    return x;
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
    extern __shared__ uint4 stage[];  // two runs of each warp
    __shared__ Shared shared;
    float* const sums = reinterpret_cast<float*>(stage + 8 * WARPS);  // of the target's tiles and the draft's; behind them their maxima
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, last_thread = 32 * WARPS - 1;
    const auto request_of = [&](int b) { return find_request(b, batch, num_draft, max_draft, draft_start, seeds, positions); };
    const auto work_of = [&](int block) {
        Work work = {block >> shift, (int)blockIdx.y};
        work.request = request_of(work.b);
        const int start = work.request.start;
        work.rows = {target_logits + (start + work.b) * target_stride, draft_logits ? draft_logits + start * draft_stride : nullptr,
                     draft_tokens + start, target_stride, draft_stride};
        work.heat = temperature[work.b];
        work.reads_draft = work.rows.draft && (!draft_lse || !(work.heat > 0.0f));
        return work;
    };
    const auto place_of = [&](int b, int i) { return (unsigned)b * (max_draft + 1) + i; };
    const auto words_of = [&](int b, int i) { return tile_words + place_of(b, i) * 6 * even; };  // [2][even][2], then [2][even]
    const auto verdicts_of = [&](int b, unsigned call) { return verdicts + (b * 2 + call % 2) * groups; };  // calls take turns

    {   // Every block: its share of the row pair.
        const int b = blockIdx.x >> shift, i = blockIdx.y;
        const bool late = i * gridDim.x + blockIdx.x >= full;  // else among the first on the GPU: nothing can have ended yet
        unsigned long long before = 0, ends = 0;
        if (threadIdx.x == 0) before = atomicAdd(started + place_of(b, i), 1ull);  // blocks of this position that have started, in all calls
        // By another warp, for one waits for both at the same place: the verdicts of this call, and of the one before.
        if (late && threadIdx.x / 2 == 16) ends = fetch(verdicts_of(b, threadIdx.x % 2) + i / 32u);
        const auto enter = [&] {
            if (threadIdx.x == 0) shared.call = (unsigned)(before >> shift) + 1, shared.last = ((unsigned)before & parts - 1) == parts - 1;  // parts: a power of two
        };
        const int start = request_of(b).start, length = request_of(b).length;
        if (i > length) return;
        const float heat = temperature[b];
        // Warps take turns, target, draft, target, ...: each has tiles of one row, `stride` apart. `heat` would be waited for by all.
        const int both = i < length && draft_logits && (!draft_lse || !(fetch(temperature + b) > 0.0f)), side = warp & both, stride = WARPS >> both;
        const int first = (int)(blockIdx.x & parts - 1) * share, end = min(first + share, tiles);
        int t = first + (warp >> both);
        const ROW* at = (side ? draft_logits + (start + i) * draft_stride : target_logits + (start + b + i) * target_stride) + t * TILE + lane * VEC;
        if (late) {
            enter();
            if (threadIdx.x / 2 == 16) shared.ends[threadIdx.x % 2] = ends;
            __syncthreads();
            if (i >= 32 ? __syncthreads_or(overtaken(verdicts_of(b, shared.call), i)) : end_before(shared.ends[shared.call % 2], i)) return;
        }
        Pieces now;
        if (t < end) load_pieces(at, vocab - t * TILE - lane * VEC, now.piece);
        const int token = warp < 2 && lane == 0 && i < length ? draft_tokens[start + i] : -1;
        if (!late) {
            enter();
            __syncthreads();
        }
        if (shared.last) {
            if (threadIdx.x == last_thread) shared.start = start, shared.end = -1;
            if (warp < 2 && lane == 0) shared.drafted[warp] = token;
        }
        const bool greedy = !(heat > 0.0f);
        const float factor = factor_of(heat);
        const unsigned call = shared.call;
        const unsigned long long* const watched = verdicts_of(b, call) + i / 32u;
        unsigned long long* word = words_of(b, i) + 2 * (side * even + t) + lane;
        unsigned long long seen = 0;  // the verdicts on 32 positions, as they were known a tile ago
        const int lanes = 2 * (even - tiles + 1);  // publish the last tile: the words of a row end with a sector of 32 bytes, none is read half written
        // Most rows and tiles; short, and in one piece: what a warp runs it has to fetch.
        for (bool more = t < end && !greedy && is_aligned(at) && vocab % VEC == 0; more; t += stride, word += 2 * stride) {
            Pieces next;  // on its way while `now` is weighed
            seen = fetch(watched);
            more = t + stride < end;
            if (more) load_whole(at + stride * TILE, vocab - (t + stride) * TILE - lane * VEC, next.piece);
            const float top = top_of(now);
            const Base base = base_of(top, factor);
            if (!is_near(base)) break;
            const float sum = sum_near(now, base, factor);
            if (lane < (t + 1 == tiles ? lanes : 2)) publish(word, call, __float_as_uint(lane & 1 ? sum : top));
            now = next, at += stride * TILE;
            more = more && !__any_sync(ALL, end_before(seen, i));
        }
        // Any row, and from the first tile of large logits on.
        for (; t < end && !__any_sync(ALL, end_before(seen, i)); t += stride, word += 2 * stride) {
            Pieces next;
            seen = fetch(watched);
            at += stride * TILE;
            if (t + stride < end) load_pieces(at, vocab - (t + stride) * TILE - lane * VEC, next.piece);
            const Stats own = tile_statistics(now, t, factor, greedy, lane);
            if (lane < (t + 1 == tiles ? lanes : 2)) publish(word, call, __float_as_uint(lane & 1 ? own.sum : own.top));
            if (lane == 0 && greedy) publish(words_of(b, i) + (4 + side) * even + t, call, own.first);
            now = next;
        }
    }
    if (!shared.last) return;

    // The last block of a position: its verdict, unless an earlier one has been rejected meanwhile (then others may have left).
    const Work work = work_of(another(blockIdx.x));  // found again: in registers all the while it would be in the way of the rows
    const auto& [b, i, reads_draft, heat, request, rows] = work;
    const unsigned call = shared.call;
    unsigned long long* const known = verdicts_of(b, call);
    if (i == 0 && threadIdx.x < groups) verdicts_of(b, call + 1)[threadIdx.x] = 0;  // those of the call before make room for the one after
    const bool greedy = !(heat > 0.0f), tested = i < request.length, both = tested && reads_draft;
    const ROW* const draft_row = tested && rows.draft ? rows.draft + i * draft_stride : nullptr;
    bool left = false;
    if (warp < 2) {
        const int token = __shfl_sync(ALL, lane ? 0 : shared.drafted[warp], 0);
        const bool real = token >= 0 && token < vocab;
        const ROW* const own_row = warp ? draft_row : rows.target + i * target_stride;
        const ROW stored = real && own_row ? own_row[token] : ROW(0.0f);  // on its way while the tiles are waited for
        Scale scale;
        if (warp < 1 + both)
            scale = join_tiles(words_of(b, i) + 2 * warp * even, words_of(b, i) + (4 + warp) * even, tiles, call, heat, lane, sums + (2 + warp) * tiles,
                               sums + warp * tiles, known, i, left);
        else if (draft_row) scale = scale_of_lse(draft_lse[request.start + i], heat);
        if (lane == 0) {
            shared.scale[warp] = scale;
            shared.chance[warp] = !real ? 0.0f : own_row ? chance_of(to_float(stored), token, scale) : 1.0f;
        }
    } else {
        if (warp == 2) shared.numbers[lane] = proposal_numbers(request, lane);
        if (threadIdx.x == last_thread) shared.u = accept_uniform(request.seed, request.position, i), left = overtaken(known, i);
    }
    if (__syncthreads_or(left)) return;
    const int token = shared.drafted[0];
    const bool real = token >= 0 && token < vocab;
    const Row row = {rows.target + i * target_stride, draft_row, token, shared.scale[0], shared.scale[1]};
    int at = i, drawn = -1, bits = 0;
    if (real && accepts(shared.u, shared.chance[0], shared.chance[1])) {
        if (threadIdx.x == last_thread) shared.writes = tell_accepted(known, i, groups, written + b, call);
        __syncthreads();
        at = shared.writes;
        if (at < 0) return;
        const unsigned long long* const outcome = outcomes + 2 * place_of(b, at);
        drawn = (int)receive(outcome, call), bits = (int)receive(outcome + 1, call);
    } else {  // the request ends here, or earlier
        if (threadIdx.x == last_thread) atomicOr(known + i / 32, 1ull << (i % 32 + 32));
        if (!greedy && isfinite(row.target_scale.inverse))
            drawn = first_kept(request, row, sums, tiles, shared.numbers, reinterpret_cast<ROW*>(stage), shared.kept, vocab, known + i / 32, &shared.end, bits);
        if (groups == 1 && shared.end >= 0 && shared.end != i) return;  // the request has ended before: what was drawn is of no use
        if (tested && !real) bits |= BAD_TOKEN;
        if (real && !(isfinite(shared.chance[0]) && isfinite(shared.chance[1]))) bits |= NONFINITE;
        if (greedy) drawn = greedy_token(row, tested, bits);
        else if (drawn < 0) drawn = weigh_all(request, row, sums, tiles, &shared.token, i, vocab, bits);
        if (groups > 1 || shared.end != i) {  // not decided while the token was drawn, as it seems: the block that decides it writes, or
                                              // this one, if that has happened meanwhile
            if (threadIdx.x == last_thread) {
                const int b = another(blockIdx.x) >> shift;  // from here on found again, too
                const unsigned call = shared.call;
                unsigned long long* const known = verdicts_of(b, call);
                bool unused;
                if (!(shared.writes = groups > 1 && end_of(known, groups, unused) == i)) {
                    publish(outcomes + 2 * place_of(b, i), call, drawn);
                    publish(outcomes + 2 * place_of(b, i) + 1, call, bits);
                    shared.writes = tell_drawn(known, i, groups, written + b, call);
                }
            }
            __syncthreads();
            if (!shared.writes) return;
        }
    }
    const int writing = another(blockIdx.x) >> shift;
    write_tokens(out_tokens + (long long)writing * (max_draft + 1), draft_tokens + shared.start, at, drawn, max_draft, threadIdx.x, 32 * WARPS);
    if (threadIdx.x == 0) num_accepted[writing] = at, status[writing] = bits;
}
