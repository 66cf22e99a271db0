/*
V10 - nobody waits: what a rejection has overtaken is not read
Changes   Blocks start position by position, all requests' first row pairs before any second, and each looks, when it starts and with
          every tile, whether its request has ended already: then it leaves. So laziness costs no round in which blocks wait for each
          other. What is read before the verdict is read for nothing; that is little where the rows of one position are more blocks
          than the GPU holds. The last block of a position to arrive joins the statistics of its tiles and tests the draft;
          the one that completes the decision draws the token. It draws without weighing the row: the target's tile sums are
          there, so ids are proposed from the target and kept as often as the residual would have them (propose.cuh).
          A row is cut into as many parts as let all blocks start at once, where the batch is small; else into so many that a
          position is about as many blocks as the GPU holds, of a tile pair or more for each warp. The last block of a position has
          four things to do, a warp each: the statistics of both rows joined, the numbers of the proposals, the test. Where the
          test rejects it draws at once, while the verdict is on its way.
Reads     Row pairs up to the first rejection, once, (1 - a^K) / (1 - a) of K on average, and those that were begun before it was
          known: all of them at most. A tile of both rows for each proposal, WARPS proposals at a time. With draft_lse no draft row
          but for that, and the status tells of a NaN in it where an id was proposed, up to the one that was kept.
Slow      From the last arrival to the token go four ways to the L2 and back, by code that is run once and so fetched line by line:
          short loops are faster here than unrolled ones, and registers on the stack (RESIDENT = 6) cost more than a sixth block gives.
--- contract ---
grid    = ["batch * parts", "max_draft + 1"]
block   = "32 * WARPS"
shared  = "8 * tiles + 4096 * WARPS"
draw    = "propose"
input   = "logits"
ulps    = 24
bytes   = "(2 * num_draft + batch) * vocab * itemsize"
tune    = { WARPS = 4, RESIDENT = 5 }
[values]
tiles   = "ceil_div(vocab * itemsize, 2048)"
full    = "sm_count * RESIDENT"
window  = "ceil_div(full, max(1, batch))"
enough  = "1 + min(1, window // 2) + 2 * min(1, window // 3) + 4 * min(1, window // 5) + 8 * min(1, window // 9) + 16 * min(1, window // 17)"
at_once = "full // max(1, batch * (max_draft + 1))"
wanted  = "min(tiles, max(at_once, min(enough, ceil_div(tiles, WARPS), 16), ceil_div(tiles, 4 * WARPS)))"
parts   = "1 + min(1, wanted // 2) + 2 * min(1, wanted // 4) + 4 * min(1, wanted // 8) + 8 * min(1, wanted // 16) + 16 * min(1, wanted // 32)"
shift   = "min(1, parts // 2) + min(1, parts // 4) + min(1, parts // 8) + min(1, parts // 16) + min(1, parts // 32) + min(1, parts // 64)"
share   = "ceil_div(tiles, parts)"
groups  = "max_draft // 32 + 1"
waves   = "(max_draft + 1) * batch * parts // (full + 1)"
[scratch]
tile_stats = "batch * (max_draft + 1) * 6 * tiles"
arrived  = "batch * (max_draft + 1)"
verdicts = "batch * (max_draft // 32 + 1) * 2"
drawing  = "batch"
*/
#define FROM_LOGITS
#include "propose.cuh"

constexpr int HELD = 5;     // tiles of a lane whose statistics are on their way together: 160 tiles are 160,000 ids of two bytes

struct Shared {
    unsigned call;          // calls before this one
    int skipped, last, stop, token, kept[WARPS];
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

template <typename T>
__device__ __forceinline__ T fetch(const T* word) { return *(const volatile T*)word; }

// Verdicts of a request, 32 positions to a word: a bit for each that ends it in the high half, for each that was accepted in the low.
__device__ __forceinline__ bool overtaken(const unsigned long long* verdicts, int i) {
    for (int g = 0; g <= i / 32; ++g) {
        const unsigned ends = (unsigned)(fetch(verdicts + g) >> 32);
        if (g < i / 32 ? ends : ends & ((1u << i % 32) - 1)) return true;
    }
    return false;
}

// Where the positions of a word end the request, if all before it are known to be accepted: 0..31; 32: all are accepted; -1: not known.
__device__ __forceinline__ int end_of(unsigned long long word) {
    const int end = __ffs((int)(word >> 32)), open = __ffs((int)~(unsigned)word);  // from 1; 0: none
    return end && !(open && open < end) ? end - 1 : open ? -1 : 32;
}

// By the thread that has added the verdict `bit` to its word, which was `before`: the position at which the request ends, if this has
// completed the decision, else -1.
__device__ __forceinline__ int completed(const unsigned long long* verdicts, unsigned* drawing, unsigned call, unsigned long long before,
                                         unsigned long long bit, int groups) {
    if (groups == 1) return end_of(before) < 0 ? end_of(before | bit) : -1;  // known already: another block draws
    __threadfence();
    for (int g = 0; g < groups; ++g) {
        const int end = end_of(fetch(verdicts + g));
        if (end < 0) return -1;
        if (end < 32) return atomicExch(drawing, call + 1) == call + 1 ? -1 : 32 * g + end;
    }
    return -1;
}

// By one warp: the statistics of a row's tiles joined, in an order that is always the same. tops, sums: those of the tiles, kept.
__device__ __forceinline__ Scale join_tiles(const float* stats, int tiles, float heat, int lane, float* tops, float* sums) {
    const float factor = factor_of(heat);
    const bool greedy = !(heat > 0.0f);
    Stats own = {-CUDART_INF_F, 0.0f, NO_ID};
    for (int begin = lane; begin < tiles; begin += 32 * HELD) {
        float top[HELD], sum[HELD];
        #pragma unroll
        for (int h = 0; h < HELD; ++h) {
            const int t = begin + 32 * h;
            top[h] = t < tiles ? fetch(stats + t) : -CUDART_INF_F;
            sum[h] = t < tiles ? fetch(stats + tiles + t) : 0.0f;
        }
        Stats group = {-CUDART_INF_F, 0.0f, NO_ID};
        #pragma unroll
        for (int h = 0; h < HELD; ++h) group.top = fmaxf(group.top, top[h]);
        #pragma unroll
        for (int h = 0; h < HELD; ++h) {
            const int t = begin + 32 * h;
            group.sum += rebased(sum[h], top[h], group.top, factor);
            if (tops && t < tiles) tops[t] = top[h], sums[t] = sum[h];
        }
        if (greedy)
            for (int t = begin; t < min(tiles, begin + 32 * HELD); t += 32)  // again: few requests are greedy
                if (fetch(stats + t) == group.top) group.first = min(group.first, __float_as_int(fetch(stats + 2 * tiles + t)));
        own = joined(own, group, factor);
    }
    const float top = max_warp(own.top), sum = sum_warp(rebased(own.sum, own.top, top, factor));
    return scale_of({top, sum, greedy ? min_warp(own.top == top ? own.first : NO_ID) : NO_ID}, heat);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) v10_nobody_waits(
        const ROW* __restrict__ target_logits, const ROW* __restrict__ draft_logits,
        const int* __restrict__ draft_tokens, const int* __restrict__ draft_start,
        const unsigned long long* __restrict__ seeds, const long long* __restrict__ positions,
        const float* __restrict__ temperature, const float* __restrict__ draft_lse,
        int batch, int vocab, int num_draft, int max_draft, int tiles, int parts, int shift, int share, int groups, int waves,
        long long target_stride, long long draft_stride,
        float* tile_stats, unsigned long long* arrived, unsigned long long* verdicts, unsigned* drawing,
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
    const auto stats_of = [&](const Work& work, int position) { return tile_stats + (unsigned)((work.b * (max_draft + 1) + position) * 6 * tiles); };
    const auto arrived_at = [&](const Work& work) { return arrived + (long long)work.b * (max_draft + 1) + work.i; };  // blocks, in all calls
    const auto verdicts_of = [&](const Work& work, unsigned call) { return verdicts + ((long long)work.b * 2 + call % 2) * groups; };  // calls take turns

    {   // Every block: its share of the row pair.
        const Work work = work_of(blockIdx.x);
        const int i = work.i;
        if (waves || i > work.request.length) {  // if all blocks start at once, there is nothing to look for
            if (threadIdx.x == 0) {
                shared.call = (unsigned)(fetch(arrived_at(work)) >> shift);  // parts is a power of two
                shared.skipped = i > work.request.length || (waves && overtaken(verdicts_of(work, shared.call), i));
            }
            __syncthreads();
            if (shared.skipped) {
                if (threadIdx.x == 0) atomicAdd(arrived_at(work), 1ull);
                return;
            }
        }
        const bool greedy = !(work.heat > 0.0f);
        const unsigned long long* const known = verdicts_of(work, waves ? shared.call : 0) + i / 32;
        const ROW* const target = work.rows.target + i * target_stride;
        const ROW* const draft = work.rows.draft ? work.rows.draft + i * draft_stride : nullptr;
        const int first = work.rank * share, both = i < work.request.length && work.reads_draft;
        const int items = max(0, min(share, tiles - first)) << both;  // target, draft, target, ...
        const auto row_of = [&](int item) { return item & both ? draft : target; };
        Pieces now, next;
        unsigned seen = 0;  // which of 32 positions end the request, as it was known a tile ago
        for (int item = warp - WARPS; item < items; item += WARPS) {  // one tile is on its way while another is weighed
            if (seen & ((1u << i % 32) - 1)) break;
            if (item + WARPS < items) load_tile(row_of(item + WARPS), first + (item + WARPS >> both), vocab, lane, next.piece);
            if (item >= 0) {
                if (waves) seen = (unsigned)(fetch(known) >> 32);
                const int t = first + (item >> both);
                const Stats own = tile_statistics(now, row_of(item), t, vocab, factor_of(work.heat), greedy, lane);
                float* const to = stats_of(work, i) + (item & both) * 3 * tiles + t;
                if (lane == 0) to[0] = own.top, to[tiles] = own.sum;
                if (lane == 0 && greedy) to[2 * tiles] = __int_as_float(own.first);
            }
            now = next;
        }
    }
    // The same work, found again: in registers all the while, it would be in the way of the rows.
    const Work work = work_of(another(blockIdx.x));
    const auto& [rank, b, i, reads_draft, heat, request, rows] = work;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        const unsigned long long before = atomicAdd(arrived_at(work), 1ull);
        shared.call = (unsigned)(before >> shift), shared.last = (before & parts - 1) == parts - 1;
        __threadfence();
    }
    __syncthreads();
    if (!shared.last) return;
    const unsigned call = shared.call;
    unsigned long long* const known = verdicts_of(work, call);
    if (i == 0 && threadIdx.x < groups) verdicts_of(work, call + 1)[threadIdx.x] = 0;  // those of the call before make room for the one after

    // The last block of a position: its verdict, unless an earlier one has been rejected meanwhile (then others may have left). The
    // block whose verdict completes the decision draws, here or at another position.
    const bool greedy = !(heat > 0.0f);
    for (int at = i;;) {
        const bool tested = at < request.length;
        const int token = tested ? rows.tokens[at] : -1, both = tested && reads_draft;
        const bool real = token >= 0 && token < vocab;
        Row row = {rows.target + at * target_stride, tested && rows.draft ? rows.draft + at * draft_stride : nullptr, token};
        if (warp < 1 + both) {
            const Scale scale = join_tiles(stats_of(work, at) + warp * 3 * tiles, tiles, heat, lane, warp ? nullptr : tops, sums);
            if (lane == 0) shared.scale[warp] = scale;
        } else if (warp == 2) {
            shared.words[lane] = random_words(request.seed, request.position, STREAM_PROPOSE, lane);
        } else if (threadIdx.x == last_thread) {
            const float target = real ? to_float(row.target[token]) : 0.0f, draft = real && row.draft ? to_float(row.draft[token]) : 0.0f;
            shared.u = accept_uniform(request.seed, request.position, at);
            shared.target = target, shared.draft = draft;
            if (row.draft && !both) shared.scale[1] = scale_of_lse(draft_lse[request.start + at], heat);
            shared.skipped = at == i && overtaken(known, i);
        }
        __syncthreads();
        row.target_scale = shared.scale[0];
        if (row.draft) row.draft_scale = shared.scale[1];
        const float p = real ? chance_of(shared.target, token, row.target_scale) : 0.0f;
        const float q = real && row.draft ? chance_of(shared.draft, token, row.draft_scale) : 1.0f;
        const bool accepted = real && accepts(shared.u, p, q), ends = at != i || !accepted;
        const unsigned long long bit = 1ull << (i % 32 + (accepted ? 0 : 32));
        unsigned long long before = 0;
        if (at == i && shared.skipped) return;
        if (at == i && threadIdx.x == last_thread) before = atomicOr(known + i / 32, bit);
        int bits = 0, drawn = -1;
        if (ends && !greedy && isfinite(row.target_scale.inverse)) {
            const float top = row.target_scale.top, factor = row.target_scale.factor, inverse = row.target_scale.inverse;
            for (int t = threadIdx.x; t < tiles; t += 32 * WARPS) sums[t] = rebased(sums[t], tops[t], top, factor) * inverse;
            __syncthreads();
            drawn = first_kept(request, row, sums, tiles, shared.words, reinterpret_cast<ROW*>(stage), shared.kept, vocab, bits);
        }
        if (at == i) {
            if (threadIdx.x == last_thread) shared.stop = completed(known, drawing + b, call, before, bit, groups);
            __syncthreads();
            if (shared.stop < 0) return;
            if (shared.stop != i) {
                __threadfence();  // what the last block of that position has seen, its verdict being seen
                at = shared.stop;
                continue;
            }
        }
        if (tested && !real) bits |= BAD_TOKEN;
        if (real && !(isfinite(p) && isfinite(q))) bits |= NONFINITE;
        if (greedy) drawn = greedy_token(row, tested, bits);
        else if (drawn < 0) drawn = weigh_all(request, row, sums, tiles, &shared.token, at, vocab, bits);
        write_tokens(out_tokens + (long long)b * (max_draft + 1), rows.tokens, at, drawn, max_draft, threadIdx.x, 32 * WARPS);
        if (threadIdx.x == 0) num_accepted[b] = at, status[b] = bits;
        return;
    }
}
